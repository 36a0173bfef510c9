"""Verify which uploaded files are taken, and under which names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from neonym import UserError
from neonym.web import images, uploads
from neonym.web.uploads import LARGEST, Batch, safe_name, take_upload
from support.coroutines import finished
from support.data_sets import png

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


@dataclass
class Sent:
    """A file as the browser sends it."""

    name: str
    data: bytes

    def size(self) -> int:
        return len(self.data)

    async def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)


def take(folder: Path, name: str, data: bytes, batch: Batch | None = None) -> Path:
    return finished(take_upload(folder, Sent(name, data), batch))


def take_batch(folder: Path, files: dict[str, bytes], refused: Sequence[str] = ()) -> list[str]:
    """Take files that are sent together, and return the errors that are shown."""
    batch = Batch(files, refused)

    async def all_of_them() -> list[object]:
        sent = (take_upload(folder, Sent(name, data), batch) for name, data in files.items())
        return await asyncio.gather(*sent, return_exceptions=True)

    results = finished(all_of_them())
    assert all(isinstance(result, (Path, UserError)) for result in results), results
    return [str(result) for result in results if isinstance(result, UserError)]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd.png", "passwd.png"), ("C:\\a\\b.png", "b.png"), ("<img src=x>.png", "_img src_x_.png"),
        ("..", "image"), ("a\0b\n.png", "a_b_.png"), (".hidden.png", "hidden.png"), ("ü 1 (2).png", "ü 1 (2).png"),
    ],
)  # fmt: skip
def test_names_of_uploads_are_only_names(name, safe):
    assert safe_name(name) == safe


def test_long_names_are_shortened():
    for letter in ("x", "猫"):
        assert len(safe_name(letter * 1000 + ".png").encode()) <= 124


def test_uploads_are_checked_as_images_and_never_replace_anything(tmp_path):
    first, second = (take(tmp_path / "set", "a.png", png()) for _ in range(2))
    assert (first.name, second.name) == ("a.png", "a-2.png")
    assert take(tmp_path / "set", "a.txt", b"a caption").read_text() == "a caption"
    for name, data, said in (
        ("b.png", b"<script>alert(1)</script>", "is not an image that can be read"),
        ("c.png", png((64, 64))[:80], "is not an image that can be read"),
        ("f.png", POSTSCRIPT, "is not an image that can be read"),
        ("d.svg", b"<svg/>", "is neither an image that can be learned from"),
        ("e.exe", png(), "is neither an image that can be learned from"),
        ("g.gif", png(), "Save it as PNG, JPEG or WebP"),
        ("h.txt", b"x" * 2**21, "has more than 1 MB"),
    ):
        with pytest.raises(UserError, match=said) as error:
            take(tmp_path / "set", name, data)
        assert str(error.value).startswith(name)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["a-2.png", "a.png", "a.txt"]


def test_files_that_are_too_large_are_refused_before_they_are_written(tmp_path):
    class Large(Sent):
        def size(self) -> int:
            return LARGEST + 1

    with pytest.raises(UserError, match=r"a\.png has more than 100 MB\. Make it smaller\."):
        finished(take_upload(tmp_path, Large("a.png", png())))
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_with_too_many_pixels_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"bomb\.png has more than 89 million pixels"):
        take(tmp_path, "bomb.png", png((20_000, 10_000), "1"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # our own limit
    with pytest.raises(UserError, match=r"bomb\.png has more than 89 million pixels"):
        take(tmp_path, "bomb.png", png((20_000, 5_000), "1"))
    assert images.fault_of_image(tmp_path / "missing.png") == "is not an image that can be read"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_one_message(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"a\.png cannot be written"):
        take(tmp_path / "file" / "set", "a.png", png())


def test_two_uploads_of_one_name_at_the_same_time_are_both_kept(tmp_path):
    async def both() -> None:
        await asyncio.gather(*(take_upload(tmp_path, Sent("a.png", png())) for _ in range(8)))

    finished(both())
    assert len(list(tmp_path.glob("a*.png"))) == 8


@pytest.mark.parametrize("order", [("IMG_1.png", "IMG_1.txt"), ("IMG_1.txt", "IMG_1.png"), ("IMG_1.txt", "IMG_1.PNG")])
def test_an_image_whose_name_is_taken_keeps_its_own_caption(tmp_path, order):
    take(tmp_path, next(name for name in order if name != "IMG_1.txt"), png())  # without a caption
    for text in (b"the second", b"the third"):
        take_batch(tmp_path, {name: png() if name != "IMG_1.txt" else text for name in order})
    texts = {path.stem: path.read_text() for path in tmp_path.glob("*.txt")}
    assert texts == {"IMG_1-2": "the second", "IMG_1-3": "the third"}
    assert {path.stem for path in tmp_path.iterdir() if path.suffix != ".txt"} == {"IMG_1", *texts}


@pytest.mark.parametrize("order", [("a.png", "a.txt", "b.txt"), ("b.txt", "a.txt", "a.png")])
def test_a_caption_whose_image_is_refused_is_told_and_not_kept(tmp_path, order):
    take(tmp_path, "a.png", png())
    take(tmp_path, "a.txt", b"of the first")
    files = {"a.png": b"broken", "a.txt": b"of the broken one", "b.txt": b"of one that the browser does not send"}
    said = take_batch(tmp_path, {name: files[name] for name in order}, refused=["b.gif"])
    not_kept = "is not kept, as its image was not taken. Send it again, with its image."
    assert sorted(said) == [
        "a.png is not an image that can be read. Choose another file.",
        f"a.txt {not_kept}",
        f"b.txt {not_kept}",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.txt"}
    assert (tmp_path / "a.txt").read_text() == "of the first"


@pytest.mark.parametrize("good", ["a.png", "a.bmp"])
def test_a_caption_is_kept_with_the_one_of_two_images_that_is_taken(tmp_path, good):
    files = {"a.txt": b"a caption", "a.png": b"broken", "a.bmp": b"broken", good: png()}
    assert len(take_batch(tmp_path, files, refused=["a.gif", "b.txt"])) == 1
    assert {path.name for path in tmp_path.iterdir()} == {good, "a.txt"}


def test_a_caption_whose_image_never_arrives_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "PATIENCE", 0.1)
    with pytest.raises(UserError, match=r"a\.txt is not kept, as its image was not taken"):
        take(tmp_path, "a.txt", b"a caption", Batch(["a.txt", "a.png"]))
    assert list(tmp_path.iterdir()) == []


def test_a_caption_that_comes_alone_replaces_that_of_its_image(tmp_path):
    take(tmp_path, "a.txt", b"before its image")
    take(tmp_path, "a.png", png())
    take(tmp_path, "a.txt", b"corrected")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.txt"}
    assert (tmp_path / "a.txt").read_text() == "corrected"


def test_names_that_become_the_same_keep_their_captions(tmp_path):
    """Either image may be taken first."""
    files = {
        "a?.png": png((8, 8)),
        "a*.png": png((16, 16)),
        "a?.txt": b"of the small one",
        "a*.txt": b"of the large one",
    }
    take_batch(tmp_path, files)
    assert {path.name for path in tmp_path.iterdir()} == {"a_.png", "a_-2.png", "a_.txt", "a_-2.txt"}
    captions = {}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            captions[image.width] = path.with_suffix(".txt").read_text()
    assert captions == {8: "of the small one", 16: "of the large one"}


def test_an_image_of_another_format_does_not_share_the_caption_of_an_earlier_one(tmp_path):
    take(tmp_path, "a.png", png())
    assert take(tmp_path, "a.bmp", png()).name == "a-2.bmp"


def test_uploaded_images_become_a_data_set_and_others_are_refused(start, tab: Page, tmp_path):
    server = start()
    tab.goto(f"{server.url}/new")
    tab.get_by_label("New word", exact=True).fill("mychar4")
    tab.wait_for_timeout(1500)  # until the word has arrived
    Image.new("RGB", (64, 64), "red").save(tmp_path / "one.png")
    (tmp_path / "fake.png").write_text("no image")
    tab.locator("input[type=file]").set_input_files([str(tmp_path / "one.png"), str(tmp_path / "fake.png")])
    expect(tab.get_by_text("fake.png is not an image that can be read")).to_be_visible()
    expect(tab.get_by_text("1 image in")).to_be_visible()
    folder = server.home / "datasets" / "mychar4"
    assert [path.name for path in folder.iterdir()] == ["one.png"]
    Image.new("RGB", (96, 64), "blue").save(tmp_path / "one.png")
    (tmp_path / "one.txt").write_text("the second of its name")
    tab.locator("input[type=file]").set_input_files([str(tmp_path / "one.txt"), str(tmp_path / "one.png")])
    expect(tab.get_by_text("2 images in")).to_be_visible()
    expect(tab.get_by_label("one-2.png")).to_have_value("the second of its name")
    assert sorted(path.name for path in folder.iterdir()) == ["one-2.png", "one-2.txt", "one.png"]
    for name in ("film.mov", "film.txt", "fake.txt"):
        (tmp_path / name).touch()
    with (tmp_path / "large.png").open("wb") as opened:
        opened.truncate(101 * 2**20)
    names = ("film.mov", "film.txt", "large.png", "fake.png", "fake.txt")
    tab.locator("input[type=file]").set_input_files([str(tmp_path / name) for name in names])
    expect(tab.get_by_text("large.png: more than 100 MB.")).to_be_visible()
    expect(tab.get_by_text("film.mov: neither images")).to_be_visible()
    for name in ("film.txt", "fake.txt"):
        expect(tab.get_by_text(f"{name} is not kept, as its image was not taken.")).to_have_count(1)
    assert sorted(path.name for path in folder.iterdir()) == ["one-2.png", "one-2.txt", "one.png"]
