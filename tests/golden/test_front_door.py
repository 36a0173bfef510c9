"""Verify sd-scripts' own results through `neonym check --json`, as a user would see them."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.checkpoints import make_parts, save_folder
from neonym.cli.main import main
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from support import WORD
from support.golden import differences, golden, judge, same_values


@pytest.fixture
def check(tmp_path, capsys):
    """Return a function from a dataset table and flags to the object that `neonym check --json` prints."""

    def run(table: dict | None, *flags: str, token: str = WORD) -> dict:
        if table is not None:
            (tmp_path / "table.json").write_text(json.dumps(table))
            flags = ("--dataset_config", str(tmp_path / "table.json"), *flags)
        main(["check", "--json", "--token_string", token, *flags])
        return json.loads(capsys.readouterr().out)

    return run


def image(path: Path, size=(64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("1", size).save(path)


def row(folder: Path, **values) -> dict:
    """Return a dataset with one folder."""
    return {**values, "subsets": [{"image_dir": str(folder), "class_tokens": WORD}]}


def problems(found: dict) -> list[str]:
    return [f"{p['where']}: {p['what']}" for p in found["problems"] if p["severity"] == "error"]


def test_golden_bucket_sizes(check, tmp_path):
    image(tmp_path / "a" / "0.png", (512, 512))
    cases = golden("a_bucket_resolutions.json")
    good = [case for case in cases if "error" not in case["expected"]]
    found = check({"datasets": [row(tmp_path / "a", enable_bucket=True, **case["inputs"]) for case in good]})
    for case, facts in zip(good, found["datasets"], strict=True):
        assert facts["bucket_limits"] == [case["expected"]["adjusted_min"], case["expected"]["adjusted_max"]]
        assert facts["bucket_sizes"] == case["expected"]["resolutions"]
    assert len(good) >= 21
    assert len(cases) > len(good)
    for case in cases:
        if case not in good:
            found = check({"datasets": [row(tmp_path / "a", enable_bucket=True, **case["inputs"])]})
            assert any("bucket_reso" in text for text in problems(found)), case


def test_golden_fits_of_images(check, tmp_path):
    """There is a dataset for each way of bucketing, and an image for each size.

    The crop for SDXL differs on purpose (docs/datasets.md).
    """
    ways: dict[str, list[dict]] = {}
    for case in golden("b_bucket_selection.json"):
        inputs = dict(case["inputs"])
        size = inputs.pop("image_size")
        ways.setdefault(json.dumps(inputs), []).append(case)
        image(tmp_path / str(len(ways)) / "{}x{}.png".format(*size), size)
    table = {
        "datasets": [
            row(tmp_path / str(i), **{"enable_bucket": True, **json.loads(way)}) for i, way in enumerate(ways, 1)
        ]
    }
    found = check(table)
    items = {item["path"]: item for item in found["items"]}
    for number, cases in enumerate(ways.values(), 1):
        for case in cases:
            expected, path = (
                case["expected"],
                tmp_path / str(number) / "{}x{}.png".format(*case["inputs"]["image_size"]),
            )
            if "error" in expected or 0 in expected.get("bucket", [1]):
                assert any(text.startswith(f"{path}: an image of") for text in problems(found)), case
                continue
            item = items[str(path)]
            assert item["bucket"] == expected["bucket"], case
            assert item["resized_size"] == expected["resized_size"], case
            if "ar_error" in expected:
                assert item["ratio_error"] == pytest.approx(expected["ar_error"], abs=1e-12), case
            if expected["pixel_crop_ltrb_in_resized"] is not None:
                assert item["crop_ltrb"] == expected["pixel_crop_ltrb_in_resized"], case
            left, top = item["crop_ltrb"][:2]
            assert item["told_sizes"][2:4] == [top, left]


def listed(folder: Path, captions: list[str], **values) -> dict:
    """Return a subset with these captions, one image each, by a metadata file, which keeps lines and blanks."""
    for number in range(len(captions)):
        image(folder / f"{number:03}.png")
    file = folder / "captions.json"
    file.write_text(json.dumps({f"{number:03}.png": {"caption": text} for number, text in enumerate(captions)}))
    return {"image_dir": str(folder), "metadata_file": str(file), **values}


def test_golden_captions_of_a_step(check, tmp_path):
    """Each case is a dataset with its options. test_golden_data.py has replacements and other epochs."""
    every = [c for c in golden("c_caption_processing.json", "deterministic") if "caption" in c["expected"]]
    every += golden("c_caption_processing.json", "random")
    cases = [c for c in every if not c["inputs"]["replacements"] and c["inputs"]["current_epoch"] == 1]
    times = {(c["inputs"]["current_step"], c["inputs"]["max_train_steps"]) for c in cases}
    outcomes = {}
    for step, total in times:
        these = [c for c in cases if (c["inputs"]["current_step"], c["inputs"]["max_train_steps"]) == (step, total)]
        rows = [
            listed(tmp_path / f"{step}-{total}-{i}", [c["inputs"]["caption"]], **c["inputs"]["subset"])
            for i, c in enumerate(these)
        ]
        # one caption has the word
        rows = [{"subsets": [listed(tmp_path / "word", [WORD])]}] + [{"subsets": [r]} for r in rows]
        flags = (f"--at_step={step}", f"--max_train_steps={total}", "--draws=300")
        found = check({"datasets": rows}, *flags)
        assert not problems(found)
        for case, item in zip(these, found["items"][1:], strict=True):
            expected = case["expected"].get("possible", [case["expected"].get("caption")])
            outcomes[case["name"]] = set(item["captions"]) == set(expected) and item["caption"] in expected
    assert len(outcomes) > 45
    listed_names = {"multi line with wildcard: prefix only on first, suffix only on last"}
    assert {name for name, agrees in outcomes.items() if not agrees} == listed_names


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Return the folders of tiny SD 2.x and SDXL models.

    SDXL's second tokenizer declares "!" as padding, as published.
    """
    found = {}
    for family in ("sd2", "sdxl"):
        found[family] = tmp_path_factory.mktemp("models") / family
        save_folder(make_parts(family, tiny=True, dtype=torch.float32), family, found[family], "epsilon")
    return found


@pytest.mark.parametrize("length", [None, 150, 225])
@pytest.mark.parametrize(("family", "kinds"), [("sd2", ["sd2"]), ("sdxl", ["sd1", "sdxl_tokenizer2"])])
def test_golden_ids_and_emphasis(check, tmp_path, models, family, kinds, length):
    """SDXL's first tokenizer is that of SD 1.x."""
    flags = ["--pretrained_model_name_or_path", str(models[family]), "--resolution=64"]
    flags += [f"--max_token_length={length}"] if length else []
    for part, more in (("cases", []), ("with_weights", ["--weighted_captions"])):
        cases = golden("d_tokenization.json", part)
        cases = [c for c in cases if c["inputs"]["max_token_length"] == length and "\n" not in c["inputs"]["caption"]]
        for encoder, kind in zip(("text_encoder", "text_encoder_2"), kinds, strict=False):
            these = [c for c in cases if c["inputs"]["tokenizer"] == kind]
            if not these:
                assert more, f"no case of {kind}"
                assert family == "sdxl", "weights: SD 1.x and 2.x only"
                continue
            folder = tmp_path / f"{part}-{kind}"
            found = check(
                {"datasets": [{"subsets": [listed(folder, [c["inputs"]["caption"] for c in these])]}]}, *flags, *more
            )
            for case, item in zip(these, found["items"], strict=True):
                assert item["ids"][encoder] == case["expected"]["input_ids"], case["inputs"]
                if more:
                    assert item["weights"][encoder] == [pytest.approx(row) for row in case["expected"]["weights"]]


def test_golden_pieces_with_emphasis(check, tmp_path):
    """Prompts have one line. An invalid number is reported, with the image."""
    cases = [c for c in golden("f_weighted_prompt.json") if "\n" not in c["inputs"]["prompt"]]
    cases.append({"inputs": {"prompt": "x(\\)y"}, "expected": {"pairs": [["x", 1.0], [")y", 1.1]]}})
    cases.append({"inputs": {"prompt": "x(\\ :2)y"}, "expected": {"pairs": [["x", 1.0], [" ", 2.0], ["y", 1.0]]}})
    cases.append(
        {
            "inputs": {"prompt": "x(\\a:2)(\\:3)y"},
            "expected": {"pairs": [["x", 1.0], ["a", 2.0], ["", 3.0], ["y", 1.0]]},
        }
    )
    captions = [case["inputs"]["prompt"] for case in cases]
    found = check({"datasets": [{"subsets": [listed(tmp_path / "a", captions)]}]}, "--weighted_captions")
    reported = {p["where"] for p in found["problems"] if "no weight" in p["what"]}
    for case, item in zip(cases, found["items"], strict=True):
        if "error" in case["expected"]:
            assert item["weighted_pieces"] is None
            assert item["path"] in reported, case
        else:
            pairs = [[text, pytest.approx(weight)] for text, weight in case["expected"]["pairs"]]
            assert item["weighted_pieces"] == pairs, case


def test_golden_vectors_of_a_word(check, tmp_path):
    """sd-scripts writes `mytok mytok1 mytok2` for a word of three vectors, where Neonym writes `mytok`.

    Helper words, parts of words and other cases differ on purpose (docs/datasets.md).
    """
    groups: dict[tuple, list[dict]] = {}
    for case in golden("d_tokenization.json", "added_tokens"):
        inputs = case["inputs"]
        joint, word = " ".join(inputs["token_strings"]), inputs["token_strings"][0]
        caption = inputs["caption"].replace(joint, "\0").replace(word, "\1")
        whole = "\0" in caption and not re.search(r"\w\0|\0\w", caption)
        if inputs["tokenizer"] == "sd1" and whole and "\1" not in caption:
            groups.setdefault((joint, inputs["max_token_length"]), []).append(case)
    assert len(groups) >= 8
    for (joint, length), cases in groups.items():
        word, *others = joint.split(" ")
        captions = [case["inputs"]["caption"].replace(joint, word) for case in cases]
        flags = [f"--num_vectors_per_token={1 + len(others)}", *([f"--max_token_length={length}"] if length else [])]
        table = {"datasets": [{"subsets": [listed(tmp_path / f"{word}{len(others)}{length}", captions)]}]}
        found = check(table, *flags, token=word)
        for case, item in zip(cases, found["items"], strict=True):
            assert item["ids"]["text_encoder"] == case["expected"]["input_ids"], case["inputs"]
            assert len(item["learned_positions"]["text_encoder"]) == 1 + len(others)


def test_golden_repeats_and_regularisation(check, tmp_path):
    """Folders are laid out as in each case, and read through a dataset file or --train_data_dir."""
    for number, case in enumerate(golden("e_repeats_and_reg.json")):
        inputs, expected, home = case["inputs"], case["expected"], tmp_path / str(number)
        for subset in inputs["subsets"]:
            folder = home / subset.get("parent", "") / subset["dir"]
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(subset["images"]):
                image(folder / f"im{i:02}.png", subset.get("size", (64, 64)))
        values = {key: value for key, value in inputs["dataset"].items() if key != "class_tokens"}
        if "N_class" in inputs["layout"]:
            flags = [f"--{key}={value}" for key, value in values.items() if not isinstance(value, bool)]
            flags += [f"--{key}" for key, value in values.items() if value is True]
            found = check(
                None, "--train_data_dir", str(home / "train"), f"--train_batch_size={inputs['batch_size']}", *flags
            )
        else:
            subsets = [
                {
                    "image_dir": str(home / s["dir"]),
                    "class_tokens": "x",
                    **{k: s[k] for k in ("num_repeats", "is_reg") if k in s},
                }
                for s in inputs["subsets"]
            ]
            found = check({"datasets": [{**values, "batch_size": inputs["batch_size"], "subsets": subsets}]})
        items = {str(Path(i["path"]).relative_to(home)): (i["repeats"], i["is_reg"]) for i in found["items"]}
        assert items == {r["image"]: (r["num_repeats"], r["is_reg"]) for r in expected["registered"]}, case["name"]
        if "N_class" in inputs["layout"]:
            captions = {str(Path(i["path"]).relative_to(home)): i["caption"] for i in found["items"]}
            assert captions == {r["image"]: r["caption"] for r in expected["registered"]}
        (facts,) = found["datasets"]
        assert facts["training_items"] == expected["train_items"]
        assert facts["regularisation_items"] == expected["reg_items"]
        assert facts["steps_per_epoch"] == expected["batches_per_epoch"]
        sizes = [
            min(inputs["batch_size"], bucket["count"] - done)
            for bucket in facts["buckets"]
            for done in range(0, bucket["count"], inputs["batch_size"])
        ]
        assert sorted(sizes) == sorted(expected["items_by_batch_sizes"])


def test_golden_held_out_images(check, tmp_path):
    outcomes = {}
    for number, case in enumerate(golden("h_validation_split.json")):
        inputs, expected, folder = case["inputs"], case["expected"], tmp_path / str(number)
        folder.mkdir()
        for name in inputs["paths"]:
            image(folder / f"{name}.png")
        values = {key: inputs[key] for key in ("validation_split", "validation_seed")}
        found = check({"datasets": [row(folder, **values)]})
        sides = {
            back: {Path(i["path"]).stem for i in found["items"] if i["held_out"] == back} for back in (False, True)
        }
        name = f"{len(inputs['paths'])} images, {inputs['validation_split']}, seed {inputs['validation_seed']}"
        outcomes[name] = "error" not in expected and sides == {
            False: set(expected["train"]), True: set(expected["validation"])}  # fmt: skip
    judge("h", outcomes)


def test_golden_settings(check, tmp_path):
    """Every fourth case is checked here, and all of them in test_golden_data.py."""
    known = {name for _, name, _ in fields_of(RunConfig)}
    for number, case in enumerate(golden("g_config_schema.json")[::4]):
        inputs, expected = case["inputs"], case["expected"]
        file = tmp_path / f"{number}{inputs['file_ext']}"
        file.write_text(inputs["text"])
        given = {k: v for k, v in inputs["command_line"].items() if k in known}
        flags = [f"--{k}" if v is True else f"--{k}={v}" for k, v in given.items() if v is not False and v is not None]
        flags += ["--masked_loss"] * bool(inputs["supports"]["controlnet"])
        found = check(None, "--dataset_config", str(file), "--train_batch_size=1", *flags)
        ours = [(c["kind"], c["settings"]) for c in found["config"]]
        agrees = not ours if "error" in expected else bool(ours) and same_values(ours, expected["datasets"])
        assert agrees == (case["name"] not in differences("g")), case


def test_golden_caption_files(check, tmp_path):
    outcomes = {}
    for number, case in enumerate(golden("i_caption_files.json")):
        inputs, expected, folder = case["inputs"], case["expected"], tmp_path / str(number)
        for name in inputs["images"]:
            image(folder / name)
        for name, text in inputs["caption_files"].items():
            (folder / name).write_bytes(text.encode())
        found = check({"datasets": [{"subsets": [{"image_dir": str(folder), **inputs["subset"]}]}]})
        if "error" in expected:
            outcomes[case["name"]] = any(text.startswith(str(folder)) for text in problems(found))
        else:
            captions = {Path(i["path"]).name: i["stored_caption"] for i in found["items"]}
            outcomes[case["name"]] = list(captions.items()) == list(expected["captions"].items())
    judge("i", outcomes)


def test_golden_metadata_files(check, tmp_path):
    """Each case is read through a dataset file, and with --in_json."""
    for name in ("0.png", "1.png"):
        image(tmp_path / "pictures" / name)
    for through_flags in (False, True):
        outcomes = {}
        for number, case in enumerate(golden("j_finetune_metadata.json")):
            inputs, expected, file = case["inputs"], case["expected"], tmp_path / f"{number}.json"
            file.write_text(json.dumps(inputs["metadata"]))
            subset = dict(inputs["subset"])
            folder = {"image_dir": str(tmp_path / "pictures")} if subset.pop("image_dir", None) else {}
            if through_flags:
                flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in subset.items()]
                flags += ["--train_data_dir", folder["image_dir"]] if folder else []
                found = check(None, "--in_json", str(file), *flags)
            else:
                found = check({"datasets": [{"subsets": [{"metadata_file": str(file), **folder, **subset}]}]})
            if "error" in expected:
                outcomes[case["name"]] = not found["items"] and bool(problems(found))
            else:
                images = {
                    Path(i["path"]).name: {
                        "caption": i["stored_caption"], "image_size": i["original_size"], "num_repeats": i["repeats"]}
                    for i in found["items"]
                }  # fmt: skip
                outcomes[case["name"]] = images == expected["images"]
        judge("j", outcomes)
