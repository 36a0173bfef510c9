"""What the tests share: no network, a small data set, runs on the built-in model."""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from neonym.cli.main import main
from neonym.config.command_line import Given
from neonym.config.flat import validated
from neonym.config.run import RunConfig, fields_of
from neonym.formats import write_embedding
from neonym.preflight.preflight import Preflight, preflight
from neonym.runs.events import Event, Noted, Stepped
from neonym.runs.stop import Stop
from neonym.training.concept import Concept
from neonym.training.objective import Objective
from neonym.types import Embedding

if "NEONYM_TEST_CUDA" not in os.environ:  # tests/test_cuda.py is run alone: the laws are about a CPU in float32
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
WORD = "mychar4"
# whether this CPU rounds a sample alike in every batch and on any threads: not with AVX-512 (models/batch_invariance.py)
ALIKE = torch.backends.cpu.get_cpu_capability() == "AVX2"
ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"  # sd-scripts' own results
SMALL = ("--steps", "2", "--W", "64", "--H", "64", "--seed", "5")  # a picture that is quickly drawn
COLOURS = [(200, 40, 40), (40, 160, 60), (50, 90, 220), (240, 220, 60), (250, 250, 250), (20, 20, 20)]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Tests leave the user's cache folder alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Law 7: a test that reaches for the network fails."""

    def refuse(self, address):
        raise AssertionError(f"the network was reached for: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def make_pictures(
    folder: Path, count: int = 6, size=(128, 128), caption: str | None = "a sticker of a mychar4"
) -> Path:
    """Squares of one colour on another, each with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture = Image.new("RGB", size, COLOURS[i % len(COLOURS)])
        picture.paste(COLOURS[(i + 2) % len(COLOURS)], (size[0] // 4, size[1] // 4, size[0] // 2 + 8 * i, size[1] // 2))
        picture.save(folder / f"{i:02}.png")
        if caption is not None:
            (folder / f"{i:02}.txt").write_text(f"{caption} {i}")
    return folder


def golden(name: str, part: str = "cases") -> list[dict]:
    """Return the cases of a file. There are some: no test passes because its list is empty."""
    cases = json.loads((GOLDEN / name).read_text())[part]
    assert cases, f"{name} has no {part}"
    return cases


def reasons(letter: str) -> dict[str, str]:
    """The cases of one file that the table in docs/datasets.md lists, with the reasons."""
    page = (ROOT / "docs" / "datasets.md").read_text()
    found = dict(re.findall(rf"^\| {letter} \| (.+?) \| (.+) \|$", page, re.MULTILINE))
    assert found, f"the table has no rows of {letter}"  # only files with differences are asked for
    return found


def differences(letter: str) -> set[str]:
    """The names alone."""
    return set(reasons(letter))


def judge(letter: str, outcomes: dict[str, bool]) -> None:
    """Every case must agree, but for those listed; and of those none may. (More of the same kind may be listed.)"""
    listed = differences(letter)
    assert outcomes, "no case was looked at"
    wrong = sorted(name for name, agrees in outcomes.items() if not agrees and name not in listed)
    assert not wrong, f"not as sd-scripts, and not listed: {wrong}"
    stale = sorted(name for name in listed if outcomes.get(name))
    assert not stale, f"listed as different, but the same: {stale}"


NOT_OURS = {"debug_dataset", "prior_loss_weight", "kind"}  # flags, not values of a data set
EMPTY = (None, "", {}, 0, 0.0, False)


def same_values(found: list[tuple[str, dict]], expected: list[dict]) -> bool:
    """Whether every value that sd-scripts resolved is ours (kind, settings); where both mean "none", they need not be alike."""
    if len(found) != len(expected):
        return False
    for (kind, ours), theirs in zip(found, expected, strict=True):
        for mine, values in [(ours, theirs["dataset"]), *zip(ours["subsets"], theirs["subsets"], strict=True)]:
            for key in values.keys() & mine.keys() - NOT_OURS:
                none = mine[key] in EMPTY and values[key] in EMPTY
                if mine[key] != values[key] and not none and (key, values[key]) != ("caption_extension", ".caption"):
                    return False
        if kind != theirs["kind"]:
            return False
    return True


def settings(**flags) -> RunConfig:
    """A run from flat flags."""
    tree: dict[str, dict] = {}
    homes = {name: section for section, name, _ in fields_of(RunConfig)}
    for name, value in flags.items():
        tree.setdefault(homes[name], {})[name] = value
    return RunConfig.model_validate(tree)


def check(folder: Path | str, **flags) -> Preflight:
    """A folder of pictures of WORD, looked at as `neonym check` does."""
    return check_flags(train_data_dir=str(folder), token_string=WORD, **flags)


def check_flags(**flags) -> Preflight:
    """What is known of a run from flat flags, right or wrong, as on a command line."""
    given = Given(dict.fromkeys(flags, "command line"))
    run = validated(RunConfig, flags, given)
    return preflight(run, given.problems)


def check_table(tmp_path: Path, table: dict, **flags) -> Preflight:
    """The same for a data-set file."""
    file = tmp_path / "table.json"
    file.write_text(json.dumps(table))
    return check_flags(dataset_config=str(file), token_string=WORD, **flags)


def subset(tmp_path: Path, **values) -> dict:
    """A data-set table of one subset, the folder `a`."""
    return {"datasets": [{"subsets": [{"image_dir": str(tmp_path / "a"), **values}]}]}


def caption(*words) -> int:
    """`neonym caption ...`. -> exit code"""
    return main(["caption", *map(str, words)])


def said(ready: Preflight, *severities: str) -> str:
    """Its problems of these severities (default: errors), a line each."""
    return "\n".join(str(p) for p in ready.problems if p.severity in (severities or ("error",)))


@pytest.fixture
def pictures(tmp_path):
    return make_pictures(tmp_path / "pictures")


@pytest.fixture
def run_for(tmp_path, pictures):
    """A function: flags -> RunConfig of a short CPU run on `pictures`."""

    def build(name: str = "out", **flags) -> RunConfig:
        base = {
            "train_data_dir": str(pictures), "token_string": "mychar4", "max_train_steps": 8, "eval_samples": 8,
            "output_dir": str(tmp_path / name), "cpu": True, "learning_rate": 0.005,
        }  # fmt: skip
        return settings(**{**base, **flags})

    return build


def stop_at(step: int, number: int = 15) -> dict[str, Any]:
    """Arguments of `train` that stop it after a step."""
    stop = Stop()

    def listen(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            stop.request(number)

    return {"listeners": [listen], "stop": stop}


def notes_of(events: list[Event]) -> list[str]:
    """What a run said."""
    return [event.text for event in events if isinstance(event, Noted)]


def pixels(picture):
    return np.asarray(picture).astype(int)


def generate(tmp_path, *argv, code=0):
    """-> the picture files, in the order of their making"""
    out = tmp_path / "images"
    before = set(out.rglob("*")) if out.exists() else set()
    assert main(["generate", "--outdir", str(out), *map(str, argv)]) == code
    return sorted(p for p in set(out.rglob("*")) - before if p.is_file()) if out.exists() else []


def shown(file):
    """The picture, read and closed."""
    with Image.open(file) as picture:
        picture.load()
        return picture


def read_parameters(text):
    """AUTOMATIC1111's block, read by its rules: -> prompt, negative prompt, `Name: value` pairs"""
    pair = r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)'
    *lines, last = text.strip().split("\n")
    if len(re.findall(pair, last)) < 3:
        lines, last = [*lines, last], ""
    texts, now = {"prompt": [], "negative": []}, "prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            now, line = "negative", line.removeprefix("Negative prompt:").strip()
        texts[now].append(line)
    values = {name: json.loads(value) if value.startswith('"') else value for name, value in re.findall(pair, last)}
    return "\n".join(texts["prompt"]), "\n".join(texts["negative"]), values


@pytest.fixture
def word(tmp_path):
    rows = 0.3 * torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    return write_embedding(Embedding("zyzzo", {"text_encoder": rows}), tmp_path / "zyzzo.safetensors")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Spoil(torch.autograd.Function):
    """The losses as they are, and a gradient that is no number any more."""

    @staticmethod
    def forward(ctx, losses, value):
        ctx.value = value
        return losses.clone()

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * ctx.value, None


@pytest.fixture
def spoiled(monkeypatch):
    """A function: {step: value} -> the backward pass of these steps is multiplied by it; None stands for every step."""
    clean = Objective.loss

    def use(values: dict[int | None, float]) -> None:
        calls: list[int] = []

        def loss(self, guess, noisy, mask=None):
            losses = clean(self, guess, noisy, mask)
            if not losses.requires_grad:  # an evaluation
                return losses
            calls.append(1)
            return Spoil.apply(losses, values.get(len(calls) - 1, values.get(None, 1.0)))

        monkeypatch.setattr(Objective, "loss", loss)

    return use


@dataclass
class Update:
    """What one update began with."""

    concept: Concept
    step: int
    scale: float
    rows: torch.Tensor


@pytest.fixture
def updates(monkeypatch):
    """What every update of a run began with, in order."""
    seen: list[Update] = []
    clean = Concept.update

    def update(self, step, scaler):
        scale = scaler.get_scale() if scaler else 1.0
        seen.append(Update(self, step, scale, self.rows["text_encoder"].detach().clone()))
        clean(self, step, scaler)

    monkeypatch.setattr(Concept, "update", update)
    return seen
