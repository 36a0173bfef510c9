"""Write `docs/from-other-trainers.md` from the tables of other trainers. With `--check`, only report if it is outdated.

python -m tools.trainers_page [--check]
"""

from pathlib import Path

from neonym.config.other_trainers import GENERATORS, TRAINERS, Meaning
from tools.settings_page import write_or_check

PAGE = Path(__file__).parent.parent / "docs" / "from-other-trainers.md"
HEAD = Path(__file__).with_name("from_other_trainers_head.md")
TITLES = {
    "diffusers": "diffusers: textual_inversion.py and textual_inversion_sdxl.py",
    "invoke-training": "invoke-training",
    "OneTrainer": "OneTrainer",
    "AUTOMATIC1111": "AUTOMATIC1111: the Train tab and its settings files",
    "the kohya_ss GUI": "The kohya_ss GUI: keys of its .json files that are not flags of sd-scripts",
    "other programs": "Other names",
}


def table(words: dict[str, Meaning]) -> list[str]:
    """Return the table of one trainer, line by line."""
    rows = [
        f"| `{word}` | {f'`--{m.setting}`' if m.setting else 'no setting'} | {m.note} |" for word, m in words.items()
    ]
    return ["| name | in Neonym | what is different |", "|---|---|---|", *rows]


def page() -> str:
    """Return the whole page: an introduction written by hand, and then a table for each trainer."""
    lines = [HEAD.read_text(encoding="utf-8").rstrip()]
    for trainer, words in TRAINERS.items():
        lines += ["", f"## {TITLES[trainer]}", "", *table(words)]
    lines += [
        "",
        "## Generation",
        "",
        "This table translates names from other programs, and from `neonym train`, into flags of `neonym generate`.",
        "",
    ]
    return "\n".join([*lines, *table(GENERATORS)]) + "\n"


if __name__ == "__main__":
    write_or_check(PAGE, page())
