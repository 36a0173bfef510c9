"""Verify how images and captions are listed, edited and uploaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from PIL import Image

from neonym import UserError
from neonym.web.data_set import DataSet, safe_name, take_upload
from neonym.web.home import Home
from neonym.web.images import SIDES, cached_thumbnail

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    data = BytesIO()
    Image.new("RGB", size, "red").save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def data_set(tmp_path) -> DataSet:
    for name in ("10.png", "2.png", "1.jpg.png"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "2.txt").write_text("a cat, red\n")
    (tmp_path / "10.caption").write_text("a Zyzzo here")
    (tmp_path / "notes.md").write_text("no image")
    return DataSet(tmp_path)


def test_images_are_in_the_order_of_their_numbers(data_set):
    assert [image.name for image in data_set.images()] == ["1.jpg.png", "2.png", "10.png"]
    assert DataSet(data_set.folder / "missing").images() == []


def test_captions_are_read_and_written_where_they_are(data_set):
    one, two, ten = data_set.images()
    assert [data_set.caption(image) for image in (one, two, ten)] == ["", "a cat, red", "a Zyzzo here"]
    data_set.set_caption(ten, "new\nlines")  # which may be alternatives
    assert (data_set.folder / "10.caption").read_text() == "new\nlines\n"
    data_set.set_caption(one, "first")
    assert (data_set.folder / "1.jpg.txt").read_text() == "first\n"


def test_the_word_is_added_where_it_is_missing(data_set):
    assert data_set.add_word("zyzzo") == 2
    assert [data_set.caption(image) for image in data_set.images()] == ["zyzzo", "zyzzo, a cat, red", "a Zyzzo here"]
    assert data_set.without_word("zyzzo") == []
    assert data_set.add_word("zyzzo") == 0


def test_a_text_is_replaced_in_all_captions(data_set):
    assert data_set.replace("a ", "the ") == 2
    assert data_set.replace("", "x") == 0
    assert data_set.caption(data_set.images()[1]) == "the cat, red"


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
    first, second = (take_upload(tmp_path / "set", "a.png", png()) for _ in range(2))
    assert (first.name, second.name) == ("a.png", "a-2.png")
    assert take_upload(tmp_path / "set", "a.txt", b"a caption").read_text() == "a caption"
    for name, data in (
        ("b.png", b"<script>alert(1)</script>"),
        ("c.png", png((64, 64))[:80]),
        ("d.svg", b"<svg/>"),
        ("f.png", POSTSCRIPT),
        ("e.exe", png()),
    ):
        with pytest.raises(UserError):
            take_upload(tmp_path / "set", name, data)
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["a-2.png", "a.png", "a.txt"]


def test_thumbnails_are_small_and_made_once(tmp_path):
    home = Home(tmp_path / "home")
    image = home.folder("datasets") / "large.png"
    Image.new("RGBA", (2000, 1000), (255, 0, 0, 128)).save(image)
    data = cached_thumbnail(home, image, SIDES[0])
    assert data is not None
    with Image.open(BytesIO(data)) as small:
        assert small.size == (160, 80)
    assert cached_thumbnail(home, image, SIDES[0]) == data
    image.write_bytes(b"broken")
    assert cached_thumbnail(home, image, SIDES[0]) is None


def test_many_requests_for_one_thumbnail_get_it(tmp_path):
    home = Home(tmp_path / "home")
    image = home.folder("datasets") / "a.png"
    Image.effect_noise((500, 500), 80).save(image)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cached_thumbnail(home, image, SIDES[0]), range(40)))
    assert len(set(found)) == 1
    assert found[0] is not None
    assert [path.suffix for path in home.folder("cache").iterdir()] == [".webp"]
