"""Training on a GPU that gives the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from neonym.errors import UserError


@contextmanager
def repeatable(is_on: bool) -> Iterator[None]:
    """Let torch compute in the same order each time for the duration of a block, if that `is_on`.

    Raises UserError if it cannot: for some operations, it has only kernels whose sums have no fixed order.
    """
    if not is_on:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        what = f"a step of this model cannot be computed in the same order each time ({str(error).splitlines()[0]})"
        fix = "Leave it out; the word will be as good"
        if "cublas" in str(error).lower():  # it was used before, without the variable
            fix = "Set the environment variable CUBLAS_WORKSPACE_CONFIG to :4096:8 before this process uses the GPU"
        raise UserError(what, "--deterministic", fix) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
