"""`neonym doctor`, in complete installations and with packages missing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from neonym.cli.main import main
from neonym.extras import OPTIONAL, install_command
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


def test_each_optional_package_is_in_its_extra_and_all_includes_every_extra_for_a_cpu():
    listed = {(extra, package(line)) for extra, lines in EXTRAS.items() if extra != "all" for line in lines}
    assert {(o.extra, o.package) for o in OPTIONAL} == listed
    (everything,) = EXTRAS["all"]
    gpu_only = {"quantization"}
    assert set(everything.removeprefix("neonym[").removesuffix("]").split(",")) == set(EXTRAS) - {"all"} - gpu_only


def test_every_imported_package_is_declared():
    """Every package that is imported anywhere is a dependency, a dependency of one, or optional."""
    modules = {"PIL": "Pillow", "huggingface_hub": "huggingface_hub", "packaging": "packaging"}
    declared = {package(line).lower().replace("-", "_") for line in PROJECT["dependencies"]}
    indirect = {"huggingface_hub", "packaging", "tqdm", "pydantic_core", "fastapi", "starlette"}  # of what is declared
    imported = set()
    for file in (ROOT / "src" / "neonym").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.partition(".")[0] for name in names}
    own = {"neonym", "__future__", *sys.stdlib_module_names, "tomllib", "tomli"}
    known = declared | indirect | {o.module for o in OPTIONAL}
    assert {name for name in imported - own if modules.get(name, name).lower() not in known} == set()


def test_json_output_replaces_the_home_folder_and_writes_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) in (0, 2)  # 2 if Neonym runs from a folder without being installed
    text = capsys.readouterr().out
    found = json.loads(text)
    assert str(tmp_path) not in text
    assert found["environment"]["HF_HOME"] == "~/hub"
    assert found["disk"]["here"].endswith("(~)")
    assert found["devices"]["cpu"]
    assert found["neonym"]["built-in model"] == found["neonym"]["example images"] == "present"
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


def test_doctor_runs_without_any_of_the_libraries():
    everything = ["torch", "pydantic", "tyro", "huggingface_hub", "packaging", "numpy", "PIL", "safetensors"]
    done = run_without(everything, "doctor")
    assert done.stderr == ""
    assert done.returncode == 2  # the requirements are unknown
    assert "devices: unknown (ModuleNotFoundError" in done.stdout


def test_other_commands_report_a_missing_library_in_one_line():
    done = run_without(["torch"], "inspect", "a.pt")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the package `torch` is missing. `neonym doctor` lists everything that is missing." in done.stderr


@pytest.mark.parametrize("optional", OPTIONAL, ids=lambda o: o.module)
def test_a_missing_optional_package_is_shown_with_its_purpose(optional, monkeypatch):
    from neonym.cli import doctor

    monkeypatch.setattr(doctor, "is_installed", lambda module: False)
    assert (
        doctor.optional_version(optional.module)
        == f"missing for {optional.purpose}: {install_command(optional.module)}"
    )


def test_a_folder_without_modules_is_not_an_installed_package(tmp_path, monkeypatch):
    from neonym.extras import is_installed

    (Path(tmp_path) / "wandb_of_mine").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("wandb_of_mine")
    assert not is_installed("no_such_package")
