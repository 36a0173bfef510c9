"""Helpers for real runs: stop them, start them as processes, read their files."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from neonym.formats import read_embedding
from neonym.runs.events import Event, Noted, Stepped
from neonym.runs.stop import Stop
from support import ROOT


def stop_at(step: int, number: int = 15) -> dict[str, Any]:
    """Return arguments of `train` that stop it after a step."""
    stop = Stop()

    def listen(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            stop.request(number)

    return {"listeners": [listen], "stop": stop}


def notes_of(events: list[Event]) -> list[str]:
    """Return the texts of the notes among the events."""
    return [event.text for event in events if isinstance(event, Noted)]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` threads for the duration of the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rows(path: Path) -> torch.Tensor:
    """Return the vectors of an embedding file, [n,W]."""
    return read_embedding(path).vectors["text_encoder"]


def flags_of(run) -> list[str]:
    """Return the flags of a run's command line."""
    parts = []
    for section in type(run).model_fields:
        chosen = getattr(run, section)
        for name in chosen.model_fields_set:
            value = getattr(chosen, name)
            parts += [f"--{name}"] if value is True else [f"--{name}={value}"]
    return parts


def start(run) -> subprocess.Popen:
    """Start a run as a process, and return it."""
    code = "import sys; from neonym.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", *flags_of(run)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    """Wait until the state of `step` is on the disk; unlike events, states are written without delay."""
    from safetensors import safe_open

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        file = folder / "state.safetensors"
        if file.exists():
            with safe_open(file, "pt") as opened:
                if json.loads(opened.metadata()["neonym"])["step"] >= step:
                    return
        time.sleep(0.02)
    pytest.fail(f"no state of step {step} appeared: {process.communicate()[0]}")


def launch(processes: int, *flags: str) -> subprocess.Popen:
    """Start a run in several processes under `accelerate launch`, and return the launcher."""
    command = [str(Path(sys.executable).parent / "accelerate"), "launch", "--multi_gpu", "--num_machines=1"]
    command += [
        f"--num_processes={processes}",
        "--mixed_precision=no",
        "--num_cpu_threads_per_process=1",
        "--dynamo_backend=no",
    ]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    command += ["--main_process_ip=127.0.0.1", "--main_process_port=0", "train_textual_inversion.py", *flags]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )  # fmt: skip


def run_ranks(code: str, *arguments: str, **variables: str) -> tuple[list[int], list[str]]:
    """Run Python code in two processes of one run, without a launcher; return their exit codes and what they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    shared |= {"OMP_NUM_THREADS": "1", **variables}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=ROOT, env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def flags_for(images, out, steps: int = 6) -> list[str]:
    """Return the flags of a short CPU run that saves its state after every step."""
    return [
        f"--train_data_dir={images}", "--token_string=mychar4", f"--max_train_steps={steps}", "--eval_samples=8",
        f"--output_dir={out}", "--cpu", "--resolution=64", "--train_batch_size=3", "--learning_rate=0.005", "--state_every_n_steps=1", "--flip_aug",
    ]  # fmt: skip
