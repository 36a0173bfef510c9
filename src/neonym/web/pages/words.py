"""The words: every embedding in the output folders."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nicegui import ui

from neonym.web.home import plain
from neonym.web.images import query
from neonym.web.library import Word, other_files, word_from, words_in
from neonym.web.pages.frame import card, date_of, dim, heading, page, picture, telling, verdict_chip
from neonym.web.state import State

MOST = 200  # cards of words on one page


def words_page(state: State) -> None:
    """Add the page to the application."""

    @ui.page("/")
    async def show() -> None:
        with page("Words", "/"):
            found = await asyncio.to_thread(words_in, state.home)
            if not found:
                empty()
            chosen: dict[Path, Word] = {}

            def compare() -> None:
                if len(chosen) == 2:
                    ui.navigate.to(f"/compare?{query(file=[word.file for word in chosen.values()])}")
                else:
                    ui.notify("Tick two words to compare them.")

            if len(found) > 1:
                ui.button("Compare two words", icon="compare", on_click=compare).props("outline dense")
            with ui.element("div").classes("n-grid") as grid:
                for word in found[:MOST]:
                    word_card(word, chosen, len(found) > 1)
            if len(found) > MOST:
                dim(f"{len(found) - MOST} older words are not shown.")
            folders(state)
        await ui.context.client.connected()  # a look into other files takes seconds
        for file in other_files(state.home)[:MOST]:
            word = word_from(file, await state.inspected(file))
            if word is not None:
                with grid:
                    word_card(word, chosen, len(found) > 1)


def empty() -> None:
    """Show what to do first."""
    with card("No words yet"):
        ui.label("A word is learned from 5 to 50 images of one thing, person or style. It takes three steps:")
        ui.label("1. choose the images, 2. name the word, 3. press Train.")
        with ui.row().classes("gap-2"):
            ui.button("Teach a new word", icon="add", on_click=lambda: ui.navigate.to("/new"))
            ui.button("Try it with the example images", on_click=lambda: ui.navigate.to("/new?example=nutkin")).props(
                "outline"
            )


def word_card(word: Word, chosen: dict[Path, Word], can_compare: bool) -> None:
    """Show one word."""
    target = f"/word?{query(file=word.file)}"
    with ui.element("section").classes("n-card column"):
        if word.samples:
            picture(word.samples[0], f"sample images of {word.token}")
        with ui.row().classes("items-center justify-between w-full"):
            with ui.link(target=target).classes("n-link"):
                heading(word.token)
            if word.verdict:
                verdict_chip(str(word.verdict.get("word", "")))
        name = "" if word.file.stem == word.token else f"{word.file.name}, "
        dim(f"{name}{word.size}, {word.model or 'unknown model'}, {date_of(word.date)}")
        if can_compare:

            def take(ticked: bool) -> None:
                chosen.pop(word.file, None)
                if ticked:
                    chosen[word.file] = word

            tick = ui.checkbox("compare", on_change=lambda event: take(bool(event.value)))
            tick.props("dense").props["aria-label"] = f"compare {word.token}"


def folders(state: State) -> None:
    """Show the output folders, and let the user name more of them."""
    with ui.expansion("Folders").classes("w-full"):
        for folder in state.home.named("outputs"):
            ui.label(plain(str(folder))).classes("n-mono")
        path = ui.input("Another folder with words").props("dense outlined").classes("w-full")

        def add() -> None:
            state.home.add_folder("outputs", path.value or "")
            ui.navigate.reload()

        ui.button("Add folder", on_click=telling(add)).props("outline dense")
    ui.link("Bin", "/bin").classes("n-link")
