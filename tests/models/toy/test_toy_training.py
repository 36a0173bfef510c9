"""Verify that words are learned with a family that nothing in `src/` knows, and that their files are read."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from neonym import read_embedding, train
from neonym.cli.main import main
from neonym.models import registry
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.preflight.preflight import preflight
from neonym.training.metadata import prediction_metadata
from support.commands import shown
from support.toy_family import (
    SPEC,
    TOY,
    WIDTH,
)


def test_a_word_is_learned_and_resuming_is_exact(run_for, folder):
    (whole,) = train(run_for("whole", max_train_steps=4)).files
    train(run_for("parts", max_train_steps=2))
    (parts,) = train(run_for("parts", max_train_steps=4)).files
    rows = load_file(whole)
    assert {name: tuple(tensor.shape) for name, tensor in rows.items()} == {"t5xxl": (2, WIDTH)}
    assert all(torch.equal(tensor, load_file(parts)[name]) for name, tensor in rows.items())
    model = load_model(str(folder))
    pieces = model.text.tokenizers[SPEC.name].token_ids("dog")
    assert not torch.allclose(rows["t5xxl"][0], model.text.vocabulary(SPEC.name)[pieces[0]])
    facts = read_embedding(whole)
    assert facts.metadata["neonym.family"] == "toy"
    assert facts.metadata["modelspec.architecture"] == "toy/textual-inversion"
    assert "modelspec.prediction_type" not in facts.metadata  # modelspec has no name for a flow's


def test_a_single_file_has_the_weights_of_the_folder(folder, checkpoint):
    single, whole = load_model(str(checkpoint)), load_model(str(folder))
    assert single.source.family is TOY
    assert single.source.file == checkpoint
    for part, module in whole.modules().items():
        own, found = module.state_dict(), single.modules()[part].state_dict()
        assert own.keys() == found.keys()
        assert all(torch.equal(tensor, found[name]) for name, tensor in own.items())
    assert single.text.tokenize("a photo of a dog").ids[SPEC.name].tolist() == (
        whole.text.tokenize("a photo of a dog").ids[SPEC.name].tolist()
    )


def test_a_word_is_learned_from_a_single_file_as_from_the_folder(run_for, checkpoint):
    (single,) = train(run_for("single", model=checkpoint, max_train_steps=1)).files
    (whole,) = train(run_for("whole", max_train_steps=1)).files
    assert torch.equal(load_file(single)["t5xxl"], load_file(whole)["t5xxl"])
    assert read_embedding(single).metadata["neonym.base_model"] == str(checkpoint)


def test_predictions_have_the_names_of_modelspec():
    source = identify("builtin:emoji")
    for kind, name in (("epsilon", "epsilon"), ("v_prediction", "v")):
        predicting = replace(source, facts=replace(source.facts, prediction_type=kind))
        assert prediction_metadata(predicting) == {"modelspec.prediction_type": name}


def test_a_learned_word_is_inspected(run_for, folder, capsys):
    (file,) = train(run_for("word", max_train_steps=2)).files
    capsys.readouterr()
    assert main(["inspect", str(file), "--model", str(folder), "--for", "toy"]) == 0
    text = capsys.readouterr().out
    assert f"text_encoder: 2 vectors of {WIDTH} (Toy)" in text
    assert "vector 0: nearest words " in text
    assert "fits toy" in text
    assert "neonym.family: toy" in text
    assert main(["inspect", str(file), "--for", "sd1"]) == 2


def test_inspect_knows_families_that_are_registered_after_its_import(word, capsys):
    later = replace(TOY, name="later")
    for registered in (False, True):
        if registered:
            registry.register(later)
        try:
            assert main(["inspect", str(word), "--for", "toy"]) == 2  # known, but the word does not fit it
            capsys.readouterr()
            assert main(["inspect", str(word), "--for", "unknown"]) == 2
            names = re.search(r"is not one of (.+)", capsys.readouterr().err)
            assert names is not None
            assert ("later" in names[1]) == registered
            with pytest.raises(SystemExit):
                main(["inspect", "--help"])
            assert ("later" in capsys.readouterr().out) == registered
        finally:
            if registered:
                registry.unregister(later)


def test_sides_that_the_network_cannot_take_are_refused(run_for):
    found = preflight(run_for("odd", resolution="72", enable_bucket=False))
    assert "not a multiple of 16" in "\n".join(str(p) for p in found.problems if p.severity == "error")


def test_sample_images_have_valid_sizes_and_a_sampler_of_the_process(run_for, tmp_path):
    (tmp_path / "prompts.txt").write_text("a photo of mychar4 --w 90 --h 64 --s 2\n")
    prompts = str(tmp_path / "prompts.txt")
    train(run_for("samples", max_train_steps=1, sample_prompts=prompts, sample_every_n_steps=1))
    (image,) = [file for file in (tmp_path / "samples" / "sample").iterdir() if "sheet" not in file.name]
    assert shown(image).size == (80, 64)
    assert json.loads(shown(image).text["prompt"])["width"] == 80
