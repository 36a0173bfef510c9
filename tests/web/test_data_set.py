"""Verify how images and captions are listed, shown and edited."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from neonym import UserError
from neonym.config.sources import folder_table
from neonym.web import work
from neonym.web.cache import Cache
from neonym.web.data_set import DataSet
from neonym.web.home import Home
from neonym.web.images import SIDES, THUMBNAIL, cached_thumbnail, made_thumbnail
from neonym.web.masks import mask_of, with_masks
from support.data_sets import make_images, png


@pytest.fixture
def data_set(tmp_path) -> DataSet:
    for name in ("10.png", "2.png", "1.jpg.png"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "2.txt").write_text("a cat, red\n")
    (tmp_path / "10.caption").write_text("a Zyzzo here")
    (tmp_path / "notes.md").write_text("no image")
    return DataSet(tmp_path, lambda path: path.resolve().is_relative_to(tmp_path))


def test_images_are_in_the_order_of_their_numbers(data_set):
    assert [image.name for image in data_set.images()] == ["1.jpg.png", "2.png", "10.png"]
    assert DataSet(data_set.folder / "missing", data_set.allows).images() == []


def test_captions_are_read_and_written_where_they_are(data_set):
    one, two, ten = data_set.images()
    assert [data_set.caption(image) for image in (one, two, ten)] == ["", "a cat, red", "a Zyzzo here"]
    data_set.set_caption(ten, "new\nlines")  # which may be alternatives
    assert (data_set.folder / "10.caption").read_text() == "new\nlines\n"
    data_set.set_caption(one, "first")
    assert (data_set.folder / "1.jpg.txt").read_text() == "first\n"


def test_captions_are_those_that_training_reads(data_set):
    two = data_set.images()[1]
    (data_set.folder / "2.caption").write_text("comes first")
    assert data_set.caption(two) == "comes first"
    assert replace(data_set, caption_extension="txt").caption(two) == "a cat, red"
    assert replace(data_set, caption_extension=".tags").caption_file(two).name == "2.tags"


def test_captions_elsewhere_are_neither_read_nor_replaced(data_set, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.txt"
    secret.write_text("secret")
    one = data_set.images()[0]
    data_set.caption_file(one).symlink_to(secret)
    assert data_set.caption(one) == ""
    assert data_set.add_word("zyzzo") == 1
    with pytest.raises(UserError, match="is a link to outside of the folders"):
        data_set.set_caption(one, "mine")
    assert data_set.caption_file(one).is_symlink()
    assert secret.read_text() == "secret"


@pytest.fixture
def parts(tmp_path) -> DataSet:
    """Return a data set as sd-scripts has it: of three folders with images, one counts ten times and one never."""
    for name in ("10_zyzzo cat", "1_thing", "0_never", "notes"):
        make_images(tmp_path / "set" / name, count=2, caption=None)
    (tmp_path / "set" / "outside.png").write_bytes(png())
    home = Home(tmp_path / "home")
    return DataSet(home.add_folder("datasets", str(tmp_path / "set")), home.allows)


def test_images_in_folders_with_repeats_are_those_that_training_reads(parts):
    assert parts.parts() == {parts.folder / "10_zyzzo cat": 10, parts.folder / "1_thing": 1}
    assert [parts.title(image) for image in parts.images()] == [
        str(Path(folder) / name) for folder in ("10_zyzzo cat", "1_thing") for name in ("00.png", "01.png")
    ]
    assert parts.summary() == "set: 10_zyzzo cat (10 times), 1_thing (1 time)"
    values = {"train_data_dir": str(parts.folder), "token_string": "zyzzo"}
    table = folder_table(values["train_data_dir"], None, [])
    assert [subset["num_repeats"] for subset in table["datasets"][0]["subsets"]] == [10, 1]


def test_an_image_without_a_caption_has_the_name_of_its_folder(parts):
    assert [parts.text(image) for image in parts.images()] == ["zyzzo cat"] * 2 + ["thing"] * 2
    assert parts.without_word("zyzzo") == parts.images()[2:]
    assert parts.add_word("zyzzo") == 4
    assert [parts.caption(image) for image in parts.images()] == ["zyzzo cat"] * 2 + ["zyzzo, thing"] * 2
    assert parts.caption_file(parts.images()[0]).suffix == ".caption"  # a .txt file would not be read
    parts.set_caption(parts.images()[0], "zyzzo on a table")
    values = {
        "train_data_dir": str(parts.folder),
        "token_string": "zyzzo",
        "pretrained_model_name_or_path": "builtin:emoji",
    }
    answer = work.check(values)
    assert answer.ready, [finding.text for finding in answer.findings]
    assert not [finding for finding in answer.findings if "not read" in finding.text]


def test_a_folder_that_is_a_link_to_elsewhere_is_not_shown(parts, tmp_path):
    make_images(tmp_path / "elsewhere", count=1)
    (parts.folder / "5_away").symlink_to(tmp_path / "elsewhere")
    assert len(parts.images()) == 4


def test_each_part_of_a_data_set_has_its_masks(parts, tmp_path):
    for part in parts.parts():
        make_images(tmp_path / "masks" / part.name, count=2, caption=None)
    values = {
        "train_data_dir": str(parts.folder), "token_string": "zyzzo", "masks": str(tmp_path / "masks"),
        "pretrained_model_name_or_path": "builtin:emoji", "caption_extension": ".caption",
    }  # fmt: skip
    parts.add_word("zyzzo")
    settled = with_masks(values, tmp_path)
    subsets = json.loads(Path(settled["dataset_config"]).read_text())["datasets"][0]["subsets"]
    assert [(subset["num_repeats"], Path(subset["conditioning_data_dir"]).name) for subset in subsets] == [
        (10, "10_zyzzo cat"), (1, "1_thing"),
    ]  # fmt: skip
    assert (
        mask_of(parts.images()[0], parts.folder, str(tmp_path / "masks"))
        == tmp_path / "masks" / "10_zyzzo cat" / "00.png"
    )
    answer = work.check(settled)
    assert answer.ready, [finding.text for finding in answer.findings]


def test_the_word_is_added_where_it_is_missing(data_set):
    assert data_set.add_word("zyzzo") == 2
    assert [data_set.caption(image) for image in data_set.images()] == ["zyzzo", "zyzzo, a cat, red", "a Zyzzo here"]
    assert data_set.without_word("zyzzo") == []
    assert data_set.add_word("zyzzo") == 0


def test_a_text_is_replaced_in_all_captions(data_set):
    assert data_set.replace("a ", "the ") == 2
    assert data_set.replace("", "x") == 0
    assert data_set.caption(data_set.images()[1]) == "the cat, red"


def test_thumbnails_are_small_and_made_once(tmp_path):
    cache, image = Cache(tmp_path, THUMBNAIL, 2**20), tmp_path / "large.png"
    Image.new("RGBA", (2000, 1000), (255, 0, 0, 128)).save(image)
    data = cached_thumbnail(cache, image, SIDES[0])
    assert data is not None
    with Image.open(BytesIO(data)) as small:
        assert small.size == (160, 80)
    assert cached_thumbnail(cache, image, SIDES[0]) == data
    image.write_bytes(b"broken")
    assert cached_thumbnail(cache, image, SIDES[0]) is None


def test_many_requests_for_one_thumbnail_get_it(tmp_path):
    (tmp_path / "cache").mkdir()
    cache, image = Cache(tmp_path / "cache", THUMBNAIL, 2**20), tmp_path / "a.png"
    Image.effect_noise((500, 500), 80).save(image)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cached_thumbnail(cache, image, SIDES[0]), range(40)))
    assert len(set(found)) == 1
    assert found[0] is not None
    assert [path.suffix for path in cache.folder.iterdir()] == [".webp"]


def test_only_as_many_thumbnails_are_kept_as_the_limit_allows(tmp_path):
    cache = Cache(tmp_path, THUMBNAIL, 1000)
    (tmp_path / "other.png").write_bytes(bytes(2000))  # no thumbnail
    for i in range(10):
        cache.write(str(i), bytes(100))
        os.utime(cache.file(str(i)), (i, i))
    assert all(cache.read(str(i)) for i in range(10))
    again = Cache(tmp_path, THUMBNAIL, 1000)  # another start of the page
    again.write("last", bytes(50))
    assert [i for i in range(10) if again.read(str(i)) is None] == [0, 1]
    assert again.size == sum(file.stat().st_size for file in tmp_path.glob("*.webp")) == 850
    again.write("more", bytes(100))
    assert again.size == 950
    again.write("much", bytes(700))
    assert {file.name for file in tmp_path.iterdir()} == {"other.png", "last.webp", "more.webp", "much.webp"}
    again.write("too/long", b"cannot be written")
    assert again.size == 850


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "1"])
def test_thumbnails_of_all_kinds_of_images_are_turned_as_a_camera_was(tmp_path, mode):
    image = Image.new("RGB", (900, 300), "red").convert("L" if mode == "I;16" else mode)
    image = image.convert("I;16") if mode == "I;16" else image
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    file = tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}"
    image.save(file, exif=exif)
    with Image.open(BytesIO(made_thumbnail(file, 160))) as small:
        assert small.size == (53, 160)
