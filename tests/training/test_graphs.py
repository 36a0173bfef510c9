"""Check steps by graphs on a CPU: everything but CUDA's own recording, in whose place the computation is run again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neonym import Result, RunConfig, train, train_words
from neonym.runs.events import Noted
from neonym.training import lanes
from neonym.training.evaluation import Evaluation
from neonym.training.graphs import StepGraphs, room_for
from support.checks import settings
from support.data_sets import make_images
from support.recorders import Doubling, Failing, Remembering, Rerun, Short


@pytest.fixture
def graphs(monkeypatch):
    """Return a function that lets the steps of all runs to come be taken by graphs of this recorder."""
    made: list[StepGraphs] = []

    def use(recorder) -> list[StepGraphs]:
        def graphs_for(plans, device, note):
            made.append(StepGraphs(recorder, note))
            return made[-1]

        monkeypatch.setattr(lanes, "graphs_for", graphs_for)
        return made

    return use


FLAGS = {"max_train_steps": 8, "resolution": "64", "train_batch_size": 2, "learning_rate": 0.01}


@pytest.mark.parametrize(
    "flags",
    [
        {"num_vectors_per_token": 3, "ema_decay": 0.9},
        {"gradient_checkpointing": True},
        {"min_snr_gamma": 5.0, "noise_offset": 0.1, "multires_noise_iterations": 3},
        {"micro_batch_size": 1},
    ],
)
def test_a_word_becomes_the_same_with_graphs(run_for, graphs, flags):
    eager = train(run_for("eager", **FLAGS, **flags))
    recorder = Rerun()
    made = graphs(recorder)
    found = train(run_for("graphs", **FLAGS, **flags))
    assert found.files[0].read_bytes() == eager.files[0].read_bytes()
    micro_batches = 8 * (2 if "micro_batch_size" in flags else 1)
    assert recorder.replays == 1 + micro_batches - StepGraphs.eager_calls  # once more when it is recorded, to compare
    assert recorder.recorded == 1
    assert [own.graphs for own in made] == [{}]  # their memory is free before the verdict


def words(folder: Path, name: str) -> list[RunConfig]:
    """Return the runs of three words with images of one size, of unlike lengths and numbers of vectors."""
    runs = []
    for index, (steps, vectors) in enumerate([(12, 1), (5, 3), (9, 2)]):
        word, images = f"zyzzo{index}", folder / f"images{index}"
        if not images.exists():
            make_images(images, 2, size=(64, 64), caption=f"a drawing of a {word}")
        runs.append(
            settings(
                train_data_dir=str(images), token_string=word, output_dir=str(folder / name), seed=index, max_train_steps=steps,
                resolution="64", num_vectors_per_token=vectors, train_batch_size=1, learning_rate=0.01, eval_samples=8, cpu=True,
            )
        )  # fmt: skip
    return runs


def test_words_in_lanes_become_the_same_with_graphs(tmp_path, graphs):
    """Words that end early, and others that take their place, change how many rows a graph reads."""
    eager = [train(run) for run in words(tmp_path, "eager")]
    recorder = Rerun()
    graphs(recorder)
    together = train_words(words(tmp_path, "graphs"), lanes=2)
    assert recorder.replays > 8
    for one, other in zip(eager, together, strict=True):
        assert isinstance(other, Result)
        assert one.files[0].read_bytes() == other.files[0].read_bytes()


@pytest.mark.parametrize(
    ("recorder", "why"),
    [
        (Failing(), "operation not permitted when stream is capturing"),
        (Doubling(), "computed something else"),
        (Remembering(), "computed something else"),
    ],
)
def test_what_cannot_be_recorded_runs_without_graphs_and_says_so(run_for, graphs, recorder, why):
    eager = train(run_for("eager", **FLAGS))
    graphs(recorder)
    notes: list[str] = []
    found = train(run_for("graphs", **FLAGS), [lambda e: notes.append(e.text) if isinstance(e, Noted) else None])
    assert found.files[0].read_bytes() == eager.files[0].read_bytes()
    (note,) = [text for text in notes if "without CUDA graphs" in text]
    assert why in note
    assert "\n" not in note
    assert recorder.released


def test_a_shape_that_is_too_large_for_a_graph_runs_without(run_for, graphs):
    eager = train(run_for("eager", **FLAGS))
    made = graphs(Short())
    found = train(run_for("graphs", **FLAGS))
    assert found.files[0].read_bytes() == eager.files[0].read_bytes()
    assert not made[0].is_off
    assert len(made[0].too_large) == 1


def test_what_does_not_fit_beside_graphs_gets_their_memory(run_for, graphs, monkeypatch):
    """The evaluations of a run fail as often as there is a graph; after some of them, no more are recorded."""
    flags = {**FLAGS, "max_train_steps": 24, "eval_every_n_steps": 4}
    eager = train(run_for("eager", **flags))
    recorder = Rerun()
    (made, clean) = graphs(recorder), Evaluation.losses

    def losses(self, rows):
        if made and made[-1].graphs:
            raise torch.OutOfMemoryError("out of memory")
        return clean(self, rows)

    monkeypatch.setattr(Evaluation, "losses", losses)
    found = train(run_for("graphs", **flags))
    assert found.files[0].read_bytes() == eager.files[0].read_bytes()
    assert made[0].is_off
    assert made[0].shortages == StepGraphs.most_shortages


def test_sample_images_get_the_memory_of_the_graphs(run_for, graphs, tmp_path):
    """The graphs are recorded again after them."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a mychar4 --w 64 --h 64 --s 2")
    eager = train(run_for("eager", **FLAGS))
    recorder = Rerun()
    graphs(recorder)
    found = train(run_for("graphs", **FLAGS, sample_prompts=str(prompts), sample_every_n_steps=4))
    assert found.files[0].read_bytes() == eager.files[0].read_bytes()
    assert recorder.released == recorder.recorded == 2
    assert recorder.replays == 2 * (1 + 4 - StepGraphs.eager_calls)


@pytest.fixture
def two_sizes(run_for, tmp_path):
    """Return the run of a word with images of two sizes, for 24 steps."""
    for file in make_images(tmp_path / "wide", 3, size=(128, 64), caption="a mychar4").iterdir():
        file.rename(tmp_path / "pictures" / f"wide{file.name}")
    return lambda name: run_for(name, **{**FLAGS, "max_train_steps": 24, "enable_bucket": True, "min_bucket_reso": 64})


@pytest.mark.parametrize(("idle", "most"), [(200, 1), (0, 1), (200, 2)])
def test_only_so_many_shapes_are_recorded_at_a_time(monkeypatch, two_sizes, graphs, idle, most):
    """A graph that is idle makes room for another one."""
    monkeypatch.setattr("neonym.models.graphs.graphs.MOST", most)
    monkeypatch.setattr("neonym.models.graphs.graphs.IDLE", idle)
    eager = train(two_sizes("eager"))
    recorder = Rerun()
    made = graphs(recorder)
    found = train(two_sizes("graphs"))
    assert found.files[0].read_bytes() == eager.files[0].read_bytes()
    assert not made[0].is_off
    if idle == 200:
        assert recorder.recorded == most
    else:
        assert recorder.recorded > 2


@pytest.mark.parametrize(("rows", "room"), [(1, 1), (2, 2), (3, 4), (16, 16), (17, 32)])
def test_a_graph_has_room_for_more_rows(rows, room):
    assert room_for(torch.zeros(rows, 4)) == room
