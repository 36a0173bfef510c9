"""Verify sd-scripts' own results for captions, configs, splits and masks, by function; test_front_door.py has the rest.

Where Neonym differs on purpose, the case is in the table of docs/datasets.md with its reason. A case that is in the
table but does not differ fails too.
"""

import random
from random import Random

import pytest
import torch

from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.sources import read_dataset
from neonym.data.captions import Moment, final_caption
from neonym.data.records import hold_out
from neonym.text.emphasis import parse_emphasis
from neonym.training.objective import Objective
from neonym.types import CaptionRules, Noisy
from support.checks import settings
from support.golden import golden, judge, reasons, same_values

RULES = {
    "shuffle_caption": "shuffle", "caption_separator": "separator", "keep_tokens": "keep_tokens",
    "keep_tokens_separator": "keep_separator", "secondary_separator": "secondary_separator", "enable_wildcard": "wildcards",
    "caption_dropout_rate": "dropout", "caption_dropout_every_n_epochs": "drop_every_n_epochs",
    "caption_tag_dropout_rate": "tag_dropout", "caption_prefix": "prefix", "caption_suffix": "suffix",
    "token_warmup_min": "warmup_min", "token_warmup_step": "warmup_steps",
}  # fmt: skip


def rules_of(subset: dict) -> CaptionRules:
    return CaptionRules(**{RULES[key]: value for key, value in subset.items() if key in RULES})


def moment(inputs: dict) -> Moment:
    return Moment(inputs["current_epoch"], inputs["current_step"], inputs["max_train_steps"])


def replaced(text: str, rows: list) -> str:
    """Return a caption with several vectors in sd-scripts' way, which Neonym does not use."""
    for old, new in rows:
        text = text.replace(old, new) if old else text
    return text


def test_golden_captions():
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


def test_random_choices_are_drawn_in_the_same_order():
    for case in golden("c_caption_processing.json", "exact_with_seed"):
        inputs = case["inputs"]
        found = final_caption(inputs["caption"], rules_of(inputs["subset"]), Random(inputs["python_random_seed"]))
        assert found == case["expected"]["caption"], inputs


def test_golden_configs(tmp_path):
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
            outcomes[case["name"]] = not read.failed() and same_values(
                [(spec.style, spec.model_dump(mode="json")) for spec in read.config.datasets], expected["datasets"]
            )
    judge("g", outcomes)


PLACES = {"[general]": "general", "[[datasets]]": "datasets", "[[datasets.subsets]]": "subsets"}


def test_the_table_in_the_docs_tells_errors_from_accepted_settings(tmp_path):
    """A name such as `[general] batch_size=0` is a whole case, which the table describes as an error or as accepted."""
    reason, seen = "", 0
    for name, said in reasons("g").items():
        place, _, setting = name.partition(" ")
        reason = reason if said == "the same" else said
        if place not in PLACES or "=" not in setting:
            continue
        lines = {**dict.fromkeys(PLACES.values(), ""), PLACES[place]: setting}
        file = tmp_path / "table.toml"
        file.write_text(
            f"[general]\n{lines['general']}\n[[datasets]]\n{lines['datasets']}\n"
            f"[[datasets.subsets]]\nimage_dir = 'd'\n{lines['subsets']}\n"
        )
        read = read_dataset(settings(dataset_config=str(file), token_string="x y"))
        assert read.failed() == reason.startswith("an error"), name
        seen += 1
    assert seen > 50


def test_golden_validation_splits():
    outcomes = {}
    for case in golden("h_validation_split.json"):
        inputs, expected = case["inputs"], case["expected"]
        name = f"{len(inputs['paths'])} images, {inputs['validation_split']}, seed {inputs['validation_seed']}"
        training, held_out = hold_out(inputs["paths"], inputs["validation_split"], inputs["validation_seed"])
        assert not set(training) & set(held_out)
        assert sorted(training + held_out) == sorted(inputs["paths"])
        outcomes[name] = "error" not in expected and (set(training), set(held_out)) == (
            set(expected["train"]), set(expected["validation"]))  # fmt: skip
    judge("h", outcomes)


def test_golden_masked_loss():
    """The mask is averaged over the image pixels of each latent pixel. Without a mask, nothing changes."""
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


def test_golden_emphasis():
    for case in golden("f_weighted_prompt.json"):
        if "error" in case["expected"]:
            with pytest.raises(ValueError, match="weight"):
                parse_emphasis(case["inputs"]["prompt"])
            continue
        found = [[text, weight] for text, weight in parse_emphasis(case["inputs"]["prompt"])]
        assert [t for t, _ in found] == [t for t, _ in case["expected"]["pairs"]], case
        assert [w for _, w in found] == pytest.approx([w for _, w in case["expected"]["pairs"]]), case


def test_the_global_generator_is_not_used():
    state = random.getstate()
    final_caption("a, b, c", CaptionRules(shuffle=True, tag_dropout=0.5), Random(1))
    assert random.getstate() == state
