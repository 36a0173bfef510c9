"""Verify the images of a dataset: repeats, regularisation, held-out images, and problems of folders."""

from pathlib import Path

import pytest
from PIL import Image

from neonym.config.sources import folder_subsets
from neonym.data.buckets import BucketRules
from neonym.data.datasets import Dataset, Folder
from neonym.data.plan import ConceptPlan
from neonym.data.records import scan, steps_per_epoch
from support.data_sets import make_images
from support.golden import golden

WHOLE = BucketRules((128, 128))


def rules_of(values: dict) -> BucketRules:
    return BucketRules(
        tuple(values["resolution"]), values.get("enable_bucket", True), values.get("min_bucket_reso", 256),
        values.get("max_bucket_reso", 1024), values.get("bucket_reso_steps", 64), values.get("bucket_no_upscale", False),
    )  # fmt: skip


@pytest.mark.parametrize("case", golden("e_repeats_and_reg.json"), ids=lambda c: c["name"])
def test_golden_repeats_and_regularisation(case, tmp_path):
    """Folders are laid out as in each case, and read through the dataset file or the folder flags."""
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


def make_blank(folder: Path, count: int, size) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", tuple(size), "gray").save(folder / f"im{i:02}.png")


def test_scan_reports_problems(tmp_path):
    make_images(tmp_path / "good", 3, caption=None)
    (tmp_path / "good" / "broken.png").write_bytes(b"not an image")
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
        "00.txt is not UTF-8",
        "empty contains no images",
        "none cannot be read",
        "without a caption file",
    ):
        assert words in text


def test_held_out_images_stay_held_out(tmp_path):
    make_images(tmp_path / "a", 10)
    sets = [[Dataset((Folder(tmp_path / "a", 0),), 4, WHOLE, 0.4, seed)] for seed in (7, 8)]
    training, held_out = scan(sets[0], lambda p: None)
    assert len(training) == 6
    assert len(held_out) == 4
    assert not {r.path for r in training} & {r.path for r in held_out}
    assert scan(sets[0], lambda p: None) == (training, held_out)
    assert scan(sets[1], lambda p: None)[1] != held_out
