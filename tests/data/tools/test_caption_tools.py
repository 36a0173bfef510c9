"""Verify the tools of `neonym caption` as users call them."""

import json

import numpy as np
from PIL import Image

from neonym.data.tools.captions import clean_tags
from neonym.data.tools.duplicates import difference_hashes, similar
from neonym.preflight.images import similar_image_warnings
from neonym.preflight.preflight import preflight
from support.checks import check, settings
from support.commands import caption
from support.data_sets import make_images


def test_merged_files_can_be_trained_and_split_again(tmp_path, capsys):
    folder = make_images(tmp_path / "a", 3, caption=None)
    for i in range(3):
        (folder / f"{i:02}.caption").write_text(f"mychar4 number {i}\nanother line\n")
        (folder / f"{i:02}.txt").write_text("tag_one, ^_^, Tag one,  b\n")
    (folder / "below").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "below" / "x.png")
    meta = tmp_path / "meta.json"
    assert caption("merge", folder, meta) == 0
    table = json.loads(meta.read_text())
    assert table["00.png"] == {"caption": "mychar4 number 0\nanother line", "tags": "tag_one, ^_^, Tag one,  b"}
    assert len(table) == 3
    assert caption("clean", meta, tmp_path / "clean.json", "--drop", "b") == 0
    assert json.loads((tmp_path / "clean.json").read_text())["01.png"]["tags"] == "tag one, ^_^"
    ready = preflight(
        settings(train_data_dir=str(folder), in_json=str(tmp_path / "clean.json"), token_string="mychar4")
    )
    assert not ready.failed()
    assert ready.records[0].caption.startswith("mychar4 number 0")
    assert caption("count", tmp_path / "clean.json") == 0
    assert "3 tag one" in capsys.readouterr().out
    copy = make_images(tmp_path / "b", 3, caption=None)
    (copy / "01.txt").write_text("mine")
    assert caption("split", tmp_path / "clean.json", copy) == 0
    assert "1 existing file kept" in capsys.readouterr().out
    assert (copy / "01.txt").read_text() == "mine"
    assert (copy / "00.txt").read_text() == "tag one, ^_^\n"
    assert (copy / "00.caption").read_text() == "mychar4 number 0\nanother line\n"
    lines = tmp_path / "all.jsonl"
    assert caption("merge", folder, lines, "--recursive", "--full_path", "--in_json", meta) == 0
    assert str(folder / "below" / "x.png") in lines.read_text()


def test_mistakes_are_reported(tmp_path, capsys):
    assert caption("merge", tmp_path / "none", tmp_path / "x.json") == 2
    assert "cannot be read" in capsys.readouterr().err
    assert caption("clean", tmp_path / "none.json", tmp_path / "x.json") == 2
    assert caption("nonsense") == 2
    assert caption() == 2
    folder = make_images(tmp_path / "a", 1)
    (folder / "00.txt").write_bytes(b"\xff\xfe")
    assert caption("merge", folder, tmp_path / "x.json") == 2
    assert not (tmp_path / "x.json").exists()


def test_tags_are_cleaned():
    assert clean_tags("a_b, A b, o_o, :3,, x\ny") == "a b, o_o, :3, x, y"


def photo(seed: int, size=(256, 192)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def test_images_that_look_the_same(tmp_path, capsys):
    for seed in range(30):
        photo(seed).save(tmp_path / f"{seed:02}.png")
    photo(3).resize((100, 80)).save(tmp_path / "small.png")
    photo(3).save(tmp_path / "packed.jpg", quality=40)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "blue.png")
    (tmp_path / "broken.png").write_bytes(b"")
    groups = similar(difference_hashes(sorted(tmp_path.iterdir())))
    assert [[p.name for p in group] for group in groups] == [["03.png", "packed.jpg", "small.png"]]
    assert caption("duplicates", tmp_path) == 0
    assert "03.png, packed.jpg, small.png" in capsys.readouterr().out
    (tmp_path / "broken.png").unlink()
    ready = preflight(settings(train_data_dir=str(tmp_path), token_string="mychar4"))
    plain, alike = map(str, similar_image_warnings(ready.records))
    assert "03.png = packed.jpg = small.png" in alike
    assert "2 images of a single colour" in plain
    assert "blue.png, red.png" in plain


def test_names_with_line_breaks_are_shown_in_one_line(tmp_path, capsys):
    folder = make_images(tmp_path / "a", 2)
    (folder / "a\nb.png").write_bytes((folder / "01.png").read_bytes())
    (alike,) = map(str, similar_image_warnings(check(folder).records))
    assert "01.png = a\\nb.png" in alike
    assert "\n" not in alike
    assert caption("duplicates", folder) == 0
    assert "01.png, a\\nb.png\n" in capsys.readouterr().out
