"""Verify that the states of texts that a frozen encoder has read are remembered, and are the same."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from neonym.models.encoders.known_texts import KnownTexts
from support.families import tiny_t5

VOCABULARY = 32128


class Counted:
    """An encoder's forward pass that counts the texts that go through it."""

    def __init__(self, encoder: nn.Module):
        self.encoder, self.texts = encoder, 0

    def __call__(self, ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        self.texts += len(ids)
        if int(ids.max()) >= VOCABULARY:
            return BaseModelOutput(torch.zeros(*ids.shape, 64))  # pyright: ignore[reportArgumentType]
        return self.encoder(ids, attention_mask=attention_mask)


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    torch.manual_seed(0)
    return tiny_t5().eval().requires_grad_(False)


def ids_of(count: int, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCABULARY, (count, 8), generator=torch.Generator().manual_seed(seed))


def test_each_text_is_read_once_and_gives_the_same_states(encoder):
    counted = Counted(encoder)
    known = KnownTexts(counted, VOCABULARY)
    ids = ids_of(3)[[0, 1, 0, 2]]
    wanted = encoder(ids).last_hidden_state
    torch.testing.assert_close(known(ids).last_hidden_state, wanted, rtol=0, atol=1e-6)
    assert counted.texts == 3
    torch.testing.assert_close(known(ids.flip(0)).last_hidden_state, wanted.flip(0), rtol=0, atol=1e-6)
    assert counted.texts == 3


def test_a_text_has_the_same_states_whatever_is_beside_it():
    """On a GPU the last bits depend on the number of texts that go through the encoder together."""

    def forward(ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        return BaseModelOutput(torch.full((*ids.shape, 2), float(len(ids))))  # pyright: ignore[reportArgumentType]

    together, alone = KnownTexts(forward, VOCABULARY), KnownTexts(forward, VOCABULARY)
    ids = ids_of(3)
    assert torch.equal(together(ids).last_hidden_state[1:2], alone(ids[1:2]).last_hidden_state)


def test_padding_that_is_read_makes_another_text(encoder):
    counted = Counted(encoder)
    known, ids = KnownTexts(counted, VOCABULARY), ids_of(1)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0]])
    masked, whole = known(ids, attention_mask=mask).last_hidden_state, known(ids).last_hidden_state
    assert counted.texts == 2
    assert not torch.equal(masked, whole)
    torch.testing.assert_close(masked, encoder(ids, attention_mask=mask).last_hidden_state, rtol=0, atol=1e-6)


def test_states_that_may_change_are_not_remembered(encoder):
    counted = Counted(encoder)
    known = KnownTexts(counted, VOCABULARY)
    with_row = ids_of(2)
    with_row[1, 3] = VOCABULARY
    for times in (1, 2):
        known(with_row)
        assert counted.texts == 2 * times
    assert not known.states


def test_the_oldest_texts_are_forgotten_first(encoder):
    counted = Counted(encoder)
    known = KnownTexts(counted, VOCABULARY, limit=2 * 8 * 64 * 4)
    a, b, c = ids_of(3).split(1)
    for ids in (a, b, a, c):  # b is the oldest when c comes
        known(ids)
    assert counted.texts == 3
    known(a)
    assert counted.texts == 3
    known(b)
    assert counted.texts == 4


def test_states_made_in_inference_mode_can_be_trained_with(encoder):
    known, ids = KnownTexts(encoder, VOCABULARY), ids_of(1)
    with torch.inference_mode():
        known(ids)
    weight = torch.ones(64, requires_grad=True)
    (known(ids).last_hidden_state * weight).sum().backward()
    assert weight.grad is not None
