"""Verify which models are found on a machine, what is said of each, and that a search ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from neonym.web import models
from neonym.web.home import Home
from neonym.web.model_list import ModelList
from neonym.web.models import LEAST, FoundModel, find_models, is_on_this_machine
from neonym.web.work import Workers
from support.coroutines import finished

EMOJI = Path(models.__file__).parents[1] / "models" / "builtin" / "emoji"


@pytest.fixture(autouse=True)
def user(tmp_path, monkeypatch) -> Path:
    """Return the folder of a user on a machine without models."""
    folder = tmp_path / "user"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.setattr(models, "SHARED", ())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    return folder


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def weights(file: Path) -> Path:
    """Make a file that is large enough for a model, but takes no space on the disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        opened.truncate(LEAST + 1)
    return file


def cached_model(user: Path, name: str, version: str, *, is_current: bool = True, has_weights: bool = True) -> Path:
    """Make a Diffusers model in the cache of Hugging Face, whose files are links to blobs."""
    repository = user / "hub" / f"models--{name.replace('/', '--')}"
    folder = repository / "snapshots" / version
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    if has_weights:
        (folder / "unet" / "diffusion_pytorch_model.safetensors").symlink_to(weights(repository / "blobs" / version))
    if is_current:
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(version)
    return folder


def titles(found: list[FoundModel]) -> dict[str, str]:
    return {model.title: model.place for model in found}


def test_models_of_a_folder_are_found_and_parts_of_them_are_not(home):
    folder = home.folder("models")
    for name in (
        "a.safetensors",
        "sub/b.ckpt",
        "d/unet/w.safetensors",
        ".hidden/c.gguf",
        "one/two/three/four/deep.ckpt",
    ):
        weights(folder / name)
    (folder / "small.safetensors").write_bytes(b"x")
    (folder / "d" / "model_index.json").write_text("{}")
    found = find_models(home.named("models"))
    assert [model.name for model in found] == [str(folder / name) for name in ("a.safetensors", "d", "sub/b.ckpt")]
    assert {model.place for model in found} == {"models"}


def test_models_of_other_programs_are_found_where_they_keep_them(user):
    for file in (
        "ComfyUI/models/checkpoints/sdxl/one.safetensors", "ComfyUI/models/diffusion_models/two.gguf",
        "ComfyUI/models/unet/three.safetensors", "ComfyUI/models/loras/no.safetensors",
        "Documents/forge/models/Stable-diffusion/four.ckpt", "AI/SwarmUI/Models/Stable-Diffusion/five.safetensors",
        "ComfyUI_windows_portable/ComfyUI/models/checkpoints/six.safetensors", "elsewhere/seven.safetensors",
    ):  # fmt: skip
        weights(user / file)
    assert titles(find_models([])) == {
        str(Path("sdxl") / "one.safetensors"): "ComfyUI", "two.gguf": "ComfyUI", "three.safetensors": "ComfyUI",
        "six.safetensors": "ComfyUI", "four.ckpt": "forge", "five.safetensors": "SwarmUI",
    }  # fmt: skip


@pytest.mark.parametrize("named", ["program", "program/models"])
def test_of_the_folder_of_a_program_only_its_models_are_offered(named, tmp_path):
    weights(tmp_path / "program" / "models" / "checkpoints" / "one.safetensors")
    weights(tmp_path / "program" / "models" / "loras" / "no.safetensors")
    assert [model.title for model in find_models([tmp_path / named])] == ["one.safetensors"]


def test_models_of_the_hugging_face_cache_have_their_names(user):
    cached_model(user, "some-owner/some--model", "a" * 40)
    old = cached_model(user, "other/model", "b" * 40, is_current=False)
    cached_model(user, "only/configs", "c" * 40, has_weights=False)
    (user / "hub" / "datasets--some--images" / "snapshots").mkdir(parents=True)
    (user / "hub" / "version.txt").write_text("1")
    found = {model.name: (model.title, model.place) for model in find_models([])}
    assert found == {
        "some-owner/some--model": ("some-owner/some--model", "Hugging Face"),
        str(old): ("other/model, version bbbbbbbb", "Hugging Face"),
    }


def test_links_are_followed_and_loops_are_not(home, tmp_path):
    folder = home.folder("models")
    weights(tmp_path / "disk" / "far.safetensors")
    (folder / "disk").symlink_to(tmp_path / "disk")
    (folder / "again").symlink_to(tmp_path / "disk")
    (folder / "loop").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "dead.safetensors").symlink_to(tmp_path / "missing")
    found = find_models(home.named("models"))
    assert [model.title for model in found] == [str(Path("again") / "far.safetensors")]
    assert not home.allows(found[0].path)  # it can be learned from, but is not served


def test_a_search_ends_however_many_files_there_are(home):
    for i in range(30):
        weights(home.folder("models") / f"{i:02d}" / "model.safetensors")
    search = models.Search(left=40)
    assert 0 < len(list(search.models(home.folder("models")))) < 30
    assert list(models.Search(end=0.0).models(home.folder("models"))) == []


def test_a_folder_of_models_is_looked_through_and_not_served(home, tmp_path):
    weights(tmp_path / "mine" / "a.safetensors")
    (tmp_path / "mine" / "a.png").touch()
    home.add_folder("models", str(tmp_path / "mine"))
    assert "a.safetensors" in titles(find_models(home.named("models")))
    assert not home.allows(tmp_path / "mine" / "a.png")


def test_the_pages_say_what_each_model_is(home):
    shutil.copytree(EMOJI, home.folder("models") / "mine")
    weights(home.folder("models") / "junk.safetensors")
    junk, mine = (str(home.folder("models") / name) for name in ("junk.safetensors", "mine"))

    async def looks() -> list[dict[str, str]]:
        workers = Workers()
        known = ModelList(home, workers)
        try:
            before = known.names()
            return [before, *[known.names() async for _ in known.look()], *[known.names() async for _ in known.look()]]
        finally:
            workers.close()

    before, found, *steps, last, again = finished(looks())
    assert list(before) == ["builtin:emoji", "builtin:emoji-flow"]
    assert (found[junk], found[mine]) == ("junk.safetensors (models)", "mine (models)")
    assert len(steps) == 1
    assert list(last) == [*before, mine, junk]
    assert last[mine] == "mine, Stable Diffusion 1.x (models)"
    assert last[junk] == "junk.safetensors, not recognised (models)"
    assert again == last


def test_a_model_is_on_this_machine_or_is_not(user, tmp_path):
    cached_model(user, "owner/model", "a" * 40)
    for name in ("builtin:emoji", str(tmp_path), "owner/model"):
        assert is_on_this_machine(name)
    for name in ("", "other/model", "../../owner/model", "a\0b", "x" * 5000, "x/" + "y" * 5000, str(tmp_path / "no")):
        assert not is_on_this_machine(name)
