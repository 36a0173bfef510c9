"""Verify where tokenizers come from: the model, the package, or the folder of --tokenizer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from neonym.config.generate import GenerateSettings
from neonym.errors import ModelError
from neonym.generation.request.model_fit import recognised_model
from neonym.models.families.stable_diffusion import SD1
from neonym.models.families.z_image import Z_IMAGE
from neonym.models.loading.identify import identify
from neonym.models.tokenizers.loading import load_tokenizers, with_tokenizers
from neonym.preflight.preflight import preflight
from neonym.preflight.settings import unsuitable_settings
from support.checks import settings
from support.data_sets import make_images
from support.families import tiny_model

CAPTION = "a photo of a cat, don't 12"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model("flux1", tmp_path_factory.mktemp("flux1") / "model")


@pytest.fixture
def without(folder, tmp_path) -> Path:
    """Return the model without T5's tokenizer."""
    shutil.copytree(folder, tmp_path / "without")
    shutil.rmtree(tmp_path / "without" / "tokenizer_2")
    return tmp_path / "without"


def ids(name: Path, tokenizer: Path | None = None) -> list[list[int]]:
    source = with_tokenizers(identify(str(name)), tokenizer and str(tokenizer))
    return load_tokenizers(source)["text_encoder_2"](CAPTION).ids


def other_tokenizer(folder: Path, home: Path) -> Path:
    """Return a folder with T5's tokenizer in which "cat" is spelled otherwise."""
    shutil.copytree(folder / "tokenizer_2", home)
    table = json.loads((home / "tokenizer.json").read_text())
    table["model"]["vocab"] = [
        [piece.replace("\u2581cat", "\u2581dogs!"), score] for piece, score in table["model"]["vocab"]
    ]
    (home / "tokenizer.json").write_text(json.dumps(table))
    return home


def test_a_model_without_a_tokenizer_has_that_of_the_package(folder, without):
    assert ids(without) == ids(folder)


@pytest.mark.parametrize("place", ["other", "other/tokenizer_2"])
def test_a_folder_of_tokenizers_takes_the_place_of_the_models(folder, tmp_path, place):
    other_tokenizer(folder, tmp_path / place)
    assert ids(folder, tmp_path / "other") != ids(folder)


def test_a_tokenizer_of_another_vocabulary_is_asked_for(without):
    config = without / "text_encoder_2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 250112}))
    with pytest.raises(
        ModelError, match="the package has none for a vocabulary of 250112; name its folder with --tokenizer"
    ):
        load_tokenizers(identify_without_weights(without))


def identify_without_weights(name: Path):
    """Return a model whose weights do not fit its configs, which is reported elsewhere."""
    from neonym.models.loading.folder import diffusers_configs
    from neonym.models.loading.recognise import source_of

    return source_of(str(name), name, diffusers_configs(name, str(name)))


def test_a_folder_without_tokenizers_is_refused_in_training_and_generation(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, what in (("missing", "there is no such folder"), ("empty", "has no tokenizer")):
        flags = {"tokenizer": str(tmp_path / name)}
        run = settings(
            pretrained_model_name_or_path=str(folder), train_data_dir=str(make_images(tmp_path / f"{name}_images", 1)),
            token_string="mychar4", **flags,
        )  # fmt: skip
        (error,) = [problem for problem in preflight(run).problems if problem.severity == "error"]
        assert (error.what, error.where) == (what, f"--tokenizer {tmp_path / name}")
        assert "tokenizer or tokenizer_2" in error.fix
        with pytest.raises(ModelError, match=what):
            recognised_model(GenerateSettings(ckpt=str(folder), **flags))


def test_settings_of_text_without_effect_are_reported(folder):
    flux = identify(str(folder))
    chat, schnell = (
        replace(flux, family=Z_IMAGE),
        replace(flux, facts=replace(flux.facts, text_lengths={"text_encoder_2": 256})),
    )
    base = {"pretrained_model_name_or_path": str(folder), "train_data_dir": "x", "token_string": "mychar4"}
    for source, changes, flag in (
        (replace(flux, family=SD1), {"tokenize_as": "comfyui"}, "--tokenize_as"),
        (schnell, {"tokenize_as": "comfyui"}, "--tokenize_as"),
        (chat, {"weighted_captions": True}, "--weighted_captions"),
    ):
        found = unsuitable_settings(settings(**base, **changes), source)
        assert flag in [problem.where for problem in found if "has no effect" in problem.what]
    for source, changes in (
        (chat, {"tokenize_as": "comfyui"}),
        (flux, {"tokenize_as": "comfyui"}),
        (flux, {"weighted_captions": True}),
    ):
        assert not [
            p
            for p in unsuitable_settings(settings(**base, **changes), source)
            if p.where.startswith(("--tok", "--wei"))
        ]
