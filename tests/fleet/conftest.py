"""Fleets are processes, and clusters on this machine; three words, and what each of them is when it is learned alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.fleets import LONG, NAMES, learned_alone, make_words, write_plan
from support.network import no_network as no_network

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # both are read when Ray is imported
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = (
    "0"  # 127.0.0.1 stays what it is, instead of an address of the network
)


@pytest.fixture(scope="session")
def words(tmp_path_factory) -> Path:
    """Return a folder with three words."""
    return make_words(tmp_path_factory.mktemp("fleet") / "words", *NAMES)


@pytest.fixture(scope="session")
def alone(words, tmp_path_factory) -> dict[str, bytes]:
    """Return what each word is when it is learned alone, in as many steps as by `plan`."""
    return {name: learned_alone(tmp_path_factory.mktemp("alone"), words, name, LONG) for name in NAMES}


@pytest.fixture
def plan(words, tmp_path) -> Path:
    """Return a plan of the three words, which takes long enough for faults in the middle of it."""
    return write_plan(tmp_path / "plan.toml", words, LONG)
