"""Buckets, repeats, captions, pictures, the plan, the cache."""

import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from conftest import golden, judge, make_pictures
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from neonym.config.sources import folder_subsets
from neonym.data.buckets import BucketRules, bucket_sizes, fit
from neonym.data.captions import final_caption
from neonym.data.images import inspect, load_pixels
from neonym.data.latent_cache import cache_moments
from neonym.data.latent_keys import entry_name, places
from neonym.data.plan import ConceptPlan
from neonym.data.records import Dataset, Folder, scan, steps_per_epoch
from neonym.types import CaptionRules, Fit, ImageRecord, ImageRules, View

WHOLE = BucketRules((128, 128))


def rules_of(values: dict) -> BucketRules:
    return BucketRules(
        tuple(values["resolution"]), values.get("enable_bucket", True), values.get("min_bucket_reso", 256),
        values.get("max_bucket_reso", 1024), values.get("bucket_reso_steps", 64), values.get("bucket_no_upscale", False),
    )  # fmt: skip


@pytest.mark.parametrize("case", golden("a_bucket_resolutions.json"))
def test_golden_bucket_resolutions(case):
    if "error" in case["expected"]:
        with pytest.raises(ValueError, match="reso"):
            rules_of(case["inputs"]).adjusted()
        return
    rules = rules_of(case["inputs"]).adjusted()
    assert (rules.shortest, rules.longest) == (case["expected"]["adjusted_min"], case["expected"]["adjusted_max"])
    assert [list(s) for s in bucket_sizes(rules)] == case["expected"]["resolutions"]


def test_golden_bucket_selection():
    for case in golden("b_bucket_selection.json"):
        rules, expected = rules_of(case["inputs"]), case["expected"]
        rules = rules.adjusted() if rules.enabled else rules
        size = tuple(case["inputs"]["image_size"])
        if "error" in expected or 0 in expected.get("bucket", [1]):
            with pytest.raises(ValueError, match="too"):
                fit(size, rules, bucket_sizes(rules))
            continue
        found = fit(size, rules, bucket_sizes(rules))
        assert list(found.bucket) == expected["bucket"], case
        assert list(found.resized) == expected["resized_size"], case
        if expected["pixel_crop_ltrb_in_resized"] is not None:  # upstream was not asked for the widest ones
            assert list(found.crop) == expected["pixel_crop_ltrb_in_resized"], case


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_every_picture_covers_its_bucket(width, height):
    rules = BucketRules((512, 512), enabled=True)
    found = fit((width, height), rules, bucket_sizes(rules))
    assert found.resized[0] >= found.bucket[0]
    assert found.resized[1] >= found.bucket[1]
    assert found.bucket[0] * found.bucket[1] <= 512 * 512


def record(name: str = "a", repeats: int = 1, bucket=(128, 128), **more) -> ImageRecord:
    facts = {
        "path": Path(name), "caption": "x", "size": bucket, "fit": Fit(bucket, bucket, (0, 0, *bucket)), "concept": 0,
        "dataset": 0, "repeats": repeats, "is_reg": False, "rules": CaptionRules(),
    }  # fmt: skip
    return ImageRecord(**{**facts, **more})


@pytest.mark.parametrize("case", golden("e_repeats_and_reg.json"), ids=lambda c: c["name"])
def test_golden_repeats_and_regularisation(case, tmp_path):
    """Real folders, as the case lays them out, through the data-set file or the folder flags."""
    inputs, expected = case["inputs"], case["expected"]
    for subset in inputs["subsets"]:
        folder = tmp_path / subset.get("parent", "") / subset["dir"]
        if not folder.exists():
            make_blank(folder, subset["images"], subset.get("size", [64, 64]))
    table = {key: value for key, value in inputs["dataset"].items() if key != "class_tokens"}
    rules = rules_of({**table, "resolution": [table["resolution"]] * 2})
    folders = tuple(
        Folder(tmp_path / s["dir"], 0, s.get("num_repeats", 1), s.get("is_reg", False), class_tokens="x")
        for s in inputs["subsets"]
    )
    if "N_class" in inputs["layout"]:
        folders = tuple(
            Folder(Path(s["image_dir"]), 0, s["num_repeats"], class_tokens=s["class_tokens"])
            for s in folder_subsets(tmp_path / "train", "", False, [])
        )
    records, _ = scan([Dataset(folders, inputs["batch_size"], rules)], lambda p: None)
    found = {str(r.path.relative_to(tmp_path)): r.repeats for r in records}
    assert found == {r["image"]: r["num_repeats"] for r in expected["registered"]}
    assert sum(r.repeats for r in records if r.is_reg) == expected["reg_items"]
    assert steps_per_epoch(records, [inputs["batch_size"]]) == expected["batches_per_epoch"]
    plan = ConceptPlan(records, [inputs["batch_size"]], 0, 1.0)
    sizes = sorted((len(plan.draws(step)) for step in range(plan.steps_per_epoch)), reverse=True)
    assert sizes == sorted(expected["items_by_batch_sizes"], reverse=True)


def test_golden_epochs():
    """Not sd-scripts' order, but its batches: of one bucket, as many and as large, every item as often as it counts."""
    outcomes = {}
    for case in golden("k_epoch_order.json"):
        inputs = case["inputs"]
        repeats, size, seed = inputs["num_repeats"], inputs["batch_size"], inputs["dataset_seed"]
        records = [
            record(f"{name[0]}{i}", repeats, tuple(bucket))
            for name, bucket in inputs["images"].items()
            for i in range(int(name[-1]) + 1)
        ]
        plan, outcomes[f"seed {seed}"] = ConceptPlan(records, [size], seed, 1.0), True
        for epoch, batches in case["expected"]["batches_in_index_order_by_epoch"].items():
            first = int(epoch) * plan.steps_per_epoch
            steps = [plan.draws(first + step) for step in range(plan.steps_per_epoch)]
            names = [[str(draw.record.path) for draw in step] for step in steps]
            assert sorted(map(len, names)) == sorted(map(len, batches))
            assert sorted(name for step in names for name in step) == sorted(
                name for batch in batches for name in batch
            )
            assert all(len({name[0] for name in step}) == 1 for step in names)
            outcomes[f"seed {seed}"] &= names == batches
    judge("k", outcomes)


def test_golden_shapes_off_the_grid():
    """Limits that are no multiples of the steps, which settings cannot give."""
    for case in golden("a_bucket_resolutions.json", "raw_make_bucket_resolutions"):
        inputs = case["inputs"]
        rules = BucketRules(
            tuple(inputs["resolution"]), True, inputs["min_size"], inputs["max_size"], inputs["divisible"]
        )
        assert [list(size) for size in bucket_sizes(rules)] == case["expected"]["resolutions"]


def test_a_longest_side_far_above_the_resolution_costs_nothing():
    rules = BucketRules((512, 512), True, longest=10**15)
    assert bucket_sizes(rules.adjusted()) == bucket_sizes(BucketRules((512, 512), True, longest=1024).adjusted())


def test_steps_above_the_shortest_side_without_upscaling():
    """No list is made then; each picture is cut to its own shape."""
    rules = BucketRules((512, 512), True, shortest=32, steps=64, no_upscale=True)
    assert rules.adjusted().shortest == 0
    assert bucket_sizes(rules.adjusted()) == []
    assert fit((300, 200), rules.adjusted(), []).bucket == (256, 192)
    with pytest.raises(ValueError, match="min_bucket_reso 32 is smaller than bucket_reso_steps 64"):
        BucketRules((512, 512), True, shortest=32, steps=64).adjusted()


def test_a_thin_picture_that_one_way_of_shrinking_holds():
    """Shrunk by its height it would lose all its width; by its width it fits."""
    rules = BucketRules((512, 512), True, no_upscale=True)
    assert fit((157, 10_000), rules, []) == Fit((64, 4032), (64, 4076), (0, 22, 64, 4054))


def make_blank(folder: Path, count: int, size) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", tuple(size), "gray").save(folder / f"im{i:02}.png")


def test_an_epoch_shows_every_item_once():
    records = [record(f"{i}", repeats=1 + i % 3, bucket=[(128, 128), (64, 192)][i % 2]) for i in range(11)]
    plan = ConceptPlan(records, [4], seed=5, reg_weight=1.0)
    for epoch in range(3):
        drawn = [plan.draws(epoch * plan.steps_per_epoch + s) for s in range(plan.steps_per_epoch)]
        assert all(len({d.record.fit.bucket for d in step}) == 1 for step in drawn)
        names = sorted(str(d.record.path) for step in drawn for d in step)
        assert names == sorted(str(r.path) for r in records for _ in range(r.repeats))


def test_the_plan_is_a_function_of_the_step():
    records = [
        record(f"{i}", caption="a, b, c, d", rules=CaptionRules(shuffle=True), image_rules=ImageRules(flip=True))
        for i in range(9)
    ]
    forward, jumping = (ConceptPlan(records, [4], 1, 1.0) for _ in range(2))
    wanted = [forward.draws(step) for step in range(20)]
    assert [jumping.draws(step) for step in reversed(range(20))] == wanted[::-1]
    assert len({d.key for step in wanted for d in step}) == sum(map(len, wanted))
    assert {d.view.flipped for step in wanted for d in step} == {True, False}
    assert len({d.caption for step in wanted for d in step}) > 5


def test_captions():
    rules = CaptionRules(prefix="best", suffix="end", shuffle=True, keep_tokens=1)
    shuffled = {final_caption("a, b, c", rules, Random(slot)) for slot in range(40)}
    assert all(s.startswith("best a, ") for s in shuffled)
    assert {frozenset(s.removeprefix("best a, ").split(", ")) for s in shuffled} == {frozenset({"b", "c end"})}
    assert len(shuffled) == 2


def test_pictures_are_turned_and_laid_on_white(tmp_path):
    turned = Image.new("RGB", (40, 20), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert inspect(tmp_path / "turned.jpg")[0] == (20, 40)
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    pixels = load_pixels(tmp_path / "clear.png", View(Fit((16, 16), (16, 16), (0, 0, 16, 16))))
    assert pixels.shape == (3, 16, 16)
    assert np.allclose(pixels, 1.0)
    grey = Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))
    grey.save(tmp_path / "grey.png")
    pixels = load_pixels(tmp_path / "grey.png", View(Fit((8, 8), (8, 8), (0, 0, 8, 8))))
    assert np.allclose(pixels, 100 / 127.5 - 1)


def test_scan_names_what_is_wrong(tmp_path):
    make_pictures(tmp_path / "good", 3, caption=None)
    (tmp_path / "good" / "broken.png").write_bytes(b"not a picture")
    whole = (tmp_path / "good" / "00.png").read_bytes()
    (tmp_path / "good" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "good" / "00.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "empty").mkdir()
    problems = []
    folders = (Folder(tmp_path / "good", 0), Folder(tmp_path / "empty", 0), Folder(tmp_path / "none", 0))
    records, held_out = scan([Dataset(folders, 4, WHOLE)], problems.append)
    assert [r.path.name for r in records] == ["01.png", "02.png"]
    assert held_out == []
    text = "\n".join(map(str, problems))
    for words in (
        "broken.png",
        "cut.png",
        "00.txt: is not UTF-8",
        "empty: has no pictures",
        "none: cannot be read",
        "no caption file",
    ):
        assert words in text


def test_held_out_pictures_stay_held_out(tmp_path):
    make_pictures(tmp_path / "a", 10)
    sets = [[Dataset((Folder(tmp_path / "a", 0),), 4, WHOLE, 0.4, seed)] for seed in (7, 8)]
    training, held_out = scan(sets[0], lambda p: None)
    assert len(training) == 6
    assert len(held_out) == 4
    assert not {r.path for r in training} & {r.path for r in held_out}
    assert scan(sets[0], lambda p: None) == (training, held_out)
    assert scan(sets[1], lambda p: None)[1] != held_out


def test_the_cache_is_keyed_by_content(tmp_path):
    folder, cache = make_pictures(tmp_path / "a", 3), tmp_path / "cache"
    sets = [Dataset((Folder(folder, 0, image_rules=ImageRules(flip=True)),), 4, WHOLE)]
    encoded, complaints = [], []

    def encode(pixels):
        encoded.append(pixels)
        return torch.nn.functional.avg_pool2d(pixels, 8)

    def run(vae_hash="v"):
        encoded.clear()
        records, _ = scan(sets, lambda p: None)
        return cache_moments(records, encode, vae_hash, cache, lambda done, total: None, complaints.append)

    first = run()
    assert len(encoded) == 6  # three pictures and their mirror images
    again = run()
    assert not encoded
    assert all(torch.equal(first[place], again[place]) for place in first)
    shutil.copy(folder / "02.png", folder / "00.png")  # another picture under the old name
    run()
    assert len(encoded) == 0  # its content is known
    Image.new("RGB", (128, 128), "orange").save(folder / "01.png")
    run()
    assert len(encoded) == 2
    (plain,) = complaints  # both ways round it is one picture
    assert "1 of one colour all over: nothing is to be seen in them (01.png)" in plain
    run()
    assert complaints == [plain]
    run("another VAE")
    assert len(encoded) == 4  # 00 and 02 are the same content
    records, _ = scan(sets, lambda p: None)
    damaged = cache / entry_name(records[0].content, places(records)[0][1], "v")
    whole = damaged.read_bytes()
    for content in (whole[:-40], whole[:-40] + bytes(40), b""):
        damaged.write_bytes(content)
        run()
        assert len(encoded) == 1
    assert damaged.read_bytes() == whole
    assert set(complaints) == {plain}
    assert not list(cache.glob("*.part"))
    shutil.rmtree(cache)
    cache.write_text("a file where the folder should be")
    run()
    assert len(encoded) == 6
    assert sum("cannot be written to" in complaint for complaint in complaints) == 1
