"""Verify that a model that does not fit in memory is refused before its weights are read, by the sizes in headers."""

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from neonym.errors import ModelError
from neonym.models.loading import enough_memory
from neonym.models.loading.enough_memory import check_memory, may_have_gpu, memory_problem
from neonym.models.loading.folder import Weights
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.models.storage import Storage
from support.data_sets import make_images
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
    with pytest.raises(
        ModelError, match=r"needs about .* GB of this machine.s memory.*only .* GB are free.*--base_precision"
    ):
        load_model(source)


@pytest.fixture
def eight(source, tmp_path):
    """Return the model with a transformer in 8 bits, and the numbers of all its weights and of the largest tensor."""
    (file,) = source.weights["transformer"].files
    save_file({n: t.to(torch.float8_e4m3fn) for n, t in load_file(file).items()}, tmp_path / "x.safetensors")
    sizes = [t.numel() for t in load_file(file).values()]
    return replace(source, weights={"transformer": Weights((tmp_path / "x.safetensors",))}), sum(sizes), max(sizes)


def refused(source, monkeypatch, needed: int, where: str, **how) -> None:
    """Verify that a model needs exactly so many bytes."""
    with_free(monkeypatch, needed)
    assert memory_problem(source, **how) is None
    with_free(monkeypatch, needed - 1)
    assert where in str(memory_problem(source, **how))


def test_weights_in_fewer_bits_are_made_plain_one_by_one(eight, monkeypatch):
    """Besides what is kept, one tensor is plain in float32 and in its precision; on a GPU, there is nothing else."""
    model, numbers, largest = eight
    refused(model, monkeypatch, 4 * numbers + 8 * largest, "transformer", on_cpu=True, width=4)
    refused(model, monkeypatch, 6 * largest, "this machine's memory", on_cpu=False, width=2)


def test_quantized_weights_count_as_they_are_kept(source, monkeypatch):
    """In 8 bits, matrices of the denoiser and of T5 take a quarter of float32; a token table does not."""
    sizes = {part: [*load_file(own.files[0]).items()] for part, own in source.weights.items()}

    def bytes_of(part: str, each: int) -> int:
        is_layer = [t.ndim in (2, 4) and n.endswith(".weight") and "shared" not in n for n, t in sizes[part]]
        return sum(t.numel() * (each if own else 4) for (_, t), own in zip(sizes[part], is_layer, strict=True))

    others = sum(bytes_of(part, 4) for part in sizes if part not in ("transformer", "text_encoder"))
    for storage, denoiser, encoder in ((Storage("fp8", "fp8"), 1, 1), (Storage("int8"), 1, 4), (Storage(), 4, 4)):
        needed = others + bytes_of("transformer", denoiser) + bytes_of("text_encoder", encoder)
        refused(replace(source, storage=storage), monkeypatch, needed, "GB are free", on_cpu=True, width=4)


def test_blocks_that_are_not_read_do_not_count(monkeypatch, tmp_path):
    model = identify(str(tiny_model("flux2_klein_4b", tmp_path / "model")))
    only = replace(model, weights={"text_encoder": model.weights["text_encoder"]})
    (file,), read = only.weights["text_encoder"].files, load_model(model).text.encoders["text_encoder"]
    assert len(load_file(file)) > len(read.state_dict())
    norm = load_file(file)["model.norm.weight"].numel()  # is left out as well, which is not counted
    needed = 4 * (sum(t.numel() for t in read.state_dict().values()) + norm)
    refused(only, monkeypatch, needed, "text_encoder", on_cpu=True, width=4)


def test_the_memory_of_a_gpu_is_another(source, monkeypatch):
    numbers = sum(t.numel() for own in source.weights.values() for t in load_file(own.files[0]).values())
    vae = sum(t.numel() for t in load_file(source.weights["vae"].files[0]).values())
    needed = 2 * (numbers - vae) + 4 * vae
    check_memory(source, on_cpu=False, width=2, device_free=needed)
    with pytest.raises(ModelError, match="GB of the GPU's memory"):
        check_memory(source, on_cpu=False, width=2, device_free=needed - 1)
    encoder = sum(t.numel() for t in load_file(source.weights["text_encoder"].files[0]).values())
    waiting = replace(source, storage=Storage(waiting=("text_encoder",)))
    check_memory(waiting, on_cpu=False, width=2, device_free=needed - 2 * encoder)
    with pytest.raises(ModelError, match="GB of the GPU's memory"):
        check_memory(waiting, on_cpu=False, width=2, device_free=needed - 2 * encoder - 1)
    refused(waiting, monkeypatch, 2 * encoder, "this machine's memory", on_cpu=False, width=2)
    swapped = replace(source, storage=Storage(blocks_to_swap=1))  # they wait in the memory of the CPU
    assert memory_problem(swapped, on_cpu=False, width=2, device_free=1) is None


def test_an_unknown_memory_refuses_nothing(source, monkeypatch):
    def unknown() -> None:
        raise NotImplementedError

    monkeypatch.setattr(enough_memory.psutil, "virtual_memory", unknown)
    assert memory_problem(source, on_cpu=True, width=4) is None


def test_whether_there_may_be_a_gpu_is_told_by_its_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(enough_memory.sys, "platform", "linux")
    monkeypatch.setattr(enough_memory, "GPU_DRIVERS", (str(tmp_path / "driver"),))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not may_have_gpu()
    (tmp_path / "driver").touch()
    assert may_have_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not may_have_gpu()


def test_weights_for_another_device_are_not_held(source, monkeypatch):
    """Plain ones pass one by one from the memory-mapped file."""
    with_free(monkeypatch, 1000)
    with pytest.raises(ModelError, match="memory"):
        check_memory(source, on_cpu=True, width=torch.float32.itemsize)
    assert check_memory(source, on_cpu=False, width=torch.bfloat16.itemsize) is None


LIMITED = """
import sys, types, psutil
psutil.virtual_memory = lambda: types.SimpleNamespace(available={free}, total=2**40)
psutil.swap_memory = lambda: types.SimpleNamespace(free=0)
from neonym.cli.main import main
from neonym.models.loading import enough_memory
enough_memory.GPU_DRIVERS = {drivers}
code = main(sys.argv[1:])
print("torch" in sys.modules)
sys.exit(code)
"""


def with_little_memory(command: list[str], free: int, home, drivers: tuple = ()) -> tuple[int, list[str], str]:
    """Run a command in a process of its own that is told how much memory is free; return its code and its output."""
    run = [sys.executable, "-c", LIMITED.format(free=free, drivers=drivers), *command]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    found = subprocess.run(run, cwd=home, capture_output=True, text=True, env=environment)
    return found.returncode, found.stderr.strip().splitlines(), found.stdout.strip()


@pytest.mark.parametrize("command", ["check", "train", "train --cpu", "train without a GPU", "generate"])
def test_a_model_without_memory_is_refused_before_anything_is_written(command, source, tmp_path):
    """It is one paragraph with exit code 2; a check knows it without torch, and a run on a CPU beside a GPU's driver."""
    make_images(tmp_path / "images")
    train = ["--train_data_dir", "images", "--token_string", "mychar4", "--output_name", "w", "--output_dir", "out"]
    name, _, more = command.partition(" ")
    model, drivers = str(source.folder), ("/",) if more else ()
    train += ["--cpu"] if more == "--cpu" else []
    arguments = {
        "generate": ["generate", "--ckpt", model, "--prompt", "a cat", "--outdir", "out", "--steps", "1"],
    }.get(command, [name, "--pretrained_model_name_or_path", model, *train])  # fmt: skip
    if command == "check":  # what only torch can tell is remembered
        assert with_little_memory(arguments, 10**12, tmp_path)[0] == 0
    code, errors, output = with_little_memory(arguments, 1000, tmp_path, drivers)
    said = [line for line in (*errors, *output.splitlines()) if "GB of this machine's memory" in line]
    assert (code, len(said)) == (2, 1), (errors, output)
    assert not (tmp_path / "out").exists()
    if command == "check":
        assert output.endswith("False")
