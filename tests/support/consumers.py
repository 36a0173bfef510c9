"""Models of the programs that read embedding files, reimplemented from their observed behaviour.

Each function takes a file and the widths of the model's text encoders, and returns the vectors that the program would
use, {width: float32 [n,W]}. It raises Refused where the program would refuse, skip or not see the file.
"""

import base64
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

SD1, SD2, SDXL = (768,), (1024,), (768, 1280)


class Refused(Exception):
    """An error that means that the program does not use the file."""


def need(condition: Any, why: str) -> None:
    """Raise Refused unless the condition holds."""
    if not condition:
        raise Refused(why)


def loaded(path: Path, parameter_dict: bool = False) -> Any:
    """Return the table of a file, read by its extension; pickles are read by PyTorch's safe loader."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:
            raise Refused(str(error)) from error
    try:
        with torch.serialization.safe_globals([torch.nn.ParameterDict] if parameter_dict else []):
            return torch.load(path, weights_only=True)
    except Exception as error:
        raise Refused(str(error)) from error


def tables(found: dict[int, torch.Tensor], widths: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the vectors of every encoder as float32 [n,W]. Raises Refused if a width is missing."""
    need(set(found) == set(widths), f"widths {sorted(found)}")
    return {width: (rows[None] if rows.ndim == 1 else rows).detach().float() for width, rows in found.items()}


def web_ui(path: Path, widths: tuple[int, ...], careful: bool) -> dict[int, torch.Tensor]:
    """Return the vectors that AUTOMATIC1111 or Forge would use; only the former is `careful` with pickles."""
    need(path.suffix in (".safetensors", ".pt", ".bin", ".png", ".webp"), "ending")
    if path.suffix in (".png", ".webp"):
        with Image.open(path) as card:
            need("sd-ti-embedding" in card.info, "no chunk")
            content = json.loads(base64.b64decode(card.info["sd-ti-embedding"]))
        for table in (content, content.get("string_to_param", {})):
            for key, value in table.items():
                if isinstance(value, dict) and "TORCHTENSOR" in value:
                    table[key] = torch.tensor(value["TORCHTENSOR"])
    else:
        if careful and path.suffix != ".safetensors" and zipfile.is_zipfile(path):
            for name in zipfile.ZipFile(path).namelist():
                inner = re.fullmatch(r"[^/]+/(data\.pkl|version|byteorder|data/\d+|\.data/serialization_id)", name)
                need(inner, f"bad file inside: {name}")
        content = loaded(path, parameter_dict=True)
    if "string_to_param" in content:
        need(len(content["string_to_param"]) == 1, "several terms")
        rows = [next(iter(content["string_to_param"].values()))]
    elif "clip_g" in content and "clip_l" in content:
        need(all(isinstance(value, torch.Tensor) for value in content.values()), "every value is detached")
        rows = [content["clip_l"], content["clip_g"]]
    else:
        need(len(content) == 1, "several terms")
        rows = list(content.values())
    need(all(r.ndim in (1, 2) for r in rows), "shape")
    need(sum(r.shape[-1] for r in rows) == sum(widths), "width")
    return tables({r.shape[-1]: r for r in rows}, widths)


def automatic1111(path: Path, widths: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the vectors that AUTOMATIC1111 would use."""
    return web_ui(path, widths, careful=True)


def forge(path: Path, widths: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the vectors that Forge would use."""
    return web_ui(path, widths, careful=False)


def comfy(path: Path, widths: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the vectors that ComfyUI would use.

    With its whole name any file is found; otherwise the extensions .safetensors, .pt and .bin are tried.
    """
    need(not re.search(r"\s", path.stem), "a blank in the name")
    content, found = loaded(path, parameter_dict=True), {}
    for width in widths:
        key = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}[width]
        if isinstance(content, list):
            found[width] = listed(content, width)
            continue
        if "string_to_param" in content:
            rows = next(iter(content["string_to_param"].values()))
        elif key in content:
            rows = content[key]
        elif any(name.startswith("bundle_emb.") for name in content):
            ending = ".string_to_param.*" if any(n.endswith(".string_to_param.*") for n in content) else f".{key}"
            bundled = [r for name, r in content.items() if name.startswith("bundle_emb.") and name.endswith(ending)]
            rows = torch.cat(bundled) if bundled else next(iter(content.values()))
        else:
            rows = next(iter(content.values()))
        rows = rows.reshape(-1, rows.shape[-1])
        need(rows.shape[-1] == width, "the width is ignored")
        found[width] = rows
    return tables(found, widths)


def listed(content: list, width: int) -> torch.Tensor:
    """Return all vectors of the width from a list of tables, as ComfyUI does."""
    fitting = [rows.reshape(-1, width) for table in content for rows in table.values() if rows.shape[-1] == width]
    need(fitting, "no vectors of the width")
    return torch.cat(fitting)


def sdnext(path: Path, widths: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the vectors that SD.Next would use."""
    need(path.suffix in (".safetensors", ".pt"), "ending")
    content = loaded(path)
    if path.suffix == ".pt":
        need("string_to_param" in content, "no string_to_param")
        content = {"*": content["string_to_param"]["*"]}
    rows = list(content.values())
    need(len(rows) == len(widths) and all(r.ndim == 2 for r in rows), "number of tensors, or shape")
    need(len({len(r) for r in rows}) == 1, "the count of the first is taken for all")
    return tables({r.shape[-1]: r for r in rows}, widths)


def invoke(path: Path, widths: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the vectors that InvokeAI would use."""
    need(path.suffix in (".safetensors", ".pt", ".bin", ".ckpt"), "ending")
    need(re.fullmatch(r"[A-Za-z0-9., _-]+", path.stem), "the trigger cannot be written")
    need("," not in path.stem, "prompts are split at commas")
    content = loaded(path)
    if "string_to_token" in content:
        rows = [next(iter(content["string_to_param"].values()))]
        width = rows[0].shape[-1]
    elif "emb_params" in content:
        rows, width = [content["emb_params"]], content["emb_params"].shape[-1]
        need(rows[0].ndim == 2, "shape")
    elif "clip_g" in content:
        need("clip_l" in content, "SDXL needs both")
        rows, width = [content["clip_l"], content["clip_g"]], content["clip_g"].shape[-1]
    else:
        rows = [next(v for v in content.values() if isinstance(v, torch.Tensor))]
        width = rows[0].shape[0]
    need(width == widths[-1], f"unrecognised token dimension {width}")
    return tables({r.shape[-1]: r for r in rows}, widths)


def sd_cpp(path: Path, widths: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the vectors that stable-diffusion.cpp would use; for two encoders, only those of the second are right."""
    need(path.suffix in (".safetensors", ".pt", ".ckpt"), "ending")
    content = loaded(path)
    if "string_to_param" in content:
        content = content["string_to_param"]
    rows = [v for v in content.values() if isinstance(v, torch.Tensor)]
    need(rows and not any(isinstance(r, torch.nn.Parameter) for r in rows), "no plain tensor")
    need(all(r.shape[-1] in widths for r in rows), "width")
    need(all(r.dtype in (torch.float32, torch.float64) for r in rows), "float32 only")
    return tables({r.shape[-1]: r.reshape(-1, r.shape[-1]) for r in rows}, widths)


def sd_scripts_generator(path: Path, widths: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the vectors that sd-scripts' generator would use."""
    content = loaded(path)
    if len(widths) == 2:
        need("clip_l" in content and "clip_g" in content, "SDXL needs both")
        need(len(content["clip_l"]) == len(content["clip_g"]), "counts")
        return tables({768: content["clip_l"], 1280: content["clip_g"]}, widths)
    rows = next(iter(content.get("string_to_param", content).values()))
    need(rows.ndim == 2, "shape")
    return tables({rows.shape[-1]: rows}, widths)


def sd_scripts_trainer(path: Path, widths: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the vectors that sd-scripts' trainer would use."""
    content = loaded(path)
    if len(widths) == 2:
        return sd_scripts_generator(path, widths)
    rows = next(iter(content.get("string_to_param", content).values()))
    need(type(rows) is torch.Tensor, "no plain tensor")
    need(rows.ndim in (1, 2), "shape")
    return tables({rows.shape[-1]: rows}, widths)


def onetrainer(path: Path, widths: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Return the vectors that OneTrainer would use."""
    content = loaded(path)
    if len(widths) == 2:
        need("clip_l" in content and "clip_g" in content, "SDXL needs both")
        return tables({768: content["clip_l"], 1280: content["clip_g"]}, widths)
    need("emp_params" in content or "emp_params_out" in content, "no emp_params")
    rows = content.get("emp_params_out", content.get("emp_params"))
    return tables({rows.shape[-1]: rows}, widths)


PROGRAMS = {
    "AUTOMATIC1111": automatic1111, "Forge": forge, "ComfyUI": comfy, "InvokeAI": invoke, "SD.Next": sdnext,
    "stable-diffusion.cpp": sd_cpp, "OneTrainer": onetrainer,
}  # fmt: skip
