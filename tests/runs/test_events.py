"""Tests of the events of real runs: what listeners receive, what the event file holds, that neither affects a run."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch

from neonym.errors import RefuseRun, UserError
from neonym.io.atomic import alone_in
from neonym.preflight.preflight import preflight
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.event_file import EventFile
from neonym.runs.events import (
    Encoded,
    Evaluated,
    Event,
    Failed,
    Finished,
    Judged,
    Judging,
    Noted,
    Opened,
    Saved,
    Started,
    Stepped,
    Stopped,
)
from neonym.runs.losses import Losses, LossQueue
from neonym.runs.outputs import EVENTS
from neonym.runs.start import train
from neonym.runs.stop import Stop
from neonym.training.run import train_plans
from support.runs import notes_of, stop_at

PROGRESS = (Encoded, Judging)


def lines_of(run) -> list[dict]:
    """Return the lines of a run's event file."""
    file = Path(run.save.output_dir) / "mychar4-run" / EVENTS
    return [json.loads(line) for line in file.read_text().splitlines()]


def file_of(run) -> bytes:
    """Return the content of a run's embedding file."""
    return (Path(run.save.output_dir) / "mychar4.safetensors").read_bytes()


def test_a_run_emits_its_events_in_order(run_for):
    """A run of four steps emits its events in order, and the event file holds the same ones."""
    run, events = run_for(max_train_steps=4, eval_every_n_steps=2, save_every_n_steps=2), []
    result = train(run, [events.append])
    assert all(isinstance(event, Event) for event in events)
    emitted = [event for event in events if not isinstance(event, (Noted, *PROGRESS))]
    assert [type(event) for event in emitted] == [
        Opened, Started, Evaluated,
        Stepped, Stepped, Evaluated, Saved, Stepped, Stepped, Evaluated, Saved,
        Judged, Finished,
    ]  # fmt: skip
    opened, started, start, first = emitted[:4]
    assert opened == Opened(Path(run.save.output_dir) / "mychar4-run", ("mychar4",), 1)
    assert started == Started(first_step=0, steps=4, steps_per_epoch=2, samples_per_step=3)
    assert (start.step, start.of_start, start.distances) == (0, True, (0.0,))
    assert (first.step, len(first.losses), first.found_rates) == (1, 1, ())
    evaluated, judged, finished = emitted[5], emitted[-2], emitted[-1]
    assert (evaluated.of_start, evaluated.loss) == (False, evaluated.losses[0])
    assert judged.distances[0] > evaluated.distances[0] > 0
    assert judged.losses == (result.verdicts[0].loss_after,)
    assert (finished.step, finished.files) == (4, tuple(result.files))
    assert finished.verdicts == (result.verdicts[0].as_dict(),)
    assert [event.done for event in events if isinstance(event, Encoded)] == list(range(7))
    assert [event.done for event in events if isinstance(event, Judging)][-1] == events[-4].total

    lines = lines_of(run)
    assert lines[0]["event"] == "opened"
    assert lines[0]["version"] == 1
    plain = [json.loads(json.dumps({"event": event.kind, **event.facts()})) for event in events]
    kept = [fact for fact in plain if fact["event"] not in ("opened", "encoded", "judging")]
    written = [{k: v for k, v in line.items() if k != "time"} for line in lines[1:]]
    assert [line for line in written if line["event"] not in ("encoded", "judging")] == kept
    assert {"event": "encoded", "word": "mychar4", "done": 6, "total": 6} in written
    times = [line["time"] for line in lines[1:]]
    assert times == sorted(times)


def test_the_event_file_keeps_the_keys_that_its_readers_use(run_for):
    run = run_for(max_train_steps=2, eval_every_n_steps=1, save_every_n_steps=1)
    train(run)
    keys = {line["event"]: set(line) for line in lines_of(run)}
    assert {"first_step", "steps"} <= keys["started"]
    assert {"event", "time", "step", "losses"} <= keys["step"]
    assert {"step", "loss", "losses"} <= keys["evaluated"]
    assert {"step", "file"} <= keys["saved"]
    assert {"step", "files", "verdicts"} <= keys["finished"]
    assert {"text"} <= keys["note"]


def test_a_failing_listener_causes_one_warning_and_changes_nothing(run_for):
    quiet, loud, events = run_for("quiet"), run_for("loud"), []

    def failing(event: Event) -> None:
        raise UserError("refused") if isinstance(event, Opened) else RefuseRun("too late")

    train(quiet)
    train(loud, [failing, events.append])
    assert file_of(loud) == file_of(quiet)
    warnings = [note for note in notes_of(events) if "failed" in note]
    assert len(warnings) == 1
    assert "failing failed (" in warnings[0]
    assert [e.level for e in events if isinstance(e, Noted) and e.text == warnings[0]] == ["warning"]
    assert [e.step for e in events if isinstance(e, Stepped)] == list(range(1, 9))


def public_parts(value: object, depth: int = 4) -> Iterator[object]:
    """Yield a value and everything that can be reached from it through public names, items and keys."""
    yield value
    if depth == 0 or isinstance(value, (str, bytes, int, float, type, Path)) or callable(value):
        return
    inner = [getattr(value, name, None) for name in dir(value) if not name.startswith("_")]
    inner += list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, Sequence) else []
    for part in inner:
        yield from public_parts(part, depth - 1)


def spoil(value: object) -> None:
    """Change a value in every public way."""
    attempts: list[Callable[[Any], object]] = [lambda v: v.fill_(float("nan")), lambda v: v.clear()]
    attempts += [lambda v, name=name: setattr(v, name, None) for name in dir(value) if not name.startswith("_")]
    attempts += [lambda v: v.__setitem__(0, float("nan")), lambda v: v.__delitem__(0)]
    for attempt in attempts:
        with suppress(AttributeError, TypeError, IndexError, KeyError, FrozenInstanceError):
            attempt(value)


def test_a_listener_that_changes_all_it_can_reach_changes_nothing(run_for):
    quiet, spoiled, steps, seen = run_for("quiet", max_train_steps=4), run_for("spoiled", max_train_steps=4), [], []

    def spoil_all(event: Event) -> None:
        for part in list(public_parts(event)):
            if not (isinstance(part, (Path, type)) or callable(part)):
                spoil(part)
                seen.append(type(part))

    train(quiet)
    result = train(spoiled, [spoil_all, lambda event: steps.append(event) if isinstance(event, Stepped) else None])
    assert Losses in seen
    assert file_of(spoiled) == file_of(quiet)
    assert all(loss > 0 for step in steps for loss in step.losses)
    assert [line["losses"] for line in lines_of(spoiled) if line["event"] == "step"] == [list(s.losses) for s in steps]
    assert result.verdicts[0].encoders
    folder = Path(spoiled.save.output_dir) / "mychar4-run"
    assert json.loads((folder / "verdict.json").read_text()) == [verdict.as_dict() for verdict in result.verdicts]


def test_the_losses_of_an_event_are_a_copy():
    """What a listener does to the tensor inside an event does not reach the run, nor the reverse."""
    values = torch.tensor([1.0, 2.0])
    losses = LossQueue().add(values)
    values.fill_(3.0)
    assert list(losses) == [1.0, 2.0]
    assert not [name for name in vars(type(losses)) if not name.startswith("_") and name not in ("is_fetched", "read")]
    with pytest.raises(AttributeError):
        losses.values = values  # pyright: ignore[reportAttributeAccessIssue]


def test_a_listener_can_stop_a_run_that_is_resumed_later(run_for):
    whole, parts, events = run_for("whole"), run_for("parts"), []
    train(whole)
    following = stop_at(2)
    stopped = train(parts, [*following["listeners"], events.append], following["stop"])
    assert (stopped.steps, stopped.signal, stopped.files) == (2, 15, [])
    assert [e.step for e in events if isinstance(e, Stepped)] == [1, 2]
    assert events[-1] == Stopped(2, 15)
    events.clear()
    assert train(parts, [events.append]).steps == 8
    assert next(e for e in events if isinstance(e, Started)).first_step == 2
    assert file_of(parts) == file_of(whole)
    assert [line["event"] for line in lines_of(parts)].count("opened") == 2


def test_losses_stay_on_their_device_until_they_are_read(run_for):
    """Losses are fetched from the device when one is read, and then all together."""
    events: list[Event] = []
    plan = preflight(run_for(max_train_steps=4)).complete_plan()
    train_plans([plan], [Dispatcher([events.append])], Stop())
    steps = [event for event in events if isinstance(event, Stepped)]
    assert len(steps) == 4
    assert not any(step.losses.is_fetched for step in steps)
    assert "not fetched" in repr(steps[0].losses)
    assert steps[2].losses[0] > 0
    assert all(step.losses.is_fetched for step in steps)
    queue = LossQueue()
    losses = [queue.add(torch.tensor([float(i), 2.0])) for i in range(3)]
    del losses[1]  # it can no longer be read
    assert [list(numbers) for numbers in losses] == [[0.0, 2.0], [2.0, 2.0]]
    assert losses[0] == (0.0, 2.0)
    assert losses[1][:1] == (2.0,)


def test_a_listener_can_refuse_a_run_before_anything_is_loaded(run_for):
    events: list[Event] = []

    def refuse(event: Event) -> None:
        if isinstance(event, Opened):
            raise RefuseRun("not today")

    with pytest.raises(RefuseRun, match="not today"):
        train(run_for(), [events.append, refuse])
    assert [type(event) for event in events if not isinstance(event, Noted)] == [Opened, Failed]
    assert events[-1] == Failed("not today.")


def test_a_run_that_fails_emits_an_event(run_for):
    events: list[Event] = []

    class Wild(BaseException):
        pass

    def listen(event: Event) -> None:
        if isinstance(event, Stepped):
            raise Wild("no Exception: it ends the run")

    run = run_for()
    with pytest.raises(Wild):
        train(run, [events.append, listen])
    assert events[-1] == Failed("no Exception: it ends the run")
    assert lines_of(run)[-1]["event"] == "failed"


def test_a_run_that_fails_before_it_is_opened_emits_an_event(run_for, tmp_path):
    """A locked folder and a state that cannot be resumed reach listeners, and leave the event file alone."""
    run, events = run_for(max_train_steps=2), []
    folder = Path(run.save.output_dir) / "mychar4-run"
    folder.mkdir(parents=True)
    with alone_in(folder), pytest.raises(UserError, match="another process"):
        train(run, [events.append])
    assert [type(event) for event in events if not isinstance(event, Noted)] == [Failed]
    assert "another process is training here" in events[-1].error
    events.clear()
    (tmp_path / "mychar4-state").mkdir()
    (tmp_path / "mychar4-state" / "state.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="is damaged"):
        train(run_for(max_train_steps=2, resume=str(tmp_path / "mychar4-state")), [events.append])
    assert "is damaged" in events[-1].error
    assert not (folder / EVENTS).exists()


def test_the_event_file_leaves_the_folder_of_another_run_alone(tmp_path):
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    file, events = EventFile(Dispatcher()), [Noted("info", "early"), Opened(folder, ("a",)), Noted("info", "late")]
    with alone_in(folder):
        for event in events:
            file(event)
        before = (folder / EVENTS).read_text()
        assert [json.loads(line).get("text") for line in before.splitlines()] == [None, "early", "late"]
        folder.rename(other)
        folder.mkdir()  # as another run would
        file(Noted("info", "not here"))
        assert not list(folder.iterdir())
        with alone_in(folder):  # recreated by this run
            file(Noted("info", "here"))
        assert [json.loads(line)["text"] for line in (folder / EVENTS).read_text().splitlines()] == ["not here", "here"]
        assert (other / EVENTS).read_text() == before


def test_an_event_file_that_cannot_be_written_causes_one_warning(tmp_path):
    events: list[Event] = []
    dispatcher = Dispatcher([events.append])
    file = EventFile(dispatcher)
    dispatcher.listeners.append(file)
    (tmp_path / EVENTS).mkdir()
    with alone_in(tmp_path):
        dispatcher.emit(Opened(tmp_path, ("a",)))
        dispatcher.note("more")
    assert ["cannot be written" in note for note in notes_of(events)] == [True, False]


def test_notes_have_the_level_that_they_are_emitted_with():
    """The level does not follow from the text: a note may begin with any word, and problems keep their severity."""
    events: list[Event] = []
    dispatcher = Dispatcher([events.append])
    dispatcher.note("warning lights are in all images")
    dispatcher.warn("the disk is full")
    dispatcher.result("mychar4: LEARNED")
    assert events == [
        Noted("info", "warning lights are in all images"),
        Noted("warning", "warning: the disk is full"),
        Noted("result", "mychar4: LEARNED"),
    ]


def test_the_problems_of_a_run_are_noted_with_their_severity(run_for):
    run, events = run_for(max_train_steps=1, huber_c=0.3), []
    train(run, [events.append])
    levels = {note.text.partition(":")[0]: note.level for note in events if isinstance(note, Noted)}
    assert (levels["warning"], levels["note"], levels["mychar4"]) == ("warning", "info", "result")
    assert {"warning", "info", "result"} == {line["level"] for line in lines_of(run) if line["event"] == "note"}


def test_the_events_page_is_up_to_date():
    from tools.events_page import PAGE, page

    assert PAGE.read_text() == page()
