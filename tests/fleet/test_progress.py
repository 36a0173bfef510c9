"""Tests of the figures that the table shows, and of the table."""

from io import StringIO

from rich.console import Console

from neonym.fleet.progress import FleetProgress, Speed
from neonym.fleet.table import FleetTable, drawn, line_of
from neonym.fleet.words import Outcome, Progress, Word

WORDS = [Word(name, name, {}, "", "") for name in ("one", "two", "three", "four")]


def fleet(times: list[float]) -> FleetProgress:
    """Return a fleet in the middle: `one` is learned, `two` runs, `three` failed, `four` waits."""
    progress = FleetProgress(WORDS, clock=lambda: times[0])
    progress.speeds["w"] = Speed("cuda:0")
    progress.begin("w", ["one", "two"])
    for name in ("one", "two"):
        progress.step("w", Progress(name, 0, 100, 0, 4.0))
    times[0] = 10.0
    progress.step("w", Progress("one", 100, 100, 0, 4.0))
    progress.step("w", Progress("two", 25, 100, 0, 4.0))
    progress.end(Outcome("one", "learned"))
    progress.end(Outcome("three", "failed", "no images"))
    return progress


def test_counts_speed_and_time_left():
    progress = fleet([0.0])
    assert progress.counts() == {
        "waiting": 1, "running": 1, "learned": 1, "weak": 0, "not learned": 0, "failed": 1
    }  # fmt: skip
    assert progress.images_per_second == 50.0  # 125 steps of 4 images in 10 seconds
    assert progress.seconds_left == (75 * 4 + 100 * 4) / 50.0


def test_a_resumed_word_counts_only_its_new_steps():
    times = [0.0]
    progress = FleetProgress(WORDS, clock=lambda: times[0])
    progress.speeds["w"] = Speed("cpu")
    progress.begin("w", ["one"])
    progress.step("w", Progress("one", 50, 100, 50, 2.0))
    times[0] = 5.0
    progress.step("w", Progress("one", 60, 100, 50, 2.0))
    assert progress.images_per_second == 4.0


def test_a_stopped_word_waits_again():
    progress = fleet([0.0])
    progress.end(Outcome("two", "stopped"))
    assert progress.states["two"] == "waiting"
    assert "two" not in progress.outcomes


def test_the_table_and_the_line_show_every_state():
    progress = fleet([0.0])
    shown = Console(file=StringIO(), width=100, record=True)
    shown.print(drawn(progress))
    text = shown.export_text()
    assert "waiting  running  learned  weak  not learned  failed" in text
    assert "cuda:0" in text
    assert "two" in text
    assert "50.0 images/s in all, 14 s left" in text
    assert line_of(progress) == "1 waiting, 1 running, 1 learned, 1 failed; 50.0 images/s; 14 s left"


def test_markup_in_a_name_is_text():
    progress = FleetProgress([Word("[red]x", "[red]x", {}, "")])
    progress.speeds["w"] = Speed("[bold]cpu")
    progress.begin("w", ["[red]x"])
    shown = Console(file=StringIO(), width=100, record=True)
    shown.print(drawn(progress))
    assert "[red]x" in (text := shown.export_text())
    assert "[bold]cpu" in text


def test_without_a_terminal_a_line_appears_and_is_not_repeated():
    output = StringIO()
    with FleetTable(Console(file=output, width=200)) as table:
        table.show(fleet([0.0]))
        table.show(fleet([0.0]))
    assert output.getvalue().count("\n") == 1
