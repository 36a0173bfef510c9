"""Fleets on a Ray cluster of two nodes: faults of every kind, and every word as it is alone, bit for bit."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from support.clusters import add_node, trainers, two_nodes
from support.fleets import (
    NAMES,
    check_words,
    ends_of,
    log_of,
    run_fleet,
    start_fleet,
    steps_of,
    wait_for,
)

pytest.importorskip("ray", reason="`make setup` installs it")


@pytest.fixture(scope="module")
def cluster():
    """Return a cluster of two nodes."""
    with two_nodes() as made:
        yield made


def is_training(out: Path) -> list[str]:
    """Return the words that are in the middle of their training."""
    return [name for name in NAMES if steps_of(out, name) >= 3 and not ends_of(out, name)]


def start(plan: Path, out: Path, cluster) -> subprocess.Popen[str]:
    """Start a fleet on the cluster, and return it when a word is in the middle of its training."""
    process = start_fleet(plan, out, f"--ray={cluster.address}")
    wait_for(lambda: is_training(out), process)
    return process


def test_an_actor_that_is_killed_starts_again(plan, tmp_path, alone, cluster):
    out = tmp_path / "out"
    process = start(plan, out, cluster)
    killed = trainers()
    assert killed
    for actor in killed:
        actor.kill()
    printed = process.communicate(timeout=200)[0]
    assert process.returncode in (0, 3), printed
    check_words(out, alone)
    assert any(line["event"] == "died" for line in log_of(out))


def test_the_driver_is_stopped_by_ctrl_c_and_killed(plan, tmp_path, alone, cluster):
    out = tmp_path / "out"
    process = start(plan, out, cluster)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=100)[0]
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert log_of(out)[-1]["event"] == "stopped"
    stopped = [name for name in NAMES if (out / name / f"{name}-run" / "state.safetensors").exists()]
    assert stopped

    process = start(plan, out, cluster)
    process.kill()
    process.communicate()
    code, printed = run_fleet(plan, out, f"--ray={cluster.address}", seconds=200)  # at once
    assert code in (0, 3), printed
    check_words(out, alone)


def test_a_node_that_is_lost_in_the_middle(plan, tmp_path, alone, cluster):
    out = tmp_path / "out"
    process = start(plan, out, cluster)
    lost = sorted(cluster.worker_nodes, key=str)[0]
    cluster.remove_node(lost, allow_graceful=False)
    printed = process.communicate(timeout=200)[0]
    add_node(cluster)
    assert process.returncode in (0, 3), printed
    check_words(out, alone)
    assert any(line["event"] == "died" for line in log_of(out)), log_of(out)


def test_a_cluster_that_is_not_there_is_reported(plan, tmp_path):
    code, printed = run_fleet(plan, tmp_path / "out", "--ray=127.0.0.1:1")
    assert code == 2
    assert "--ray 127.0.0.1:1: no Ray cluster can be reached" in printed
    assert "Traceback" not in printed
