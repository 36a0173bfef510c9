"""Verify that everything specific to a family is in its record, and nowhere else."""

import re

import pytest

from neonym.models.registry import families
from support import ROOT

SOURCE = ROOT / "src" / "neonym"
OWN = ("models/families/", "formats/consumers/", "config/sdscripts.py", "models/builtin/")
EXCEPTIONS = {  # file -> why it may name a family, or a part of one
    "config/data_settings.py": "settings with sd-scripts' names and meanings: --v2, --sdxl, --max_token_length",
    "config/learning_settings.py": "help texts that give the defaults of each family",
    "config/compute_settings.py": "help texts about the U-Net, as in sd-scripts",
    "config/generate.py": "likewise: --v1, --v2, --sdxl, and the sizes that only SDXL reads",
    "config/rules.py": "sd-scripts' flags that name a family",
    "web/models.py": "names of folders in other programs",
    "cli/entry.py": "sdxl_train_textual_inversion.py is a script of sd-scripts",
    "models/registry.py": "the list of the families",
    "models/tokenizers/clip.py": "a chunk of CLIP",
    "formats/kohya.py": "the alignment of data in a file, in bytes",
    "training/metadata.py": "settings that sd-scripts does not record, by their names",
    "preflight/settings.py": "which of sd-scripts' two scripts gives a flag",
    "data/repair.py": "bits of a byte",
}
NAMES = "|".join(re.escape(name) for family in families() for name in (family.name, family.label))
LITERAL = re.compile(rf"\b(?:{NAMES}|SD ?\d(?:\.[x\d])?|SD1|SD2|SDXL|u-?net|77|75)\b|[%/] ?8\b|\b8 ?\*", re.IGNORECASE)


def literals(text: str) -> list[str]:
    """Return the names of families and their parts in code, outside comments and docstrings."""
    code = re.sub(r'"""(?:.|\n)*?"""', "", text)
    code = re.sub(r"(?m)(?:^|\s{2,})#.*$", "", code)
    return LITERAL.findall(code)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('if family == "sdxl":', ["sdxl"]),
        ("width // 8", ["/ 8"]),
        ("model.unet(x)", ["unet"]),
        ("ids[:77]", ["77"]),
        ('"""An SDXL."""\nx = 1  # of a U-Net', []),
        ("model.denoiser(x)", []),
    ],
)
def test_literals_are_found(code, found):
    assert literals(code) == found


def test_nothing_else_names_a_family():
    files = [f for f in SOURCE.rglob("*.py") if "builtin" not in f.parts]
    assert len(files) > 150
    found = {str(f.relative_to(SOURCE)): literals(f.read_text("utf-8")) for f in files}
    named = {name: words for name, words in found.items() if words and not name.startswith(OWN)}
    assert {name: words for name, words in named.items() if name not in EXCEPTIONS} == {}
    assert set(EXCEPTIONS) <= set(named), "an exception that is no longer needed"
