"""Verify --deterministic on a CPU, where it changes nothing; tests/training/test_cuda.py runs it on a GPU."""

import pytest
import torch

from neonym import train
from neonym.errors import UserError
from neonym.training import joint_steps


def test_it_changes_nothing_on_a_cpu_and_is_off_again_afterwards(run_for, monkeypatch):
    seen, step = [], joint_steps.train_step
    monkeypatch.setattr(
        joint_steps,
        "train_step",
        lambda *given: seen.append(torch.are_deterministic_algorithms_enabled()) or step(*given),
    )
    files = [
        train(run_for(f"{is_on}", max_train_steps=2, resolution="64", deterministic=is_on)).files[0]
        for is_on in (False, True)
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert seen == [False, False, True, True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_that_has_no_fixed_order_is_an_error_that_says_so(run_for, monkeypatch):
    def fail(*_):
        raise RuntimeError("upsample_bilinear2d_backward does not have a deterministic implementation, but you set ...")

    monkeypatch.setattr(joint_steps, "train_step", fail)
    with pytest.raises(UserError, match="^deterministic: .*upsample_bilinear2d_backward does not have"):
        train(run_for(max_train_steps=2, resolution="64", deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()
