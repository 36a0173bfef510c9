"""Tests of short runs of the built-in model on a GPU: `NEONYM_TEST_CUDA=1 pytest tests/training/test_cuda.py`."""

import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from neonym import Stepped, train, train_words
from neonym.errors import UserError
from neonym.models.graphs.graphs import Graph, Graphs
from neonym.runs.events import Noted
from support.data_sets import make_images
from support.runs import flags_of, rows, wait_for_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and NEONYM_TEST_CUDA=1")


@pytest.fixture
def run_on_gpu(run_for):
    """Return a function that builds a run of 12 steps without warm-up from a precision and flags."""

    def build(precision: str, name: str = "out", **flags):
        base = {"cpu": False, "mixed_precision": precision, "max_train_steps": 12, "lr_warmup_steps": "0"}
        return run_for(name, **{**base, **flags})

    return build


def learned(result, updates) -> bool:
    """Return whether the saved rows are finite and differ from the initial ones."""
    saved = rows(result.files[0])
    return bool(saved.isfinite().all()) and not torch.equal(saved, updates[0].rows.cpu())


def test_fp16_skips_infinite_gradients_and_learns(run_on_gpu, spoiled, updates):
    """With accelerate's scaler, the infinities of steps 5 and 9 are skipped, and those of the falling scale."""
    spoiled({5: float("inf"), 9: float("nan")})
    result = train(run_on_gpu("fp16", cuda_graphs="off"))  # a graph would not call what spoils the gradients
    assert [update.step for update in updates] == list(range(12))
    assert updates[0].scale == 65536
    skipped = [a.step for a, b in pairwise(updates) if torch.equal(a.rows, b.rows)]
    assert {5, 9} <= set(skipped)
    assert updates[-1].scale == 65536 / 2 ** len(skipped)
    assert updates[-1].concept.counts.read()[1] == 0
    assert learned(result, updates)


def test_fp16_ends_if_no_scale_gives_finite_gradients(run_on_gpu, spoiled):
    spoiled({None: float("inf")})
    with pytest.raises(UserError, match=r"steps in a row, first of step 17 .*became infinite"):
        train(run_on_gpu("fp16", max_train_steps=60, cuda_graphs="off"))


@pytest.mark.parametrize("precision", ["bf16", "no"])
def test_other_precisions_have_no_scaler_and_learn(run_on_gpu, updates, precision):
    result = train(run_on_gpu(precision))
    assert {update.scale for update in updates} == {1.0}
    assert learned(result, updates)


def test_d_adaptation_does_not_step_at_a_rate_of_zero(run_on_gpu, updates):
    flags = {"optimizer_type": "DAdaptSGD", "learning_rate": 1.0, "lr_warmup_steps": "2"}
    pytest.importorskip("dadaptation")
    train(run_on_gpu("fp16", **flags))
    assert torch.equal(updates[0].rows, updates[1].rows)
    assert updates[-1].rows.isfinite().all()


@pytest.mark.parametrize("flags", [{}, {"gradient_checkpointing": True}, {"micro_batch_size": 1}])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "no"])
def test_graphs_compute_what_single_kernels_compute(run_on_gpu, monkeypatch, precision, flags):
    """In a fixed order, the word is the same bit for bit, and nothing falls back."""
    replays, clean = [], Graph.__call__
    monkeypatch.setattr(Graph, "__call__", lambda self, *given: replays.append(1) or clean(self, *given))
    notes: list[str] = []

    def run(cuda_graphs: str) -> bytes:
        built = run_on_gpu(
            precision, cuda_graphs, cuda_graphs=cuda_graphs, deterministic=True, train_batch_size=2, **flags
        )
        return train(built, [lambda e: notes.append(e.text) if isinstance(e, Noted) else None]).files[0].read_bytes()

    without = run("off")
    assert not replays
    assert run("auto") == without
    assert len(replays) >= 12 - Graphs.eager_calls
    assert not [note for note in notes if "without CUDA graphs" in note]


def test_words_in_lanes_share_graphs(run_on_gpu, monkeypatch, tmp_path):
    """Words of unlike length come and go, and each learns."""
    notes: list[str] = []
    runs = []
    for index, steps in enumerate((12, 6, 9)):
        images = make_images(tmp_path / f"images{index}", 2, size=(64, 64), caption=f"a drawing of a zyzzo{index}")
        runs.append(
            run_on_gpu(
                "bf16", train_data_dir=str(images), token_string=f"zyzzo{index}", max_train_steps=steps, resolution="64",
                num_vectors_per_token=1 + index, train_batch_size=1,
            )
        )  # fmt: skip
    results = train_words(
        runs, lanes=2, listeners=lambda _: [lambda e: notes.append(e.text) if isinstance(e, Noted) else None]
    )
    assert all(rows(result.files[0]).isfinite().all() for result in results)
    assert not [note for note in notes if "without CUDA graphs" in note]


def test_steps_between_two_reports_do_not_wait_for_the_device(run_on_gpu):
    """Torch raises an error where the host would wait."""
    reports = []

    def watch(event) -> None:
        if isinstance(event, Stepped):
            is_between = 8 <= event.step < 16  # the losses are read and checked in step 20, and the first steps differ
            torch.cuda.set_sync_debug_mode("error" if is_between else "default")
            reports.append(event.step)

    try:
        train(run_on_gpu("fp16", max_train_steps=24, ema_decay=0.9), [watch])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert reports == [*range(1, 25)]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_killed_run_continues_bit_for_bit(run_on_gpu, precision):
    """A killed run continues bit for bit with --deterministic; without it, rounding may differ."""

    def start(run) -> subprocess.Popen:
        flags = [flag for flag in flags_of(run) if flag != "--cpu=False"]
        command = [sys.executable, "-m", "neonym", "train", *flags, "--deterministic"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    flags = {"state_every_n_steps": 1, "max_train_steps": 200, "ema_decay": 0.9}
    whole, parts = run_on_gpu(precision, "whole", **flags), run_on_gpu(precision, "parts", **flags)
    process = start(whole)
    output = process.communicate(timeout=300)[0]
    assert process.returncode in (0, 3), output
    process = start(parts)
    folder = Path(parts.save.output_dir)
    wait_for_step(folder / "mychar4-run", 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "mychar4.safetensors").exists()
    process = start(parts)
    output = process.communicate(timeout=300)[0]
    assert process.returncode in (0, 3), output
    files = [Path(run.save.output_dir) / "mychar4.safetensors" for run in (whole, parts)]
    assert files[0].read_bytes() == files[1].read_bytes()
