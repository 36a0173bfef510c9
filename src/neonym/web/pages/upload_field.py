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
TOGETHER = 1.0  # seconds in which the browser names the files of a batch: those that it does not send, then the others
REFUSALS = ("max-file-size", "accept")  # other files are rejected because they are being sent
MOST = 5  # names in one message


def upload_field(take: Callable[[Upload, Batch], Awaitable[Any]]) -> None:
    """Show the field; `take` gets each file with its batch. Its errors are shown while the other files are taken."""
    batches: dict[str, list[Batch]] = {}  # of the files that have not arrived yet, by their names
    refused: dict[str, float] = {}  # the names of files that the browser does not send -> when it said so

    def announce(event: events.GenericEventArguments) -> None:
        now = time.monotonic()
        batch = Batch(event.args, [name for name, at in refused.items() if now - at < TOGETHER])
        for name in event.args:
            batches.setdefault(name, []).append(batch)

    def refuse(event: events.GenericEventArguments) -> None:
        refused.update({str(name): time.monotonic() for name, limit in event.args if limit in REFUSALS})
        report(event)

    async def taken(event: events.UploadEventArguments) -> None:
        end = time.monotonic() + PATIENCE
        while not (known := batches.get(event.file.name)) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await take(event.file, known.pop(0) if known else Batch([event.file.name]))

    upload = ui.upload(multiple=True, auto_upload=True, max_file_size=LARGEST, on_upload=telling(taken))
    upload.on("added", announce, js_handler=NAMES)
    upload.props(f'flat bordered accept="{",".join((*ENDINGS, *CAPTIONS))}"').classes("w-full")
    upload.on("rejected", refuse, js_handler=NAME_REJECTED)
    # a file that stays in the list, though it was refused, is not sent when it is chosen again
    upload.on("uploaded", lambda: upload.run_method("removeUploadedFiles"), js_handler="() => emit()")
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
