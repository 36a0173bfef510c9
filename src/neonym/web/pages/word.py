"""One word: what it is, what programs do with it, and a place to try it. Two words side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request
from nicegui import ui

from neonym.web import work
from neonym.web.bin import to_bin
from neonym.web.home import plain
from neonym.web.images import file_url, paths_of, query
from neonym.web.library import Word, read_word, word_from
from neonym.web.pages.frame import card, confirmed, date_of, dim, page, picture, problem_line, telling, verdict_chip
from neonym.web.pages.run import verdict_card
from neonym.web.pages.trial import TrialCard
from neonym.web.state import State

LAYOUTS = {"pt": "AUTOMATIC1111 (.pt)", "bin": "diffusers (.bin)", "png": "card with an image (.png)"}
PATIENCE = 60.0  # seconds: the first look into a file imports torch


def word_page(state: State) -> None:
    """Add the pages of a word and of two words to the application."""

    @ui.page("/word", response_timeout=PATIENCE)
    async def show(request: Request) -> None:
        word = await readable_word(state, next(iter(paths_of(request, "file")), Path()))
        with page(word.token if word else "No such word", "/"):
            if word is None:
                ui.label("There is no such file in the output folders.")
                return
            facts(state, word)
            TrialCard(state, [word]).build()
            tools(state, word)
            await ui.context.client.connected()  # the first look at a file takes seconds
            await programs(state, word)

    @ui.page("/compare", response_timeout=PATIENCE)
    async def compare(request: Request) -> None:
        files = paths_of(request, "file")[:2]
        words = [word for file in files if (word := await readable_word(state, file)) is not None]
        with page("Two words", "/"):
            if len(words) < 2:
                ui.label("Choose two words in the list of words.")
                return
            with ui.element("div").classes("n-two"):
                for word in words:
                    with ui.column().classes("w-full gap-3"):
                        facts(state, word)
            TrialCard(state, words).build()


async def readable_word(state: State, file: Path) -> Word | None:
    """Return the word in a file that the page may read, or None."""
    if not state.home.can_read(file):
        return None
    return read_word(file) or word_from(file, await state.inspected(file))


def facts(state: State, word: Word) -> None:
    """Show what a word is."""
    if word.verdict:
        verdict_card(word.verdict, None)
    with card():
        if not word.verdict:
            verdict_chip("no verdict")
        dim(f"{word.size}, for {word.model or 'an unknown model'}, {date_of(word.date)}")
        ui.label(state.home.shown(word.file)).classes("n-mono")
        if word.samples:
            with ui.element("div").classes("n-strip"):
                for sample in word.samples[:12]:
                    picture(sample, f"sample image of {word.token}", 160)


async def programs(state: State, word: Word) -> None:
    """Show what each program does with a word."""
    found = await state.inspected(word.file)
    with card("In other programs"):
        if "error" in found:
            problem_line("error", found["error"])
            return
        with ui.element("div").classes("n-facts"):
            for program, support in found["programs"].items():
                ui.label(program).style("font-weight: 650")
                ui.label(support).classes("n-text")
        for text in found["warnings"]:
            problem_line("warning", text)


def tools(state: State, word: Word) -> None:
    """Show what can be done with the file of a word."""
    with card("The file"), ui.row().classes("gap-2 items-center"):
        ui.button(
            "Download", icon="download", on_click=lambda: ui.download(file_url(word.file, True), plain(word.file.name))
        )
        if word.card:
            ui.button("Usage card", on_click=lambda: show_card(word)).props("outline")

        async def convert(event: Any) -> None:
            files, error = await state.workers.do(
                "checks", work.convert, word.file, event.value, state.home.folder("cache")
            )
            if error:
                raise RuntimeError(error)
            for file in files:
                ui.download(file_url(file, True), plain(file.name))

        ui.select(LAYOUTS, label="Convert to", on_change=telling(convert)).props("outlined dense").style(
            "min-width: 200px"
        )
        ui.button("Train it again", on_click=lambda: ui.navigate.to(f"/new?{query(like=word.file)}")).props("outline")

        async def delete() -> None:
            if any(entry.run_folder == str(word.run_folder) for entry in state.queue.open_entries()):
                raise RuntimeError(f"A run still learns {word.token}: stop it first.")
            if await confirmed(f"Move {word.file.name} and its run to the bin of the home folder?", "Move to the bin"):
                to_bin(state.home, word.files)
                ui.navigate.to("/")

        ui.button("Delete", icon="delete", color="negative", on_click=telling(delete)).props("outline")


def show_card(word: Word) -> None:
    """Show the usage card of a word, as text."""
    with ui.dialog() as dialog, ui.card().style("max-width: 760px; width: 100%"):
        ui.label(word.card.read_text("utf-8", errors="replace") if word.card else "").classes("n-mono")
        ui.button("Close", on_click=dialog.close).props("flat")
    dialog.open()
