"""A fleet: how many words are in each state, and each word with its verdict."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request
from nicegui import ui

from neonym.web.fleets import Fleet, FleetWord, fleets_in
from neonym.web.home import plain
from neonym.web.images import paths_of, query
from neonym.web.pages.frame import card, dim, page
from neonym.web.state import State

EVERY = 2.0  # seconds between two looks
QUIET = 5  # minutes without a report, after which the command of a fleet may have been ended
COLUMNS = [
    {"name": name, "label": label, "field": name, "sortable": True, "align": "left"}
    for name, label in (("word", "Word"), ("state", "State"), ("step", "Steps"), ("text", "Reason and advice"))
]
LINK = '<q-td :props="props"><a v-if="props.row.url" class="n-link" :href="props.row.url">{{ props.value }}</a>'
LINK += "<span v-else>{{ props.value }}</span></q-td>"


def fleet_page(state: State) -> None:
    """Add the page to the application."""

    @ui.page("/fleet")
    def show(request: Request) -> None:
        folder = next(iter(paths_of(request, "folder")), Path())
        with page(f"Fleet: {folder.name}", "/runs"):
            if folder not in fleets_in(state.home):
                ui.label("There is no fleet in this folder, or it is not among the folders on the page of words.")
                return
            fleet = Fleet(folder)
            fleet.read()
            head = dim(headline(fleet))
            table = ui.table(columns=COLUMNS, rows=rows(fleet), row_key="word", pagination=50).classes("w-full")
            table.add_slot("body-cell-word", LINK)

            def refresh() -> None:
                if fleet.read():
                    table.rows = rows(fleet)
                head.text = headline(fleet)

            ui.timer(EVERY, refresh)


def headline(fleet: Fleet) -> str:
    """Return how many words are in each state, and whether it goes on."""
    counts = ", ".join(f"{count} {state}" for state, count in fleet.counts().items())
    return f"{len(fleet.words)} words: {counts or 'none yet'}. {whether_running(fleet)}"


def whether_running(fleet: Fleet) -> str:
    """Return whether a fleet goes on; a command that was killed says nothing any more."""
    if not fleet.is_running:
        return "It has ended."
    minutes = int(fleet.silence() / 60)
    if minutes < QUIET:
        return "It is running."
    return f"It has not reported for {minutes} min: its command may have been ended."


def rows(fleet: Fleet) -> list[dict[str, object]]:
    """Return the rows of the table; what a log says is shown as text."""
    return [row(fleet, word) for word in fleet.words.values()]


def row(fleet: Fleet, word: FleetWord) -> dict[str, object]:
    """Return the row of a word, which leads to its page once it has a file."""
    file = next((fleet.folder / name for name in word.files), None)
    url = f"/word?{query(file=file)}" if file is not None else ""
    return {
        "word": plain(word.name), "state": word.state, "step": word.step, "text": plain(word.text), "url": url,
    }  # fmt: skip


def fleet_cards(state: State) -> None:
    """Show the fleets in the output folders, each with a link to its page."""
    for folder in fleets_in(state.home):
        fleet = Fleet(folder)
        fleet.read()
        with card():
            ui.link(plain(f"Fleet: {folder.name}"), f"/fleet?{query(folder=folder)}").classes("n-link")
            dim(headline(fleet))
