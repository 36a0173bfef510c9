"""Fixtures of the tests of the toy family: the family, a model, the same as one file, runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from neonym.models import registry
from support.checks import settings
from support.data_sets import make_images
from support.toy_family import (
    ORIGINAL_NAMES,
    PREFIXES,
    TOY,
    toy_model,
)


@pytest.fixture(scope="module", autouse=True)
def known():
    """Register the family while these tests run."""
    registry.register(TOY)
    yield
    registry.unregister(TOY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a tiny random model of the toy family."""
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def checkpoint(folder, tmp_path) -> Path:
    """Return the same model as one file. Its tokenizer lies beside it, because the package has none for T5."""
    found = {}
    for part, start in PREFIXES.items():
        (file,) = (folder / part).glob("*.safetensors")
        for name, tensor in load_file(file).items():
            for own, original in ORIGINAL_NAMES.items() if part == "transformer" else ():
                name = name.replace(own, original)
            found[f"{start}{name}"] = tensor
    shutil.copytree(folder / "tokenizer", tmp_path / "tokenizer")
    save_file(found, tmp_path / "toy.safetensors")
    return tmp_path / "toy.safetensors"


@pytest.fixture
def run_for(folder, tmp_path):
    """Return a function that makes the settings of a short run on the toy model."""
    images = make_images(tmp_path / "images", 3, (96, 64))

    def make(name: str, init_word: str = "dog", model: Path = folder, **more):
        return settings(
            pretrained_model_name_or_path=str(model), train_data_dir=str(images), token_string="mychar4",
            init_word=init_word, num_vectors_per_token=2, train_batch_size=2, output_dir=str(tmp_path / name),
            output_name="word", eval_samples=8, lr_scheduler="constant", lr_warmup_steps="0", **more,
        )  # fmt: skip

    return make
