"""Write the .pt layout of the AUTOMATIC1111 web UI, serialised so that its restricted loader accepts it."""

from dataclasses import replace
from io import BytesIO
from zipfile import ZIP_MAX_COMMENT, ZipFile, ZipInfo

import torch

from neonym.formats.keys import PLAIN, file_tensors
from neonym.formats.layout import Layout, Target
from neonym.formats.tensors import own_metadata, web_ui_table
from neonym.types import Embedding


def write(embedding: Embedding, target: Target) -> None:
    """Write a word with the keys of the web UI, or as `clip_l` and `clip_g` for SDXL.

    The additional key `emp_params` lets OneTrainer read a word for one encoder.
    """
    content = file_tensors(embedding, twins=True)
    if (rows := content.get(PLAIN)) is not None:
        content = {**web_ui_table(embedding, rows), "emp_params": rows}
    target.path.write_bytes(plain_zip(content, embedding))


def plain_zip(content: dict, embedding: Embedding) -> bytes:
    """Return the archive that torch.save writes, reduced to the entries that every restricted loader allows.

    It has no dates, so the same embedding gives the same bytes. The metadata of the word is the comment of the archive,
    which no loader reads.
    """
    whole, plain = BytesIO(), BytesIO()
    torch.save(content, whole)
    with ZipFile(whole) as old, ZipFile(plain, "w") as new:
        for name in old.namelist():
            inner = name.partition("/")[2]
            if inner in ("data.pkl", "version") or inner.startswith("data/"):
                new.writestr(ZipInfo(f"archive/{inner}"), old.read(name))
        new.comment = comment(embedding)
    return plain.getvalue()


def comment(embedding: Embedding) -> bytes:
    """Return the metadata of a word as JSON, without its longest texts if the comment of an archive is too short."""
    kept = dict(sorted(embedding.metadata.items(), key=lambda item: len(item[1])))
    while len(text := own_metadata(replace(embedding, metadata=kept)).encode()) > ZIP_MAX_COMMENT and kept:
        kept.popitem()
    return text


LAYOUT = Layout("AUTOMATIC1111's pickle", write=write, extensions=("pt", "ckpt"))
