"""Recognises files and folders by their content, so that a message can name the flag that a file belongs to.

Only headers and texts are read, never weights, and without the libraries that the files are made with.
"""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neonym.config.dataset import DatasetValues, SubsetSpec
from neonym.config.other_trainers import OTHER_SUBSET_KEYS, translations
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.errors import Problem

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")
MOST_TEXT = 4 << 20  # bytes: larger texts are not read
MOST_HEADER = 100 << 20  # bytes: larger headers are not read
MOST_SHOWN = 6  # settings of another program that a message lists
SETTINGS = {name for _, name, _ in fields_of(RunConfig)}
# keys that people write in dataset files
DATA_KEYS = {
    *DatasetValues.model_fields,
    *SubsetSpec.model_fields,
    *OTHER_SUBSET_KEYS,
}
PAGE = "docs/from-other-trainers.md"


@dataclass(frozen=True)
class Kind:
    """A frozen record of what a file or folder is, which flags accept it, and what to do with it."""

    what: str
    flags: tuple[str, ...] = ()
    fix: str = ""


def misplaced(path: str | Path | None, flag: str, where: str = "") -> Problem | None:
    """Return the problem of a file or folder that `flag` does not accept; None if it does or the kind is unknown."""
    kind = None if path is None else file_kind(Path(path))
    if kind is None or flag in kind.flags:
        return None
    fix = kind.fix or f"Pass it with {' or '.join(f'--{name}' for name in kind.flags)}"
    return Problem("error", f"{path} is {kind.what}", where or f"--{flag}", fix)


def file_kind(path: Path) -> Kind | None:
    """Return the kind of a file or folder; None if it is unclear or the path does not exist."""
    with suppress(OSError, ValueError, RecursionError, zipfile.BadZipFile, RuntimeError):
        if path.is_dir():
            return folder_kind(path)
        if path.is_file():
            with path.open("rb") as file:
                start = file.read(512)
            return binary_kind(path, start) or text_kind(path, start)
    return None


def folder_kind(path: Path) -> Kind | None:
    """Return the kind of a folder, by the names of its files."""
    children = sorted(path.iterdir())
    names = {child.name for child in children}
    if names & {"model_index.json", "modular_model_index.json"}:
        return Kind("a model in Diffusers' layout", CHECKPOINT.flags, CHECKPOINT.fix)
    if "state.safetensors" in names:
        return Kind("a saved state", ("resume",))
    if {"optimizer.bin", "random_states_0.pkl"} & names:
        fix = "To start from vectors, pass an embedding file with --weights"
        return Kind("a training state of sd-scripts or diffusers", (), fix)
    numbered = [child for child in children if re.match(r"\d+_", child.name) and child.is_dir()]
    if any(has_images(folder) for folder in (path, *numbered[:10])):
        return Kind("a folder of images", ("train_data_dir", "reg_data_dir", "image_path", "mask_path"),
                    "Pass it with --train_data_dir, or write it as image_dir in a dataset file")  # fmt: skip
    return None


def has_images(folder: Path) -> bool:
    """Return whether a folder itself, without its subfolders, has files with the ending of an image."""
    return any(child.suffix.lower() in IMAGES for child in folder.iterdir())


def binary_kind(path: Path, start: bytes) -> Kind | None:
    """Return the kind of a binary file, by its first bytes and its header."""
    if start[6:8] == b"\0\0" and start[8:9] == b"{":
        return safetensors_kind(path)
    if start.startswith(b"PK\3\4") or start.startswith((b"\x80\x02", b"\x80\x04")):
        return pickle_kind(path)
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff", b"BM")) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP"):
        fix = "Pass the folder that contains it with --train_data_dir"
        return Kind("an image", ("weights", "metadata_thumbnail", "image_path", "mask_path", "like"), fix)
    return None


EMBEDDING = Kind(
    "an embedding, which is the file of a learned word", ("weights", "textual_inversion_embeddings"),
    "Start from it with --weights, or use it with --textual_inversion_embeddings of neonym generate",
)  # fmt: skip
CHECKPOINT = Kind("a checkpoint, which is a whole model", ("pretrained_model_name_or_path", "vae", "ckpt"),
                  "Pass it with --pretrained_model_name_or_path (neonym generate: --ckpt)")  # fmt: skip
LORA = Kind(
    "a LoRA", ("network_weights",), "Training does not use LoRAs; pass it to neonym generate with --network_weights"
)
VAE = Kind("a VAE", ("vae",), "Pass it with --vae, in addition to a model")
STATE = Kind("a saved state", (), "Pass its folder with --resume")
NAMES = (  # (pattern of a tensor name, kind of the file)
    (r"^(?:model\.diffusion_model|conditioner\.embedders|cond_stage_model)\.", CHECKPOINT),
    (r"lora_|\.lora[_.]|hada_w|lokr_", LORA),
    (r"^(?:first_stage_model\.)?(?:encoder|decoder)\.(?:down|up|mid|conv_in)", VAE),
)


def safetensors_kind(path: Path) -> Kind | None:
    """Return the kind of a .safetensors file, by its header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length)) if length <= MOST_HEADER else {}
    metadata = header.pop("__metadata__", {})
    if "fingerprint" in str(metadata.get("neonym", "")):
        return STATE
    if any(name.startswith("bundle_emb.") for name in header):  # a LoRA that contains words
        return None
    for pattern, kind in NAMES:
        if any(re.search(pattern, name) for name in header):
            return kind
    shapes = [tensor.get("shape", []) for tensor in header.values()]
    few = len(shapes) <= 2 or (len(shapes) <= 16 and all("." not in name for name in header))
    return EMBEDDING if shapes and few and all(1 <= len(shape) <= 2 for shape in shapes) else None


def pickle_kind(path: Path) -> Kind | None:
    """Return the kind of a file of torch.save, by the names in its pickle, which is never executed."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickled = next((name for name in names if name.endswith("data.pkl")), None)
            if pickled is None:
                return None
            with archive.open(pickled) as file:
                text = file.read(MOST_TEXT)
        few = sum("/data/" in name for name in names) <= 2
    else:
        with path.open("rb") as file:
            text = file.read(MOST_TEXT)
        few = False
    if b"optimizer_state_dict" in text and b"string_to_param" not in text and b"diffusion_model" not in text:
        fix = "To start from the embedding that it belongs to, pass that file with --weights"
        return Kind("an optimizer state of AUTOMATIC1111", (), fix)
    if b"model.diffusion_model" in text:
        return CHECKPOINT
    return EMBEDDING if b"string_to_param" in text or (few and b"." not in names_in_pickle(text)) else None


def names_in_pickle(text: bytes) -> bytes:
    """Return the texts of a pickle, joined, without the names of torch's storages and devices."""
    found = re.findall(rb"X(.)\0\0\0([ -~]+)", text)
    return b"".join(t[: n[0]] for n, t in found if not t.startswith((b"storage", b"cpu", b"cuda")))


def text_kind(path: Path, start: bytes) -> Kind | None:
    """Return the kind of a text file, which may be TOML, JSON, YAML or plain lines."""
    if b"\0" in start or path.stat().st_size > MOST_TEXT:
        return None
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith(("{", "[")):
        with suppress(ValueError):
            return json_kind(json.loads(text))
        lines = [json.loads(line) for line in text.splitlines()[:3] if line.startswith("{")]
        if lines and all(METADATA & line.keys() for line in lines):
            return METADATA_FILE
    if re.search(r"^\s*(?:accelerate launch |python3? \S+\.py|neonym (?:train|generate) )", text, re.MULTILINE):
        return Kind("a script with commands", (), "Run it in a shell, or write its flags on the command line")
    with suppress(tomllib.TOMLDecodeError):
        return toml_kind(tomllib.loads(text))
    found = next((kind for start, kind in DOWNLOADS.items() if text.lstrip().lower().startswith(start)), None)
    return found or yaml_kind(path, text) or lines_kind(path, text)


def toml_kind(table: Mapping[str, Any]) -> Kind | None:
    """Return the kind of a TOML file, by its keys."""
    if "datasets" in table or "concepts" in table:
        return DATASET_FILE
    if "prompt" in table and isinstance(table["prompt"], (dict, list)):
        return PROMPT_FILE
    flat = [name for key, value in table.items() for name in (value if isinstance(value, dict) else [key])]
    flags = [name for name in flat if name in SETTINGS and name not in DATA_KEYS]
    if flags:
        shown = ", ".join(flags[:4]) + (", ..." if flags[4:] else "")
        return Kind(f"a training config, whose keys are flags ({shown})", ("config_file",))
    if set(table) <= {"wandb", "tensorboard"} and table:
        return Kind("a config of trackers", ("log_tracker_config",))
    return None


METADATA = {"caption", "tags", "train_resolution", "image_size", "image_path", "file_name", "text"}
DATASET_FILE = Kind("a dataset file", ("dataset_config",))
PROMPT_FILE = Kind("a file of sample prompts", ("sample_prompts", "from_file"), "Pass it with --sample_prompts")
METADATA_FILE = Kind("a metadata file, which lists images with their captions", ("in_json",))


def json_kind(table: Any) -> Kind | None:
    """Return the kind of a JSON file, by its keys."""
    if isinstance(table, list):
        return list_kind([row for row in table if isinstance(row, dict)])
    if not isinstance(table, dict):
        return None
    for program, marks in PROGRAMS.items():
        if any(mark <= table.keys() for mark in marks):
            return other_config(program, table)
    if "datasets" in table or "concepts" in table:
        return DATASET_FILE
    if {"image_path", "file_name"} & table.keys():  # a JSONL file with a single line
        return METADATA_FILE
    if {"_class_name"} & table.keys() or {"architectures"} & table.keys():
        return Kind(
            "the config of a part of a model", (), "Pass the model's folder with --pretrained_model_name_or_path"
        )
    rows = [row for row in table.values() if isinstance(row, dict)]
    if rows and len(rows) == len(table):
        if any("class_type" in row for row in rows):
            return Kind("a workflow of ComfyUI", (), "Neonym does not use workflows, which generate images")
        return METADATA_FILE if all(METADATA & row.keys() for row in rows[:20]) else None
    if len(SETTINGS & table.keys()) >= 3:
        fix = "Write its keys as TOML, one name = value per line, and pass that file with --config_file"
        return Kind("a training config in JSON", (), fix)
    return None


def list_kind(rows: list[dict[str, Any]]) -> Kind | None:
    """Return the kind of a JSON file that holds a list, by its entries."""
    if rows and all("prompt" in row for row in rows):
        return PROMPT_FILE
    if rows and all({"path", "image"} <= row.keys() or {"path", "text"} <= row.keys() for row in rows):
        fix = 'Write a dataset file with a [[datasets.subsets]] for each concept, whose path becomes image_dir = "..."'
        return Kind("OneTrainer's list of concepts", (), fix)
    return METADATA_FILE if rows and all(METADATA & row.keys() for row in rows[:20]) else None


PROGRAMS: dict[str, tuple[set[str], ...]] = {  # program -> sets of keys that only its files have together
    "OneTrainer": ({"training_method"}, {"base_model_name", "model_type"}, {"concept_file_name"}),
    "AUTOMATIC1111's training": ({"embedding_name", "learn_rate"}, {"embedding_name", "data_root"}),
    "the kohya_ss GUI": ({"LoRA_type"}, {"model_list"}, {"additional_parameters"}, {"max_resolution", "epoch"},
                         {"stop_text_encoder_training", "optimizer"}),
    "invoke-training": ({"base_output_dir"}, {"data_loader", "type"}),
    "ai-toolkit": ({"job", "config"},),
}  # fmt: skip


def other_config(program: str, keys: Mapping[str, Any]) -> Kind:
    """Return the kind of another program's config, with a fix that translates its settings into flags."""
    found = translations(dict.fromkeys(all_keys(keys)))
    shown = "; ".join(found[:MOST_SHOWN]) + (
        f"; {len(found) - MOST_SHOWN} more: see {PAGE}" if found[MOST_SHOWN:] else ""
    )
    fix = f"Pass its settings as flags: {shown}" if found else f"Pass its settings as flags ({PAGE})"
    if program == "the kohya_ss GUI":
        fix += (
            "; keys that are also flags of Neonym mean the same. When the GUI trains, it writes a .toml file next to "
            "its output, which you can pass with --config_file"
        )
    return Kind(f"a config of {program}", (), fix)


def all_keys(table: Any) -> Iterator[str]:
    """Yield every key of a table, and then the keys of the tables in it."""
    inner = table.values() if isinstance(table, Mapping) else table if isinstance(table, list) else ()
    yield from (str(key) for key in (table if isinstance(table, Mapping) else ()))
    for value in inner:
        yield from all_keys(value)


def yaml_kind(path: Path, text: str) -> Kind | None:
    """Return the kind of a YAML file, by its keys at every level."""
    top = re.findall(r"^(\w+):(?=\s|$)", text, re.MULTILINE)
    if not top or "datasets" in top:
        return None
    every = dict.fromkeys(re.findall(r"^\s*(?:- )?(\w+):(?=\s|$)", text, re.MULTILINE))
    for program, marks in PROGRAMS.items():
        if any(mark <= set(top) for mark in marks):
            return other_config(program, every)
    if {"compute_environment", "distributed_type"} & set(top):
        return Kind(
            "a config of accelerate", (), "Pass it to accelerate launch: accelerate launch --config_file FILE ..."
        )
    if "model" in top and "target:" in text:
        return Kind("the description of a checkpoint", (), "Pass the checkpoint that it describes")
    fix = "Pass its settings as flags, or as a TOML file with --config_file"
    return Kind("a YAML file", (), fix) if path.suffix.lower() in (".yaml", ".yml") else None


DOWNLOADS = {  # how files begin that were downloaded instead of the real one
    "version https://git-lfs": Kind(
        "a Git LFS pointer, not the file itself", (), "Download the file with git lfs pull"
    ),
    "<!doctype html": Kind("a web page, not the file itself", (), "Download the file again"),
    "<html": Kind("a web page, not the file itself", (), "Download the file again"),
}
# endings of files that are not lines of plain text
SYNTAX = (
    ".yaml",
    ".yml",
    ".toml",
    ".json",
    ".jsonl",
    ".safetensors",
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
)


def lines_kind(path: Path, text: str) -> Kind | None:
    """Return the kind of a plain text; None for the endings in `SYNTAX`, since their readers report mistakes."""
    if path.suffix.lower() in SYNTAX:
        return None
    if "[name]" in text or "[filewords]" in text:
        return Kind("a file of templates", ("template_file",))
    if any(path.with_suffix(ending).is_file() for ending in IMAGES):
        fix = "Captions are found next to their images: pass the folder with --train_data_dir"
        return Kind("the caption of an image", ("sample_prompts", "template_file", "from_file"), fix)
    if text.strip():
        fix = "Pass prompts with --sample_prompts and templates with --template_file; captions belong next to images"
        return Kind("plain text", ("sample_prompts", "template_file", "from_file"), fix)
    return None
