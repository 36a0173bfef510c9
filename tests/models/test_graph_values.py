"""Check what graphs are built on: shapes of values, overwriting them, and comparing results."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from neonym.models.graphs.graphs import is_close
from neonym.models.graphs.values import copy_into, mapped, shape_of
from neonym.types import Conditions, Encoded, TextCond


def test_shapes_differ_by_tensors_and_by_everything_else():
    ids = torch.zeros(2, 1, 77, dtype=torch.int64)
    text = Encoded({"text_encoder": ids}, lengths={"text_encoder": [77, 77]})
    assert shape_of(text) == shape_of(replace(text, ids={"text_encoder": ids + 1}))
    others = [
        replace(text, ids={"text_encoder": ids[:1]}),
        replace(text, ids={"text_encoder_2": ids}),
        replace(text, emphasis={"text_encoder": ids.float()}),
        replace(text, lengths={"text_encoder": [77, 76]}),
    ]
    assert len({shape_of(own) for own in [text, *others]}) == 5


def test_results_are_compared_by_their_size():
    losses, gradient = torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 1e-6]])

    def outputs(change: float) -> dict[str, torch.Tensor]:
        return {"losses": losses, "gradient": gradient + torch.tensor([[change, 0.0]])}

    assert is_close(outputs(0.01), outputs(0.0))
    assert not is_close(outputs(0.1), outputs(0.0))
    assert not is_close(outputs(float("nan")), outputs(float("nan")))
    assert is_close(0 * gradient, 0 * gradient)


def test_a_value_is_overwritten_and_may_be_longer_than_what_it_gets():
    text = TextCond(torch.zeros(2, 3, 4), None, torch.zeros(2, 3, dtype=torch.bool), [3, 2])
    whole = {"text": mapped(text, torch.Tensor.clone), "conditions": Conditions(guidance=torch.zeros(4))}
    given = {"text": mapped(text, torch.ones_like), "conditions": Conditions(guidance=torch.ones(3))}
    copy_into(whole, given)
    assert whole["text"].sequence.eq(1).all()
    assert whole["text"].mask.all()
    assert whole["conditions"].guidance.tolist() == [1, 1, 1, 0]
    with pytest.raises(ValueError, match="zip"):
        copy_into(whole, {"text": text})
