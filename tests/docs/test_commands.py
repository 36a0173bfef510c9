"""Every command that the documentation shows is run, from a folder with the examples, as a reader would."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "tools").rglob("README.md"))]
SHORTER = {  # measurements take minutes: the same command with less of everything
    "benchmarks.recovery": "--subjects 2 --steps 4 --obedience_colours 1",
    "benchmarks.generate": "--pictures 1 --steps 1 --times 1 --batch_sizes 1 --samplers ddim",
    "benchmarks.step": "--steps 1 --batch_sizes 1",
}
ELSEWHERE = ("make ", "pip ", "python -m tools.builtin_model")  # run by CI itself, or made from downloads


def shown_commands() -> list[str]:
    """Lines of code blocks that start with a program's name, continued lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"(neonym|accelerate|python|make|pip) ", line) and line not in found:
                    found.append(line)
    return found


def test_there_are_commands():
    assert any(c.startswith("neonym train") for c in shown_commands())
    assert any(c.startswith("accelerate launch") for c in shown_commands())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of what a clone has, without the package itself; commands see each other's outputs, in the order shown."""
    home = tmp_path_factory.mktemp("clone")
    for name in ("examples", "benchmarks", "tools"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, home)
    return home


@pytest.mark.parametrize("line", [c for c in shown_commands() if not c.startswith(ELSEWHERE)])
def test_a_shown_command_runs(line, folder):
    for module, flags in SHORTER.items():
        if module in line:
            line = f"{line} {flags}"
    words = shlex.split(line)
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode in (0, 3), f"{line}\n{done.stdout}\n{done.stderr}"


def test_the_settings_page_is_up_to_date():
    from tools.settings_page import PAGE, page

    assert PAGE.read_text() == page()


def test_nothing_is_left_to_fill_in():
    for page in PAGES:
        assert not re.search(r"^[A-Z]+_[A-Z]+$", page.read_text(), re.MULTILINE), page.name


def test_links_lead_somewhere():
    for page in PAGES:
        targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        for target in targets:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
