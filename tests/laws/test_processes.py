"""Tests of law 3: several processes learn what one does. Real processes run under `accelerate launch` with gloo."""

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
from support.runs import flags_for, launch, run_ranks, threads


def test_law_3_two_processes_learn_what_one_does(run_for, tmp_path, images):
    """Two processes learn the same rows as one, bit for bit where the CPU is batch-invariant.

    There, the single process computes three samples together on all threads, and of the two processes one computes two
    samples and the other one. On other CPUs all compute the samples one by one, on one thread.
    """
    one_by_one = {} if BATCH_INVARIANT else {"micro_batch_size": 1}
    flags = [*flags_for(images, tmp_path / "two"), *(f"--{name}={value}" for name, value in one_by_one.items())]
    with nullcontext() if BATCH_INVARIANT else threads(1):
        alone = train(run_for("alone", max_train_steps=6, train_batch_size=3, flip_aug=True, **one_by_one))
    process = launch(2, *flags)
    output = process.communicate(timeout=300)[0]
    assert (tmp_path / "two" / "mychar4.safetensors").exists(), output
    again = launch(2, *flags)
    second_output = again.communicate(timeout=300)[0]
    assert again.returncode == 0, second_output
    assert second_output.count("finished already") == 1
    one, two = (
        read_embedding(file).vectors["text_encoder"]
        for file in (alone.files[0], tmp_path / "two" / "mychar4.safetensors")
    )
    assert (one - two).abs().max() <= (0 if BATCH_INVARIANT else 1e-6)
    assert output.count("mychar4: ") == 1, output  # only rank 0 writes messages
    lines = [json.loads(line) for line in (tmp_path / "two" / "mychar4-run" / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in lines if e["event"] == "step"] == [1, 2, 3, 4, 5, 6]


def test_several_processes_share_the_micro_batches_of_one():
    draws = list(range(12))  # any values will do
    for ranks in (2, 3):
        shares = [share_of(draws, 2, rank, ranks) for rank in range(ranks)]  # pyright: ignore[reportArgumentType]
        assert sorted(part for share in shares for part in share) == parts(draws, 2)  # pyright: ignore[reportArgumentType]
    for size, ranks in ((12, 2), (5, 2), (12, 5)):  # the samples cannot be divided evenly
        shares = [share_of(draws, size, rank, ranks) for rank in range(ranks)]  # pyright: ignore[reportArgumentType]
        counts = [sum(map(len, share)) for share in shares]
        assert sum(counts) == 12
        assert max(counts) - min(counts) <= 1


def test_a_refused_run_ends_in_every_process(tmp_path, images):
    """If a listener refuses the run, which only the main process hears, the others end too, and nothing is loaded.

    No launcher is there that would end them: the two processes are started one by one.
    """
    code = "import sys; from neonym.cli.main import main; sys.exit(main(sys.argv[1:]))"
    flags = [*flags_for(images, tmp_path / "out"), "--huggingface_repo_id=me/words"]
    codes, outputs = run_ranks(code, "train", *flags, HF_ENDPOINT="http://127.0.0.1:9")  # nobody answers there
    assert codes == [2, 2], outputs
    assert "the repository cannot be used" in outputs[0]
    assert "Traceback" not in outputs[0] + outputs[1]
    lines = (tmp_path / "out" / "mychar4-run" / "events.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["event"] for line in lines]
    assert [kind for kind in kinds if kind != "note"] == ["opened", "failed"]


def children(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_of(pid: int) -> str | None:
    """Return the rank that accelerate gave to a process."""
    for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if entry.startswith(b"LOCAL_RANK="):
            return entry.partition(b"=")[2].decode()
    return None


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_run_with_a_saved_state(tmp_path, images):
    """If one of two processes is killed, the other saves a state with finite numbers and ends."""
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
