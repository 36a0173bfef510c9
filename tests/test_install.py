"""Verify the wheel and the sdist, installed without the repository, editable mode or make."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from support import ROOT

BUILD = (
    "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"  # as pip calls it
)
SCRIPTS = ("neonym", "train_textual_inversion", "sdxl_train_textual_inversion", "gen_img", "gen_img_diffusers")


def build(what: str, source: Path, out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{what}", str(out)], cwd=source, check=True, capture_output=True
    )
    (built,) = out.iterdir()
    return built


def contents(wheel: Path) -> dict[str, str]:
    """Return the hash of each file in a wheel, without the record, in which some builders write a time."""
    with zipfile.ZipFile(wheel) as archive:
        return {n: hashlib.sha256(archive.read(n)).hexdigest() for n in archive.namelist() if not n.endswith("RECORD")}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("install")


@pytest.fixture(scope="module")
def sdist(home):
    """Build the sdist from a copy of its inputs, without other files that may be in a folder."""
    clone = home / "clone"
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", "examples"):
        shutil.copytree(ROOT / folder, clone / folder, symlinks=True, ignore=unwanted)
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    return build("sdist", clone, home / "sdist")


@pytest.fixture(scope="module")
def wheel(home, sdist):
    """Build the wheel from the sdist alone, as pip does if there is no wheel."""
    with tarfile.open(sdist) as archive:
        archive.extractall(home / "unpacked", filter="data")
    (source,) = (home / "unpacked").iterdir()
    return build("wheel", source, home / "wheel")


@pytest.fixture(scope="module")
def bin_folder(home, wheel):
    """Return the scripts of a fresh environment with the wheel in it.

    Its dependencies are those of this environment, without this repository: links of editable packages are not followed.
    """
    where = home / "env"
    venv.create(where, with_pip=False, symlinks=True)
    folder = where / ("Scripts" if os.name == "nt" else "bin")
    python = folder / "python"
    flags = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", *flags, str(wheel)], check=True)
    (site,) = where.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.fixture(scope="module")
def run(home, bin_folder):
    """Return a function that runs a command outside the repository and returns its output."""
    folder = home / "anywhere"
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PATH": f"{bin_folder}{os.pathsep}{environment['PATH']}", "XDG_CACHE_HOME": str(home / "cache")}

    def words(*command: str, codes=(0,)) -> str:
        done = subprocess.run(
            [str(bin_folder / command[0]), *command[1:]], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode in codes, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return words


def test_the_wheel_holds_everything_and_nothing_else(wheel, home):
    found = contents(wheel)
    assert contents(build("wheel", home / "clone", home / "direct")) == found
    names = set(found)
    assert {"neonym/examples/demo.toml", "neonym/examples/LICENSES.md", "neonym/examples/nutkin/1.png"} <= names
    assert "neonym/models/builtin/emoji/unet/diffusion_pytorch_model.safetensors" in names
    assert not any(name.split("/")[0] in ("tests", "tools", "benchmarks", "examples") for name in names)
    sources = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src" / "neonym").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources


def test_commands_are_those_of_the_wheel(run, home):
    assert run("python", "-m", "neonym", "--version") == run("neonym", "--version")
    place = run("python", "-c", "import neonym; print(neonym.__file__)").strip()
    assert Path(place).is_relative_to(home / "env")
    found = json.loads(run("neonym", "doctor", "--json"))
    assert found["missing"] == []
    assert found["neonym"]["example images"] == "present"
    assert set(found["dependencies"].values()) & {"missing"} == set()
    for script in SCRIPTS[1:]:
        assert f"usage: {script}" in run(script, "--help")


def test_a_newcomers_first_commands(run, home):
    """The demo learns with the model and images in the wheel, and generation uses what it learned."""
    said = run("neonym", "demo", "--max_train_steps=10", "--steps=2", codes=(0, 3))
    word = "outputs/demo/nutkin.safetensors"
    assert word in said
    flags = ["--prompt", "a 3d render of a nutkin", "--steps=2", "--outdir=images"]
    run("neonym", "generate", "--textual_inversion_embeddings", word, *flags)
    (image,) = (home / "anywhere" / "images").glob("*.png")
    assert image.stat().st_size > 1000
