"""Tests of law 2 with several processes: an error that one of them alone has ends one word, in all of them."""

import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from subprocess import Popen

import pytest

from neonym import RunConfig, train
from neonym.training.state import read_state
from support import BATCH_INVARIANT
from support.data_sets import make_images
from support.runs import launch, rows, run_ranks, threads

FLAGS = {
    "cpu": True, "eval_samples": 8, "learning_rate": 0.005, "state_every_n_steps": 1, "resolution": 64, "train_batch_size": 2,
}  # fmt: skip
ONE_BY_ONE = {} if BATCH_INVARIANT else {"micro_batch_size": 1}
STEPS = {"zyzzo0": 10, "zyzzo1": 200, "zyzzo2": 40, "zyzzo3": 60, "zyzzo4": 12}  # those in the middle have errors


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Return a dataset file with words, of which one has images that are read in every step, and one diverges."""
    lines = []
    for index, (token, steps) in enumerate(STEPS.items()):
        folder = make_images(tmp_path / token, 4, size=(64 + 8 * index, 64), caption=f"a drawing of a {token}")
        lines += ["[[concepts]]", f'token_string = "{token}"', f"max_train_steps = {steps}"]
        lines += ["[[datasets]]", "[[datasets.subsets]]", f'concept = "{token}"', f"image_dir = '{folder}'"]
        lines += [f"color_aug = {str(token == 'zyzzo1').lower()}"]
        if token == "zyzzo3":
            lines.insert(lines.index(f'token_string = "{token}"') + 1, "learning_rate = 1e30")
    file = tmp_path / "words.toml"
    file.write_text("\n".join(lines))
    return file


def flags_of(**settings: object) -> list[str]:
    """Return settings as flags."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in settings.items()]


def events_of(out: Path, token: str) -> list[dict]:
    """Return the events of a word."""
    file = out / f"{token}-run" / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_until(holds: Callable[[], bool], process: Popen[str]) -> None:
    """Wait until something holds while a run goes on."""
    deadline = time.monotonic() + 120
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"it did not happen: {process.communicate()[0]}")
        time.sleep(0.02)


def test_an_error_of_one_process_ends_one_word(dataset, tmp_path):
    """One process cannot read an image of a word; the main one cannot write the file of another; a third one diverges.

    The others become what they are alone.
    """
    out, alone = tmp_path / "out", {}
    process = launch(2, *flags_of(dataset_config=dataset, output_dir=out, lanes=5, **FLAGS, **ONE_BY_ONE))
    wait_until(lambda: (out / "zyzzo2-run" / "state.safetensors").exists(), process)
    (tmp_path / "zyzzo1" / "02.png").write_bytes(b"no image")
    (out / "zyzzo2.safetensors").mkdir()
    printed = process.communicate(timeout=200)[0]
    assert process.returncode != 0
    with nullcontext() if BATCH_INVARIANT else threads(1):
        for token in ("zyzzo0", "zyzzo4"):
            given = {**FLAGS, **ONE_BY_ONE, "token_string": token, "max_train_steps": STEPS[token]}
            run = RunConfig.parse(train_data_dir=tmp_path / token, output_dir=tmp_path / "alone", **given)
            alone[token] = rows(train(run).files[0])
    for token, expected in alone.items():
        assert (rows(out / f"{token}.safetensors") - expected).abs().max() <= (0 if BATCH_INVARIANT else 1e-6), printed
    ends = {token: events_of(out, token)[-1] for token in STEPS}
    assert {token: end["event"] for token, end in ends.items()} == {
        "zyzzo0": "finished", "zyzzo1": "failed", "zyzzo2": "failed", "zyzzo3": "failed", "zyzzo4": "finished",
    }  # fmt: skip
    assert "02.png" in ends["zyzzo1"]["error"]
    assert "zyzzo2.safetensors" in ends["zyzzo2"]["error"]
    assert "infinite or not a number" in ends["zyzzo3"]["error"]
    assert printed.count("02.png is not an image") == 1, printed  # told by the first process alone
    assert read_state(out / "zyzzo2-run" / "state.safetensors", {}).step == STEPS["zyzzo2"]
    assert not any((out / f"{token}.safetensors").is_file() for token in ("zyzzo1", "zyzzo2", "zyzzo3"))


STOPPED = """
import os, sys
from neonym import RunConfig, Stop, train_words
from neonym.models.vae import Vae
from neonym.training.processes import leave_processes

images, out, when = sys.argv[1:]
stop, clean = Stop(), Vae.encode
is_asked = os.environ["RANK"] == "1"
if is_asked and when == "load":
    stop.request(15)


def encode(self, pixels):
    if is_asked:
        stop.request(15)
    return clean(self, pixels)


Vae.encode = encode
common = {"train_data_dir": images, "output_dir": out, "cpu": True, "resolution": 64, "max_train_steps": 3, "eval_samples": 8}
runs = [RunConfig.parse(token_string="zyzzo0", output_name=name, **common) for name in ("a", "b")]
print([(result.signal, result.steps) for result in train_words(runs, lanes=2, stop=stop)])
leave_processes()
"""


@pytest.mark.parametrize("when", ["load", "encode"])
def test_a_stop_that_reaches_one_process_early_ends_all(tmp_path, when):
    """It comes before the model is loaded, or while the images of the first word are encoded."""
    images = make_images(tmp_path / "images", 3, size=(64, 64), caption="a drawing of a zyzzo0")
    codes, outputs = run_ranks(STOPPED, str(images), str(tmp_path / "out"), when)
    assert codes == [0, 0], outputs
    assert [output.splitlines()[-1] for output in outputs] == ["[(15, 0), (15, 0)]"] * 2
    assert not list((tmp_path / "out").glob("*.safetensors"))
