"""Regularisation images that one actor has encoded are there for the others, and may be lost at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from support.clusters import trainers, two_nodes
from support.data_sets import make_images
from support.fleets import LONG, check_words, events_of, learned_alone, start_fleet, steps_of, wait_for, write_plan

pytest.importorskip("ray", reason="`make setup` installs it")
NAMES = ("alpha", "beta")
OWN, COMMON = 3, 5  # images of a word, and regularisation images
STEPS = 120


@pytest.fixture
def words(tmp_path) -> Path:
    """Return a folder with two words, whose images count twice, so that all regularisation images are used."""
    for index, name in enumerate(NAMES):
        make_images(tmp_path / "words" / name / f"2_{name}", OWN, size=(64 + 16 * index, 64), caption=f"a {name}")
    return tmp_path / "words"


@pytest.fixture
def settings(tmp_path) -> dict[str, Any]:
    """Return the settings of words with common regularisation images, which no disk keeps."""
    make_images(tmp_path / "regular" / "1_drawing", COMMON, size=(96, 96), caption="a drawing")
    return {
        **LONG, "max_train_steps": STEPS, "reg_data_dir": str(tmp_path / "regular"), "cache_latents_to_disk": False
    }  # fmt: skip


def encoded(out: Path, name: str) -> list[int]:
    """Return how many images each process that trained a word has encoded for it."""
    return [event["total"] for event in events_of(out, name) if event["event"] == "encoded" and event["done"]]


def node_of(cluster: Any, actor: psutil.Process) -> Any:
    """Return the node of a cluster on which an actor runs."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    return next(raylets[parent.pid] for parent in actor.parents() if parent.pid in raylets)


def test_an_actor_encodes_only_what_no_object_holds(words, settings, tmp_path, monkeypatch):
    """An actor is lost with its node and what it had encoded; its successor, which has encoded that again, is killed."""
    alone = {name: learned_alone(tmp_path / "alone", words, name, settings) for name in NAMES}
    out, plan = tmp_path / "out", write_plan(tmp_path / "plan.toml", words, settings)
    monkeypatch.setenv("RAY_max_direct_call_object_size", "100")  # bytes; the driver itself holds what is smaller
    with two_nodes() as cluster:
        process = start_fleet(plan, out, f"--ray={cluster.address}", "--workers=1", "--shard=1")
        wait_for(lambda: steps_of(out, "alpha") > STEPS // 4, process)
        cluster.remove_node(node_of(cluster, *trainers()), allow_graceful=False)
        wait_for(lambda: len(encoded(out, "alpha")) == 2 and steps_of(out, "alpha") > 2 * STEPS // 4, process)
        for actor in trainers():
            actor.kill()
        printed = process.communicate(timeout=200)[0]
    assert process.returncode in (0, 3), printed
    assert encoded(out, "alpha") == [OWN + COMMON, OWN + COMMON, OWN]
    assert encoded(out, "beta") == [OWN]
    check_words(out, alone)
