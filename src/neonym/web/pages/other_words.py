"""The other words of a run that learns several, of which the page follows the first one."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from nicegui import ui

from neonym.web.home import plain
from neonym.web.images import query
from neonym.web.pages.frame import card, dim
from neonym.web.pages.runs import line_of
from neonym.web.queue import EVENTS, Entry
from neonym.web.run_log import RunLog


class OtherWords:
    """The lines of the other words: how far each is, and the way to its page once it has a file."""

    def __init__(self, entry: Entry):
        outputs = Path(entry.run_folder).parent
        self.logs = {word: RunLog(outputs / f"{word}-run" / EVENTS) for word in entry.others}
        self.lines: dict[str, tuple[ui.label, ui.button]] = {}

    def build(self) -> None:
        """Make a line for each word."""
        if not self.logs:
            return
        with card("Other words of this run"):
            dim("The curve and the images below are those of the first word.")
            for word, log in self.logs.items():
                with ui.row().classes("items-center gap-2"):
                    ui.label(plain(word)).style("font-weight: 650")
                    line = dim("")
                    button = ui.button("Look at it", on_click=partial(self.look, log)).props("flat dense")
                    button.props["aria-label"] = plain(f"look at {word}")
                self.lines[word] = line, button

    def look(self, log: RunLog) -> None:
        """Go to the page of a word."""
        ui.navigate.to(f"/word?{query(file=log.files[0])}")

    def refresh(self, entry: Entry) -> None:
        """Show what the words have reported, once the run was started."""
        for word, (line, button) in self.lines.items():
            log = self.logs[word]
            if entry.device:
                log.read()
            line.text = plain(line_of(entry, log) if entry.device else "waiting")
            button.set_visibility(bool(log.files))
