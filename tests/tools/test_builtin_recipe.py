"""The recipe of the built-in model: what its training does to words."""

import numpy as np
import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from neonym.models.source import BUILTIN_MODELS
from tools.builtin_model import looks
from tools.builtin_model.batches import tokenise
from tools.builtin_model.blur import Blur, encode, joined
from tools.builtin_model.looks import STAND_IN, Eye, teach_names, thumbnails, unnamed

EMOJI = BUILTIN_MODELS / "emoji"
CAPTIONS = ["a sticker of a ring on a red background", "a sticker of a thing on a red background", ""]


@pytest.fixture(scope="module")
def text() -> CLIPTextModel:
    return CLIPTextModel.from_pretrained(EMOJI / "text_encoder", dtype=torch.float32).requires_grad_(False)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(EMOJI / "tokenizer")


def embedded(
    text, tokenizer, noise: float, mix: float, seed: int, alike: int = 1, near: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> token embeddings of CAPTIONS as they are, as training changes them. [B,77,W] each"""
    ids = tokenise(tokenizer, CAPTIONS)
    table = text.get_input_embeddings()
    blur = Blur.of_clip(tokenizer, ["ring", "red apple"], ["fruit"], noise, mix, near)
    words = table(ids)
    return words, blur.draw(table, ids, alike, torch.Generator().manual_seed(seed))(words)


def test_without_blur_a_caption_means_what_it_says(text, tokenizer):
    ids = tokenise(tokenizer, CAPTIONS)
    change = Blur.of_clip(tokenizer, ["ring"], ["fruit"], 0.0, 0.0, 0.0).draw(
        text.get_input_embeddings(), ids, 1, torch.Generator()
    )
    assert torch.equal(encode(text, ids, change), text(ids).last_hidden_state)
    assert not text.get_input_embeddings()._forward_hooks  # nothing stays behind


def test_only_names_are_mixed_and_only_with_generic_words(text, tokenizer):
    table = text.get_input_embeddings().weight
    generic = tokenizer("picture thing object drawing fruit", add_special_tokens=False).input_ids
    ring = tokenizer("ring", add_special_tokens=False).input_ids[0]
    at = (tokenise(tokenizer, CAPTIONS[:1])[0] == ring).nonzero().item()
    shares = []
    for seed in range(40):
        words, mixed = embedded(text, tokenizer, 0.0, 0.75, seed)
        assert {tuple(i) for i in (words != mixed).any(-1).nonzero().tolist()} <= {(0, at)}
        towards = table[generic] - words[0, at]  # [generic,W]
        moved = mixed[0, at] - words[0, at]
        share = (moved @ towards.T) / towards.square().sum(-1)
        nearest = (share[:, None] * towards - moved).norm(dim=-1).argmin()
        torch.testing.assert_close(share[nearest] * towards[nearest], moved)
        shares.append(float(share[nearest]))
    assert 20 <= sum(share > 0 for share in shares) <= 36
    assert max(shares) <= 0.75


def test_noise_reaches_words_alone_and_is_the_same_for_a_drawing_in_all_styles(text, tokenizer):
    words, noisy = embedded(text, tokenizer, 0.1, 0.0, 1, alike=3)
    ids = tokenise(tokenizer, CAPTIONS)
    assert torch.equal((words != noisy).any(-1), ids < tokenizer.bos_token_id)
    moved = noisy - words
    torch.testing.assert_close(moved[0, 1], moved[1, 1], rtol=0, atol=1e-6)
    assert 0 < float(moved[0, 1].std()) < 0.2


def test_a_run_of_pieces_becomes_one_place():
    named = torch.tensor([[0, 1, 1, 0, 0, 0], [1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    values = torch.tensor([10.0, 20.0, 40.0, 5.0, 7.0, 9.0])
    assert (joined(named) @ values).tolist() == [
        [10, 30, 5, 7, 9, 9],
        [pytest.approx(70 / 3), 5, 7, 9, 9, 9],
        values.tolist(),
    ]


def test_a_generic_word_and_a_mixed_name_get_the_noise_of_their_own(text, tokenizer):
    ids = tokenise(tokenizer, CAPTIONS)
    ring, thing = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("ring", "thing"))
    shares = set()
    for seed in range(20):
        words, sharp = embedded(text, tokenizer, 0.0, 0.75, seed)
        _, noisy = embedded(text, tokenizer, 0.0, 0.75, seed, near=0.4)
        mixed = (words != sharp).any(-1)  # [3,77]
        assert torch.equal((noisy != sharp).any(-1), mixed | (ids == thing))
        assert 0.1 < float((noisy - sharp)[ids == thing].std()) < 0.5
        shares.add(bool(mixed[ids == ring]))
    assert shares == {True, False}


def test_a_look_stands_where_the_name_would(text, tokenizer):
    table = text.get_input_embeddings()
    captions = [f"a sticker of a {said} on a red background" for said in (STAND_IN, f"{STAND_IN} {STAND_IN}", "ring")]
    ids = tokenise(tokenizer, captions)
    seen = torch.arange(9.0).view(3, 3, 1).expand(3, 3, 128)
    blur = Blur.of_clip(tokenizer, ["ring"], ["fruit"], 0.0, 0.0, 0.0)
    words = blur.draw(table, ids, 1, torch.Generator(), seen)(table(ids))
    changed = (words != table(ids)).any(-1)
    (stand_in,) = tokenizer(STAND_IN, add_special_tokens=False).input_ids
    assert torch.equal(changed, ids == stand_in)
    assert words[changed][:, 0].tolist() == [0, 4, 5]  # for a word of one vector; for both of one of two
    assert torch.equal(blur.draw(table, ids, 1, torch.Generator())(table(ids)), table(ids))


def test_an_eye_begins_with_the_names(monkeypatch):
    monkeypatch.setattr(looks, "FIRST_STEPS", 60)
    torch.manual_seed(0)
    eye, drawings = Eye(8), np.random.default_rng(0).integers(0, 256, (4, 3, 128, 128, 4), np.uint8)
    seen, words = thumbnails(drawings), torch.randn(4, 8)
    assert seen.shape == (4, 3, 4, 32, 32)
    before = (eye(seen[:, 0])[:, 0] - words).square().mean()
    teach_names(eye, seen, words)
    assert (eye(seen[:, 0])[:, 0] - words).square().mean() < 0.7 * before


def test_drawings_that_no_name_calls():
    drawings = np.zeros((3, 3, 128, 128, 4), np.uint8)
    drawings[..., :64, :] = (250, 10, 10, 255)  # the left half is red
    more = unnamed(drawings, 2)
    assert len(more) == 1 + 3 * 3
    assert np.array_equal(more[0], drawings[2])
    assert np.array_equal(more[-1], drawings[2][:, :, ::-1])
    assert more[1][0, 0, :, 3].argmax() == 64  # mirrored
    assert [int(d[0, 0, x, :3].argmax()) for d, x in ((more[1], 127), (more[4], 0))] == [1, 2]  # green, blue
