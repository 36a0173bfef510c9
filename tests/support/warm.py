"""Commands in processes of their own that need not import torch: they are forked from one that has done so."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from neonym.cli import entry

IMPORTED = ["neonym.runs.start", "neonym.generation.run", "neonym.models.families.stable_diffusion_network"]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(IMPORTED)


def run_warm(
    words: Sequence[str], cwd: Path, environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run `neonym ...` to its end in a new process, and return its exit code and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder, "stdout"), Path(folder, "stderr")
        process = CONTEXT.Process(target=become, args=([*words], str(cwd), {**environment}, [*map(str, outputs)]))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([*words], seconds)
        printed = [output.read_text() for output in outputs]
    return subprocess.CompletedProcess([*words], process.exitcode, *printed)


def become(words: list[str], cwd: str, environment: dict[str, str], outputs: list[str]) -> None:
    """Let this process be that of a command, with its files for what it prints."""
    for number, output in enumerate(outputs, 1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.argv[:] = words
    entry.neonym()
