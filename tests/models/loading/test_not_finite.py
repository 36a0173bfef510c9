"""Verify that weights that are not finite are reported when a model is loaded, before training or generating."""

from itertools import cycle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.checkpoints import make_parts, save_folder, single_file_tensors
from neonym.cli.main import main
from neonym.errors import ModelError
from neonym.models.model import load_model
from support.data_sets import make_images

NAN, INF = float("nan"), float("inf")
KINDS = {
    "safetensors": ((NAN, torch.float32), (INF, torch.float16), (-INF, torch.bfloat16)),
    "ckpt": ((INF, torch.bfloat16), (NAN, torch.float16), (-INF, torch.float32)),
}


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def tensors(request):
    """Return a family and all weights of a small checkpoint of it."""
    torch.manual_seed(0)
    return request.param, single_file_tensors(make_parts(request.param, True, torch.float32), request.param)


def write(tensors: dict[str, torch.Tensor], path: Path) -> Path:
    """Write the weights in the format of the extension."""
    torch.save({"state_dict": tensors}, path) if path.suffix == ".ckpt" else save_file(tensors, path)
    return path


def spoiled(tensors: dict[str, torch.Tensor], name: str, value: float) -> dict[str, torch.Tensor]:
    """Return a copy with one number of one tensor changed."""
    changed = tensors[name].clone()
    changed.view(-1)[-1] = value
    return {**tensors, name: changed}


def names_of_parts(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Return one weight of the U-Net, one of the VAE and the last one of each text encoder."""
    starts = (
        "model.diffusion_model.",
        "first_stage_model.",
        "cond_stage_model.",
        "conditioner.embedders.0",
        "conditioner.embedders.1",
    )
    found = [[name for name in tensors if name.startswith(start) and name.endswith(("ln_1.bias", "layer_norm1.bias", "norm1.bias", "in_layers.0.bias"))] for start in starts]  # fmt: skip
    return [names[0] for names in found if names]


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_bad_weight_of_every_part_is_reported(tensors, tmp_path, ending):
    family, sound = tensors
    assert len(names_of_parts(sound)) == (4 if family == "sdxl" else 3)
    for name, (value, kind) in zip(names_of_parts(sound), cycle(KINDS[ending]), strict=False):
        table = {n: t.to(kind) for n, t in spoiled(sound, name, value).items()}
        file = write(table, tmp_path / f"model.{ending}")
        with pytest.raises(ModelError, match="infinite or not numbers") as caught:
            load_model(str(file), dtype=kind)
        assert name in str(caught.value)
        assert str(file) in str(caught.value)


def test_unused_tensors_may_be_invalid(tensors, tmp_path):
    """Averages of weights, losses, positions and a layer that SD 2.x leaves out are ignored, as in other programs."""
    family, sound = tensors
    extra = {"model_ema.diffusion_modelinput_blocks00weight": torch.full((4,), NAN), "betas": torch.tensor([INF]),
             "first_stage_model.loss.logvar": torch.tensor([NAN])}  # fmt: skip
    if family == "sd1":
        extra["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.full((1, 77), NAN)
    if family == "sd2":
        extra["cond_stage_model.model.logit_scale"] = torch.tensor(NAN)
    plain = load_model(str(write(sound, tmp_path / "plain.safetensors")))
    model = load_model(str(write({**sound, **extra}, tmp_path / "model.safetensors")))
    for name, module in model.modules().items():
        theirs = plain.modules()[name].state_dict()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in module.state_dict().items())


def test_weights_that_are_too_large_for_half_precision(tensors, tmp_path):
    """The weights are finite in the file but not on the device, so the message suggests another precision."""
    _, sound = tensors
    name = names_of_parts(sound)[0]
    file = write(spoiled(sound, name, 1e6), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="too large for float16.*bf16"):
        load_model(str(file), dtype=torch.float16)
    load_model(str(file), dtype=torch.bfloat16)


def test_finite_weights_with_a_large_sum_are_accepted(tensors, tmp_path):
    _, sound = tensors
    name = names_of_parts(sound)[0]
    model = load_model(str(write({**sound, name: torch.full_like(sound[name], 3e38)}, tmp_path / "model.safetensors")))
    largest = max(float(p.max()) for module in model.modules().values() for p in module.state_dict().values())
    assert largest == pytest.approx(3e38)


def test_the_file_of_the_part_is_named(tmp_path):
    torch.manual_seed(0)
    parts = make_parts("sdxl", True, torch.float32)
    save_folder(parts, "sdxl", tmp_path / "sdxl", "epsilon")
    for part in parts:
        (file,) = (tmp_path / "sdxl" / part).glob("*.safetensors")
        sound = load_file(file)
        name = sorted(sound)[-1]
        save_file(spoiled(sound, name, NAN), file)
        with pytest.raises(ModelError, match="infinite or not numbers") as caught:
            load_model(str(tmp_path / "sdxl"))
        assert f"{file}: " in str(caught.value)
        assert name in str(caught.value)
        save_file(sound, file)


def test_neither_training_nor_generation_starts(tmp_path, capsys):
    torch.manual_seed(0)
    sound = single_file_tensors(make_parts("sd1", True, torch.float32), "sd1")
    vae = next(name for name in sound if name.startswith("first_stage_model."))
    file, out = write(spoiled(sound, vae, NAN), tmp_path / "model.safetensors"), tmp_path / "out"
    flags = ["--token_string=mychar4", f"--train_data_dir={make_images(tmp_path / 'pictures')}", "--cpu"]
    flags += [f"--output_dir={out}", "--max_train_steps=2", "--resolution=64", "--fp8_base"]
    assert main(["train", *flags, f"--pretrained_model_name_or_path={file}"]) == 2
    assert vae in capsys.readouterr().err
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["events.jsonl"]
    assert main(["generate", "--prompt=x", f"--ckpt={file}", f"--outdir={out}"]) == 2
    assert vae in capsys.readouterr().err
