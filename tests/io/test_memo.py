"""Verify that slow results are computed once and cached, so that a repeated check does not even import torch."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks.checkpoints import make_parts, save_folder, single_file_tensors
from neonym.cli.main import main
from neonym.io import memo as module
from neonym.io.memo import cache_folder, memoized
from neonym.models.tokenizers.loading import CLIP, read_clip
from support.data_sets import make_images

HEAVY = ("torch", "transformers", "diffusers", "accelerate", "huggingface_hub")


@pytest.fixture
def computed(monkeypatch, tmp_path):
    """Return a list of the results computed so far and a function that computes one, with an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []
    return calls, lambda answer={"a": [1]}: calls.append(answer) or answer


def test_a_result_is_computed_once(computed):
    calls, compute = computed
    answers = [memoized("kind", ["1.0", {"x": 1}], compute) for _ in range(3)]
    assert answers == [{"a": [1]}] * 3
    assert len(calls) == 1
    memoized("kind", ["1.1", {"x": 1}], compute)
    memoized("other", ["1.0", {"x": 1}], compute)
    assert len(calls) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_damaged_memo_is_computed_again(computed, content):
    calls, compute = computed
    memoized("kind", "key", compute)
    (file,) = (cache_folder() / "kind").iterdir()
    file.write_bytes(content)
    assert memoized("kind", "key", compute) == {"a": [1]}
    assert json.loads(file.read_text())["found"] == {"a": [1]}
    assert len(calls) == 2


def test_an_unwritable_cache_is_no_error(computed, tmp_path):
    calls, compute = computed
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert [memoized("kind", "key", compute) for _ in range(2)] == [{"a": [1]}] * 2
    assert len(calls) == 1  # this process knows


def test_failures_are_not_cached(computed):
    _, compute = computed

    def fail():
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        memoized("kind", "key", fail)
    assert memoized("kind", "key", compute) == {"a": [1]}


def test_a_tokenizer_is_read_again_when_its_files_or_the_library_change(computed, monkeypatch, tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for file in CLIP.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    assert read_clip(folder).pad == read_clip(folder).end
    kept = cache_folder() / "tokenizers"
    assert len(list(kept.iterdir())) == 1
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "!"}))
    assert read_clip(folder).pad == 0
    monkeypatch.setattr(module, "version", lambda library: "99")
    read_clip(folder)
    assert len(list(kept.iterdir())) == 3


@pytest.fixture(scope="module", params=["builtin", "sd1 file", "sd2 folder", "sdxl folder"])
def model(request, tmp_path_factory):
    """Return the name of a model."""
    from safetensors.torch import save_file

    family, _, form = request.param.partition(" ")
    if not form:
        return "builtin:emoji"
    home, parts = tmp_path_factory.mktemp(family), make_parts(family, tiny=True, dtype=torch.float32)
    if form == "file":
        save_file(single_file_tensors(parts, family), home / "model.safetensors")
        return str(home / "model.safetensors")
    save_folder(parts, family, home / "folder", "epsilon")
    return str(home / "folder")


def test_a_second_check_needs_no_torch(model, tmp_path, capsys):
    """This holds for all models. Importing torch takes longer than the rest of a small check."""
    flags = ["--train_data_dir", str(make_images(tmp_path / "pictures")), "--token_string=mychar4"]
    flags += ["--pretrained_model_name_or_path", model, "--resolution=64"]
    assert main(["check", *flags]) == 0
    first = capsys.readouterr().out
    code = (
        f"import sys; from neonym.cli.main import main; code = main(['check', *{flags!r}]);"
        f"assert not set({HEAVY}) & set(sys.modules), set({HEAVY}) & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == first
