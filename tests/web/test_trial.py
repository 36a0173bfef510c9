"""Verify how words are tried: what is generated, how it lies on a sheet, and on which device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from neonym import UserError
from neonym.web.draft import Draft
from neonym.web.home import Home
from neonym.web.library import Word
from neonym.web.queue import Queue
from neonym.web.trial import MOST, STRENGTHS, Batch, Trial
from neonym.web.trial_device import choices, device_for, gpus_in_use


def word(name: str, token: str = "zyzzo") -> Word:
    return Word(Path(f"/words/{name}.safetensors"), token, 0.0, "builtin:emoji", 2, {"word": "WEAK"}, ())


ONE, TWO = word("one"), word("two")


def files_of(trial: Trial) -> dict[Batch, tuple[Path, ...]]:
    """Return a file for each image, whose name says what it is of."""
    return {
        batch: tuple(Path(f"{batch.file.stem} {batch.prompt} {batch.strength} {seed}") for seed in trial.all_seeds)
        for batch in trial.batches()
    }


def test_two_words_and_their_seeds_are_one_sheet_with_the_same_seeds():
    trial = Trial((ONE, TWO), ("a {word}",), first_seed=5, seeds=2)
    assert trial.heads() == ["seed 5", "seed 6"]
    assert trial.rows(files_of(trial)) == [
        ("one, a zyzzo", [Path("one a {word} 1.0 5"), Path("one a {word} 1.0 6")]),
        ("two, a zyzzo", [Path("two a {word} 1.0 5"), Path("two a {word} 1.0 6")]),
    ]


def test_strengths_lie_side_by_side_with_a_row_for_each_seed_and_prompt():
    trial = Trial((ONE,), ("a {word}", "two {word}"), seeds=2, strengths=STRENGTHS)
    assert trial.heads() == ["strength 0.5", "strength 0.8", "strength 1", "strength 1.2", "strength 1.5"]
    rows = trial.rows(files_of(trial))
    assert [label for label, _ in rows] == [f"{p} zyzzo, seed {s}" for p in ("a", "two") for s in (1, 2)]
    assert rows[3][1] == [Path(f"one two {{word}} {strength} 2") for strength in STRENGTHS]
    assert trial.count == sum(len(images) for _, images in rows) == 20


def test_what_was_generated_before_a_stop_is_shown():
    trial = Trial((ONE,), ("a {word}",), seeds=2, strengths=STRENGTHS)
    begun = dict(list(files_of(trial).items())[:2])
    assert [len(images) for _, images in trial.rows(begun)] == [2, 2]
    assert Trial((ONE, TWO), ("a",)).rows({}) == []


def test_a_word_as_a_negative_prompt_is_taken_out_of_the_prompt():
    trial = Trial((ONE,), ("a red {word} here",), negative="blur", is_negative=True)
    (batch,) = trial.batches()
    request = trial.request(batch, "builtin:emoji", 4)
    assert (request["prompts"], request["negative_prompt"]) == (["a red here"], "blur, zyzzo")
    assert trial.rows(files_of(trial))[0][0] == "without zyzzo: a red here"


def test_too_much_and_nothing_are_refused():
    with pytest.raises(UserError, match="there is nothing to generate"):
        Trial((ONE,), ()).check()
    Trial((ONE,), ("a",), seeds=MOST).check()
    with pytest.raises(UserError, match=f"this makes {2 * MOST} images"):
        Trial((ONE, TWO), ("a",), seeds=MOST).check()


@pytest.fixture
def queue(tmp_path, images) -> Queue:
    """Return a queue on two GPUs with a run that waits."""
    queue = Queue(Home(tmp_path / "home"), ["cuda:2", "cuda:5"])
    queue.add(Draft({"train_data_dir": str(images), "token_string": "mychar4"}))
    return queue


def run_on(queue: Queue, *devices: str) -> None:
    """Let the queue say that runs use these devices."""
    (entry,) = queue.entries()[:1]
    for i, device in enumerate(devices):
        queue.folder(f"r{i}").mkdir()
        queue.save(replace(entry, id=f"r{i}", status="running", device=device))


def test_a_word_is_tried_on_a_gpu_that_no_run_uses(queue):
    assert list(choices(queue)) == ["", "cpu", "cuda:2", "cuda:5"]
    assert device_for(queue, "") == "cuda:0"  # torch sees the two as 0 and 1
    run_on(queue, "cuda:2")
    assert gpus_in_use(queue) == {"cuda:0"}
    assert device_for(queue, "") == "cuda:1"


def test_a_gpu_of_a_run_is_used_only_if_the_user_chooses_it(queue):
    run_on(queue, "cuda:2", "cuda:5")
    with pytest.raises(UserError, match="cuda:2 is used by the run of mychar4, which needs its memory"):
        device_for(queue, "")
    assert device_for(queue, "cpu") == "cpu"
    assert device_for(queue, "cuda:5") == "cuda:1"


def test_without_a_gpu_there_is_no_choice(tmp_path):
    queue = Queue(Home(tmp_path / "home"), ["cpu"])
    assert choices(queue) == {}
    assert device_for(queue, "") == "auto"
    assert gpus_in_use(queue) == set()
