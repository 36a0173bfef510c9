"""Verify what a run says when the memory of its GPU does not suffice; the error of torch is raised by the test."""

import re

import pytest
import torch

from neonym import train
from neonym.errors import UserError
from neonym.training import joint_steps
from support import BATCH_INVARIANT
from support.runs import rows


def test_the_state_is_saved_and_the_error_names_what_would_save_memory(run_for, monkeypatch):
    """After the error, a run with smaller micro-batches goes on, and gives the word of a run without it."""
    steps, step = [], joint_steps.train_step

    def fail(*given):
        steps.append(0)
        if len(steps) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nSee the documentation")
        return step(*given)

    flags = {"max_train_steps": 6, "train_batch_size": 3, "resolution": "64"}
    whole = train(run_for("whole", **flags))
    monkeypatch.setattr(joint_steps, "train_step", fail)
    with pytest.raises(UserError) as caught:
        train(run_for("parts", **flags))
    said = str(caught.value)
    assert "does not suffice (CUDA out of memory. Tried to allocate 20.00 MiB); step 3 is saved" in said
    assert re.search(
        r"micro_batch_size=1\W+saves 66 %.*"
        r"gradient_checkpointing\W+lowers the activations from about \d\.\d to \d\.\d GB; a step takes.*"
        r"base_precision=fp8\W+with \W*restart\W+saves \d+\.\d GB",
        said,
    )
    parts = train(run_for("parts", **flags, micro_batch_size=1, gradient_checkpointing=True))
    assert torch.allclose(rows(whole.files[0]), rows(parts.files[0]), rtol=0, atol=0 if BATCH_INVARIANT else 1e-4)


def test_settings_that_are_used_are_not_named(run_for, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(joint_steps, "train_step", fail)
    flags = {"micro_batch_size": 1, "gradient_checkpointing": True, "base_precision": "int8"}
    with pytest.raises(UserError) as caught:
        train(run_for(max_train_steps=2, resolution="64", **flags))
    assert not re.search(r"micro_batch_size|gradient_checkpointing|base_precision", str(caught.value))
    assert "resolution" in str(caught.value)
