"""Verify which file is the caption of an image, how it is read, and how ignored files are reported."""

import json
from unicodedata import normalize

import pytest

from neonym.data.caption_files import CaptionFiles
from support import WORD
from support.checks import check, check_table, said
from support.commands import caption
from support.data_sets import make_images, subset

TOKENS = f"a photo of {WORD}"


def folder_of(tmp_path, count=4, **files):
    """Return a folder of images `00.png` and so on, with `files` by name (`__` stands for a dot) and their texts."""
    folder = make_images(tmp_path / "a", count, caption=None)
    write(folder, {name.replace("__", "."): text for name, text in files.items()})
    return folder


def write(folder, files: dict) -> None:
    for name, text in files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def captions(ready) -> list[str]:
    return [record.caption for record in ready.records]


def test_class_tokens_come_before_txt_files_as_in_sd_scripts(tmp_path):
    folder = make_images(tmp_path / "a", 4, caption="tags, without the word")
    ready = check_table(tmp_path, subset(tmp_path, class_tokens=TOKENS))
    assert not ready.failed()
    assert set(captions(ready)) == {TOKENS}
    text = said(ready, "warning")
    assert f'4 .txt files not read (00.txt, 01.txt, 02.txt, ...), because class_tokens ("{TOKENS}") comes first' in text
    assert "Set caption_extension to .txt" in text
    assert captions(check_table(tmp_path, subset(tmp_path, class_tokens=TOKENS, caption_extension="txt")))[
        0
    ].startswith("tags")
    (folder / "01.caption").write_text(f"{WORD} in a file")
    ready = check_table(tmp_path, subset(tmp_path, class_tokens=TOKENS))
    assert captions(ready) == [TOKENS, f"{WORD} in a file", TOKENS, TOKENS]


def test_txt_files_are_read_where_class_tokens_cannot_teach_the_word(tmp_path):
    make_images(tmp_path / "a", 2)
    ready = check_table(tmp_path, subset(tmp_path, class_tokens="images"))
    assert captions(ready) == ["a sticker of a mychar4 0", "a sticker of a mychar4 1"]
    ready = check_table(tmp_path, subset(tmp_path, class_tokens="images", caption_prefix=WORD))
    assert captions(ready) == ["images", "images"]


def test_the_name_of_a_folder_is_class_tokens_too(tmp_path):
    make_images(tmp_path / f"3_{WORD} 1girl", 2, caption="1girl, solo")
    make_images(tmp_path / "reg" / "1_girl", 2, caption="a girl")
    ready = check(tmp_path, reg_data_dir=str(tmp_path / "reg"))
    assert not ready.failed()
    assert {(r.caption, r.is_reg) for r in ready.records} == {(f"{WORD} 1girl", False), ("girl", True)}
    assert f'the folder\'s name ("{WORD} 1girl") comes first' in said(ready, "warning")
    ready = check(tmp_path, reg_data_dir=str(tmp_path / "reg"), caption_extension=".txt")
    assert "comes first" not in said(ready, "warning")
    assert "1girl, solo 0" in captions(ready)


def test_two_caption_files_of_one_image(tmp_path):
    folder_of(tmp_path, 2, **{"00__caption": f"{WORD} one", "00__txt": f"{WORD} two", "01__txt": f"{WORD} three"})
    ready = check(tmp_path / "a")
    assert captions(ready) == [f"{WORD} one", f"{WORD} three"]
    assert "1 .txt file not read, because .caption files come first (00.txt). Set caption_extension to .txt" in said(
        ready, "note"
    )


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ("IMG_1.JPG", "IMG_1.TXT"), ("IMG_1.png", "img_1.txt"), ("img_1.png", "IMG_1.TXT"), ("a.b.PNG", "A.B.Caption"), ("x.png", "x.png.txt"),
        ("X.PNG", "x.png.TXT"), ("caf\u00e9.png", normalize("NFD", "caf\u00e9.txt")), ("pic_9_9_8_8.png", "PIC.txt"),
    ],
)  # fmt: skip
def test_names_that_differ_in_case_or_include_the_extension(tmp_path, image, file):
    folder = make_images(tmp_path / "a", 2)
    (folder / "00.png").rename(folder / image)
    (folder / "00.txt").rename(folder / file)
    ready = check(folder)
    assert sorted(captions(ready)) == ["a sticker of a mychar4 0", "a sticker of a mychar4 1"]
    assert "1 caption file read although their names do not match their images exactly" in said(ready, "note")
    assert said(ready, "warning") == ""


def test_the_exact_name_wins(tmp_path):
    folder = folder_of(tmp_path, 2, **{"00__txt": f"{WORD} exact", "00__TXT": f"{WORD} other", "01__txt": f"{WORD} 1"})
    ready = check(folder)
    assert captions(ready) == [f"{WORD} exact", f"{WORD} 1"]
    assert "1 caption file not read, because their names differ only in case (00.TXT beside 00.txt)" in said(
        ready, "warning"
    )
    files = CaptionFiles(["A.png", "a.png", "b.png"], {"A.png", "a.png", "b.png", "a.txt", "B.TXT", "B.txt"})
    assert files.of == {"A.png": [], "a.png": ["a.txt"], "b.png": ["B.TXT", "B.txt"]}
    assert files.rivals == {"B.txt": "B.TXT"}
    files = CaptionFiles(["1.png", "1.jpg"], {"1.png", "1.jpg", "1.png.txt", "1.jpg.txt"}, (".txt",))
    assert files.of == {"1.png": ["1.png.txt"], "1.jpg": ["1.jpg.txt"]}


def test_near_misses_are_reported_together(tmp_path):
    near = {
        "00 .txt": "x",
        "01_caption.txt": "x",
        "2.txt": "x",
        "03.txt.txt": "x",
        "other.txt": "x",
        "README.txt": "x",
        "x.gif": "x",
        "x.txt": "x",
    }
    folder = folder_of(tmp_path, 6)
    write(folder, {**near, "05.txt": WORD})
    ready = check(folder)
    (reported,) = [str(p) for p in ready.problems if "caption file" in p.what]
    assert "5 images without a caption file, and no class_tokens are set (00.png, 01.png, 02.png, ...)" in reported
    assert (
        "5 caption files without an image (00 .txt for 00.png?, 01_caption.txt for 01.png?, 03.txt.txt for 03.png?, ...)"
        in reported
    )
    ready = check_table(tmp_path, subset(tmp_path, class_tokens=TOKENS, caption_extension=".txt"))
    (reported,) = [str(p) for p in ready.problems if "caption file" in p.what]
    assert (
        "5 of 6 images without a caption file, so class_tokens are used (00.png, 01.png, 02.png, ...); 5 caption files"
        in reported
    )


def test_captions_with_another_extension(tmp_path):
    folder = make_images(tmp_path / "a", 3, caption=None)
    write(folder, {f"{i:02}.tags": f"{WORD} {i}" for i in range(3)})
    assert "Or are the captions in their .tags files? Then set caption_extension" in said(check(folder), "warning")
    for ending in (".tags", "tags", "TAGS"):
        assert captions(check(folder, caption_extension=ending)) == [f"{WORD} {i}" for i in range(3)]


def test_templates_need_no_captions(tmp_path):
    folder = make_images(tmp_path / "a", 3, caption=None)
    (folder / "lonely.txt").write_text("x")
    for flags in ({"use_style_template": True}, {"use_object_template": True}):
        ready = check(folder, **flags)
        assert not ready.failed()
        assert "caption" not in said(ready, "warning")
    (tmp_path / "t.txt").write_text("[name], [filewords]\n")
    text = said(check(folder, template_file=str(tmp_path / "t.txt")), "warning")
    assert "3 images without a caption file" in text
    assert "class_tokens with what they show." in text
    (tmp_path / "t.txt").write_text("[name]\nsomething\n")
    text = said(check(folder, template_file=str(tmp_path / "t.txt")), "warning")
    assert "can be used without the word" in text
    assert "Write it in every sentence of the template file." in text


def test_unused_lines_are_reported(tmp_path):
    lines = {
        "00.txt": f"{WORD},\ntoy,\nred\n",
        "01.txt": f"toy\r\n{WORD}\r\n",
        "02.txt": f"\n\n{WORD}",
        "03.txt": f"{WORD}\n\n  \n",
    }
    folder = folder_of(tmp_path)
    write(folder, lines)
    ready = check(folder)
    assert captions(ready) == [f"{WORD},", "toy", "", WORD]
    (reported,) = [str(p) for p in ready.problems if "more than one line" in p.what]
    assert "3 captions with more than one line, of which only the first is used (00.png, 01.png, 02.png)" in reported
    assert "in 2 of them, the word is only on a later line (01.png, 02.png)" in reported
    assert "in 1 of them, the first line is blank" in reported
    assert "enable_wildcard" in reported
    assert "lines after" not in said(check(folder, enable_wildcard=True), "warning")
    write(folder, dict.fromkeys(lines, f"toy\n{WORD}"))
    ready = check(folder)
    assert "none of the 4 captions contains the word" in said(ready)
    assert (
        "in 4 of them, it is only on a later line, which is not used. Write each caption on one line, or use enable_wildcard"
        in said(ready)
    )


def test_unused_lines_of_metadata_are_reported(tmp_path):
    """Tags are added to the last line of a caption, so they are lost with it."""
    folder = make_images(tmp_path / "a", 2, caption=None)
    facts = {"caption": f"{WORD}\nmore", "tags": "red"}
    (tmp_path / "m.json").write_text(json.dumps({"00.png": facts, "01.png": {"caption": WORD}}))
    ready = check(folder, in_json=str(tmp_path / "m.json"))
    assert "1 caption with more than one line, of which only the first is used (00.png)" in said(ready, "warning")
    assert "lines after" not in said(check(folder, in_json=str(tmp_path / "m.json"), enable_wildcard=True), "warning")


@pytest.mark.parametrize(
    "data",
    [
        f"\ufeff{WORD} caf\u00e9".encode(), f"{WORD} caf\u00e9\r\n".encode(), f"{WORD} caf\u00e9\r".encode(),
        f"\ufeff{WORD} caf\u00e9\r\n".encode("utf-16-le"), f"\ufeff{WORD} caf\u00e9\n".encode("utf-16-be"),
    ],
)  # fmt: skip
def test_encodings_with_a_byte_order_mark_are_read(tmp_path, data):
    ready = check(folder_of(tmp_path, 1, **{"00__txt": data}))
    assert captions(ready) == [f"{WORD} caf\u00e9"]
    assert "lines" not in said(ready, "warning")


def test_other_encodings_are_reported_in_one_message(tmp_path):
    folder = make_images(tmp_path / "a", 6)
    others = [
        f"{WORD} caf\u00e9".encode("latin-1"),
        f"{WORD} \u201cx\u201d".encode("cp1252"),
        f"{WORD} \u732b".encode("cp932"),
        f"{WORD} \u043a".encode("cp1251"),
    ]
    write(folder, {f"{number:02}.txt": data for number, data in enumerate(others)})
    text = said(check(folder))
    assert text.splitlines() == [
        f"{folder}: each of 4 caption files is not UTF-8 text (00.txt, 01.txt, 02.txt, ...). Save the caption as UTF-8."
    ]
    write(folder, {f"{number:02}.txt": WORD for number in range(4)} | {"05.txt": WORD.encode("utf-16-le")})
    assert "05.txt is not UTF-8 text: it contains zero bytes, like UTF-16 text" in said(check(folder))


def test_merging_files_with_one_extension_reads_them_once(tmp_path, capsys):
    folder, out = make_images(tmp_path / "a", 2), tmp_path / "m.json"
    for flags, field in ((["--caption_extension", ".txt"], "caption"), (["--caption_extension", "TXT"], "caption"),
                         (["--tags_extension", "caption"], "tags")):  # fmt: skip
        if field == "tags":
            for name in ("00", "01"):
                (folder / f"{name}.txt").rename(folder / f"{name}.caption")
        assert caption("merge", folder, out, *flags) == 0
        assert json.loads(out.read_text())["00.png"] == {field: "a sticker of a mychar4 0"}
        assert "its files are read once" in capsys.readouterr().out
    ready = check(folder, in_json=str(out))
    assert captions(ready) == ["a sticker of a mychar4 0", "a sticker of a mychar4 1"]


def test_merging_removes_repeated_tags_and_keeps_every_line(tmp_path, capsys):
    folder, out = make_images(tmp_path / "a", 3), tmp_path / "m.json"
    write(folder, {"00.caption": "a sticker of a mychar4 0\n", "01.caption": "mine", "01.txt": "toy\n\nred\n"})
    (folder / "02.txt").rename(folder / "02.TXT")
    assert caption("merge", folder, out) == 0
    assert "tags that repeat the caption are left out of 1 image" in capsys.readouterr().out
    assert json.loads(out.read_text()) == {
        "00.png": {"caption": "a sticker of a mychar4 0"}, "01.png": {"caption": "mine", "tags": "toy, red"},
        "02.png": {"tags": "a sticker of a mychar4 2"},
    }  # fmt: skip


def test_splitting_never_writes_two_texts_into_one_file(tmp_path, capsys):
    folder, table = make_images(tmp_path / "a", 1, caption=None), tmp_path / "m.json"
    table.write_text(json.dumps({"00.png": {"caption": "a", "tags": "b"}}))
    for overwrite in ([], ["--overwrite"]):
        assert caption("split", table, folder, "--caption_extension", ".txt", *overwrite) == 2
        assert (
            "1 images have a caption and tags, and both would be written to one file (00.png)"
            in capsys.readouterr().err
        )
        assert not list(folder.glob("*.txt"))
    table.write_text(json.dumps({"00.png": {"caption": "a"}}))
    assert caption("split", table, folder, "--caption_extension", ".txt") == 0
    assert (folder / "00.txt").read_text() == "a\n"
