"""One of two nodes runs out of disk: its words are learned on the other one, and it gets no more of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clusters import two_nodes
from support.fleets import ends_of, learned_alone, log_of, make_words, run_fleet, write_plan

pytest.importorskip("ray", reason="`make setup` installs it")
NAMES = ("alpha", "beta", "gamma")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """Return a folder on a disk of 12 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_node_without_space_gives_its_words_to_the_other_one(small_disk, tmp_path):
    folder = make_words(tmp_path / "words", *NAMES)
    plan, out = write_plan(tmp_path / "plan.toml", folder), tmp_path / "out"
    spacious = tmp_path / "spacious"
    with two_nodes(({"SCRATCH_OF_NODE": str(small_disk)}, {"SCRATCH_OF_NODE": str(spacious)})) as cluster:
        flags = (f"--ray={cluster.address}", "--scratch=$SCRATCH_OF_NODE", "--shard=1")
        code, printed = run_fleet(plan, f"file://{out}", *flags, seconds=200)
    assert code in (0, 3), printed
    for name in NAMES:
        assert (out / name / f"{name}.safetensors").read_bytes() == learned_alone(tmp_path / "alone", folder, name)
        assert ends_of(out, name, "finished") == 1
    (lost,) = [line for line in log_of(out) if line["event"] == "lost"]
    assert "No space left on device" in lost["reason"]
    assert sum(line["event"] == "shard" and line["worker"] == lost["worker"] for line in log_of(out)) == 1
