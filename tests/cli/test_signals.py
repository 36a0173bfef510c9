"""Ctrl-C and SIGTERM end every program quietly, whenever they come."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import ROOT
from support.data_sets import make_images

MOMENTS = (0, 0.2, 0.7, 1.4)  # seconds after the program's first lines: within the imports, mostly
TRAIN = ("--token_string=mychar4", "--max_train_steps=100000", "--cpu")


@pytest.fixture(autouse=True)
def signals_as_usual():
    """What a background job ignores, its children do too: then nothing could be interrupted here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def programs(folder) -> dict[str, list[str]]:
    train = [f"--train_data_dir={make_images(folder / 'pictures')}", f"--output_dir={folder / 'out'}", *TRAIN]
    console = (
        "import sys; from neonym.cli.entry import neonym; sys.exit(neonym())"  # what pip makes of a console script
    )
    return {
        "module": ["-m", "neonym", "train", *train],
        "script": [str(ROOT / "train_textual_inversion.py"), *train],
        "console": ["-c", console, "generate", "--prompt=a cat", "--steps=900", f"--outdir={folder / 'images'}"],
    }


def begins(process: subprocess.Popen) -> bool:
    """Wait until Python itself has started, which can be interrupted as ever: SIGTERM is caught. Return whether it is."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = int(status.read_text().partition("SigCgt:")[2].split()[0], 16)
        if caught >> signal.SIGTERM - 1 & 1:
            return True
        time.sleep(0.002)
    return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the moment is found out from /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("program", ["module", "script", "console"])
def test_a_program_ends_quietly_at_any_moment(program, number, tmp_path):
    words = [sys.executable, *programs(tmp_path)[program]]
    for moment in MOMENTS:
        process = subprocess.Popen(
            words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert begins(process)
        time.sleep(moment)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 128 + number, f"after {moment} s: {said}"
        assert "Traceback" not in said
        assert "Exception ignored" not in said


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


def test_files_that_are_half_written_are_removed(tmp_path):
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


def test_what_is_ignored_stays_ignored():
    code = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from neonym.cli.entry import start
start(lambda: os.kill(os.getpid(), signal.SIGINT) or 7)
"""
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}).returncode == 7
