"""Verify that invalid data is refused or reported, with a message that says what is wrong."""

import ctypes
import os
import shutil

import pytest
from PIL import Image

from neonym.cli.main import main
from neonym.preflight.preflight import preflight
from support import WORD
from support.checks import check, check_table, said, settings
from support.data_sets import make_images, subset


def test_missing_empty_and_broken_folders(tmp_path):
    assert "is not a folder" in said(check(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "contains no images" in said(check(tmp_path / "empty"))
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("a.png", "b.jpg", "c.webp"):
        (broken / name).write_bytes(b"nothing")
    text = said(check(broken))
    assert all(name in text for name in ("a.png", "b.jpg", "c.webp"))
    text = said(check(broken, broken_images="skip"))
    assert "no usable images (a.png, b.jpg, c.webp)" in text
    assert len(text.splitlines()) == 2


def test_broken_images_are_skipped_on_request(tmp_path):
    folder = make_images(tmp_path / "a", 5)
    whole = (folder / "01.png").read_bytes()
    (folder / "01.png").write_bytes(whole[: len(whole) // 2])
    image = Image.open(folder / "02.png").convert("RGB")
    image.save(folder / "02.jpg")
    (folder / "02.png").unlink()
    whole = (folder / "02.jpg").read_bytes()
    (folder / "02.jpg").write_bytes(whole[: len(whole) // 2])
    stopped = check(folder)
    assert stopped.failed()
    assert "01.png" in said(stopped)
    assert "02.jpg" in said(stopped)
    skipping = check(folder, broken_images="skip")
    assert not skipping.failed()
    assert len(skipping.records) == 3
    assert "01.png" in said(skipping, "warning")


@pytest.fixture
def like_any_user():
    """Drop the capabilities with which root can read everything (CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH on Linux)."""
    if os.name != "posix" or os.geteuid() != 0:
        yield
        return
    libc, header, powers = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if not hasattr(libc, "capset") or libc.capget(header, powers):
        pytest.skip("root may read everything")
    before = powers[0]
    powers[0] &= ~0b110
    assert libc.capset(header, powers) == 0
    yield
    powers[0] = before
    assert libc.capset(header, powers) == 0


@pytest.mark.skipif(os.name != "posix", reason="no permissions of this kind")
def test_a_folder_without_permission(tmp_path, like_any_user):
    folder = make_images(tmp_path / "a")
    (folder / "01.png").chmod(0)
    (folder / "02.txt").chmod(0)
    text = said(check(folder))
    for name in ("01.png", "02.txt"):
        assert f"{name} cannot be read (Permission denied). Check its name and permissions" in text
    folder.chmod(0)
    try:
        assert "cannot be read" in said(check(folder))
    finally:
        folder.chmod(0o755)


def test_images_with_one_name_and_folders_named_twice(tmp_path):
    folder = make_images(tmp_path / "a", 3)
    Image.open(folder / "00.png").save(folder / "00.jpg")
    ready = check(folder)
    assert [r.path.name for r in ready.records] == ["00.jpg", "00.png", "01.png", "02.png"]
    assert ready.records[0].caption == ready.records[1].caption
    assert "2 images differ only in their extensions, so they share a caption file (00.jpg, 00.png)" in said(
        ready, "note"
    )
    assert len({r.content for r in ready.records}) == 4  # each is encoded for itself
    twice = {"datasets": [{"subsets": [{"image_dir": str(folder)}, {"image_dir": f"{folder}/"}]}]}
    ready = check_table(tmp_path, twice)
    assert len(ready.records) == 4
    assert "listed twice" in said(ready, "warning")


def test_captions_without_the_word(tmp_path):
    folder = make_images(tmp_path / "a", 5)
    (folder / "00.txt").write_bytes(b"caf\xe9 mychar4")
    (folder / "01.txt").write_bytes(b"")
    (folder / "02.txt").write_text("no such word")
    (folder / "03.txt").write_text("cat " * 100 + WORD)
    ready = check(folder)
    text = said(ready)
    assert "00.txt is not UTF-8" in text
    assert "01.txt is an empty file" in text
    text = said(ready, "warning")
    assert "do not contain the word (02.png)" in text
    assert "cut off at the end of 1 captions (03.png)" in text
    assert "more than 75 tokens (03.png)" in text


def test_unknown_keys_at_each_level_and_wrong_types(tmp_path):
    make_images(tmp_path / "a", 2)
    table = {
        "genral": {},
        "general": {"flip_augg": True, "color_aug": 1},
        "concepts": [{"token_string": "x", "init_wrd": "cat", "num_vectors_per_token": 0}],
        "datasets": [
            {"resolutoin": 64, "bucket_reso_steps": 0, "batch_size": -1, "resolution": [0, 5], "subsets": [
                {"image_dir": str(tmp_path / "a"), "num_repeat": 2, "enable_bucket": True, "flip_aug": "yes"},
                {"image_dir": 5, "caption_dropout_rate": 2, "keep_tokens": 1.5},
            ]},
            {"subsets": [{"metadata_file": "m.json", "class_tokens": "x"}]},
            {"subsets": [{"metadata_file": "m.json"}, {"image_dir": "a"}]},
        ],
    }  # fmt: skip
    text = said(check_table(tmp_path, table, learning_rate=-1))
    for words in (
        "`genral` is not known", "Did you mean `general`", "`flip_augg`", "Did you mean `flip_aug`", "[general]: `color_aug`",
        "concepts[0]: `init_wrd`", "Did you mean `init_word`", "concepts[0]: `num_vectors_per_token`",
        "`resolutoin`", "`bucket_reso_steps`", "`batch_size`", "`resolution`", "`num_repeat`", "Did you mean `num_repeats`",
        "`enable_bucket` is a setting of the dataset", "subsets[0]: `flip_aug`", "subsets[1]: `image_dir`",
        "subsets[1]: `caption_dropout_rate`", "subsets[1]: `keep_tokens`", "datasets[1] subsets[0]: `class_tokens`",
        "datasets[2] mixes folders and metadata files", "--learning_rate",
    ):  # fmt: skip
        assert words in text, (words, text)
    lines = text.splitlines()
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        ({"caption_dropout_rate": 2.0}, "--caption_dropout_rate"), ({"resolution": "0"}, "--resolution"),
        ({"train_batch_size": 0}, "--train_batch_size"), ({"token_warmup_step": -1.0}, "--token_warmup_step"),
        ({"bucket_reso_steps": 12}, "--bucket_reso_steps"), ({"validation_split": 2.0}, "--validation_split"),
        ({"face_crop_aug_range": "3,1"}, "--face_crop_aug_range"), ({"face_crop_aug_range": "x"}, "--face_crop_aug_range"),
        ({"caption_extension": "a/b"}, "--caption_extension"), ({"num_vectors_per_token": 0}, "--num_vectors_per_token"),
        ({"resolution": "100"}, "resolution"), ({"resolution": "100000"}, "--resolution"),
        ({"bucket_reso_steps": 7}, "--bucket_reso_steps"), ({"bucket_reso_steps": -64}, "--bucket_reso_steps"),
        ({"keep_tokens": -1}, "--keep_tokens"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_reported_once_for_all_folders(tmp_path, flags, where):
    for name in ("1_a", "2_b", "3_c"):
        make_images(tmp_path / name, 2)
    assert [p.where for p in check(tmp_path, **flags).problems if p.severity != "note"] == [where]
    subsets = [{"image_dir": str(tmp_path / name)} for name in ("1_a", "2_b", "3_c")]
    table = {"datasets": [{"subsets": subsets[:2]}, {"subsets": subsets[2:]}]}
    assert [p.where for p in check_table(tmp_path, table, **flags).problems if p.severity == "error"] == [where]


def test_an_empty_separator_is_reported_once_with_all_its_places(tmp_path):
    for name in ("1_a", "2_b"):
        make_images(tmp_path / name, 2)
    text = said(check(tmp_path, caption_separator="", shuffle_caption=True))
    assert text.count("is empty") == 1
    assert "datasets[0] subsets[0], datasets[0] subsets[1]" in text


def test_impossible_paths_and_names(tmp_path):
    for values, words in (({"image_dir": ""}, "`image_dir`"), ({"image_dir": "a\0b"}, "`image_dir`"),
                          ({"image_dir": "a", "caption_extension": "a/b"}, "`caption_extension`")):  # fmt: skip
        assert words in said(check_table(tmp_path, {"datasets": [{"subsets": [values]}]}))
    for name, words in (("a\0b", "`image_dir`: a name cannot contain the character NUL (found 'a\\x00b')"),
                        ("a\udc80", "`image_dir`: a name must be UTF-8 text: rename the file or folder (found 'a\\udc80')")):  # fmt: skip
        assert words in said(check_table(tmp_path, {"datasets": [{"subsets": [{"image_dir": name}]}]}))
    assert "a\\x00b is not a folder" in said(check("a\0b"))
    folder = make_images(tmp_path / "a", 2)
    assert "is empty" in said(check(folder, template_file=""))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert "deep.json" in said(preflight(settings(dataset_config=str(tmp_path / "deep.json"), token_string=WORD)))
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "loop" in said(check_table(tmp_path, {"datasets": [{"subsets": [{"image_dir": str(loop)}]}]}))


def test_windows_paths_in_double_quotes(tmp_path):
    """One backslash starts an invalid escape sequence, and two start valid ones."""
    for written, words in (("C:\\images", "a backslash starts an escape"), ("C:\\new\\table", "\\n is a line break")):
        for key in ("image_dir", "metadata_file"):
            file = tmp_path / "table.toml"
            file.write_text(f'[[datasets]]\n[[datasets.subsets]]\n{key} = "{written}"\n')
            text = said(preflight(settings(dataset_config=str(file), token_string=WORD)))
            assert words in text
            assert len(text.splitlines()) <= 2


def test_keys_in_the_wrong_place(tmp_path):
    table = {
        "general": {"image_dir": "a", "prior_loss_weight": 1.0},
        "datasets": [
            {"is_reg": True, "token_string": "x", "subsets": [{"metadata_file": "m.json", "class_tokens": "x"}]}
        ],
    }
    text = said(check_table(tmp_path, table))
    for words in (
        "[general]: `image_dir` is not known here. It belongs to [[datasets.subsets]].",
        "[general]: `prior_loss_weight` is not known here. It is a flag: --prior_loss_weight.",
        "datasets[0]: `is_reg` is not known here. It belongs to [[datasets.subsets]] of folders without masks.",
        "datasets[0]: `token_string` is not known here. It is a flag: --token_string.",
        "subsets[0]: `class_tokens` is not known here. It belongs to [[datasets.subsets]] of folders without masks.",
    ):
        assert words in text, text


def test_the_extension_decides_the_format_of_a_data_set_file(tmp_path):
    """The content does not matter, and the extension may be in upper case."""
    make_images(tmp_path / "a", 2)
    good = f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = '{tmp_path / 'a'}'\n"
    for name, text in (("t.yaml", "datasets:\n  - subsets: []\n"), ("t.yaml", good), ("t", good), ("t.toml.bak", good)):
        (tmp_path / name).write_text(text)
        found = said(preflight(settings(dataset_config=str(tmp_path / name), token_string=WORD)))
        assert f"{name} is neither a .toml nor a .json file. Pass a dataset file in TOML or JSON" in found
    (tmp_path / "T.TOML").write_text(good)
    assert not preflight(settings(dataset_config=str(tmp_path / "T.TOML"), token_string=WORD)).failed()


def test_duplicate_keys_in_a_data_set_file(tmp_path):
    file = tmp_path / "table.json"
    file.write_text('{"datasets": [{"subsets": [{"image_dir": "a", "image_dir": "b"}]}]}')
    assert "`image_dir` is there twice" in said(preflight(settings(dataset_config=str(file), token_string=WORD)))


def test_masks_that_are_the_images_or_missing(tmp_path):
    make_images(tmp_path / "a", 2)
    ready = check_table(tmp_path, subset(tmp_path, conditioning_data_dir=f"{tmp_path / 'a'}/."), masked_loss=True)
    assert not ready.failed()
    assert "holds the images themselves" in said(ready, "warning")
    ready = check_table(tmp_path, subset(tmp_path, conditioning_data_dir=str(tmp_path / "none")), masked_loss=True)
    assert "none cannot be read (No such file or directory). Check conditioning_data_dir" in said(ready)
    assert len(said(ready, "error", "warning").splitlines()) == 1


def test_too_many_repeats(tmp_path):
    make_images(tmp_path / "a", 3)
    assert "Lower num_repeats" in said(check_table(tmp_path, subset(tmp_path, num_repeats=10**9)))


def test_errors_of_pillow_are_reported_without_memory_addresses(tmp_path):
    make_images(tmp_path / "a", 2)
    (tmp_path / "a" / "text.png").write_text("hello")
    assert "text.png is not an image in a known format. Remove or replace it." in said(check(tmp_path / "a"))


def test_images_in_unsupported_formats_are_reported(tmp_path):
    folder = make_images(tmp_path / "a", 2)
    for name in ("x.gif", "y.TIFF"):
        Image.open(folder / "00.png").save(folder / name)
    assert "2 images ignored because of an unsupported format (x.gif, y.TIFF). Save them as PNG" in said(
        check(folder), "warning"
    )


def test_a_name_too_long_for_a_caption_file(tmp_path):
    folder = make_images(tmp_path / "a", 2)
    (folder / ("x" * 250 + ".png")).write_bytes((folder / "00.png").read_bytes())
    ready = check_table(tmp_path, subset(tmp_path, class_tokens=WORD))
    assert any(r.path.stem == "x" * 250 for r in ready.records)


def test_held_out_images_are_not_trained_in_other_folders(tmp_path):
    make_images(tmp_path / "a", 5)
    one = {"subsets": [{"image_dir": str(tmp_path / "a")}]}
    table = {"datasets": [{**one, "validation_split": 0.4}, {**one, "resolution": 64}]}
    ready = check_table(tmp_path, table)
    assert len(ready.held_out) == 2
    assert len(ready.records) == 6
    assert not {r.content for r in ready.records} & {r.content for r in ready.held_out}
    assert "held out elsewhere" in said(ready, "warning")


def test_every_caption_without_the_word_is_listed(tmp_path, capsys):
    folder = make_images(tmp_path / "a", 6)
    for name in ("00", "01", "02", "03"):
        (folder / f"{name}.txt").write_text("no such word" if name < "03" else "cat " * 90 + WORD)
    assert main(["check", "--train_data_dir", str(folder), "--token_string", WORD]) == 0
    text = capsys.readouterr().out
    for name in ("00", "01", "02"):
        assert f"{folder / name}.png (missing): 'no such word'" in text
    assert f"{folder / '03'}.png (cut off): 'cat cat" in text
    assert str(folder / "04.png") not in text


def test_images_too_thin_for_buckets_are_skipped_on_request(tmp_path):
    folder = make_images(tmp_path / "a", 2)
    Image.new("RGB", (5, 128)).save(folder / "thin.png")
    flags = {"enable_bucket": True, "bucket_no_upscale": True, "min_bucket_reso": 64}
    assert "thin.png: an image of 5 x 128 is too small" in said(check(folder, **flags))
    ready = check(folder, **flags, broken_images="skip")
    assert not ready.failed()
    assert len(ready.records) == 2
    assert "thin.png" in said(ready, "warning")


def test_bucket_steps_above_the_shortest_side_without_upscaling(tmp_path):
    folder = make_images(tmp_path / "a", 2)
    flags = {"enable_bucket": True, "min_bucket_reso": 32, "bucket_reso_steps": 64}
    assert "min_bucket_reso 32 is smaller than bucket_reso_steps 64" in said(check(folder, **flags))
    ready = check(folder, **flags, bucket_no_upscale=True)
    assert not ready.failed()
    assert {r.fit.bucket for r in ready.records} == {(128, 128)}


def test_contradictory_bucket_limits_do_not_hide_other_problems(tmp_path):
    folder = make_images(tmp_path / "a", 2)
    (folder / "broken.png").write_bytes(b"nothing")
    ready = check(folder, enable_bucket=True, resolution="64")
    assert "below min_bucket_reso" in said(ready)
    assert "broken.png" in said(ready)
    assert "there are no images" not in said(ready)


def test_held_out_images_count_once(tmp_path):
    make_images(tmp_path / "a", 5)
    ready = check_table(tmp_path, subset(tmp_path, num_repeats=3), validation_split=0.4)
    assert [r.repeats for r in ready.held_out] == [1, 1]
    assert {r.repeats for r in ready.records} == {3}


def test_copies_of_held_out_images(tmp_path):
    """Copies in another folder are not trained; copies in the same folder are reported."""
    folder = make_images(tmp_path / "a", 6)
    other = tmp_path / "b"
    shutil.copytree(folder, other)
    table = {"datasets": [
        {"validation_split": 0.4, "validation_seed": 3, "subsets": [{"image_dir": str(folder)}]},
        {"subsets": [{"image_dir": str(other)}]},
    ]}  # fmt: skip
    ready = check_table(tmp_path, table)
    back = {r.path.name for r in ready.held_out}
    assert len(back) == 2
    assert len(ready.records) == 8
    assert not back & {r.path.name for r in ready.records}
    shutil.rmtree(other)
    shutil.copy(folder / min(back), folder / "copy.png")
    (folder / "copy.txt").write_text(WORD)
    shared = set()
    for seed in range(6):
        ready = check(folder, validation_split=0.4, validation_seed=seed)
        same = {r.content for r in ready.held_out} & {r.content for r in ready.records}
        assert ("copies of held-out ones" in said(ready, "warning")) == bool(same)
        assert len(ready.records) + len(ready.held_out) == 7
        shared.add(bool(same))
    assert shared == {True, False}


def test_images_beside_named_folders_are_reported_as_ignored(tmp_path):
    make_images(tmp_path / "a", 2)
    make_images(tmp_path / "a" / "2_mychar4", 1, caption=None)
    assert "are skipped" in said(check(tmp_path / "a"), "warning")
