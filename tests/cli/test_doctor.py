"""`neonym doctor`, where everything is there and where much is not."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from neonym.cli.main import main
from neonym.extras import OPTIONAL, install
from support import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    name: lines for name, lines in PROJECT["optional-dependencies"].items() if name not in ("dev", "builtin-model")
}


def package(requirement: str) -> str:
    return requirement.partition(">")[0].partition("=")[0]


def test_every_optional_package_is_in_its_extra_and_all_has_them_all():
    listed = {(extra, package(line)) for extra, lines in EXTRAS.items() if extra != "all" for line in lines}
    assert {(o.extra, o.package) for o in OPTIONAL} == listed
    (everything,) = EXTRAS["all"]
    assert set(everything.removeprefix("neonym[").removesuffix("]").split(",")) == set(EXTRAS) - {"all"}


def test_everything_that_is_imported_is_needed_always_or_optional():
    """By name: what is imported anywhere in the package, against what is declared."""
    modules = {"PIL": "Pillow", "huggingface_hub": "huggingface_hub", "packaging": "packaging"}
    declared = {package(line).lower().replace("-", "_") for line in PROJECT["dependencies"]}
    indirect = {"huggingface_hub", "packaging", "tqdm"}  # of transformers, diffusers and accelerate alike
    imported = set()
    for file in (ROOT / "src" / "neonym").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.partition(".")[0] for name in names}
    own = {"neonym", "__future__", *sys.stdlib_module_names, "tomllib", "tomli"}
    known = declared | indirect | {o.module for o in OPTIONAL}
    assert {name for name in imported - own if modules.get(name, name).lower() not in known} == set()


def test_the_answer_is_json_and_names_the_home_folder_by_its_sign(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) in (0, 2)  # 2 where it is not installed, but run from a folder
    text = capsys.readouterr().out
    found = json.loads(text)
    assert str(tmp_path) not in text
    assert found["environment"]["HF_HOME"] == "~/hub"
    assert found["disk"]["here"].endswith("(~)")
    assert found["devices"]["cpu"]
    assert found["neonym"]["built-in model"] == found["neonym"]["example images"] == "there"
    assert list(tmp_path.iterdir()) == []


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from neonym.cli.main import main
sys.exit(main({words!r}))
"""


def run_without(missing: list[str], *words: str) -> subprocess.CompletedProcess:
    code = WITHOUT.format(missing=missing, words=list(words))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_nothing_that_is_missing_stops_it():
    everything = ["torch", "pydantic", "tyro", "huggingface_hub", "packaging", "numpy", "PIL", "safetensors"]
    done = run_without(everything, "doctor")
    assert done.stderr == ""
    assert done.returncode == 2  # what is needed cannot be told
    assert "devices: cannot be told (ModuleNotFoundError" in done.stdout


def test_a_missing_library_is_one_line_in_other_commands():
    done = run_without(["torch"], "inspect", "a.pt")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the package `torch` is missing. `neonym doctor` lists all that are." in done.stderr


@pytest.mark.parametrize("optional", OPTIONAL, ids=lambda o: o.module)
def test_each_optional_package_says_what_it_is_for(optional, monkeypatch):
    from neonym.cli import doctor

    monkeypatch.setattr(doctor, "is_installed", lambda module: False)
    assert doctor.optional_version(optional.module) == f"missing for {optional.purpose}: {install(optional.module)}"


def test_a_folder_named_like_a_package_is_none(tmp_path, monkeypatch):
    from neonym.extras import is_installed

    (Path(tmp_path) / "wandb_of_mine").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("wandb_of_mine")
    assert not is_installed("no_such_package")
