"""The bin: words that were deleted, which can be restored until the bin is emptied."""

from __future__ import annotations

import asyncio

from nicegui import ui

from neonym.errors import counted
from neonym.web.bin import Deleted, contents_of_bin, empty_bin, restore
from neonym.web.home import plain
from neonym.web.pages.frame import card, confirmed, date_of, dim, page, telling
from neonym.web.state import State

MOST = 200  # on one page


def bin_page(state: State) -> None:
    """Add the page to the application."""

    @ui.page("/bin")
    async def show() -> None:
        found = await asyncio.to_thread(contents_of_bin, state.home)
        sizes = await asyncio.to_thread(lambda: [deleted.size for deleted in found])
        with page("Bin", "/bin"):
            if not found:
                ui.label("The bin is empty. Words that you delete can be restored here.")
                return

            async def empty() -> None:
                question = f"Delete {counted(len(found), 'word')} and all that belongs to them for good?"
                if await confirmed(question, "Delete for good"):
                    await asyncio.to_thread(empty_bin, state.home)
                    ui.navigate.reload()

            dim(f"{counted(len(found), 'deleted word')}, {size_text(sum(sizes))}")
            ui.button("Empty the bin", icon="delete_forever", color="negative", on_click=telling(empty)).props(
                "outline dense"
            )
            for deleted, size in zip(found[:MOST], sizes, strict=False):
                deleted_card(state, deleted, size)


def deleted_card(state: State, deleted: Deleted, size: int) -> None:
    """Show what was deleted together, with a button that restores it."""

    async def back() -> None:
        paths = await asyncio.to_thread(restore, state.home, deleted.folder)
        card_of.clear()
        with card_of:
            ui.label(f"Restored: {plain(', '.join(map(state.home.shown, paths)))}").classes("n-text")

    title = plain(deleted.title)
    with card(title), ui.column().classes("w-full gap-2").props('aria-live="polite"') as card_of:
        dim(f"deleted {date_of(deleted.date)}, {size_text(size)}: {plain(', '.join(deleted.origins))}")
        button = ui.button("Restore", icon="restore", on_click=telling(back)).props("outline dense")
        button.props["aria-label"] = f"restore {title}"


def size_text(size: int) -> str:
    """Return a size in bytes as text."""
    return f"{size / 2**20:.0f} MB" if size >= 2**20 else f"{size / 2**10:.0f} kB"
