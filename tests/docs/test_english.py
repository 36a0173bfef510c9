"""The prose of the source: every docstring is a sentence that can be read alone, in the field's own words."""

import ast
import re
from collections.abc import Iterator

import pytest

from support import ROOT

SOURCE = ROOT / "src" / "neonym"
FRAGMENT = re.compile(  # how a docstring begins that only continues the name it stands under
    r"(?:Of|In|From|With|Without|For|At|On|By|As|To|And|Or|But|So|If|When|Where|Until|Which|Who|How|What|Same|Likewise|Its|Their|Between|Beside)\b"
)
WHETHER = re.compile(r"Whether\b")  # reads well for a property, which is a fact, and not for a function, which answers
DIALECT = re.compile(  # words that this project once had for things that have names
    r"\b(?:pictures?(?!:)|painters?|alike|remembered|rhythm|plateau|told|wished)\b", re.IGNORECASE
)


def docstrings(text: str) -> Iterator[tuple[str, str, bool]]:
    """Yield (name, docstring, whether it is a property's) of everything that has a docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (found := ast.get_docstring(node)):
            decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
            yield getattr(node, "name", "the module"), found, any("property" in d for d in decorators)


def faults(docstring: str, is_property: bool = False) -> list[str]:
    """Return what keeps a docstring from being read alone."""
    first = docstring.split("\n\n")[0]
    found = ["begins with a fragment"] if FRAGMENT.match(first) else []
    found += ["begins with a fragment"] if WHETHER.match(first) and not is_property else []
    found += ["has no capital"] if not re.match(r"[A-Z`0-9\"'(~]|sd-scripts|diffusers", first) else []
    found += ['says "Raise" where it continues'] if re.search(r"[.:!?)`]\s+Raise ", docstring) else []
    found += ["has no end"] if not re.search(r"[.:!?)`]$", first) else []
    found += ["has an arrow"] if "->" in re.sub(r"`[^`]*`|\](?:, \w+)? -> [\w ]*\[", "", docstring) else []
    found += [f"says {word}" for word in DIALECT.findall(re.sub(r"`[^`]*`", "", docstring))]
    return found


@pytest.mark.parametrize(
    ("docstring", "wrong"),
    [
        ("Return the rows of a word, float32 [n,W].", []),
        ("Of each number.", ["begins with a fragment"]),
        ("Whether it fits.", ["begins with a fragment"]),
        ("the means", ["has no capital", "has no end"]),
        ("Pictures -> latents.", ["has an arrow", "says Pictures"]),
        ("Return the flag `--picture`.", []),
        ("Raise ModelError if it is damaged.", []),
        ("Return the rows. Raises ModelError.", []),
        ("Return the rows. Raise ModelError.", ['says "Raise" where it continues']),
        ("Return the rows.\n\nRaise ModelError.", ['says "Raise" where it continues']),
    ],
)
def test_faults_are_found(docstring, wrong):
    assert faults(docstring) == wrong


def test_a_property_may_be_a_fact():
    assert faults("Whether it fits.", is_property=True) == []


def test_docstrings_can_be_read_alone():
    files = [file for file in SOURCE.rglob("*.py") if "builtin" not in file.parts]
    read = [(file, *rest) for file in files for rest in docstrings(file.read_text("utf-8"))]
    assert len(read) > 1000
    found = [
        f"{file.relative_to(SOURCE)}: {name} {wrong}: {text.splitlines()[0]}"
        for file, name, text, is_property in read
        if (wrong := faults(text, is_property))
    ]
    assert not found, "\n".join(found)
