"""Verify which models compute in bf16 on a CPU."""

from dataclasses import replace

import pytest
import torch

from benchmarks.checkpoints import make_parts, save_folder
from neonym.models.loading import cpu_precision
from neonym.models.loading.cpu_precision import has_bf16_units, is_bf16_on_cpu
from neonym.models.loading.identify import identify

INTEL, OLD, ARM = "flags\t: fpu avx512f amx_bf16 amx_tile", "flags\t: fpu avx2 avx512f", "Features\t: fp asimd bf16"


@pytest.mark.parametrize(("line", "has_units"), [(INTEL, True), (OLD, False), (ARM, True), ("vendor: x", False)])
def test_the_system_tells_whether_a_cpu_has_units(tmp_path, monkeypatch, line, has_units):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
    monkeypatch.setattr(cpu_precision, "Path", lambda _: tmp_path / "cpuinfo")
    assert has_bf16_units.__wrapped__() is has_units


def test_other_systems_do_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_precision, "Path", lambda _: tmp_path / "nothing")
    assert has_bf16_units.__wrapped__() is False


def test_only_large_models_that_suit_it_compute_in_bf16(monkeypatch, tmp_path):
    save_folder(make_parts("sd1", tiny=True, dtype=torch.float32), "sd1", tmp_path / "sd1", "epsilon")
    source = identify(str(tmp_path / "sd1"))
    monkeypatch.setattr(cpu_precision, "has_bf16_units", lambda: True)
    assert not is_bf16_on_cpu(source)
    monkeypatch.setattr(cpu_precision, "LARGE", 10)
    assert is_bf16_on_cpu(source)
    assert is_bf16_on_cpu(replace(source, weights={}))  # as those of a hub ID before they are downloaded
    assert not is_bf16_on_cpu(identify("builtin:emoji"))  # whose neonym.json says so
    monkeypatch.setattr(cpu_precision, "has_bf16_units", lambda: False)
    assert not is_bf16_on_cpu(source)
