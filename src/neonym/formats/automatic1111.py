"""The .pt layout of the AUTOMATIC1111 web UI, in the serialisation that its restricted loader accepts."""

from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import torch

from neonym.errors import FormatError
from neonym.formats.kohya import ENCODER
from neonym.types import Embedding


def write(embedding: Embedding, path: Path) -> None:
    """Write a one-encoder embedding. `emp_params` beside the usual keys lets OneTrainer read it as well."""
    if set(embedding.vectors) != {ENCODER}:
        raise FormatError(f"this layout holds one encoder, not {sorted(embedding.vectors)}", str(path))
    rows = embedding.vectors[ENCODER].detach().cpu().contiguous()
    step = embedding.metadata.get("neonym.steps", "0")
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": rows},
        "name": embedding.token,
        "step": int(step) if step.isdecimal() else 0,
        "sd_checkpoint": embedding.metadata.get("neonym.base_model_hash"),
        "sd_checkpoint_name": embedding.metadata.get("neonym.base_model"),
        "emp_params": rows,
    }
    whole = BytesIO()
    torch.save(content, whole)
    path.write_bytes(plain_zip(whole))


def plain_zip(whole: BytesIO) -> bytes:
    """Only the entries that every restricted loader allows, without dates: the same embedding is the same file."""
    plain = BytesIO()
    with ZipFile(whole) as old, ZipFile(plain, "w") as new:
        for name in old.namelist():
            inner = name.partition("/")[2]
            if inner in ("data.pkl", "version") or inner.startswith("data/"):
                new.writestr(ZipInfo(f"archive/{inner}"), old.read(name))
    return plain.getvalue()


def read(path: Path) -> Embedding:
    """Read by the weights-only loader, which runs no code. Raises FormatError."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way; nothing of it was run
        reason = str(error).split("\n", 1)[0]
        raise FormatError(f"is damaged, or holds more than tensors and was not opened ({reason})", str(path)) from error
    token = path.stem
    if isinstance(content, dict) and "string_to_param" in content:
        token = str(content.get("name") or token)
        content = content["string_to_param"]
    tensors = [t for t in content.values() if isinstance(t, torch.Tensor)] if isinstance(content, dict) else []
    if len(tensors) != 1:
        raise FormatError(f"has {len(tensors)} tensors; an embedding has one", str(path))
    return Embedding(token, {ENCODER: tensors[0]})
