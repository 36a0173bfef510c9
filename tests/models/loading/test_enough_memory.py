"""Verify that a model that does not fit in memory is refused before its weights are read, by the sizes in headers."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from neonym.errors import ModelError
from neonym.models.loading import enough_memory
from neonym.models.loading.enough_memory import check_memory
from neonym.models.loading.folder import Weights
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from support.families import tiny_model


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return identify(str(tiny_model("chroma", tmp_path_factory.mktemp("chroma") / "model")))


def with_free(monkeypatch, free: int) -> None:
    monkeypatch.setattr(enough_memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    monkeypatch.setattr(enough_memory.psutil, "swap_memory", lambda: SimpleNamespace(free=0))


def test_what_does_not_fit_is_refused_before_it_is_read(source, monkeypatch):
    model = load_model(source)
    numbers = {name: sum(p.numel() for p in module.state_dict().values()) for name, module in model.modules().items()}
    needed = 4 * sum(numbers.values())
    with_free(monkeypatch, needed)
    check_memory(source, on_cpu=True, width=4)
    with_free(monkeypatch, needed // 2)
    monkeypatch.setattr("neonym.models.loading.parts.load_part", lambda *args: pytest.fail("weights were read"))
    with pytest.raises(ModelError, match=r"needs .* GB of memory to be read.*only .* GB are free.*--base_precision"):
        load_model(source)


def test_weights_in_fewer_bits_are_held_part_by_part(source, monkeypatch, tmp_path):
    """They are made plain in the memory of the CPU, whatever the device."""
    (file,) = source.weights["transformer"].files
    small = tmp_path / "x.safetensors"
    save_file({n: t.to(torch.float8_e4m3fn) for n, t in load_file(file).items()}, small)
    eight = replace(source, weights={**source.weights, "transformer": Weights((small,))})
    numbers = sum(t.numel() for t in load_file(file).values())
    with_free(monkeypatch, 2 * numbers)
    check_memory(eight, on_cpu=False, width=2)
    with_free(monkeypatch, 2 * numbers - 1)
    with pytest.raises(ModelError, match="transformer"):
        check_memory(eight, on_cpu=False, width=2)


def test_weights_for_another_device_are_not_held(source, monkeypatch):
    """Plain ones pass one by one from the memory-mapped file."""
    with_free(monkeypatch, 1000)
    with pytest.raises(ModelError, match="memory"):
        check_memory(source, on_cpu=True, width=torch.float32.itemsize)
    assert check_memory(source, on_cpu=False, width=torch.bfloat16.itemsize) is None
