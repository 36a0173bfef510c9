"""Verify that weights are read one at a time, when they are placed, and that a file's own fp8 stays as it is."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neonym.errors import ModelError
from neonym.models.loading import reading
from neonym.models.loading.assemble import load_part
from neonym.models.loading.deferred import Deferred, InFile, deferred, ready, stored_fp8
from neonym.models.loading.folder import Weights
from neonym.models.loading.identify import identify
from neonym.models.loading.reading import weights_in_file
from neonym.models.model import Model, load_model
from neonym.models.quantization import QuantizedLinear, scaled_fp8
from neonym.models.source import ModelSource
from neonym.models.storage import Scheme, Storage
from neonym.training.objective import Objective
from neonym.training.step import sample_losses
from support import original_names
from support.batches import CAPTIONS, batch_of
from support.families import tiny_model
from support.quantized import E5M2, comfy_quant, nf4, old_scaled, per_row, save_gguf

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn
FORMS = {
    "plain": lambda own: {n: t.to(FP8) for n, t in own.items()}, "scaled": old_scaled, "rows": per_row,
    "comfy_quant": comfy_quant, "e5m2": lambda own: comfy_quant(own, E5M2),
}  # fmt: skip
CONVERSIONS = {
    "chunk": lambda t: t.chunk(3)[1], "split": lambda t: t.split([2, 3, 7])[2], "cat": lambda t: torch.cat([t[6:], t]),
    "roll": lambda t: t.roll(6, 0), "halves": lambda t: torch.cat(t.chunk(2)[::-1], dim=0), "columns": lambda t: t[:, 1:3],
    "transposed": lambda t: t.T.contiguous(), "copied": lambda t: t[4:8, :].clone().detach(), "chain": lambda t: t.chunk(2)[0].T[0],
}  # fmt: skip


@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_functions_of_deferred_tensors_are_those_of_their_numbers(conversion):
    numbers, reads = torch.randn(12, 4), []
    tensor = deferred((12, 4), InFile(lambda: reads.append(1) or numbers, False))
    found, wanted = CONVERSIONS[conversion](tensor), CONVERSIONS[conversion](numbers)
    assert isinstance(found, Deferred)
    assert (found.shape, found.is_meta, reads) == (wanted.shape, True, [])
    assert torch.equal(ready(found), wanted)
    assert type(ready(found)) is torch.Tensor
    assert ready(found).untyped_storage().nbytes() == wanted.nbytes  # a piece does not keep the whole


def test_plain_numbers_stay_in_the_file():
    numbers = torch.randn(12, 4)
    piece = deferred((12, 4), InFile(lambda: numbers, True)).chunk(3)[1]
    assert ready(piece).data_ptr() == numbers[4:].data_ptr()
    assert ready(numbers) is numbers


@pytest.mark.parametrize("shape", [(), (12, 1), (12, 2, 1)])
@pytest.mark.parametrize("conversion", CONVERSIONS)
def test_only_rows_of_a_file_in_fp8_are_taken_over(conversion, shape):
    packed = scaled_fp8(torch.randn(12, 4).to(FP8), torch.rand(shape) + 0.5)
    tensor = deferred((12, 4), InFile(lambda: pytest.fail("it was made plain"), False, lambda: packed))
    found = stored_fp8(CONVERSIONS[conversion](tensor))
    if conversion not in ("chunk", "split", "roll", "halves"):
        assert found is None
        return
    assert found is not None
    assert torch.equal(found.numbers.float(), CONVERSIONS[conversion](packed.numbers.float()))
    assert torch.equal(found.scale, CONVERSIONS[conversion](packed.scale) if shape else packed.scale)


def test_rows_of_two_files_are_not_taken_over():
    packed = scaled_fp8(torch.randn(4, 4).to(FP8), torch.ones(()))
    one, other = (deferred((4, 4), InFile(lambda: torch.ones(4, 4), False, lambda: packed)) for _ in range(2))
    assert stored_fp8(one) is not None
    assert stored_fp8(torch.cat([one, other])) is None
    assert stored_fp8(torch.ones(4, 4)) is None


@pytest.fixture(scope="module", params=["flux1", "sd3", "zimage", "flux2_klein_4b"])
def source(request, tmp_path_factory) -> ModelSource:
    return identify(str(tiny_model(request.param, tmp_path_factory.mktemp(request.param) / "model")))


def original_tensors(source: ModelSource) -> dict[str, torch.Tensor]:
    state = load_part(source, "transformer", torch.float32, CPU).state_dict()
    return {n: t.clone().contiguous() for n, t in original_names.ORIGINAL[source.family.name](state).items()}


def with_transformer(source: ModelSource, file: Path, scheme: Scheme | None = None) -> ModelSource:
    """Return a model with the transformer in a file under its original names."""
    weights = {**source.weights, "transformer": Weights((file,), original=True)}
    return replace(source, weights=weights, storage=Storage(scheme))


def losses(model: Model) -> torch.Tensor:
    with torch.no_grad():
        return sample_losses(model, batch_of(model, CAPTIONS), Objective())


@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_of_a_file_in_fp8_are_taken_over(form, source, tmp_path):
    """All quantized layers have the numbers of the file, and no number is made plain for them."""
    file = tmp_path / "x.safetensors"
    tensors = FORMS[form](original_tensors(source))
    save_file({n: t.contiguous() for n, t in tensors.items()}, file)
    plain, kept = load_model(with_transformer(source, file)), load_model(with_transformer(source, file, "fp8"))
    stored = [t.view(torch.uint8) for t in tensors.values() if t.element_size() == 1 and t.ndim > 1]
    rows = {row.numpy().tobytes() for tensor in stored for row in tensor}
    layers = [own for own in kept.denoiser.modules() if isinstance(own, QuantizedLinear) and own.scheme == "fp8"]
    assert len(layers) > 10
    for layer in layers:
        assert layer.numbers.dtype == (E5M2 if form == "e5m2" else FP8)
        assert all(row.numpy().tobytes() in rows for row in layer.numbers.view(torch.uint8))
    assert torch.allclose(losses(kept), losses(plain), rtol=0.01)


def test_numbers_that_are_not_finite_are_reported_in_fp8(source, tmp_path):
    file, tensors = tmp_path / "x.safetensors", old_scaled(original_tensors(source))
    name = max((n for n, t in tensors.items() if t.dtype == FP8), key=lambda n: tensors[n].numel())
    tensors[name].view(torch.uint8)[0] = 0x7F  # NaN
    save_file(tensors, file)
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        load_model(with_transformer(source, file, "fp8"))


def saved(form: str, tensors: dict[str, torch.Tensor], home: Path) -> Path:
    """Return a file with the tensors in a form."""
    if form == "gguf":
        save_gguf(tensors, home / "x.gguf", "Q8_0")
        return home / "x.gguf"
    save_file({"scaled": old_scaled, "nf4": nf4}[form](tensors), home / "x.safetensors")
    return home / "x.safetensors"


@pytest.mark.parametrize("form", ["scaled", "nf4", "gguf"])
def test_plain_numbers_are_gone_before_the_next_are_made(form, source, tmp_path, monkeypatch):
    """However a file stores its weights, no more than two tensors are plain at the same time."""
    alive, made = [], {name: getattr(reading, name) for name in ("plain", "numbers_of")}

    def noted(name: str) -> Callable:
        def make(*args):
            assert sum(earlier() is not None for earlier in alive) <= 1
            found = made[name](*args)
            if found.ndim == 2 and len(found) > 1:
                alive.append(weakref.ref(found))
            return found

        return make

    for name in made:
        monkeypatch.setattr(reading, name, noted(name))
    file = saved(form, original_tensors(source), tmp_path)
    assert len(weights_in_file(file, ("",))) > 20
    assert not alive
    everything = replace(source.family.denoiser, not_quantized=(), in_int8=())
    quantized = replace(source, family=replace(source.family, denoiser=everything))
    load_part(with_transformer(quantized, file, "int8"), "transformer", torch.float32, CPU)
    assert len(alive) > 10
