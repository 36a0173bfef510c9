"""Write `docs/from-sd-scripts.md` from the compatibility tables. With `--check`, only report whether it is up to date.

python -m tools.sdscripts_page [--check]
"""

from pathlib import Path

from neonym.config.sdscripts import GENERATOR, GUI, OTHER_TRAINERS, SDSCRIPTS
from tools.settings_page import write_or_check

PAGE = Path(__file__).parent.parent / "docs" / "from-sd-scripts.md"
HEAD = Path(__file__).with_name("from_sd_scripts_head.md")
GROUPS = (
    ("renamed", "Renamed", "These flags set another setting, which does the same."),
    (
        "no effect",
        "Accepted without effect",
        "Neonym accepts these flags but has no use for them. If you use one, a note says so.",
    ),
    ("refused", "Refused", "Neonym cannot do what these flags ask for, so the run does not start."),
)

HEADS = {"renamed": "| flag | what it does |", "no effect": "| flag | reason |", "refused": "| flag | reason |"}


def page() -> str:
    """Return the whole page: an introduction written by hand, and then the tables."""
    lines = [HEAD.read_text(encoding="utf-8").rstrip()]
    for kind, title, text in GROUPS:
        lines += ["", f"### {title}", "", text, "", HEADS[kind], "|---|---|"]
        lines += [f"| `--{name}` | {compat.reason} |" for name, compat in SDSCRIPTS.items() if compat.kind == kind]
    others = ", ".join(f"`{name}`" for name in sorted(OTHER_TRAINERS))
    lines += ["", "### Keys of sd-scripts' other trainers", ""]
    lines += [f"In a `--config_file`, these keys are ignored, with one warning for all of them: {others}."]
    gui = ", ".join(f"`{name}`" for name in sorted(GUI))
    lines += ["", f"Keys that the kohya_ss GUI writes only for itself are ignored too: {gui}."]
    lines += ["", "## Flags of gen_img_diffusers.py and gen_img.py that are not settings here"]
    for kind, title, _ in GROUPS:
        lines += ["", f"### {title}, in generation", "", HEADS[kind], "|---|---|"]
        lines += [f"| `--{name}` | {compat.reason} |" for name, compat in GENERATOR.items() if compat.kind == kind]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_or_check(PAGE, page())
