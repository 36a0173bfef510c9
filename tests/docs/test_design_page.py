"""docs/design.md names files that exist, and each of its how-to lists names the test that follows it."""

import re

import pytest

from support import ROOT

PAGE = (ROOT / "docs" / "design.md").read_text("utf-8")
SOURCE = ROOT / "src" / "neonym"
PLACEHOLDER = "NAME"  # the file that a reader is about to write


def test_files_exist():
    files = {file for file in re.findall(r"`([\w/]+\.(?:py|md|toml))`", PAGE) if PLACEHOLDER not in file}
    assert len(files) > 40
    assert not {file for file in files if not any((home / file).exists() for home in (ROOT, SOURCE, SOURCE / "models"))}


@pytest.mark.parametrize("seam", ["A model family", "A listener", "An optimizer", "A layout of embedding files"])
def test_a_how_to_is_at_most_ten_lines_and_names_its_test(seam):
    (section,) = re.findall(rf"^### {seam}$(.*?)^### ", PAGE, re.MULTILINE | re.DOTALL)
    steps = re.findall(r"^\d+\. (.+)$", section, re.MULTILINE)
    assert 3 <= len(steps) <= 10
    (test,) = re.findall(r"`(tests/[\w/]+\.py)`", section)
    assert "def test_" in (ROOT / test).read_text("utf-8")
