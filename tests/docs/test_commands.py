"""Tests of the documentation: every command that it shows runs from a folder with the examples, as for a reader."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT
from support.network import no_network as no_network  # processes are started through a socket of this machine
from support.warm import run_warm

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "tools").rglob("README.md"))]
SHORTER = {  # some commands take minutes: they run with less of everything
    "neonym train": "--max_train_steps=20",
    "benchmarks.recovery": "--subjects 2 --steps 4 --obedience_colours 1",
    "benchmarks.generate": "--images 1 --steps 1 --times 1 --batch_sizes 1 --samplers ddim",
    "benchmarks.step": "--steps 1 --batch_sizes 1 --processes 1 --json outputs/step.json",
}
ELSEWHERE = ("make ", "pip ", "python -m tools.builtin_model")  # run by CI itself, or dependent on downloads


def shown_commands() -> list[str]:
    """Return the lines in code blocks that start with the name of a program, with continued lines joined."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"(neonym|accelerate|python|make|pip) ", line) and line not in found:
                    found.append(line)
    return found


def test_the_pages_show_commands():
    assert any(c.startswith("neonym train") for c in shown_commands())
    assert any(c.startswith("accelerate launch") for c in shown_commands())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a copy of a clone without the package; commands see each other's outputs, in the order shown."""
    home = tmp_path_factory.mktemp("clone")
    for name in ("examples", "benchmarks", "tools"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, home)
    plan = home / "examples" / "fleet" / "plan.toml"
    plan.write_text(re.sub(r"max_train_steps = \d+", "max_train_steps = 10", plan.read_text()))
    return home


@pytest.mark.parametrize("line", [c for c in shown_commands() if not c.startswith(ELSEWHERE)])
def test_a_shown_command_runs(line, folder):
    for module, flags in SHORTER.items():
        if module in line and flags.partition("=")[0] not in line:
            line = f"{line} {flags}"
    words = shlex.split(line)
    bin_folder = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder)}
    if words[0] == "neonym":
        done = run_warm(words, folder, environment, 500)
    else:
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode in (0, 3), f"{line}\n{done.stdout}\n{done.stderr}"


def test_the_settings_page_is_up_to_date():
    from tools.settings_page import PAGE, page

    assert PAGE.read_text() == page()


def test_the_pages_have_no_placeholders():
    for page in PAGES:
        assert not re.search(r"^[A-Z]+_[A-Z]+$", page.read_text(), re.MULTILINE), page.name


def test_links_between_pages_are_valid():
    for page in PAGES:
        targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
        for target in targets:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
