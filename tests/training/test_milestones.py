"""Tests of the schedule of a run: its length, saves, states, samples and early stopping."""

import base64
import errno
import json
import resource
from pathlib import Path

import pytest
import torch

from neonym import train
from neonym.errors import UserError
from neonym.formats import read_embedding
from neonym.generation.request.prompts import inline_values, read_prompts
from neonym.preflight.preflight import preflight
from neonym.runs.events import Evaluated, Event, Finished, Noted, Saved, Started, Stepped
from neonym.training import state
from neonym.training.checkpoint import CheckpointStore
from neonym.training.early_stopping import EarlyStopping
from neonym.training.metadata import as_data_url
from support.runs import notes_of, rows, stop_at


class Recorder:
    """A listener that records every event of a run."""

    def __init__(self):
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Event]) -> list:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def notes(self) -> list[str]:
        """The texts of the notes."""
        return notes_of(self.events)


def names(run, pattern: str = "*.safetensors") -> list[str]:
    """Return the sorted names of the files in the output folder that match a pattern."""
    return sorted(p.name for p in Path(run.save.output_dir).glob(pattern))


def test_epochs_are_converted_to_steps(run_for):
    """Six images in batches of four give two steps per epoch; files and states of old epochs are removed."""
    run = run_for(
        max_train_epochs=5, save_every_n_epochs=1, save_last_n_epochs=2, save_state=True, save_last_n_epochs_state=1
    )
    assert preflight(run).complete_plan().milestones.total == 10
    result = train(run)
    assert result.steps == 10
    assert names(run) == ["mychar4-000003.safetensors", "mychar4-000004.safetensors", "mychar4.safetensors"]
    assert names(run, "*-state") == ["mychar4-000004-state", "mychar4-state"]


def test_a_save_ratio_is_converted_to_an_interval(run_for):
    for epochs, ratio, interval in ((10, 3, 3), (2, 9, 1)):
        plan = preflight(run_for(max_train_epochs=epochs, save_n_epoch_ratio=ratio)).complete_plan()
        assert plan.milestones.save_every_n_epochs == interval


def test_old_step_files_of_this_run_are_removed(run_for):
    """Old step files are removed, except one whose number is not a multiple of the run's interval."""
    run = run_for(max_train_steps=9, save_every_n_steps=2, save_last_n_steps=3, save_state=True)
    stranger = Path(run.save.output_dir) / "mychar4-step00000003.safetensors"
    stranger.parent.mkdir()
    stranger.write_text("of another run")
    train(run)
    assert stranger.read_text() == "of another run"
    stranger.unlink()
    assert names(run) == ["mychar4-step00000006.safetensors", "mychar4-step00000008.safetensors", "mychar4.safetensors"]
    assert names(run, "*-state") == ["mychar4-state", "mychar4-step00000006-state", "mychar4-step00000008-state"]


@pytest.mark.parametrize(
    ("every", "keep", "left"),
    [(3, 3, {3: [3], 6: [3, 6], 9: [6, 9], 12: [9, 12]}), (2, 3, {4: [2, 4], 6: [4, 6]}), (5, 1, {10: [10]})],
)
def test_retention_counts_steps_as_sd_scripts_does(run_for, every, keep, left):
    """After step s, the files of steps below s - keep are removed, as in sd-scripts."""
    ready = preflight(run_for(save_every_n_steps=every, save_last_n_steps=keep))
    store = CheckpointStore(ready.complete_plan())
    store.folder.parent.mkdir(parents=True)
    for done in range(every, max(left) + 1, every):
        store.file(f"-step{done:08d}").touch()
        store.remove_older(r"-step(\d{8})", every, done - keep, 0)
        if done in left:
            assert names(ready.run) == [f"mychar4-step{number:08d}.safetensors" for number in left[done]]


def test_metadata_of_the_user_and_of_the_settings(run_for, tmp_path):
    """Metadata holds the thumbnail itself, and the timestep range and CLIP layer where they are set."""
    image = tmp_path / "thumb.png"
    image.write_bytes(b"picture")
    flags = {"metadata_thumbnail": str(image), "metadata_author": "me", "min_timestep": 100, "clip_skip": 2}
    result = train(run_for(max_train_steps=1, **flags))
    found = read_embedding(result.files[0]).metadata
    assert found["modelspec.thumbnail"] == "data:image/png;base64," + base64.b64encode(b"picture").decode()
    assert found["modelspec.author"] == "me"
    assert found["modelspec.timestep_range"] == "100,1000"
    assert found["modelspec.encoder_layer"] == "2"
    assert as_data_url("data:image/png;base64,AA==") == "data:image/png;base64,AA=="
    missing = run_for("other", metadata_thumbnail=str(tmp_path / "none.png"))
    assert any(p.where.startswith("--metadata_thumbnail") for p in preflight(missing).problems)


def test_resuming_from_a_state_folder_of_another_run(run_for):
    """A run from another run's state of step 4 reaches the same end; different settings are reported."""
    whole = run_for("whole", save_every_n_steps=4, save_state=True)
    train(whole)
    folder = Path(whole.save.output_dir) / "mychar4-step00000004-state"
    again = run_for("again", resume=str(folder))
    report = Recorder()
    train(again, [report])
    assert torch.equal(*(rows(Path(r.save.output_dir) / "mychar4.safetensors") for r in (whole, again)))
    assert any("continuing from step 4" in note for note in report.notes)
    longer, report = run_for("longer", resume=str(folder), max_train_steps=12), Recorder()
    assert train(longer, [report]).steps == 12
    assert any("max_train_steps (was 8, is 12)" in note for note in report.notes)
    with pytest.raises(UserError, match="does not fit"):
        train(run_for("other", resume=str(folder), num_vectors_per_token=2))
    with pytest.raises(UserError, match="contains no state.safetensors"):
        train(run_for("none", resume=str(folder.parent)))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_run_is_not_repeated(run_for):
    """The command of a finished run reports that and changes nothing; another format is written without a step."""
    run, report = run_for(), Recorder()
    first = train(run)
    before = contents(Path(run.save.output_dir))
    again = train(run, [report])
    assert (again.files, again.steps, again.verdicts) == (first.files, 8, first.verdicts)
    assert (first.was_finished, again.was_finished) == (False, True)
    (verdict,) = first.verdicts
    assert [event for event in report.events if not isinstance(event, Noted)] == [
        Finished(8, tuple(first.files), (verdict.as_dict(),))
    ]
    assert contents(Path(run.save.output_dir)) == before
    (message,) = [note for note in report.notes if "finished already" in note]
    for words in (
        str(first.files[0]),
        f"`mychar4`: {first.verdicts[0].word}",
        "max_train_steps",
        "from step 8",
        "restart",
    ):
        assert words in message
    assert torch.equal(rows(train(run_for(save_model_as="pt"), [refuse_steps]).files[0]), rows(first.files[0]))
    first.files[0].unlink()
    train(run, [refuse_steps])
    assert contents(Path(run.save.output_dir))["mychar4.safetensors"] == before["mychar4.safetensors"]
    assert len(trained_steps(run_for(restart=True))) == 8


def test_a_finished_run_continues_with_more_steps_and_is_replaced_with_other_settings(run_for):
    train(run_for())
    report = Recorder()
    assert trained_steps(run_for(max_train_steps=11), report) == [9, 10, 11]
    assert any("continuing from step 8 of the finished run" in note for note in report.notes)
    assert any("max_train_steps (was 8, is 11)" in note for note in report.notes)
    report = Recorder()
    assert len(trained_steps(run_for(learning_rate=1e-3), report)) == 8
    assert any("is replaced: learning_rate (was 0.005, is 0.001)" in note for note in report.notes)
    assert len(trained_steps(run_for(learning_rate=1e-3, max_train_steps=6))) == 6  # fewer steps: another run


def test_a_continued_run_can_be_interrupted(run_for):
    train(run_for())
    assert train(run_for(max_train_steps=12), **stop_at(10)).signal == 15
    assert trained_steps(run_for(max_train_steps=12)) == [11, 12]


def test_a_run_from_another_state_replaces_a_finished_run(run_for):
    other = run_for("other", save_every_n_steps=4, save_state=True, learning_rate=0.001)
    train(other)
    train(run_for())
    folder = str(Path(other.save.output_dir) / "mychar4-step00000004-state")
    assert trained_steps(run_for(resume=folder)) == [5, 6, 7, 8]
    assert trained_steps(run_for(resume=folder)) == []


def refuse_steps(event: Event) -> None:
    """Fail at a step, as the listener of a run that has no step to do."""
    if isinstance(event, Stepped):
        pytest.fail(f"step {event.step} was done")


def trained_steps(run, report: Recorder | None = None) -> list[int]:
    """Train a run, and return the steps that it did."""
    report = report or Recorder()
    train(run, [report])
    return [event.step for event in report.of(Stepped)]


def test_a_run_can_start_at_a_later_step(run_for):
    report = Recorder()
    train(run_for(initial_epoch=3), [report])
    (started,) = report.of(Started)
    assert (started.first_step, started.steps) == (4, 8)
    assert [event.step for event in report.of(Stepped)] == [5, 6, 7, 8]
    assert preflight(run_for(initial_epoch=3)).complete_plan().milestones.first == 4
    assert preflight(run_for(initial_step=5)).complete_plan().milestones.first == 5


def test_a_run_from_a_state_folder_continues_from_its_own_later_state(run_for):
    first = run_for("first", save_every_n_steps=2, save_state=True)
    train(first)
    folder = str(Path(first.save.output_dir) / "mychar4-step00000002-state")
    again = run_for("again", resume=folder)
    assert train(again, **stop_at(5)).signal == 15
    report = Recorder()
    train(again, [report])
    assert any("continuing from step 5" in note for note in report.notes)
    assert torch.equal(*(rows(Path(r.save.output_dir) / "mychar4.safetensors") for r in (first, again)))


def test_starting_after_the_end_is_an_error(run_for):
    assert any(
        "would start at step 8, but the training ends at step 8" in p.what
        for p in preflight(run_for(initial_step=8)).problems
    )


def test_a_time_limit_ends_a_run_that_can_be_continued(run_for):
    report = Recorder()
    result = train(run_for(max_train_steps=100_000, max_train_time=0.02), [report])
    assert 0 < result.steps < 100_000
    assert result.files[0].exists()
    assert result.verdicts
    assert any("was up after step" in note for note in report.notes)
    again = Recorder()
    assert train(run_for(max_train_steps=100_000, max_train_time=0.02), [again]).steps > result.steps
    assert any(f"continuing from step {result.steps} of the interrupted run" in note for note in again.notes)


def test_the_moving_average_is_saved(run_for):
    plain, averaged = (train(run_for(str(decay), ema_decay=decay)) for decay in (None, 0.9))
    assert not torch.equal(rows(plain.files[0]), rows(averaged.files[0]))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo reads it
def test_a_compiled_model_learns_the_same(run_for):
    plain, compiled = run_for("plain"), run_for("compiled", torch_compile=True, dynamo_backend="aot_eager")
    a, b = (rows(train(run).files[0]) for run in (plain, compiled))
    assert float((a - b).abs().max()) < 1e-4
    (problem,) = [
        p for p in preflight(run_for(torch_compile=True, dynamo_backend="inducto")).problems if p.severity == "error"
    ]
    assert problem.fix == "Did you mean `inductor`?"


def test_files_have_the_requested_metadata_and_precision(run_for):
    result = train(run_for(max_train_steps=1, metadata_author="A. Mole", metadata_title="Mole", save_precision="fp16"))
    found = read_embedding(result.files[0])
    assert found.metadata["modelspec.author"] == "A. Mole"
    assert found.metadata["modelspec.title"] == "Mole"
    assert torch.equal(found.vectors["text_encoder"], found.vectors["text_encoder"].half().float())


def test_a_full_disk_while_saving_is_survived(run_for, monkeypatch):
    """Saves that fail on a full disk are reported, and the run continues and writes its file."""
    run, report, inner = run_for(save_every_n_steps=2, state_every_n_steps=2), Recorder(), state.save
    full = {"now": False}

    def save(*args, **kwargs):
        if full["now"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return inner(*args, **kwargs)

    def fill(event: Event) -> None:
        if isinstance(event, Stepped):
            full["now"] = 3 <= event.step <= 6

    monkeypatch.setattr(state, "save", save)
    result = train(run, [report, fill])
    assert result.steps == 8
    assert result.files[0].exists()
    warnings = [note for note in report.notes if "No space left" in note]
    assert len(warnings) == 2
    assert not list(Path(run.save.output_dir).rglob("*.part"))


def test_files_that_were_written_are_announced_although_a_later_one_fails(run_for):
    """A folder in the place of the epoch's file makes its save fail, after that of the step."""
    run, report = run_for(save_every_n_steps=2, save_every_n_epochs=1, max_train_steps=4), Recorder()
    out = Path(run.save.output_dir)

    def obstruct(event: Event) -> None:
        if isinstance(event, Started):
            (out / "mychar4-000001.safetensors" / "x").mkdir(parents=True)

    train(run, [obstruct, report])
    assert [(event.step, event.file.name) for event in report.of(Saved)] == [
        (2, "mychar4-step00000002.safetensors"),
        (4, "mychar4-step00000004.safetensors"),
    ]
    assert all(event.file.is_file() for event in report.of(Saved))
    assert [note for note in report.notes if "mychar4-000001.safetensors" in note and "cannot be written" in note]


def test_early_stopping_waits_for_a_flat_curve_and_keeps_the_best_rows():
    curve = [1.0, 0.8, 0.6, 0.5, 0.45, 0.43, 0.42, 0.421, 0.4205, 0.4207]
    early_stopping = EarlyStopping(window=4, threshold=0.02)
    stops = []
    for i, loss in enumerate(curve):
        early_stopping.add(loss, {"e": torch.tensor(float(i))})
        stops.append(early_stopping.should_stop())
    assert stops == [False] * 7 + [True] * 3
    assert float(early_stopping.best["e"]) == 6
    early_stopping.add(float("nan"), {"e": torch.tensor(99.0)})
    assert float(early_stopping.best["e"]) == 6


def test_early_stopping_ends_the_run_with_the_best_rows(run_for):
    options = {"early_stop": True, "eval_every_n_steps": 2, "early_stop_window": 2, "early_stop_threshold": 0.5}
    run, report = run_for(max_train_steps=60, learning_rate=0.02, **options), Recorder()
    result = train(run, [report])
    assert result.steps < 60
    losses = [event.loss for event in report.of(Evaluated)]
    assert result.verdicts[0].loss_after == pytest.approx(min(losses[1:]), rel=1e-5)
    parts = run_for("parts", max_train_steps=60, learning_rate=0.02, **options)
    train(parts, **stop_at(result.steps - 2))
    again = train(parts)
    assert again.steps == result.steps
    assert torch.equal(rows(result.files[0]), rows(again.files[0]))


def test_sample_images_do_not_change_training(run_for, tmp_path):
    """A run writes the same embedding with and without sample images, which have sd-scripts' names."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# comment\n\na sticker of a mychar4 --d 7 --s 2 --l 3 --w 70\na red apple --s 2 --ss euler_a\n")
    options = {"sample_prompts": str(prompts), "sample_every_n_steps": 4, "sample_at_first": True}
    without, sampled, report = run_for("without"), run_for("with", learning_rate=5e-3, **options), Recorder()
    train(without)
    train(sampled, [report])
    assert torch.equal(*(rows(Path(r.save.output_dir) / "mychar4.safetensors") for r in (without, sampled)))
    written = sorted(p.name for p in (Path(sampled.save.output_dir) / "sample").iterdir())
    for tag in ("e000000", "000004", "000008"):
        mine = [name for name in written if f"_{tag}_" in name]
        assert len(mine) == 3
        assert sum(name.startswith(f"mychar4_{tag}_00_") and name.endswith("_7.png") for name in mine) == 1
        assert f"mychar4_{tag}_sheet.png" in mine
    assert any("`a red apple` contains none of the new words" in note for note in report.notes)


def test_a_sheet_that_cannot_be_written_leaves_the_old_one_intact(run_for, tmp_path):
    """A sheet that exceeds a real limit on the file size leaves the old sheet intact."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a sticker of a mychar4 --s 1\na red mychar4 --s 1\n")
    options = {"sample_prompts": str(prompts), "sample_every_n_steps": 4, "max_train_steps": 5}
    run = run_for(**options)
    train(run)
    folder = Path(run.save.output_dir) / "sample"
    sheet = folder / "mychar4_000004_sheet.png"
    before, limits = sheet.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    single = max(p.stat().st_size for p in folder.iterdir() if p != sheet)

    def limit(event: Event) -> None:
        if isinstance(event, Stepped):
            soft = (single + len(before)) // 2 if event.step == 4 else limits[0]
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, limits[1]))

    report = Recorder()
    try:
        assert train(run_for(**options, restart=True, learning_rate=1e-5), [report, limit]).steps == 5
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert any("no sample images at 000004" in note and "File too large" in note for note in report.notes)
    assert sheet.read_bytes() == before
    assert not list(folder.glob("*.part"))


def test_prompt_files_are_read_and_their_mistakes_reported(tmp_path):
    toml = tmp_path / "p.toml"
    toml.write_text(
        '[prompt]\nwidth = 100\nscale = 2\n[[prompt.subset]]\nprompt = "a"\nscale = 5\n[[prompt.subset]]\nprompt = "b"'
    )
    first, second = read_prompts(str(toml))[0]
    assert (first.width, first.on_grid(8).width, first.on_grid(16).width, first.scale, second.scale) == (
        100,
        96,
        96,
        5.0,
        2.0,
    )
    listed = tmp_path / "p.json"
    listed.write_text(json.dumps(["n cat --n blurry, h 12 --H 64", {"prompt": "x", "seed": 3}]))
    first, second = read_prompts(str(listed))[0]
    assert (first.prompt, first.negative_prompt, first.on_grid(8).height, second.seed) == (
        "n cat",
        "blurry, h 12",
        64,
        3,
    )
    found: list = []
    assert inline_values("--n only", "here", found)["prompt"] == ""
    bad = tmp_path / "bad.txt"
    bad.write_text("a --s 2000\nb --zz 3\nc --d x\n--n nothing\nd --l nan\ne --w -5\n")
    prompts, problems = read_prompts(str(bad))
    text = "\n".join(str(p) for p in problems)
    for words in (
        "line 1",
        "1 to 1000",
        "`--zz` is not an inline option",
        "`seed`",
        "line 4: the prompt is missing",
        "line 5: `scale`",
        "line 6: `width`",
    ):
        assert words in text
    assert [p.prompt for p in prompts] == ["a", "b", "c", "d", "e"]
    bad.write_text("a --d -1")
    prompts, (problem,) = read_prompts(str(bad))
    assert (prompts[0].seed, problem.severity) == (None, "warning")
    for file in ("none.txt", "p.yaml"):
        assert read_prompts(str(tmp_path / file))[1]


def test_samples_without_prompts_are_refused(run_for):
    problems = preflight(run_for(sample_every_n_steps=2)).problems
    assert any(p.where == "--sample_prompts" and p.severity == "error" for p in problems)
