"""Runs as processes of their own, which go on when the page is closed, and are found again when it starts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

STARTED: dict[int, subprocess.Popen[bytes]] = {}  # our own children, which must be waited for


@dataclass(frozen=True)
class Process:
    """A process, recognised by its number and its identity: numbers are used again."""

    pid: int
    identity: str  # see `identity_of`

    def running(self) -> bool:
        """Return whether the process runs."""
        child = STARTED.get(self.pid)
        if child is not None:
            return child.poll() is None
        try:
            is_own = bool(self.identity) and identity_of(self.pid) == self.identity
            return is_own and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def ended_with_the_machine(self) -> bool:
        """Return whether the machine was started again since the process was."""
        boot, _, start = self.identity.partition(" ")
        return bool(start) and boot != boot_of_machine()

    def exit_code(self) -> int | None:
        """Return the exit code of a child of ours that has ended; None for others."""
        child = STARTED.get(self.pid)
        return None if child is None else child.poll()

    def stop(self) -> None:
        """Ask the process to end after its current step, with its state saved."""
        if self.running():
            os.kill(self.pid, signal.SIGTERM)

    def end(self) -> None:
        """End the process at once, with those that it started: nothing is saved. Raises OSError if that is refused."""
        if not self.running():  # its number may be another process's by now
            return
        if hasattr(os, "killpg") and os.getpgid(self.pid) == self.pid:
            os.killpg(self.pid, signal.SIGKILL)
            return
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.pid)
            for process in (*own.children(recursive=True), own):
                process.kill()

    def memory(self) -> int:
        """Return the bytes of memory that the process uses, 0 if it has ended."""
        try:
            return psutil.Process(self.pid).memory_info().rss
        except psutil.Error:
            return 0


def start(words: Sequence[str], folder: Path, log: Path, device: str) -> Process:
    """Start `neonym` with these words in a folder, on a device, with its output appended to a log. Raises OSError.

    The process gets a session of its own, so that neither Ctrl-C nor the end of the page's server reaches it.
    """
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120"}
    if device.startswith("cuda:"):
        environment["CUDA_VISIBLE_DEVICES"] = device.removeprefix("cuda:")
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "neonym", *words], cwd=folder, stdout=output, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True, env=environment,
        )  # fmt: skip
    STARTED[child.pid] = child
    return Process(child.pid, identity_of(child.pid))


def identity_of(pid: int) -> str:
    """Return a text that no other process has: the start of the machine and of the process; "" if there is none.

    The clock, which may be set, is not asked where the system counts from its start.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return f"{boot_of_machine()} {stat.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        pass
    try:
        return f"{boot_of_machine()} {psutil.Process(pid).create_time():.0f}"
    except (psutil.Error, ValueError):
        return ""


def boot_of_machine() -> str:
    """Return a text that is another one each time that the machine is started."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{psutil.boot_time() / 60:.0f}"  # minutes, as it is computed from the clock


async def run_command(words: Sequence[str]) -> str:
    """Run `neonym` with these words, and return the last line that it prints. Raises RuntimeError if it fails.

    The process ends with that of the server.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "neonym.web.parent", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    said = (await process.stdout.read()).decode("utf-8", "replace").strip()  # `communicate` would close its input
    if await process.wait():
        raise RuntimeError(said)
    return said.rpartition("\n")[2]


def gpu_memory(device: str) -> tuple[int, int] | None:
    """Return the used and the total megabytes of a GPU; None for the CPU, or if they are unknown."""
    if not device.startswith("cuda:"):
        return None
    command = [
        "nvidia-smi", f"--id={device.removeprefix('cuda:')}", "--query-gpu=memory.used,memory.total",
        "--format=csv,noheader,nounits",
    ]  # fmt: skip
    try:
        used, total = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.split(",")
        return int(used), int(total)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
