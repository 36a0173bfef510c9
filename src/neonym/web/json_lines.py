"""Read files of JSON lines that grow, such as the events of a run and the log of a fleet."""

from __future__ import annotations

import json
from pathlib import Path

MOST = 2**23  # bytes that are read at once


def appended(file: Path, position: int, end: int, rest: bytes) -> tuple[list[bytes], int, bytes]:
    """Return the lines from `position` to `end`, the position behind them, and the beginning of a line that is left.

    `rest` is the beginning that was left before. Raises OSError.
    """
    with file.open("rb") as opened:
        opened.seek(position)
        data = opened.read(min(end - position, MOST))
    *lines, rest = (rest + data).split(b"\n")
    return lines, position + len(data), rest


def take(reader: object, line: bytes) -> None:
    """Call the method `on_EVENT` of a reader with a line's event. One that is damaged or of an unknown kind is skipped."""
    try:
        event = json.loads(line.decode("utf-8", "replace"))
        handler = getattr(reader, f"on_{event['event']}", None)
        if handler is not None:
            handler(event)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return
