"""Tests of docs/python.md: its examples run, and it documents every name that `neonym` exports."""

import inspect
import re
import shutil
from dataclasses import fields, is_dataclass

import pytest

import neonym
from support import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text()
SHORTER = {"max_train_steps=100": "max_train_steps=6, eval_samples=8, cpu=True"}


def test_the_examples_run_in_order(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 8
    space: dict = {"__name__": "page"}
    for block in blocks:
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        exec(compile(block, "docs/python.md", "exec"), space)
    output = capsys.readouterr().out
    assert "nutkin.safetensors" in output
    assert "Did you mean `learning_rate`?" in output
    assert re.search(r"^3 \[\]$", output, re.MULTILINE), output  # stopped after step 3
    for name in ("nutkin.pt", "nutkin.png", "short/nutkin.bin", "halfnutkin.safetensors", "stopped.safetensors"):
        assert (tmp_path / "outputs" / "python" / name).is_file(), name


def test_the_page_documents_exactly_the_exported_names():
    assert set(re.findall(r"^- `neonym\.(\w+)", PAGE, re.MULTILINE)) == set(neonym.__all__)


def test_the_page_shows_the_real_signatures():
    shown = dict(re.findall(r"^- `neonym\.(\w+)\((.*?)\)`:", PAGE, re.MULTILINE))
    functions = {name for name in neonym.__all__ if inspect.isfunction(getattr(neonym, name))}
    assert set(shown) == functions
    for name, text in shown.items():
        bare = []
        for parameter in inspect.signature(getattr(neonym, name)).parameters.values():
            if parameter.kind is parameter.KEYWORD_ONLY and "*" not in bare:
                bare.append("*")
            default = parameter.default
            written = f'"{default}"' if isinstance(default, str) else str(default)
            bare.append(parameter.name if default is parameter.empty else f"{parameter.name}={written}")
        assert text == ", ".join(bare), name


@pytest.mark.parametrize("name", [n for n in neonym.__all__ if is_dataclass(getattr(neonym, n))])
def test_the_attributes_that_the_page_names_exist(name):
    line = re.search(rf"^- `neonym\.{name}`: (.*?)(?=\n- |\n\n|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert line is not None
    known = {f.name for f in fields(getattr(neonym, name))} | set(dir(getattr(neonym, name)))
    attributes = re.findall(r"`([a-z_]+)`", line.group(1))
    assert set(attributes) - {"generate"} <= known
