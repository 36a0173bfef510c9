"""Read and write the .safetensors layout of sd-scripts, which every current program reads.

A file holds `emb_params` [n,W], or `clip_l` and `clip_g` for SDXL.
"""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

from neonym.errors import FormatError
from neonym.formats.content import FileContent, check_size, ending_of
from neonym.formats.keys import file_tensors
from neonym.formats.layout import Layout, Target
from neonym.formats.tensors import BUNDLE
from neonym.types import Embedding

LARGEST_HEADER = 1 << 30  # bytes
MARK = "<embed>"  # how the metadata of cloneofsimo's LoRA files mark a word


def write(embedding: Embedding, target: Target) -> None:
    """Write a word under the keys of its model family."""
    metadata = {"format": "pt", **embedding.metadata, "token": embedding.token}
    target.path.write_bytes(in_order(save(file_tensors(embedding, twins=True), metadata)))


def in_order(content: bytes) -> bytes:
    """Return a .safetensors file with a sorted header, so that the same embedding always gives the same bytes.

    The safetensors library writes metadata in random order.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # keeps the data aligned
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def read(path: Path) -> FileContent:
    """Return all tensors of an embedding file, or the words in a LoRA file.

    Raises FormatError if the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), dict(file.metadata() or {})
            marked = [name for name in names if metadata.get(name) == MARK]
            wanted = [name for name in names if name.startswith(BUNDLE)] or marked or names
            check_size({name: file.get_slice(name).get_shape() for name in wanted}, path)
            tensors = {name: file.get_tensor(name) for name in wanted}
            unread = len(names) - len(wanted)
            return FileContent(ending_of(path), "safetensors", tensors, metadata, unread=unread)
    except FormatError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise FormatError(f"is damaged or is not a .safetensors file ({error})", str(path)) from error


def begins(start: bytes) -> bool:
    """Return whether a file begins as a .safetensors file: with the size of its header, and the header."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") < LARGEST_HEADER


LAYOUT = Layout("safetensors", read, write, begins, ("safetensors",), reads_header_first=True)
