"""Write `docs/settings.md` from the schema. With `--check`, only report whether it is up to date.

python -m tools.settings_page [--check]
"""

import sys
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from neonym.config.dataset import ConceptSpec, DatasetValues, SubsetSpec
from neonym.config.generate import GenerateSettings
from neonym.config.own_settings import OWN_SETTINGS
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.values import parsed_kind

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
TITLES = {
    "model": "Model", "concept": "The new word", "dataset": "Images and captions", "optim": "Learning",
    "objective": "Loss and noise", "compute": "Computing", "cache": "Cache of encoded images", "save": "Files",
    "sample": "Images while training", "log": "Trackers", "hub": "Hugging Face hub",
    "metadata": "Metadata of the file", "eval": "Evaluation",
}  # fmt: skip

INTRODUCTION = """\
This page lists every setting. It is generated from the schema by `make docs`.

Write a flag as `--name=value` or `--name value`. To switch on a setting of type `bool`, write `--name` alone. A default
of `None` means that the value comes from elsewhere, as the description explains.
"""
TABLES = """\
The tables are `[[concepts]]`, `[[datasets]]` and `[[datasets.subsets]]`. You may also set the keys of a dataset in
`[general]`, and the keys of a subset in its dataset or in `[general]`, except `image_dir`, `metadata_file`,
`conditioning_data_dir`, `is_reg`, `alpha_mask` and `concept`. The innermost table takes precedence over the others, and
every table takes precedence over the command line. A subset has either an `image_dir`, or a `metadata_file` with or
without an `image_dir` for its images.
"""
OWN = """\
A row of `[[concepts]]` may also have these settings, under the names of their flags. They hold for its word and take
precedence over the command line:
"""
HEAD = "| flag | type | default | what it does |\n|---|---|---|---|"


def kind(annotation: Any) -> str:
    """Return the name of a type for users, such as `int` or `list of str`."""
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
    """Return a default value in backticks; an empty text keeps its quotes."""
    return f"`{default!r}`" if default == "" else f"`{default}`"


def row(name: str, field: FieldInfo) -> str:
    """Return the line of a flag in a table."""
    help = (field.description or "").replace("|", "\\|")
    return f"| `--{name}` | {kind(field.annotation)} | {shown(field.default)} | {help} |"


def page() -> str:
    """Return the whole page."""
    lines = ["# Settings", "", *INTRODUCTION.splitlines(), ""]
    section_now = ""
    for section, name, field in fields_of(RunConfig):
        if section != section_now:
            lines += ["", f"## {TITLES[section]}", "", HEAD]
            section_now = section
        lines.append(row(name, field))
    lines += [
        "",
        "## Generation",
        "",
        "The flags of `neonym generate`, `gen_img_diffusers.py` and `gen_img.py`.",
        "",
        HEAD,
    ]
    lines += [row(name, field) for name, field in GenerateSettings.model_fields.items()]
    lines += ["", '<a id="the-data-set-file"></a>', "", "## The dataset file", "", *TABLES.splitlines(), ""]
    for title, model in (("concepts", ConceptSpec), ("datasets", DatasetValues), ("datasets.subsets", SubsetSpec)):
        lines += ["", f"### `[[{title}]]`", "", "| key | type | default |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            default = "required" if field.is_required() else shown(field.default)
            lines.append(f"| `{name}` | {kind(field.annotation)} | {default} |")
        if model is ConceptSpec:
            lines += ["", *OWN.splitlines(), "", ", ".join(f"`{name}`" for name in OWN_SETTINGS) + "."]
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def write_or_check(file: Path, text: str) -> None:
    """Write a generated page or, with `--check`, end the program with a message if the page is not up to date."""
    if "--check" not in sys.argv[1:]:
        file.write_text(text, encoding="utf-8")
    elif not file.exists() or file.read_text(encoding="utf-8") != text:
        sys.exit(f"{file.name} is not up to date: run `make docs`")


if __name__ == "__main__":
    write_or_check(PAGE, page())
