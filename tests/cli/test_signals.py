"""Ctrl-C and SIGTERM end every program quietly at any moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import ROOT
from support.data_sets import make_images

MOMENTS = (0, 0.2, 0.7, 1.4)  # seconds after the start of the program, mostly during its imports
TRAIN = ("--token_string=mychar4", "--max_train_steps=100000", "--cpu")


@pytest.fixture(autouse=True)
def default_signal_handler():
    """Restore the default handler of SIGINT, because a background job and its children ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def programs(folder) -> dict[str, list[str]]:
    """Return the arguments of Python for each way to start Neonym."""
    train = [f"--train_data_dir={make_images(folder / 'pictures')}", f"--output_dir={folder / 'out'}", *TRAIN]
    console = (
        "import sys; from neonym.cli.entry import neonym; sys.exit(neonym())"  # what pip makes of a console script
    )
    return {
        "module": ["-m", "neonym", "train", *train],
        "script": [str(ROOT / "train_textual_inversion.py"), *train],
        "console": ["-c", console, "generate", "--prompt=a cat", "--steps=900", f"--outdir={folder / 'images'}"],
    }


def has_started(process: subprocess.Popen) -> bool:
    """Wait until the program handles SIGTERM, which follows the start of Python. Return whether it does."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = int(status.read_text().partition("SigCgt:")[2].split()[0], 16)
        if caught >> signal.SIGTERM - 1 & 1:
            return True
        time.sleep(0.002)
    return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see when a program has started")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", ["module", "script", "console"])
def test_a_program_ends_quietly_at_any_moment(program, number, tmp_path):
    words = [sys.executable, *programs(tmp_path)[program]]
    for moment in MOMENTS:
        process = subprocess.Popen(
            words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert has_started(process)
        time.sleep(moment)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == 128 + number, f"after {moment} s: {errors}"
        assert "Traceback" not in errors
        assert "Exception ignored" not in errors


def test_a_second_signal_ends_a_program_that_swallows_the_first():
    code = """
import os, signal
from neonym.cli.entry import start
def command():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("swallowed", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("never", flush=True)
start(command)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "swallowed\n", "")


def test_half_written_files_are_removed(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from neonym.cli.entry import start
def command():
    from neonym.io.atomic import atomic_write
    with atomic_write(Path({str(tmp_path / "a.txt")!r})) as part:
        part.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
start(command)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "")
    assert list(tmp_path.iterdir()) == []


def test_ignored_signals_stay_ignored():
    code = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from neonym.cli.entry import start
start(lambda: os.kill(os.getpid(), signal.SIGINT) or 7)
"""
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}).returncode == 7
