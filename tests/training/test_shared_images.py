"""Tests of images that several words use: they are encoded once, and every word is what it is alone."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from neonym import KeptModel, RunConfig, train, train_words
from neonym.data import shared_moments
from neonym.data.shared_moments import SharedMoments
from neonym.models.vae import Vae
from neonym.runs.events import Encoded, Event
from support.data_sets import make_images

OWN, COMMON = 3, 5  # images of a word, and regularisation images


@pytest.fixture
def words(tmp_path):
    """Return a function that builds the runs of words, each with images of its own and all with one folder beside them."""
    regular = make_images(tmp_path / "regular" / "1_drawing", COMMON, size=(96, 96), caption="a drawing").parent

    def build(name: str, *tokens: str, **flags: object) -> list[RunConfig]:
        return [
            RunConfig.parse(
                train_data_dir=own_images(token), reg_data_dir=regular, token_string=token, max_train_steps=3, cpu=True,
                output_dir=tmp_path / name, eval_samples=8, resolution=64, learning_rate=0.005, seed=index, **flags,
            )
            for index, token in enumerate(tokens)
        ]  # fmt: skip

    def own_images(token: str) -> Path:
        home = tmp_path / token / f"2_{token}"
        if not home.exists():  # of another size than the images of other words
            make_images(home, OWN, size=(64 + 8 * (ord(token[-1]) % 8), 64), caption=f"a drawing of a {token}")
        return home.parent

    return build


@pytest.fixture
def encodes(monkeypatch):
    """Return a list that grows with every image that a VAE encodes."""
    seen: list[int] = []
    clean = Vae.encode

    def encode(self, pixels):
        seen.append(len(pixels))
        return clean(self, pixels)

    monkeypatch.setattr(Vae, "encode", encode)
    return seen


def test_regularisation_images_of_two_words_are_encoded_once(words, encodes):
    alone = [train(run) for run in words("alone", "zyzzoa", "zyzzob")]
    assert len(encodes) == 2 * (OWN + COMMON)
    encodes.clear()
    totals: list[dict[int, int]] = [{}, {}]

    def listeners(index: int):
        def watch(event: Event) -> None:
            if isinstance(event, Encoded):
                totals[index][event.done] = event.total

        return [watch]

    together = train_words(words("together", "zyzzoa", "zyzzob"), lanes=2, listeners=listeners)
    assert len(encodes) == 2 * OWN + COMMON
    assert [max(own) for own in totals] == [OWN + COMMON, OWN]
    for one, other in zip(alone, together, strict=True):
        assert one.files[0].read_bytes() == other.files[0].read_bytes()
        assert one.verdicts == other.verdicts


def test_they_stay_with_a_kept_model_until_another_one_is_loaded(words, encodes):
    kept = KeptModel()
    train_words(words("out", "zyzzoa"), kept=kept)
    encodes.clear()
    (later,) = train_words(words("out", "zyzzob"), kept=kept)
    assert len(encodes) == OWN
    assert later.files[0].read_bytes() == train(words("alone", "zyzzob")[0]).files[0].read_bytes()
    encodes.clear()
    gc.collect()  # what is left of the words before
    train_words(words("out", "zyzzoc", clip_skip=2), kept=kept)
    assert len(encodes) == OWN + COMMON


def test_a_word_that_keeps_its_images_on_disk_also_keeps_those_that_others_had_encoded(words, encodes, tmp_path):
    one, two = words("out", "zyzzoa", "zyzzob", cache_latents_to_disk=True, latent_cache_dir=str(tmp_path / "cache"))
    train_words([words("out", "zyzzoa")[0], two])
    assert len(encodes) == 2 * OWN + COMMON
    encodes.clear()
    train(one.model_copy(update={"save": one.save.model_copy(update={"restart": True})}))
    assert len(encodes) == OWN


def moments(value: float) -> torch.Tensor:
    """Return moments of one number, float32 [8,2,2]."""
    return torch.full((8, 2, 2), value)


def test_moments_are_shared_while_a_word_has_them_and_common_ones_longer():
    shared, one, two = SharedMoments(), moments(1), moments(2)
    shared.add("own", one, is_common=False)
    shared.add("common", two, is_common=True)
    assert shared.find(["own", "common", "unknown"]).keys() == {"own", "common"}
    assert shared.find(["own"])["own"] is one
    del one, two
    gc.collect()
    assert shared.find(["own", "common"]).keys() == {"common"}
    shared.forget()
    gc.collect()
    assert not shared.find(["own", "common"])


def test_common_moments_are_exchanged_with_other_processes():
    here, asked = SharedMoments(), []
    here.add("own", moments(1), is_common=False)
    here.add("common", moments(2), is_common=True)
    sent = here.take_new()
    assert list(sent) == ["common"]
    assert not here.take_new()
    sent["common"].flags.writeable = False  # as in the object store

    def fetch(names):
        asked.append(list(names))
        return sent

    there = SharedMoments(fetch)
    found = there.find(["a", "common", "a"])
    assert asked == [["a", "common"]]  # in one request
    assert torch.equal(found["common"], moments(2))
    assert there.find(["common"])["common"] is found["common"]
    assert not there.take_new()  # it is where it came from


def test_what_is_kept_has_a_limit(monkeypatch):
    monkeypatch.setattr(shared_moments, "MOST_KEPT", 3 * moments(0).nbytes)
    shared = SharedMoments()
    for index in range(5):
        shared.add(str(index), moments(index), is_common=True)
    gc.collect()
    assert list(shared.find(map(str, range(5)))) == ["0", "1", "2"]
    assert list(shared.take_new()) == ["0", "1", "2"]
    assert np.array_equal(shared.find(["2"])["2"].numpy(), moments(2).numpy())
