"""Verify that T5 reads each caption once if it learns nothing, also from the memory of the CPU, with the same result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import T5EncoderModel

from neonym import train
from neonym.models.encoders.known_texts import KnownTexts
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.models.offload import Ring
from neonym.models.storage import Storage
from neonym.preflight.preflight import preflight
from support import WORD
from support.batches import CAPTIONS
from support.checks import settings
from support.data_sets import make_images
from support.families import SIDE, tiny_model

T5 = "text_encoder_2"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model("flux1", tmp_path_factory.mktemp("flux1") / "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), count=3, size=(SIDE, SIDE), caption=f"a photo of {WORD}")


def run_of(model: Path, images: Path, output: Path, **flags):
    given = {
        "pretrained_model_name_or_path": str(model), "train_data_dir": str(images), "token_string": WORD,
        "init_word": "cat", "resolution": str(SIDE), "enable_bucket": False, "train_batch_size": 2,
        "max_train_steps": 5, "output_dir": str(output), "seed": 3, "eval_samples": 8, "train_encoders": ("clip_l",), "cpu": True,
    }  # fmt: skip
    return settings(**{**given, **flags})


@pytest.fixture
def texts(monkeypatch) -> list[bytes]:
    """Return a list that gets the ids of each text that T5 reads."""
    read, original = list[bytes](), T5EncoderModel.forward

    def forward(self, input_ids, **options):
        read.extend(ids.numpy().tobytes() for ids in input_ids)
        return original(self, input_ids, **options)

    monkeypatch.setattr(T5EncoderModel, "forward", forward)
    return read


def test_t5_reads_each_caption_once_and_the_word_is_the_same(model, images, tmp_path, texts, monkeypatch):
    """In training and in the verdict."""
    (remembered,) = train(run_of(model, images, tmp_path / "remembered")).files
    once = set(texts)
    assert len(texts) == len(once)
    texts.clear()
    monkeypatch.setattr(KnownTexts, "__call__", lambda self, ids, attention_mask=None: self.forward(ids))
    (computed,) = train(run_of(model, images, tmp_path / "computed")).files
    assert len(texts) >= len(once) + 10  # the samples of 5 steps of 2
    assert set(texts) == once
    assert remembered.read_bytes() == computed.read_bytes()


def test_an_encoder_that_waits_gives_the_same_states(model):
    source = identify(str(model))
    plain, waiting = (load_model(replace(source, storage=storage)) for storage in (Storage(), Storage(waiting=(T5,))))
    with torch.no_grad():
        for caption in CAPTIONS:
            found = [each.text.encode(each.text.batch([caption])).sequence for each in (plain, waiting)]
            assert torch.equal(*found)


def test_its_blocks_are_fetched_into_the_buffers(model, monkeypatch):
    rings = list[Ring]()
    original = Ring.__init__

    def noted(self, blocks, *rest, **options):
        original(self, blocks, *rest, **options)
        rings.append(self)

    monkeypatch.setattr(Ring, "__init__", noted)
    load_model(replace(identify(str(model)), storage=Storage(waiting=(T5,))))
    (ring,) = rings
    assert len(ring.masters) == 2  # blocks of the tiny T5


def test_the_flag_is_reported_where_it_does_nothing(model, images, tmp_path):
    def warned(**flags) -> str:
        plan = preflight(run_of(model, images, tmp_path / "out", cache_text_encoder_outputs=True, **flags))
        return "\n".join(map(str, plan.problems))

    assert "no T5 without learned rows" not in warned()
    assert "no T5 without learned rows" in warned(train_encoders=())
