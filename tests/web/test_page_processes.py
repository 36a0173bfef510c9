"""Verify that only our own processes are found and ended, and what the commands that the page waits for say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from neonym.web import processes
from support.coroutines import finished
from support.data_sets import make_images


def test_a_process_with_the_same_number_is_not_ours():
    own = processes.Process(os.getpid(), processes.identity_of(os.getpid()))
    assert own.running()
    for identity in ("", f"{own.identity}0", f"other {own.identity.split()[1]}"):
        other = replace(own, identity=identity)
        assert not other.running()
        other.stop()  # would end this test


def test_a_group_of_processes_is_ended_and_only_ours(tmp_path):
    script = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print(1, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stdout=subprocess.PIPE)
    assert other.stdout is not None
    with other.stdout:
        other.stdout.readline()
    (child,) = psutil.Process(other.pid).children()
    own = processes.Process(other.pid, processes.identity_of(other.pid))
    replace(own, identity="another-boot 5").end()
    assert own.running()
    own.end()
    assert other.wait(10) == -signal.SIGKILL
    gone, alive = psutil.wait_procs([child], timeout=10)
    assert (len(gone), alive) == (1, [])


def test_a_command_says_its_last_line_or_why_it_failed(tmp_path):
    said = finished(processes.run_command(["caption", "duplicates", str(make_images(tmp_path / "images", 2))]))
    assert said.startswith("2 images, ")
    with pytest.raises(RuntimeError, match=r"nowhere"):
        finished(processes.run_command(["caption", "duplicates", str(tmp_path / "nowhere")]))
