"""The .pt layout of the AUTOMATIC1111 web UI, in the serialisation that its restricted loader accepts.

The same reader takes sd-scripts' and OneTrainer's pickled tables, diffusers' `{word: vectors}` and the original implementation's.
"""

from io import BytesIO
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import torch

from neonym.errors import FormatError
from neonym.formats import pickles
from neonym.formats.tensors import ENCODER, SECOND, embedding_of
from neonym.types import Embedding


def write(embedding: Embedding, path: Path) -> None:
    """One encoder: `emp_params` beside the usual keys lets OneTrainer read it as well. SDXL: `clip_l` and `clip_g`."""
    rows = {name: table.detach().cpu().contiguous() for name, table in embedding.vectors.items()}
    if set(rows) == {ENCODER, SECOND}:
        path.write_bytes(plain_zip({"clip_l": rows[ENCODER], "clip_g": rows[SECOND]}))
        return
    if set(rows) != {ENCODER}:
        raise FormatError(f"this layout holds one encoder or SDXL's two, not {sorted(rows)}", str(path))
    step = embedding.metadata.get("neonym.steps", "0")
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows[ENCODER]},
        "name": embedding.token,
        "step": int(step) if step.isdecimal() else 0,
        "sd_checkpoint": embedding.metadata.get("neonym.base_model_hash"),
        "sd_checkpoint_name": embedding.metadata.get("neonym.base_model"),
        "emp_params": rows[ENCODER],
    }
    path.write_bytes(plain_zip(content))


def plain_zip(content: dict) -> bytes:
    """As torch.save, but only the entries that every restricted loader allows, without dates: the same embedding is the
    same file."""
    whole, plain = BytesIO(), BytesIO()
    torch.save(content, whole)
    with ZipFile(whole) as old, ZipFile(plain, "w") as new:
        for name in old.namelist():
            inner = name.partition("/")[2]
            if inner in ("data.pkl", "version") or inner.startswith("data/"):
                new.writestr(ZipInfo(f"archive/{inner}"), old.read(name))
    return plain.getvalue()


def read(path: Path) -> Embedding:
    """Read by the weights-only loader, which runs no code. Raises FormatError."""
    content = pickles.load(path)
    if isinstance(content, dict) and "string_to_param" in content:
        inner = pickles.tensors_of(content["string_to_param"])
        embedding = embedding_of({"*": inner["*"]} if "*" in inner else inner, path)
        return Embedding(str(content.get("name") or path.stem), embedding.vectors, facts(content))
    tensors = pickles.tensors_of(content)
    if not tensors:
        raise FormatError("has no tensors", str(path))
    return embedding_of(tensors, path)


def facts(content: dict) -> dict[str, str]:
    """What such a file knows of its training."""
    names = {
        "step": "neonym.steps",
        "sd_checkpoint": "neonym.base_model_hash",
        "sd_checkpoint_name": "neonym.base_model",
    }
    return {names[key]: str(content[key]) for key in names if content.get(key) is not None}
