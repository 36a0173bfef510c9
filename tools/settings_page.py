"""Write `docs/settings.md` from the schema; `--check` only says whether it is up to date.

python -m tools.settings_page [--check]
"""

import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from neonym.config.dataset import ConceptSpec, DatasetValues, SubsetSpec
from neonym.config.generate import GenerateSettings
from neonym.config.run import RunConfig, fields_of
from neonym.config.values import parsed_kind

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
TITLES = {
    "model": "Model", "concept": "The new word", "dataset": "Images and captions", "optim": "Learning",
    "objective": "Loss and noise", "compute": "Computing", "cache": "Cache of encoded images", "save": "Files",
    "sample": "Images while training", "log": "Trackers", "hub": "Hugging Face hub",
    "metadata": "Metadata of the file", "eval": "Evaluation",
}  # fmt: skip

HEAD = "| flag | kind | default | what it does |\n|---|---|---|---|"


def kind(annotation: Any) -> str:
    """A type as users read it."""
    if parsed := parsed_kind(annotation):
        return parsed.label
    parts = [part for part in get_args(annotation) if part is not type(None)]
    origin = get_origin(annotation)
    if origin is Annotated:
        return kind(parts[0])
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin in (Union, UnionType):
        return " or ".join(kind(part) for part in parts)
    if origin is tuple:
        return f"list of {kind(parts[0])}" if parts[-1] is Ellipsis else f"{len(parts)} x {kind(parts[0])}"
    return {dict: "table"}.get(origin or annotation, getattr(annotation, "__name__", str(annotation)))


def shown(default: Any) -> str:
    return f"`{default!r}`" if default == "" else f"`{default}`"


def row(name: str, field: FieldInfo) -> str:
    """A flag's line of a table."""
    help = (field.description or "").replace("|", "\\|")
    return f"| `--{name}` | {kind(field.annotation)} | {shown(field.default)} | {help} |"


def page() -> str:
    """The whole page."""
    lines = [
        "# Settings",
        "",
        "Made from the schema by `make docs`. Every flag is written `--name=value` or `--name value`;",
    ]
    lines += [
        "a setting of the kind `bool` is switched on by `--name` alone. `None` means: found out, as the text says.",
        "",
    ]
    section_now = ""
    for section, name, field in fields_of(RunConfig):
        if section != section_now:
            lines += ["", f"## {TITLES[section]}", "", HEAD]
            section_now = section
        lines.append(row(name, field))
    lines += ["", "## Generation", "", "Of `neonym generate`, `gen_img_diffusers.py` and `gen_img.py`.", "", HEAD]
    lines += [row(name, field) for name, field in GenerateSettings.model_fields.items()]
    lines += [
        "",
        "## The data-set file",
        "",
        "`[[concepts]]`, `[[datasets]]`, `[[datasets.subsets]]`; what may stand in a",
    ]
    lines += ["data set may stand in `[general]` too, and what may stand in a subset in both, but for `image_dir`,"]
    lines += [
        "`metadata_file`, `conditioning_data_dir`, `is_reg`, `alpha_mask` and `concept`. The nearest place wins; then the"
    ]
    lines += [
        "command line. A subset has an `image_dir`, or a `metadata_file`, whose images may lie in an `image_dir`.",
        "",
    ]
    for title, model in (("concepts", ConceptSpec), ("datasets", DatasetValues), ("datasets.subsets", SubsetSpec)):
        lines += ["", f"### `[[{title}]]`", "", "| key | kind | default |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            default = "required" if field.is_required() else shown(field.default)
            lines.append(f"| `{name}` | {kind(field.annotation)} | {default} |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def write_or_check(file: Path, text: str) -> None:
    """Write a generated page, or with `--check` end with a message if it is not up to date."""
    if "--check" not in sys.argv[1:]:
        file.write_text(text, encoding="utf-8")
    elif not file.exists() or file.read_text(encoding="utf-8") != text:
        sys.exit(f"{file.name} is not what the source says: run `make docs`")


if __name__ == "__main__":
    write_or_check(PAGE, page())
