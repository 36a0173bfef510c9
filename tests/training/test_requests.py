"""Verify that a run answers requests that another process makes by files in its run folder."""

from __future__ import annotations

from pathlib import Path

from neonym import Event, Noted, Sampled, Saved, Stepped, train
from neonym.formats import read_embedding


def requesting(folder: Path, request: str, step: int, seen: list[Event]):
    """Return a listener that records events, and makes a request after a step, as another process would."""

    def listen(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Stepped) and event.step == step:
            (folder / request).touch()

    return listen


def test_a_run_saves_its_word_when_it_is_asked_and_learns_the_same(run_for):
    folder, seen = Path(run_for("asked").save.output_dir) / "mychar4-run", []
    asked = train(run_for("asked"), [requesting(folder, "save-now", 3, seen)])
    (saved,) = [event for event in seen if isinstance(event, Saved)]
    assert saved.step == 3
    assert saved.in_run_folder
    assert read_embedding(saved.file).metadata["neonym.steps"] == "3"
    assert not (folder / "save-now").exists()
    alone = train(run_for("alone"))
    assert asked.files[0].read_bytes() == alone.files[0].read_bytes()


def test_a_run_generates_images_when_it_is_asked(run_for, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a mychar4 --s 2")
    run = run_for(sample_prompts=str(prompts), max_train_steps=3)
    folder, seen = Path(run.save.output_dir) / "mychar4-run", []
    train(run, [requesting(folder, "sample-now", 2, seen)])
    (sampled,) = [event for event in seen if isinstance(event, Sampled)]
    assert sampled.step == 2
    assert all(file.is_file() for file in sampled.files)
    assert not (folder / "sample-now").exists()


def test_a_run_without_prompts_reports_that_it_cannot(run_for):
    run = run_for(max_train_steps=3)
    folder, seen = Path(run.save.output_dir) / "mychar4-run", []
    train(run, [requesting(folder, "sample-now", 1, seen)])
    assert "the run has no `sample_prompts`" in " ".join(event.text for event in seen if isinstance(event, Noted))
