"""Law 3: several processes are one. Real processes under `accelerate launch`, talking by gloo on this machine."""

import json
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from neonym import train
from neonym.data.loader import parts, share_of
from neonym.formats import read_embedding
from support import BATCH_INVARIANT
from support.runs import flags_for, launch, threads


def test_law_3_two_processes_are_one(run_for, tmp_path, images):
    """Bit for bit, though one computes three samples together, on all threads, and of the two one computes two and one one.

    On other CPUs all compute them one by one, on one thread.
    """
    one_by_one = {} if BATCH_INVARIANT else {"micro_batch_size": 1}
    flags = [*flags_for(images, tmp_path / "two"), *(f"--{name}={value}" for name, value in one_by_one.items())]
    with nullcontext() if BATCH_INVARIANT else threads(1):
        alone = train(run_for("alone", max_train_steps=6, train_batch_size=3, flip_aug=True, **one_by_one))
    process = launch(2, *flags)
    output = process.communicate(timeout=300)[0]
    assert (tmp_path / "two" / "mychar4.safetensors").exists(), output
    again = launch(2, *flags)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    assert said.count("finished already") == 1
    one, two = (
        read_embedding(file).vectors["text_encoder"]
        for file in (alone.files[0], tmp_path / "two" / "mychar4.safetensors")
    )
    assert (one - two).abs().max() <= (0 if BATCH_INVARIANT else 1e-6)
    assert output.count("mychar4: ") == 1, output  # rank 0 alone speaks
    lines = [json.loads(line) for line in (tmp_path / "two" / "mychar4-run" / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in lines if e["event"] == "step"] == [1, 2, 3, 4, 5, 6]


def test_micro_batches_of_several_processes_are_those_of_one():
    draws = list(range(12))  # what is dealt does not matter
    for ranks in (2, 3):
        shares = [share_of(draws, 2, rank, ranks) for rank in range(ranks)]  # pyright: ignore[reportArgumentType]
        assert sorted(part for share in shares for part in share) == parts(draws, 2)  # pyright: ignore[reportArgumentType]
    for size, ranks in ((12, 2), (5, 2), (12, 5)):  # too few for all, or not as many for each
        shares = [share_of(draws, size, rank, ranks) for rank in range(ranks)]  # pyright: ignore[reportArgumentType]
        counts = [sum(map(len, share)) for share in shares]
        assert sum(counts) == 12
        assert max(counts) - min(counts) <= 1


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_of(pid: int) -> str | None:
    for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if entry.startswith(b"LOCAL_RANK="):
            return entry.partition(b"=")[2].decode()
    return None


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_run_with_its_state_saved(tmp_path, images):
    """Then the same command in one process goes on to what an undisturbed run gives."""
    flags = flags_for(images, tmp_path / "two", steps=400)
    process = launch(2, *flags)
    state = tmp_path / "two" / "mychar4-run" / "state.safetensors"
    deadline = time.monotonic() + 200
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[0]
    ranks = {rank_of(pid): pid for pid in children(process.pid)}
    os.kill(ranks["1"], signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert state.exists(), output
    assert not (tmp_path / "two" / "mychar4.safetensors").exists()
    from neonym.training.state import read_state

    saved = read_state(state, {})
    assert 1 <= saved.step < 400
    assert bool(torch.stack([t.float().sum() for t in saved.tensors.values()]).isfinite().all())
