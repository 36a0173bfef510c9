"""The field into which images and captions are dropped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import events, ui

from neonym.web.data_set import CAPTIONS
from neonym.web.images import ENDINGS
from neonym.web.pages.frame import tell, telling
from neonym.web.uploads import LARGEST, Batch, Upload

# Of each file that the browser sends nothing of: its name, and the limit that it does not keep
NAME_REJECTED = "(files) => emit(files.map((each) => [each.file.name, each.failedPropValidation]))"
NAMES = "(files) => emit(files.map((each) => each.name))"
PATIENCE = 2.0  # seconds until the names of a batch, which are sent before its files, have arrived
MOST = 5  # names in one message


def upload_field(take: Callable[[Upload, Batch], Awaitable[Any]]) -> None:
    """Show the field; `take` gets each file with its batch. Its errors are shown while the other files are taken."""
    batches: dict[str, Batch] = {}  # by the names of their files

    def announce(event: events.GenericEventArguments) -> None:
        batches.update(dict.fromkeys(event.args, Batch(event.args)))

    async def taken(event: events.UploadEventArguments) -> None:
        end = time.monotonic() + PATIENCE
        while event.file.name not in batches and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await take(event.file, batches.get(event.file.name) or Batch([event.file.name]))

    upload = ui.upload(multiple=True, auto_upload=True, max_file_size=LARGEST, on_upload=telling(taken))
    upload.on("added", announce, js_handler=NAMES)
    upload.props(f'flat bordered accept="{",".join((*ENDINGS, *CAPTIONS))}"').classes("w-full")
    upload.on("rejected", report, js_handler=NAME_REJECTED)
    with upload.add_slot("header"), ui.row().classes("items-center q-pa-sm gap-2"):
        ui.icon("upload").props('aria-hidden="true"')
        ui.label("Drop images (and .txt captions) here, or choose them:")
        with ui.element("label").classes("n-upload"):
            ui.label("Choose files")
            ui.element("q-uploader-add-trigger")


def report(event: events.GenericEventArguments) -> None:
    """Show which files were not taken, and why."""
    large = [str(name) for name, limit in event.args if limit == "max-file-size"]
    others = [str(name) for name, limit in event.args if limit == "accept"]
    if large:
        tell(f"{some(large)}: more than {LARGEST // 2**20} MB. Make them smaller.", "negative")
    if others:
        tell(f"{some(others)}: neither images that can be learned from nor captions. Save them as PNG.", "negative")


def some(names: list[str]) -> str:
    """Return names in one text, not too many."""
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
