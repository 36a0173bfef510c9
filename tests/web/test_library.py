"""Verify which files are words, what belongs to them, and the settings that masks become."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from neonym import convert
from neonym.web import work
from neonym.web.draft import Draft
from neonym.web.home import Home
from neonym.web.library import other_files, word_from, words_in
from neonym.web.masks import mask_of, with_masks
from neonym.web.queue import Queue
from support.data_sets import make_images


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


def word(folder: Path, name: str, **metadata: str) -> Path:
    file = folder / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.ones(2, 128)}, file, metadata)
    return file


def test_words_are_listed_with_what_belongs_to_them_and_nothing_else_is(home):
    outputs = home.folder("outputs")
    file = word(outputs, "zyzzo[1]")
    word(outputs / "more", "other")
    word(outputs, "zyzzo-step00000005")
    step = word(outputs, "zyzzo[1]-step00000005")
    word(outputs / "zyzzo[1]-run" / "steps", "zyzzo")
    save_file({"weight": torch.ones(2, 2, 3, 3)}, outputs / "lora.safetensors")
    (outputs / "broken.safetensors").write_bytes(b"\xff" * 20)
    (outputs / "zyzzo[1]-run" / "verdict.json").write_text(json.dumps([{"token": "zyzzo[1]", "word": "WEAK"}]))
    (outputs / "sample").mkdir()
    for name in ("zyzzo[1]_000010_00.png", "zyzzo[1]_000010_sheet.png", "zyzzo1_000010_00.png"):
        Image.new("RGB", (8, 8)).save(outputs / "sample" / name)
    found = {own.file.stem: own for own in words_in(home)}
    assert set(found) == {"zyzzo[1]", "other"}
    own = found["zyzzo[1]"]
    assert (own.size, own.verdict) == ("2 vectors", {"token": "zyzzo[1]", "word": "WEAK"})
    assert [sample.name for sample in own.samples] == ["zyzzo[1]_000010_sheet.png", "zyzzo[1]_000010_00.png"]
    assert own.files == [file, outputs / "zyzzo[1]-run", step]


def test_words_in_other_layouts_are_found_by_a_look_inside(home):
    file = word(home.folder("outputs"), "zyzzo")
    convert(file, home.folder("outputs") / "zyzzo.pt")
    Image.new("RGB", (8, 8)).save(home.folder("outputs") / "picture.png")
    others = other_files(home)
    assert [other.name for other in others] == ["picture.png", "zyzzo.pt"]
    looked = [word_from(other, work.inspect(other)) for other in others]
    assert looked[0] is None
    assert looked[1] is not None
    assert (looked[1].token, looked[1].vectors) == ("zyzzo", 2)


@pytest.mark.parametrize(
    "header",
    [
        {"emb_params": {"dtype": "F32", "shape": ["x", 2], "data_offsets": [0, 8]}}, {"emb_params": 1}, {"__metadata__": [1]},
        {"a": {"shape": [1, 2]}, "__metadata__": [1]}, [1], "text",
    ],
)  # fmt: skip
def test_an_odd_header_spoils_nothing(home, header):
    data = json.dumps(header).encode()
    (home.folder("outputs") / "odd.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)
    word(home.folder("outputs"), "good", **{"token": "a\ud800b".encode("utf-8", "replace").decode()})
    assert "good" in {own.file.stem for own in words_in(home)}


def test_a_recipe_brings_no_places_and_no_classes_along(home):
    known = {
        "learning_rate": "0.007", "optimizer_type": "os.system", "lr_scheduler_type": "a.B", "console_log_file": "/x",
        "train_data_dir": "/etc", "logging_dir": "/x", "huggingface_repo_id": "a/b", "resume": "/x", "output_dir": "/x",
    }  # fmt: skip
    metadata = {"neonym.settings": json.dumps(known), "neonym.base_model": "some/repo", "neonym.init_word": "cat"}
    values, error = work.recipe(word(home.folder("outputs"), "zyzzo", **metadata))
    assert error == ""
    assert {name: value for name, value in values.items() if value} == {
        "token_string": "zyzzo", "init_word": "cat", "learning_rate": "0.007",
    }  # fmt: skip


def test_a_folder_of_masks_becomes_a_data_set_of_the_run(home, tmp_path):
    images = make_images(tmp_path / "images", count=2, caption="a mychar4")
    masks = tmp_path / "masks"
    masks.mkdir()
    for image in images.glob("*.png"):
        Image.new("L", (64, 64), 255).save(masks / image.name)
    draft = Draft({"train_data_dir": str(images), "token_string": "mychar4", "masks": str(masks)})
    assert mask_of(next(images.glob("*.png")), images, str(masks)) is not None
    assert with_masks({"train_data_dir": "x"}, home.root) == {"train_data_dir": "x"}
    settled = with_masks(draft.values, home.folder("cache"))
    other = with_masks({**draft.values, "train_data_dir": str(tmp_path)}, home.folder("cache"))  # of another tab
    assert other["dataset_config"] != settled["dataset_config"]
    answer = work.check(settled)
    assert answer.ready, answer
    queue = Queue(home, ["cpu"])
    queue.pause(True)
    settings = queue.settings(queue.add(draft).id)
    assert "masked_loss = true" in settings
    next(masks.iterdir()).unlink()
    assert not work.check(with_masks(draft.values, home.folder("cache"))).ready


def test_a_full_disk_is_one_message_and_leaves_nothing_half_written(home, tmp_path):
    """A process that may write no byte to a file gets what a full disk gives."""
    script = f"""
import resource, signal
from pathlib import Path
from neonym import UserError
from neonym.web.draft import Draft
from neonym.web.home import Home
from neonym.web.queue import Queue
queue = Queue(Home(Path({str(home.root)!r})), ["cpu"])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
for action in (lambda: queue.add(Draft({{"token_string": "x"}}), "a x"), lambda: queue.pause(True)):
    try:
        action()
    except UserError as error:
        print(error)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.count("cannot be written") == 2
    assert list(home.folder("queue").iterdir()) == []
    assert not (home.root / "queue.json").exists()
