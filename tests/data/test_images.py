"""Verify how unusual images and masks are read, cropped, augmented and trained with."""

import json
import os
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from neonym import train
from neonym.config.command_line import RunFlags, read_run
from neonym.config.flags import parse_flags
from neonym.data.images import draw_view, face_of, inspect_image, load_mask, load_pixels, still_view, zoom_on_face
from neonym.data.latent_cache import Latents
from neonym.errors import Problem
from neonym.preflight.preflight import preflight
from neonym.runs.events import Event
from neonym.types import Fit, View
from support import WORD
from support.checks import check, check_table, said, settings
from support.data_sets import make_images, subset
from support.runs import notes_of


def test_images_in_all_formats(tmp_path):
    folder = make_images(tmp_path / "a", 1)
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
    assert "most of the image is cropped (thin.png). Crop them yourself." in text
    assert "enlarged" in text
    by_name = {r.path.name: r for r in ready.records}
    assert load_pixels(by_name["moving.webp"].path, still_view(by_name["moving.webp"]))[:, 30, 30].tolist() == [
        1,
        -1,
        -1,
    ]
    thin = by_name["thin.png"]
    assert load_pixels(thin.path, still_view(thin)).shape == (3, thin.fit.bucket[1], thin.fit.bucket[0])


def test_caption_files_of_images_with_odd_names_are_found(tmp_path):
    names = ("star*", "[a]", "what?", "caf\u00e9 \U0001f600", "new\nline", "two.dots", " blank ", "{b}")
    folder, masks = tmp_path / "2_[my] *?\n\U0001f600", tmp_path / "masks[1]"
    folder.mkdir()
    masks.mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{name}.png")
        Image.new("L", (64, 64), number).save(masks / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"{WORD} {number}")
    ready = check(tmp_path)
    assert not ready.failed()
    assert {(r.path.stem, r.caption) for r in ready.records} == {(n, f"{WORD} {i}") for i, n in enumerate(names)}
    assert {r.repeats for r in ready.records} == {2}
    subsets = [{"image_dir": str(folder), "conditioning_data_dir": str(masks)}]
    ready = check_table(tmp_path, {"datasets": [{"subsets": subsets}]}, masked_loss=True)
    assert not ready.failed()
    assert all(r.mask.stem == r.path.stem for r in ready.records)
    assert len(ready.records) == len(names)
    (folder / "new\nline.txt").write_bytes(b"")
    assert "new\\nline.txt is an empty file" in said(check(tmp_path))


def test_formats_that_need_a_plug_in(tmp_path):
    import pillow_jxl  # noqa: F401

    folder = tmp_path / "a"
    folder.mkdir()
    for ending in ("avif", "jxl"):
        Image.new("RGB", (48, 32), "teal").save(folder / f"x.{ending}")
    ready = check(folder)
    assert [(r.path.name, r.size) for r in ready.records] == [("x.avif", (48, 32)), ("x.jxl", (48, 32))]
    for record in ready.records:
        assert abs(load_pixels(record.path, still_view(record))[0].mean() + 1) < 0.1


def test_a_very_long_image_takes_little_memory(tmp_path):
    folder = make_images(tmp_path / "a", 1)
    Image.new("RGB", (30_000, 10), "green").save(folder / "long.png")
    ready = check(folder, enable_bucket=True, min_bucket_reso=64)
    (record,) = [r for r in ready.records if r.path.name == "long.png"]
    pixels = load_pixels(record.path, still_view(record))
    assert pixels.shape[1] * pixels.shape[2] <= 128 * 128
    assert "long.png" in said(ready, "warning")


def test_the_orientation_of_a_png(tmp_path):
    turned = Image.new("RGB", (160, 64))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert inspect_image(tmp_path / "turned.png")[0] == (64, 160)


def test_masks(tmp_path):
    images = make_images(tmp_path / "a", 3, size=(200, 128))
    masks = tmp_path / "masks"
    masks.mkdir()
    table = subset(tmp_path, conditioning_data_dir=str(masks), flip_aug=True)
    assert "Add --masked_loss" in said(check_table(tmp_path, table))
    assert "no mask for 3 images" in said(check_table(tmp_path, table, masked_loss=True))
    for path in images.glob("*.png"):
        mask = Image.new("RGB", (200, 128), "black")
        mask.paste((255, 0, 0), (0, 0, 60, 128))
        mask.save(masks / path.name)
    ready = check_table(tmp_path, table, masked_loss=True)
    assert not ready.failed()
    record = ready.records[0]
    view = still_view(record)
    mask = load_mask(record, view)
    assert mask.shape == (128, 128)
    assert mask[:, :22].mean() == pytest.approx(1)  # cut at 36 on the left, as the image is
    assert mask[:, 26:].mean() == pytest.approx(0)
    assert np.array_equal(load_mask(record, still_view(record, True)), mask[:, ::-1])
    Image.new("L", (50, 50)).save(masks / "00.png")
    assert "00.png is a mask of 50 x 50, but its image is 200 x 128" in said(
        check_table(tmp_path, table, masked_loss=True)
    )
    Image.new("L", (100, 64)).save(masks / "00.png")
    assert not check_table(tmp_path, table, masked_loss=True).failed()
    Image.new("L", (100, 64)).save(masks / "99.png")
    assert "masks without an image (99.png)" in said(check_table(tmp_path, table, masked_loss=True))
    assert "no image has a mask" in said(check(images, masked_loss=True), "warning")


def test_two_words_in_one_folder_have_separate_masks(tmp_path):
    images = make_images(tmp_path / "a", 2, caption="one two")
    for name, grey in (("m1", 255), ("m2", 0)):
        (tmp_path / name).mkdir()
        for path in images.glob("*.png"):
            Image.new("L", (128, 128), grey).save(tmp_path / name / path.name)
    subsets = [{"image_dir": str(images), "conditioning_data_dir": str(tmp_path / m), "concept": c}
               for m, c in (("m1", "one"), ("m2", "two"))]  # fmt: skip
    table = {"concepts": [{"token_string": "one"}, {"token_string": "two"}], "datasets": [{"subsets": subsets}]}
    file = tmp_path / "t.json"
    file.write_text(json.dumps(table))
    ready = preflight(settings(dataset_config=str(file), masked_loss=True))
    latents = Latents({}, lambda pixels: pixels)
    means = {r.concept: float(latents.mask(r, still_view(r), (16, 16)).mean()) for r in ready.records}
    assert means == {0: 1.0, 1: 0.0}


def test_a_16_bit_mask(tmp_path):
    make_images(tmp_path / "a", 1)
    (tmp_path / "masks").mkdir()
    grey = np.tile(np.linspace(0, 65535, 128).astype(np.uint16), (128, 1))
    Image.fromarray(grey).save(tmp_path / "masks" / "00.png")
    table = subset(tmp_path, conditioning_data_dir=str(tmp_path / "masks"))
    record = check_table(tmp_path, table, masked_loss=True).records[0]
    assert load_mask(record, still_view(record)).mean() == pytest.approx(0.5, abs=0.01)


def test_images_with_random_changes(tmp_path):
    folder = make_images(tmp_path / "a", 1, size=(300, 200))
    record = check(folder, random_crop=True, color_aug=True, flip_aug=True).records[0]
    views = {draw_view(record, Random(k)) for k in range(200)}
    assert len({v.fit.crop for v in views}) > 20
    assert all(v.fit.crop[0] >= 0 and v.fit.crop[2] <= v.fit.resized[0] for v in views)
    assert sum(v.hue != 0 or v.gamma != 1 for v in views) == pytest.approx(66, abs=25)
    changed = next(v for v in views if v.hue)
    same = load_pixels(record.path, still_view(record))
    assert np.abs(load_pixels(record.path, changed) - same).max() > 0


def test_faces_in_file_names():
    assert face_of("ann_10_20_30_40") == (10, 20, 30, 40)
    assert face_of("my_cat_in_the_hat") is None
    for k in range(50):
        fit = zoom_on_face((400, 300), (0, 150, 60, 80), (1.0, 3.0), (128, 128), k % 2 == 0, Random(k))
        left, top, right, bottom = fit.crop
        assert (right - left, bottom - top) == (128, 128)
        assert min(left, top) >= 0
        assert right <= fit.resized[0]
        assert bottom <= fit.resized[1]


def test_the_window_around_a_face():
    """The values are computed by hand for a face of 60 x 80 pixels and a window of 128, with the range from 1 to 3."""
    size, face, target = (400, 300), (200, 150, 60, 80), (128, 128)
    fixed = zoom_on_face(size, face, (2.0, 2.0), target, False, Random(0))
    assert fixed.resized == (320, 240)  # 128 / (80 * 2) = 0.8
    assert fixed.crop == (160 - 64, 120 - 64, 160 + 64, 120 + 64)
    shaken = [zoom_on_face(size, face, (1.0, 3.0), target, False, Random(k)) for k in range(300)]
    scales = [fit.resized[0] / 400 for fit in shaken]
    assert min(scales) == pytest.approx(128 / 240, abs=0.01)
    assert max(scales) == pytest.approx(1, abs=0.01)
    moved = {fit.crop[0] + 64 - int(200 * scale + 0.5) for fit, scale in zip(shaken, scales, strict=True)}
    assert min(moved) in (-5, -4)  # a twentieth of the face either way, give or take the rounding
    assert max(moved) in (4, 5)
    anywhere = {zoom_on_face(size, (20, 150, 60, 80), (1.0, 1.0), target, True, Random(k)).crop[0] for k in range(300)}
    assert min(anywhere) == 0
    assert max(anywhere) > 250  # the farther edge is in reach: 400 - 128 = 272


def test_training_with_masks_weights_and_changing_images(run_for, tmp_path):
    """Resuming is exact, and an image that is masked out has no effect."""
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
    from neonym.models.model import load_model

    model = load_model()
    start = model.text.vocabulary("text_encoder")[model.text.tokenizers["text_encoder"].token_ids("picture")[0]]
    assert torch.equal(nothing[0], start)
    assert not torch.equal(something[0], start)


def test_latents_that_sd_scripts_cached(run_for, images):
    """They are used if they fit; otherwise, the images are encoded and the reason is reported."""
    events: list[Event] = []
    zeros = np.zeros((4, 16, 16), np.float32)
    facts = {"original_size": np.array([128, 128]), "crop_ltrb": np.zeros(4)}
    for i in range(4):
        np.savez(images / f"{i:02}_0128x0128_sd.npz", latents=zeros, **facts)
    np.savez(images / "04_0128x0128_sd.npz", latents=np.zeros((4, 8, 8), np.float32), **facts)
    (images / "05_0128x0128_sd.npz").write_bytes(b"damaged")
    plain = train(run_for("plain", resolution="128", max_train_steps=2)).files[0].read_bytes()
    cached = (
        train(run_for("cached", resolution="128", max_train_steps=2, sdscripts_latents=True), [events.append])
        .files[0]
        .read_bytes()
    )
    assert cached != plain
    text = "\n".join(notes_of(events))
    assert "4 images are read from sd-scripts' caches" in text
    assert "(4, 8, 8)" in text
    assert "cannot be read" in text
    events.clear()
    Image.open(images / "00.png").convert("RGBA").save(images / "00.png")
    os.utime(images / "00.png", (1, 1))
    train(
        run_for("turned", resolution="128", max_train_steps=2, sdscripts_latents=True, flip_aug=True), [events.append]
    )
    assert "the image is transparent" in "\n".join(notes_of(events))
    assert "has no latents_flipped" in "\n".join(notes_of(events))


def test_image_flags_of_the_command_line():
    flags = ["--use_style_template", "--masked_loss", "--alpha_mask", "--random_crop", "--face_crop_aug_range=1,2"]
    given = read_run(parse_flags(RunFlags, flags, "x", ""), flags)
    data = given.run.dataset
    assert all((data.use_style_template, data.masked_loss, data.alpha_mask, data.random_crop))
    assert (data.face_crop_aug_range.low, data.face_crop_aug_range.high) == (1, 2)
    assert not any(isinstance(p, Problem) and p.severity == "error" for p in given.problems)


def test_orientation_is_applied_and_transparency_becomes_white(tmp_path):
    turned = Image.new("RGB", (40, 20), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert inspect_image(tmp_path / "turned.jpg")[0] == (20, 40)
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    pixels = load_pixels(tmp_path / "clear.png", View(Fit((16, 16), (16, 16), (0, 0, 16, 16))))
    assert pixels.shape == (3, 16, 16)
    assert np.allclose(pixels, 1.0)
    grey = Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))
    grey.save(tmp_path / "grey.png")
    pixels = load_pixels(tmp_path / "grey.png", View(Fit((8, 8), (8, 8), (0, 0, 8, 8))))
    assert np.allclose(pixels, 100 / 127.5 - 1)
