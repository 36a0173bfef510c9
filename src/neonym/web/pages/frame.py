"""Define all that pages share: the head with its links, colours, messages, images and problems."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from inspect import isawaitable
from pathlib import Path
from typing import Any

from nicegui import ui

from neonym import NeonymError
from neonym.web.home import plain
from neonym.web.images import file_url, thumbnail_url

LINKS = {"/": "Words", "/new": "New word", "/runs": "Runs"}
COLOURS = {"LEARNED": "positive", "WEAK": "warning", "NOT LEARNED": "negative"}
SEVERITIES = {"error": ("error", "negative"), "warning": ("warning", "warning"), "note": ("info", "info")}
STYLE = """
:root { --n-back: #f6f7f9; --n-card: #ffffff; --n-line: #d9dde3; --n-text: #1c2530; --n-dim: #55606e; --n-link: #2447b8; }
.body--dark { --n-back: #14181d; --n-card: #1c2229; --n-line: #343c46; --n-text: #e6eaef; --n-dim: #a3adb9; --n-link: #9db4ff; }
body { background: var(--n-back); color: var(--n-text); font-family: system-ui, sans-serif; font-size: 15px; }
.nicegui-content { padding: 0; }
header.n-head { background: var(--n-card); border-bottom: 1px solid var(--n-line); }
.n-page { width: 100%; max-width: 1120px; margin: 0 auto; padding: 12px 16px 48px; gap: 12px; }
.n-card { background: var(--n-card); border: 1px solid var(--n-line); border-radius: 8px; padding: 14px; width: 100%;
  gap: 8px; box-shadow: none; color: var(--n-text); }
.n-dim { color: var(--n-dim); }
.n-text { white-space: pre-wrap; overflow-wrap: anywhere; }
.n-nav a { color: var(--n-text); text-decoration: none; padding: 6px 10px; border-radius: 6px; }
.n-nav a[aria-current] { background: var(--n-line); font-weight: 600; }
.n-link, .n-link a { color: var(--n-link); }
h1 { font-size: 1.35rem; line-height: 1.3; font-weight: 650; margin: 6px 0; }
h2 { font-size: 1.05rem; line-height: 1.3; font-weight: 650; margin: 0; }
.n-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 12px; width: 100%; }
.n-two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 12px; width: 100%;
  align-items: start; }
.n-fields { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 190px), 1fr)); gap: 12px; width: 100%;
  align-items: start; }
.n-page > .nicegui-column:empty { display: none; }
.n-card > .q-btn, .n-page > .q-btn { align-self: flex-start; }
.n-card .q-expansion-item .q-item { padding: 2px 4px; min-height: 36px; }
.n-card .q-expansion-item .q-expansion-item__content { padding: 4px 0 8px; }
.n-strip { display: flex; gap: 8px; overflow-x: auto; width: 100%; align-items: flex-start; }
.n-strip > * { flex: 0 0 auto; max-width: 320px; }
.n-facts { display: grid; grid-template-columns: minmax(90px, max-content) 1fr; gap: 4px 14px; width: 100%; }
img.n-image { max-width: 100%; height: auto; border-radius: 6px; background: var(--n-line); object-fit: contain; }
.n-mono { font-family: ui-monospace, monospace; font-size: 13px; white-space: pre-wrap; overflow-wrap: anywhere; }
*:focus-visible { outline: 2px solid var(--n-link); outline-offset: 1px; }
.body--dark .q-field__label, .body--dark .q-field__native { color: var(--n-text); }
.q-field__label, .q-field__bottom { color: var(--n-dim); }
.q-field__messages { line-height: 1.35; }
.q-uploader { max-height: 120px; border-color: var(--n-line); background: transparent; }
.q-uploader__header { background: transparent; color: var(--n-text); }
.q-uploader__list:empty { display: none; }
.n-upload { position: relative; border: 1px solid var(--n-link); color: var(--n-link); border-radius: 4px; padding: 5px 12px; }
.q-btn { text-transform: none; }
.body--dark { --q-primary: #9db4ff !important; --q-negative: #ff9c94 !important; --q-positive: #6fd394 !important;
  --q-warning: #f0b95b !important; --q-info: #9cc3ef !important; }
.body--dark .bg-primary { --q-primary: #3f5bd0; }
.body--dark .bg-positive { --q-positive: #1b7a3d; }
.body--dark .bg-negative { --q-negative: #b3261e; }
.body--dark .bg-warning { --q-warning: #8a5a00; }
.body--dark .bg-info { --q-info: #3d5a80; }
@media (max-width: 480px) { .n-page { padding: 8px 8px 32px; } .n-card { padding: 10px; } }
"""


@contextmanager
def page(title: str, path: str) -> Iterator[None]:
    """Lay out a page with its title and the links to the others; the current one is that at `path`."""
    ui.page_title(plain(f"{title} - Neonym"))
    ui.dark_mode(None)
    ui.colors(primary="#3450b5", positive="#1b7a3d", warning="#8a5a00", negative="#b3261e", info="#3d5a80")
    ui.add_css(STYLE)
    with ui.header().classes("n-head items-center q-py-xs q-px-md"), ui.row().classes("items-center gap-2"):
        ui.label("Neonym").style("font-weight: 700; color: var(--n-text)")
        with ui.element("nav").classes("n-nav row items-center").props('aria-label="Pages"'):
            for target, text in LINKS.items():
                link = ui.link(text, target)
                if target == path:
                    link.props('aria-current="page"')
    with ui.element("div").classes("n-page column"):
        heading(title, 1)
        yield


def heading(text: str, level: int = 2) -> None:
    """Show a heading."""
    with ui.element(f"h{level}"):
        ui.label(plain(text))


@contextmanager
def card(title: str = "") -> Iterator[None]:
    """Lay out a card, with a heading if it has a title."""
    with ui.element("section").classes("n-card column"):
        if title:
            heading(title)
        yield


def dim(text: str) -> ui.label:
    """Show a text of less importance."""
    return ui.label(plain(text)).classes("n-dim n-text")


def picture(file: Path, text: str, side: int = 320, link: bool = True) -> None:
    """Show the thumbnail of an image, which leads to the whole image."""
    outer = ui.link(target=file_url(file), new_tab=True) if link else ui.element("div")
    with outer:
        image = ui.element("img").classes("n-image").props('loading="lazy" decoding="async"')
        image.props["src"], image.props["alt"] = thumbnail_url(file, side), plain(text)


def problem_line(severity: str, text: str) -> None:
    """Show one problem, with a sign beside its text."""
    icon, colour = SEVERITIES.get(severity, SEVERITIES["note"])
    with ui.row().classes("items-start no-wrap w-full gap-2"):
        ui.icon(icon, color=colour, size="20px").props(f'aria-label="{severity}" role="img"')
        ui.label(plain(text)).classes("n-text")


def verdict_chip(verdict: str) -> None:
    """Show the name of a verdict."""
    ui.badge(verdict, color=COLOURS.get(verdict, "info")).classes("q-pa-xs")


def tell(text: str, kind: str = "positive") -> None:
    """Show a message that stays until it is closed if it is an error."""
    options: dict[str, Any] = {"timeout": 0, "close_button": "Close"} if kind == "negative" else {}
    ui.notify(plain(text), type=kind, multi_line=True, classes="n-text", position="bottom", **options)  # pyright: ignore


def telling(handler: Callable[..., Any]) -> Callable[..., Awaitable[None]]:
    """Return a handler that shows an error of the user's as the command line does."""

    @functools.wraps(handler)
    async def handled(*arguments: Any) -> None:
        try:
            result = handler(*arguments)
            if isawaitable(result):
                await result
        except (NeonymError, RuntimeError, OSError) as error:
            tell(str(error), "negative")

    return handled


async def confirmed(question: str, action: str) -> bool:
    """Return whether the user confirms an action."""
    with ui.dialog() as dialog, ui.card():
        ui.label(plain(question)).classes("n-text")
        with ui.row().classes("justify-end w-full"):
            ui.button("Cancel", on_click=lambda: dialog.submit(False)).props("flat")
            ui.button(action, color="negative", on_click=lambda: dialog.submit(True))
    return bool(await dialog)


def date_of(seconds: float) -> str:
    """Return a date and time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def duration(seconds: float) -> str:
    """Return a duration in the two largest units that it has."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
