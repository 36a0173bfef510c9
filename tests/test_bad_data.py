"""Data that is wrong, and what is said of it; and pictures, masks, captions of unusual kinds that must work."""

import json
import os
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from conftest import make_pictures, settings
from PIL import Image

from neonym.config.commandline import RunFlags, read_run
from neonym.data.images import draw_view, face_of, inspect, load_mask, load_pixels, still_view, zoom_on_face
from neonym.data.latent_cache import Latents
from neonym.errors import Problem
from neonym.learn.events import Silent
from neonym.learn.loop import train
from neonym.learn.prepare import Prepared, prepare

WORD = "mychar4"


def check(folder: Path | str, **flags) -> Prepared:
    return prepare(settings(train_data_dir=str(folder), token_string=WORD, **flags))


def check_table(tmp_path: Path, table: dict, **flags) -> Prepared:
    file = tmp_path / "table.json"
    file.write_text(json.dumps(table))
    return prepare(settings(dataset_config=str(file), token_string=WORD, **flags))


def subset(tmp_path: Path, **values) -> dict:
    return {"datasets": [{"subsets": [{"image_dir": str(tmp_path / "a"), **values}]}]}


def said(ready: Prepared, *severities: str) -> str:
    return "\n".join(str(p) for p in ready.problems if p.severity in (severities or ("error",)))


def test_folders_that_are_missing_empty_or_broken(tmp_path):
    assert "is not a folder" in said(check(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "has no pictures" in said(check(tmp_path / "empty"))
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("a.png", "b.jpg", "c.webp"):
        (broken / name).write_bytes(b"nothing")
    text = said(check(broken))
    assert all(name in text for name in ("a.png", "b.jpg", "c.webp"))
    text = said(check(broken, broken_images="skip"))
    assert "no picture that can be used" in text
    assert "a.png" not in text


def test_broken_pictures_are_skipped_by_choice(tmp_path):
    folder = make_pictures(tmp_path / "a", 5)
    whole = (folder / "01.png").read_bytes()
    (folder / "01.png").write_bytes(whole[: len(whole) // 2])
    picture = Image.open(folder / "02.png").convert("RGB")
    picture.save(folder / "02.jpg")
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


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(tmp_path):
    folder = make_pictures(tmp_path / "a")
    (folder / "01.png").chmod(0)
    assert "Permission denied" in said(check(folder))
    folder.chmod(0)
    try:
        assert "cannot be read" in said(check(folder))
    finally:
        folder.chmod(0o755)


def test_pictures_of_one_name_and_one_folder_twice(tmp_path):
    folder = make_pictures(tmp_path / "a", 3)
    Image.open(folder / "00.png").save(folder / "00.jpg")
    ready = check(folder)
    assert [r.path.name for r in ready.records] == ["00.jpg", "00.png", "01.png", "02.png"]
    assert ready.records[0].caption == ready.records[1].caption
    assert len({r.content for r in ready.records}) == 4  # each is encoded for itself
    twice = {"datasets": [{"subsets": [{"image_dir": str(folder)}, {"image_dir": f"{folder}/"}]}]}
    ready = check_table(tmp_path, twice)
    assert len(ready.records) == 4
    assert "named twice" in said(ready, "warning")


def test_captions_that_cannot_work(tmp_path):
    folder = make_pictures(tmp_path / "a", 5)
    (folder / "00.txt").write_bytes(b"caf\xe9 mychar4")
    (folder / "01.txt").write_bytes(b"")
    (folder / "02.txt").write_text("no such word")
    (folder / "03.txt").write_text("cat " * 100 + WORD)
    ready = check(folder)
    text = said(ready)
    assert "00.txt: is not UTF-8" in text
    assert "01.txt: is an empty file" in text
    text = said(ready, "warning")
    assert "do not contain the word (02.png)" in text
    assert "cut off at the end of 1 captions (03.png)" in text
    assert "more than 75 tokens (03.png)" in text


def test_a_word_in_one_of_the_wildcards_only(tmp_path):
    folder = make_pictures(tmp_path / "a", 2, caption="{a mychar4|a dog}")
    assert "do not contain the word" in said(check(folder, enable_wildcard=True), "warning") or "none of" in said(
        check(folder, enable_wildcard=True)
    )
    assert "contain" not in said(check(folder), "warning", "error")


def test_unknown_keys_at_each_level_and_wrong_types(tmp_path):
    make_pictures(tmp_path / "a", 2)
    table = {
        "genral": {},
        "general": {"flip_augg": True, "color_aug": 1},
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
        "`resolutoin`", "`bucket_reso_steps`", "`batch_size`", "`resolution`", "`num_repeat`", "Did you mean `num_repeats`",
        "`enable_bucket` is a setting of the data set", "subsets[0]: `flip_aug`", "subsets[1]: `image_dir`",
        "subsets[1]: `caption_dropout_rate`", "subsets[1]: `keep_tokens`", "datasets[1] subsets[0]: `class_tokens`",
        "datasets[2]: mixes folders and metadata files", "--learning_rate",
    ):  # fmt: skip
        assert words in text, (words, text)
    lines = text.splitlines()
    assert len(lines) == len(set(lines))


def test_masks(tmp_path):
    pictures = make_pictures(tmp_path / "a", 3, size=(200, 128))
    masks = tmp_path / "masks"
    masks.mkdir()
    table = subset(tmp_path, conditioning_data_dir=str(masks), flip_aug=True)
    assert "Add --masked_loss" in said(check_table(tmp_path, table))
    assert "no mask for 3 pictures" in said(check_table(tmp_path, table, masked_loss=True))
    for path in pictures.glob("*.png"):
        mask = Image.new("RGB", (200, 128), "black")
        mask.paste((255, 0, 0), (0, 0, 60, 128))
        mask.save(masks / path.name)
    ready = check_table(tmp_path, table, masked_loss=True)
    assert not ready.failed()
    record = ready.records[0]
    view = still_view(record)
    mask = load_mask(record, view)
    assert mask.shape == (128, 128)
    assert mask[:, :22].mean() == pytest.approx(1)  # cut at 36 on the left, as the picture is
    assert mask[:, 26:].mean() == pytest.approx(0)
    assert np.array_equal(load_mask(record, still_view(record, True)), mask[:, ::-1])
    Image.new("L", (50, 50)).save(masks / "00.png")
    assert "00.png: is a mask of 50 x 50, but its picture is 200 x 128" in said(
        check_table(tmp_path, table, masked_loss=True)
    )
    Image.new("L", (100, 64)).save(masks / "00.png")
    assert not check_table(tmp_path, table, masked_loss=True).failed()
    Image.new("L", (100, 64)).save(masks / "99.png")
    assert "masks without picture (99.png)" in said(check_table(tmp_path, table, masked_loss=True))
    assert "no picture has a mask" in said(check(pictures, masked_loss=True), "warning")


def test_pictures_of_all_kinds(tmp_path):
    folder = make_pictures(tmp_path / "a", 1)
    frames = [Image.new("RGB", (64, 64), c) for c in ("red", "blue")]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    Image.new("RGB", (3000, 10), "green").save(folder / "thin.png")
    for name in (
        "star*.png",
        "[a].png",
        "caf\u00e9 \U0001f600.png",
        "new\nline.png",
        "UPPER.PNG",
        "Mixed.JpG",
        "b.bmp",
    ):
        kind = {"bmp": "BMP", "JpG": "JPEG"}.get(name.rpartition(".")[2], "PNG")
        Image.new("RGB", (32, 32), "white").save(folder / name, kind)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "lost.png").symlink_to(folder / "nowhere.png")
    (folder / "folder.png").mkdir()
    (folder / ".hidden.png").write_bytes(b"")
    ready = check(folder, enable_bucket=True, min_bucket_reso=64)
    names = {r.path.name for r in ready.records}
    assert names == {
        "00.png", "moving.webp", "thin.png", "star*.png", "[a].png", "caf\u00e9 \U0001f600.png", "new\nline.png", "UPPER.PNG",
        "Mixed.JpG", "b.bmp",
    }  # fmt: skip
    text = said(ready, "warning")
    assert "loop.png" in text
    assert "lost.png" in text
    assert "most of them is cut off (thin.png)" in text
    assert "enlarged" in text
    by_name = {r.path.name: r for r in ready.records}
    assert load_pixels(by_name["moving.webp"].path, still_view(by_name["moving.webp"]))[:, 30, 30].tolist() == [
        1,
        -1,
        -1,
    ]
    thin = by_name["thin.png"]
    assert load_pixels(thin.path, still_view(thin)).shape == (3, thin.fit.bucket[1], thin.fit.bucket[0])


def test_kinds_that_need_a_plug_in(tmp_path):
    import pillow_jxl  # noqa: F401

    folder = tmp_path / "a"
    folder.mkdir()
    for ending in ("avif", "jxl"):
        Image.new("RGB", (48, 32), "teal").save(folder / f"x.{ending}")
    ready = check(folder)
    assert [(r.path.name, r.size) for r in ready.records] == [("x.avif", (48, 32)), ("x.jxl", (48, 32))]
    for record in ready.records:
        assert abs(load_pixels(record.path, still_view(record))[0].mean() + 1) < 0.1


def test_two_words_of_one_folder_have_masks_of_their_own(tmp_path):
    pictures = make_pictures(tmp_path / "a", 2, caption="one two")
    for name, grey in (("m1", 255), ("m2", 0)):
        (tmp_path / name).mkdir()
        for path in pictures.glob("*.png"):
            Image.new("L", (128, 128), grey).save(tmp_path / name / path.name)
    subsets = [{"image_dir": str(pictures), "conditioning_data_dir": str(tmp_path / m), "concept": c}
               for m, c in (("m1", "one"), ("m2", "two"))]  # fmt: skip
    table = {"concepts": [{"token_string": "one"}, {"token_string": "two"}], "datasets": [{"subsets": subsets}]}
    file = tmp_path / "t.json"
    file.write_text(json.dumps(table))
    ready = prepare(settings(dataset_config=str(file), masked_loss=True))
    latents = Latents({}, lambda pixels: pixels)
    means = {r.concept: float(latents.mask(r, still_view(r), (16, 16)).mean()) for r in ready.records}
    assert means == {0: 1.0, 1: 0.0}


def test_what_a_reviewer_broke(tmp_path, capsys):
    from neonym.cli.main import main

    folder = make_pictures(tmp_path / "a", 2, caption="a cat")
    ready = check(folder, caption_prefix=WORD, caption_dropout_rate=0.5)
    assert not ready.failed()
    assert all(WORD in d.caption for step in range(20) for d in ready.plans[0].draws(step))
    (folder / ("x" * 250 + ".png")).write_bytes((folder / "00.png").read_bytes())
    ready = check_table(tmp_path, subset(tmp_path, class_tokens=WORD))
    assert any(r.path.stem == "x" * 250 for r in ready.records)
    for values, words in (({"image_dir": ""}, "`image_dir`"), ({"image_dir": "a\0b"}, "`image_dir`"),
                          ({"image_dir": "a", "caption_extension": "a/b"}, "`caption_extension`")):  # fmt: skip
        assert words in said(check_table(tmp_path, {"datasets": [{"subsets": [values]}]}))
    assert "is empty" in said(check(folder, template_file=""))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert "deep.json" in said(prepare(settings(dataset_config=str(tmp_path / "deep.json"), token_string=WORD)))
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "loop" in said(check_table(tmp_path, {"datasets": [{"subsets": [{"image_dir": str(loop)}]}]}))
    bad = make_pictures(tmp_path / "w", 2, caption=f"({WORD}:1.2.3)")
    flags = ["--train_data_dir", str(bad), "--token_string", WORD, "--weighted_captions"]
    assert main(["check", "--json", *flags]) == 2
    assert any("no weight" in p["what"] for p in json.loads(capsys.readouterr().out)["problems"])
    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(["a [name]"] * 30 + ["nothing"]))
    assert "none of the" in said(check(folder, template_file=str(lines)))  # every picture draws every line
    turned = Image.new("RGB", (160, 64))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert inspect(tmp_path / "turned.png")[0] == (64, 160)
    grey = np.tile(np.linspace(0, 65535, 128).astype(np.uint16), (128, 1))
    deep_mask = make_pictures(tmp_path / "g", 1)
    (tmp_path / "gm").mkdir()
    Image.fromarray(grey).save(tmp_path / "gm" / "00.png")
    table = {"datasets": [{"subsets": [{"image_dir": str(deep_mask), "conditioning_data_dir": str(tmp_path / "gm")}]}]}
    record = check_table(tmp_path, table, masked_loss=True).records[0]
    assert load_mask(record, still_view(record)).mean() == pytest.approx(0.5, abs=0.01)


def test_held_out_pictures_are_trained_nowhere(tmp_path):
    make_pictures(tmp_path / "a", 5)
    one = {"subsets": [{"image_dir": str(tmp_path / "a")}]}
    table = {"datasets": [{**one, "validation_split": 0.4}, {**one, "resolution": 64}]}
    ready = check_table(tmp_path, table)
    assert len(ready.held_out) == 2
    assert len(ready.records) == 6
    assert not {r.content for r in ready.records} & {r.content for r in ready.held_out}
    assert "held out elsewhere" in said(ready, "warning")


def test_pictures_beside_named_folders_are_not_forgotten_silently(tmp_path):
    make_pictures(tmp_path / "a", 2)
    make_pictures(tmp_path / "a" / "2_mychar4", 1, caption=None)
    assert "passed over" in said(check(tmp_path / "a"), "warning")


def test_every_value_and_where_it_was_found(tmp_path, capsys):
    from neonym.cli.main import main

    make_pictures(tmp_path / "a", 2)
    file = tmp_path / "t.toml"
    file.write_text(
        f"[general]\nflip_aug = true\n[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = '{tmp_path / 'a'}'\n"
    )
    assert (
        main(["check", "--dataset_config", str(file), "--token_string", WORD, "--keep_tokens=1", "--print_config"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    for line in (
        'token_string = "mychar4"  # command line', "batch_size = 2  # dataset", "flip_aug = true  # general",
        "keep_tokens = 1  # command line", "num_repeats = 1  # default", f'image_dir = "{tmp_path / "a"}"  # subset',
    ):  # fmt: skip
        assert line in lines


def test_a_very_long_picture_takes_little_memory(tmp_path):
    folder = make_pictures(tmp_path / "a", 1)
    Image.new("RGB", (30_000, 10), "green").save(folder / "long.png")
    ready = check(folder, enable_bucket=True, min_bucket_reso=64)
    (record,) = [r for r in ready.records if r.path.name == "long.png"]
    pixels = load_pixels(record.path, still_view(record))
    assert pixels.shape[1] * pixels.shape[2] <= 128 * 128
    assert "long.png" in said(ready, "warning")


def test_templates_and_files_of_templates(tmp_path):
    folder = make_pictures(tmp_path / "a", 2, caption="blue hat")
    reg = make_pictures(tmp_path / "r" / "1_person", 2, caption="somebody").parent
    ready = check(folder, use_object_template=True, reg_data_dir=str(reg))
    assert not ready.failed()
    plan = ready.plans[0]
    texts = {(d.record.is_reg, d.caption) for step in range(30) for d in plan.draws(step)}
    assert all((WORD in text) != is_reg for is_reg, text in texts)
    assert len(texts) > 10
    file = tmp_path / "mine.txt"
    file.write_text("a sketch of [name], [filewords]\n\nthe {} itself\n")
    ready = check(folder, template_file=str(file))
    texts = {d.caption for step in range(30) for d in ready.plans[0].draws(step)}
    assert texts == {f"a sketch of {WORD}, blue hat 0", f"a sketch of {WORD}, blue hat 1", f"the {WORD} itself"}
    file.write_text("a photo\n")
    assert "names the word in no line" in said(check(folder, template_file=str(file)))
    assert "one kind of template" in said(check(folder, use_object_template=True, use_style_template=True))


def test_the_word_is_never_dropped(tmp_path):
    folder = make_pictures(tmp_path / "a", 2, caption="hat, MyChar4, shoes, coat, red")
    ready = check(
        folder, caption_dropout_rate=0.4, caption_tag_dropout_rate=0.9, shuffle_caption=True, token_warmup_step=50
    )
    texts = {d.caption for step in range(80) for d in ready.plans[0].draws(step)}
    assert all(WORD in text.lower() for text in texts)
    assert WORD in texts
    assert len(texts) > 5


def test_pictures_that_change(tmp_path):
    folder = make_pictures(tmp_path / "a", 1, size=(300, 200))
    record = check(folder, random_crop=True, color_aug=True, flip_aug=True).records[0]
    views = {draw_view(record, Random(k)) for k in range(200)}
    assert len({v.fit.crop for v in views}) > 20
    assert all(v.fit.crop[0] >= 0 and v.fit.crop[2] <= v.fit.resized[0] for v in views)
    assert sum(v.hue != 0 or v.gamma != 1 for v in views) == pytest.approx(66, abs=25)
    changed = next(v for v in views if v.hue)
    same = load_pixels(record.path, still_view(record))
    assert np.abs(load_pixels(record.path, changed) - same).max() > 0


def test_faces():
    assert face_of(Path("ann_10_20_30_40.png")) == (10, 20, 30, 40)
    assert face_of(Path("my_cat_in_the_hat.png")) is None
    for k in range(50):
        fit = zoom_on_face((400, 300), (0, 150, 60, 80), (1.0, 3.0), (128, 128), k % 2 == 0, Random(k))
        left, top, right, bottom = fit.crop
        assert (right - left, bottom - top) == (128, 128)
        assert min(left, top) >= 0
        assert right <= fit.resized[0]
        assert bottom <= fit.resized[1]


def test_metadata_finds_pictures_as_tools_write_them(tmp_path):
    folder = make_pictures(tmp_path / "a", 3, caption=None)
    rows = {
        "00": {"caption": "mychar4 one", "image_size": [9, 9]},
        "01.png": {"tags": "mychar4"},
        str(folder / "02.png"): {"caption": "mychar4"},
    }
    file = tmp_path / "meta.json"
    file.write_text(json.dumps(rows))
    ready = prepare(settings(train_data_dir=str(folder), in_json=str(file), token_string=WORD, dataset_repeats=3))
    assert not ready.failed()
    assert [(r.path.name, r.caption, r.repeats) for r in ready.records] == [
        ("00.png", "mychar4 one", 3), ("01.png", "mychar4", 3), ("02.png", "mychar4", 3)]  # fmt: skip
    assert "not 9 x 9 as the metadata says" in said(ready, "warning")
    lines = tmp_path / "meta.jsonl"
    lines.write_text("\n\n".join(json.dumps({"image_path": name, **facts}) for name, facts in rows.items()))
    same = prepare(settings(train_data_dir=str(folder), in_json=str(lines), token_string=WORD))
    assert [r.caption for r in same.records] == [r.caption for r in ready.records]
    for text, words in (
        ("[]", "an object of picture names"),
        ("{", "no metadata file"),
        ('{"00": 3}', "not an object"),
    ):
        file.write_text(text)
        assert words in said(prepare(settings(train_data_dir=str(folder), in_json=str(file), token_string=WORD)))
    assert "cannot be read" in said(prepare(settings(in_json=str(tmp_path / "no.json"), token_string=WORD)))


def test_training_with_masks_weights_and_changing_pictures(run_for, tmp_path):
    """Resuming is exact there too, and a masked-out picture teaches nothing."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for i in range(6):
        Image.new("L", (128, 128), 255 if i % 2 else 90).save(masks / f"{i:02}.png")
    table = subset(tmp_path, conditioning_data_dir=str(masks), color_aug=True, random_crop=True, flip_aug=True)
    table["datasets"][0]["subsets"][0]["image_dir"] = str(tmp_path / "pictures")
    file = tmp_path / "t.json"
    file.write_text(json.dumps(table))
    common = {"train_data_dir": None, "dataset_config": str(file), "masked_loss": True, "weighted_captions": True}
    results = []
    for name in ("one", "two"):
        result = train(run_for(name, max_train_steps=4, **common))
        results.append(result.files[0].read_bytes())
    assert results[0] == results[1]
    for i in range(6):
        Image.new("L", (128, 128), 0).save(masks / f"{i:02}.png")
    from safetensors.torch import load_file

    nothing = load_file(train(run_for("three", max_train_steps=4, **common)).files[0])["emb_params"]
    something = load_file(tmp_path / "two" / "mychar4.safetensors")["emb_params"]
    from neonym.models.family import load_model

    model = load_model()
    start = model.vocabulary("text_encoder")[model.tokenizers["text_encoder"].pieces("picture")[0]]
    assert torch.equal(nothing[0], start)
    assert not torch.equal(something[0], start)


def test_latents_that_sd_scripts_cached(run_for, pictures):
    """Read if they fit; otherwise the pictures are encoded, and the reason is said."""
    notes: list[str] = []

    class Listening(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    zeros = np.zeros((4, 16, 16), np.float32)
    facts = {"original_size": np.array([128, 128]), "crop_ltrb": np.zeros(4)}
    for i in range(4):
        np.savez(pictures / f"{i:02}_0128x0128_sd.npz", latents=zeros, **facts)
    np.savez(pictures / "04_0128x0128_sd.npz", latents=np.zeros((4, 8, 8), np.float32), **facts)
    (pictures / "05_0128x0128_sd.npz").write_bytes(b"damaged")
    plain = train(run_for("plain", max_train_steps=2)).files[0].read_bytes()
    cached = train(run_for("cached", max_train_steps=2, sdscripts_latents=True), Listening()).files[0].read_bytes()
    assert cached != plain
    text = "\n".join(notes)
    assert "4 pictures are read from sd-scripts' caches" in text
    assert "(4, 8, 8)" in text
    assert "cannot be read" in text
    notes.clear()
    train(run_for("turned", max_train_steps=2, sdscripts_latents=True, flip_aug=True), Listening())
    assert "has no latents_flipped" in "\n".join(notes)


def test_weights_that_are_no_numbers_are_told_before_training(tmp_path):
    folder = make_pictures(tmp_path / "a", 2, caption="(mychar4:1.2.3)")
    assert "`1.2.3` is no weight" in said(check(folder, weighted_captions=True))
    assert not check(folder).failed()


def test_flags_of_the_command_line():
    flags = ["--use_style_template", "--masked_loss", "--alpha_mask", "--random_crop", "--face_crop_aug_range=1,2"]
    from neonym.config.commandline import parse_flags

    given = read_run(parse_flags(RunFlags, flags, "x", ""), flags)
    data = given.run.dataset
    assert all((data.use_style_template, data.masked_loss, data.alpha_mask, data.random_crop))
    assert data.face_crop_aug_range == "1,2"
    assert not any(isinstance(p, Problem) and p.severity == "error" for p in given.problems)
