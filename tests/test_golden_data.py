"""sd-scripts' own results for captions, configs, splits, caption files, metadata, masks.

Where Neonym differs on purpose, the case stands in the table of docs/datasets.md with its reason; a case that stands
there and does not differ fails too.
"""

import json
import random
import re
from pathlib import Path
from random import Random

import pytest
import torch
from conftest import ROOT, settings
from PIL import Image

from neonym.config.run import RunConfig, fields_of
from neonym.config.sources import read_dataset
from neonym.data.captions import Moment, final_caption
from neonym.data.records import split
from neonym.learn.objective import Objective
from neonym.learn.prepare import prepare
from neonym.types import CaptionRules, Noisy
from neonym.weights import parse_weights

GOLDEN = Path(__file__).parent / "golden"
RULES = {
    "shuffle_caption": "shuffle", "caption_separator": "separator", "keep_tokens": "keep_tokens",
    "keep_tokens_separator": "keep_separator", "secondary_separator": "secondary_separator", "enable_wildcard": "wildcards",
    "caption_dropout_rate": "dropout", "caption_dropout_every_n_epochs": "drop_every_n_epochs",
    "caption_tag_dropout_rate": "tag_dropout", "caption_prefix": "prefix", "caption_suffix": "suffix",
    "token_warmup_min": "warmup_min", "token_warmup_step": "warmup_steps",
}  # fmt: skip


def golden(name: str, part: str = "cases") -> list[dict]:
    return json.loads((GOLDEN / name).read_text())[part]


def differences(letter: str) -> set[str]:
    """Names of the cases of one file that the table in docs/datasets.md lists."""
    page = (ROOT / "docs" / "datasets.md").read_text()
    return set(re.findall(rf"^\| {letter} \| (.+?) \|", page, re.MULTILINE))


def judge(letter: str, outcomes: dict[str, bool]) -> None:
    """Every case must agree, but for those listed; and of those none may."""
    listed = differences(letter)
    wrong = sorted(name for name, agrees in outcomes.items() if not agrees and name not in listed)
    assert not wrong, f"not as sd-scripts, and not listed: {wrong}"
    stale = sorted(name for name in listed if outcomes.get(name, True))
    assert not stale, f"listed as different, but the same or unknown: {stale}"


def rules_of(subset: dict) -> CaptionRules:
    return CaptionRules(**{RULES[key]: value for key, value in subset.items() if key in RULES})


def moment(inputs: dict) -> Moment:
    return Moment(inputs["current_epoch"], inputs["current_step"], inputs["max_train_steps"])


def replaced(text: str, rows: list) -> str:
    """sd-scripts' way of putting several vectors into a caption, which is not part of ours."""
    for old, new in rows:
        text = text.replace(old, new) if old else text
    return text


def test_captions():
    outcomes = {}
    for case in golden("c_caption_processing.json", "deterministic"):
        inputs = case["inputs"]
        try:
            found = final_caption(inputs["caption"], rules_of(inputs["subset"]), Random(0), moment(inputs))
        except TypeError:  # sd-scripts' own defaults of the wrong type
            found = None
        outcomes[case["name"]] = found is not None and replaced(found, inputs["replacements"]) == case["expected"].get(
            "caption"
        )
    for case in golden("c_caption_processing.json", "random"):
        inputs, generator = case["inputs"], Random(3)
        if inputs["replacements"]:
            continue  # templates: tested by training
        rules = rules_of(inputs["subset"])
        found = {final_caption(inputs["caption"], rules, generator, moment(inputs)) for _ in range(2000)}
        outcomes[case["name"]] = found == set(case["expected"]["possible"])
    judge("c", outcomes)


def test_captions_draw_in_the_same_order():
    for case in golden("c_caption_processing.json", "exact_with_seed"):
        inputs = case["inputs"]
        found = final_caption(inputs["caption"], rules_of(inputs["subset"]), Random(inputs["python_random_seed"]))
        assert found == case["expected"]["caption"], inputs


def test_configs(tmp_path):
    known = {name for _, name, _ in fields_of(RunConfig)}
    outcomes = {}
    for i, case in enumerate(golden("g_config_schema.json")):
        inputs, expected = case["inputs"], case["expected"]
        file = tmp_path / f"{i}{inputs['file_ext']}"
        file.write_text(inputs["text"])
        flags = {k: v for k, v in inputs["command_line"].items() if k in known}
        flags["masked_loss"] = bool(inputs["supports"]["controlnet"])
        read = read_dataset(settings(dataset_config=str(file), token_string="x y", train_batch_size=1, **flags))
        if "error" in expected:
            outcomes[case["name"]] = read.failed()
        else:
            outcomes[case["name"]] = not read.failed() and same_values(read.config.datasets, expected["datasets"])
    judge("g", outcomes)


NOT_OURS = {"debug_dataset", "prior_loss_weight", "kind"}  # flags, not values of a data set
EMPTY = (None, "", {}, 0, 0.0, False)


def same_values(found, expected: list[dict]) -> bool:
    """Every value that sd-scripts resolved is ours; where both mean "none", they need not be written alike."""
    if len(found) != len(expected):
        return False
    for ours, theirs in zip(found, expected, strict=True):
        pairs = [(ours, theirs["dataset"]), *zip(ours.subsets, theirs["subsets"], strict=True)]
        for mine, values in pairs:
            for key, value in values.items():
                if key in NOT_OURS or not hasattr(mine, key):
                    continue
                own = getattr(mine, key)
                own = list(own) if isinstance(own, tuple) else own
                if (
                    own != value
                    and not (own in EMPTY and value in EMPTY)
                    and (key, value) != ("caption_extension", ".caption")
                ):
                    return False
        if ours.style != theirs["kind"]:
            return False
    return True


def test_validation_splits():
    outcomes = {}
    for case in golden("h_validation_split.json"):
        inputs, expected = case["inputs"], case["expected"]
        name = f"{len(inputs['paths'])} pictures, {inputs['validation_split']}, seed {inputs['validation_seed']}"
        training, held_out = split(inputs["paths"], inputs["validation_split"], inputs["validation_seed"])
        assert not set(training) & set(held_out)
        assert sorted(training + held_out) == sorted(inputs["paths"])
        outcomes[name] = "error" not in expected and (set(training), set(held_out)) == (
            set(expected["train"]), set(expected["validation"]))  # fmt: skip
    judge("h", outcomes)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tiff": "TIFF", "png": "PNG"}.get(
        path.suffix.lower()[1:], "JPEG"
    )
    Image.new("RGB", (64, 64), "gray").save(path, kind)


def items(ready) -> dict[str, str]:
    return {r.path.name: r.caption for r in ready.records}


def test_caption_files(tmp_path):
    outcomes = {}
    for i, case in enumerate(golden("i_caption_files.json")):
        inputs, expected, folder = case["inputs"], case["expected"], tmp_path / str(i)
        for name in inputs["images"]:
            picture(folder / name)
        for name, text in inputs["caption_files"].items():
            (folder / name).write_bytes(text.encode())
        table = tmp_path / f"{i}.json"
        table.write_text(json.dumps({"datasets": [{"subsets": [{"image_dir": str(folder), **inputs["subset"]}]}]}))
        ready = prepare(settings(dataset_config=str(table), token_string="zzqx"))
        if "error" in expected:
            outcomes[case["name"]] = any(str(folder) in p.where and p.severity == "error" for p in ready.problems)
        else:
            outcomes[case["name"]] = list(items(ready).items()) == list(expected["captions"].items())
    judge("i", outcomes)


def test_metadata_files(tmp_path):
    outcomes = {}
    for name in ("0.png", "1.png"):
        picture(tmp_path / "pictures" / name)
    for i, case in enumerate(golden("j_finetune_metadata.json")):
        inputs, expected = case["inputs"], case["expected"]
        file = tmp_path / f"{i}.json"
        file.write_text(json.dumps(inputs["metadata"]))
        subset = {**inputs["subset"], "metadata_file": str(file)}
        if "image_dir" in subset:
            subset["image_dir"] = str(tmp_path / "pictures")
        table = tmp_path / f"{i}-table.json"
        table.write_text(json.dumps({"datasets": [{"subsets": [subset]}]}))
        ready = prepare(settings(dataset_config=str(table), token_string="zzqx"))
        if "error" in expected:
            outcomes[case["name"]] = any(p.severity == "error" and "none of the" not in p.what for p in ready.problems)
        else:
            found = {
                r.path.name: {"caption": r.caption, "image_size": list(r.size), "num_repeats": r.repeats}
                for r in ready.records
            }
            outcomes[case["name"]] = found == expected["images"]
    judge("j", outcomes)


def test_masked_loss():
    """The mask is averaged over the pixels of each place; without one, nothing changes."""
    for case in golden("l_masked_loss.json"):
        expected = torch.tensor(case["expected"]["loss"])
        y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        mask = ((16 * y + x) % 256) / 255
        if "size" in case["inputs"]:
            mask = mask[: case["inputs"]["size"][1], : case["inputs"]["size"][0]]
        if case["name"] == "no mask":
            pooled = None
        else:
            side = case["inputs"].get("mask_size", [16, 16])
            pooled = torch.nn.functional.interpolate(
                mask[None, None, : side[0], : side[1]], size=expected.shape, mode="area"
            )
            assert torch.allclose(pooled[0, 0], expected, atol=1e-5), (case, pooled)
        ones = torch.ones(1, 1, *expected.shape)
        noisy = Noisy(ones, 0 * ones, torch.tensor([1]), torch.ones(1), False)
        loss = Objective().loss(ones, noisy, pooled)
        assert torch.allclose(loss, expected.mean().expand(1), atol=1e-5)


def test_weights():
    for case in golden("f_weighted_prompt.json"):
        if "error" in case["expected"]:
            with pytest.raises(ValueError, match="weight"):
                parse_weights(case["inputs"]["prompt"])
            continue
        found = [[text, weight] for text, weight in parse_weights(case["inputs"]["prompt"])]
        assert [t for t, _ in found] == [t for t, _ in case["expected"]["pairs"]], case
        assert [w for _, w in found] == pytest.approx([w for _, w in case["expected"]["pairs"]]), case


def test_the_global_generator_is_left_alone():
    state = random.getstate()
    final_caption("a, b, c", CaptionRules(shuffle=True, tag_dropout=0.5), Random(1))
    assert random.getstate() == state
