"""Write `docs/settings.md` from the schema; `--check` only says whether it is up to date.

python -m tools.settings_page [--check]
"""

import sys
from pathlib import Path
from typing import get_args

from neonym.config.dataset import ConceptSpec, DatasetValues, SubsetSpec
from neonym.config.run import RunConfig, fields_of

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
TITLES = {
    "model": "Model", "concept": "The new word", "dataset": "Pictures and captions", "optim": "Learning",
    "objective": "Loss and noise", "compute": "Computing", "cache": "Cache of encoded pictures", "save": "Files",
    "sample": "Pictures while training", "log": "Trackers", "hub": "Hugging Face hub",
    "metadata": "Metadata of the file", "eval": "Evaluation",
}  # fmt: skip


def kind(annotation: object) -> str:
    """A type as users read it."""
    for part in (annotation, *get_args(annotation)):
        if hasattr(part, "__metadata__"):  # Annotated[kind, ...]
            annotation = get_args(part)[0]
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else str(annotation)
    if "Literal" in (text or ""):
        return ", ".join(str(choice) for choice in get_args(annotation))
    return (text or "").replace("typing.", "").replace(" | None", "").replace("|", "\\|")


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
            lines += ["", f"## {TITLES[section]}", "", "| flag | kind | default | what it does |", "|---|---|---|---|"]
            section_now = section
        lines.append(f"| `--{name}` | {kind(field.annotation)} | `{field.default}` | {field.description} |")
    lines += [
        "",
        "## The data-set file",
        "",
        "`[[concepts]]`, `[[datasets]]`, `[[datasets.subsets]]`; what may stand in a",
    ]
    lines += ["data set may stand in `[general]` too, and what may stand in a subset in both, but for `image_dir`,"]
    lines += ["`is_reg` and `concept`. The nearest place wins; then the command line.", ""]
    for title, model in (("concepts", ConceptSpec), ("datasets", DatasetValues), ("datasets.subsets", SubsetSpec)):
        lines += ["", f"### `[[{title}]]`", "", "| key | kind | default |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            default = "required" if field.is_required() else f"`{field.default}`"
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
