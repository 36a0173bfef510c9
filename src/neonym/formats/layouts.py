"""List the layouts of embedding files, and find the one that a file is in or will be written in."""

from __future__ import annotations

from pathlib import Path

from neonym.errors import FormatError
from neonym.formats import automatic1111, diffusers, kohya, pickles, png_card
from neonym.formats.content import ending_of
from neonym.formats.layout import Layout, Reader, Writer

START = 64  # bytes that a layout is recognised by
LARGEST = 1 << 30  # bytes of a file that is read as a whole
_layouts: list[Layout] = [kohya.LAYOUT, automatic1111.LAYOUT, diffusers.LAYOUT, *png_card.LAYOUTS, pickles.LAYOUT]


def register(layout: Layout) -> None:
    """Add a layout for this process. Raises ValueError if another layout writes files with one of its extensions."""
    if taken := {ending for ending in writers() if ending in layout.extensions and layout.write}:
        raise ValueError(f"another layout writes {', '.join(sorted(taken))} files")
    _layouts.insert(0, layout)


def unregister(layout: Layout) -> None:
    """Remove a layout that was added with `register`."""
    _layouts.remove(layout)


def writers() -> dict[str, Writer]:
    """Return what writes the files of each extension."""
    return {ending: write for layout in _layouts if (write := layout.write) for ending in layout.extensions}


def reader_of(path: Path) -> Reader:
    """Return what reads a file, chosen by its first bytes, or else by its extension.

    Raises FormatError if it is not an embedding file, OSError if it cannot be opened.
    """
    readers = {layout: read for layout in _layouts if (read := layout.read)}
    with path.open("rb") as file:
        start = file.read(START)
    beginning_so = (layout for layout in readers if layout.begins and layout.begins(start))
    of_extension = (layout for layout in readers if ending_of(path) in layout.extensions)
    found = next(beginning_so, None)
    if found is None and (start.lstrip().startswith(b"<") or start.startswith(b"version https://git-lfs")):
        what = "is a web page or a Git LFS pointer, not the file itself"
        raise FormatError(what, str(path), "Download it again, with the download button on its page")
    found = found or next(of_extension, pickles.LAYOUT)  # the reader of pickles reports how the file is damaged
    if not found.reads_header_first and path.stat().st_size > LARGEST:
        raise FormatError("is too large for an embedding", str(path))
    return readers[found]
