"""Tests of TensorBoard and wandb on real runs, without the network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neonym import train
from neonym.preflight.preflight import preflight
from support import ROOT
from support.data_sets import make_images


def test_tensorboard_receives_the_scalars_of_sd_scripts_and_ours(run_for, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    prompts = tmp_path / "p.txt"
    prompts.write_text("a mychar4 --s 2 --w 64 --h 64")
    logs = tmp_path / "logs"
    train(
        run_for(
            logging_dir=str(logs), log_prefix="my", log_config=True, eval_every_n_steps=4, max_train_steps=8,
            sample_prompts=str(prompts), sample_every_n_steps=8,
        )
    )  # fmt: skip
    (folder,) = logs.iterdir()
    assert folder.name.startswith("my20")
    found = EventAccumulator(str(folder / "textual_inversion"))
    found.Reload()
    scalars = set(found.Tags()["scalars"])
    assert {"loss", "lr", "loss/epoch", "eval/mychar4", "norm/mychar4", "distance/mychar4"} <= scalars
    assert [e.step for e in found.Scalars("loss")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [e.step for e in found.Scalars("loss/epoch")] == [2, 4, 6, 8]
    assert [e.step for e in found.Scalars("eval/mychar4")] == [4, 8]
    epoch = [e.value for e in found.Scalars("loss/epoch")]
    losses = [e.value for e in found.Scalars("loss")]
    assert epoch == pytest.approx([(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)], rel=1e-5)
    assert found.Scalars("distance/mychar4")[-1].value > 0
    assert found.Tags()["images"]


@pytest.mark.parametrize("words", [["mychar4"], ["mychar4", "zyzzo"]])
def test_wandb_logs_offline(tmp_path, images, words):
    """A run in a process of its own, beside which wandb starts a service, writes wandb's offline files for each word."""
    data = tmp_path / "data.toml"
    concepts = "".join(f'[[concepts]]\ntoken_string = "{word}"\n' for word in words)
    folders = [make_images(tmp_path / word, 2, caption=f"a {word}") for word in words]
    subsets = [f"[[datasets.subsets]]\nimage_dir = '{own}'\nconcept = '{own.name}'\n" for own in folders]
    data.write_text(f"{concepts}[[datasets]]\n{''.join(subsets)}")
    flags = [f"--dataset_config={data}", "--max_train_steps=2", "--eval_samples=8", "--cpu", "--log_config"]
    flags += [f"--output_dir={tmp_path / 'out'}", "--log_with=wandb", "--wandb_run_name=first"]
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    command = [sys.executable, "train_textual_inversion.py", *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 3), done.stderr
    assert "logging ends" not in done.stderr
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == len(words)


def test_missing_tracker_settings_are_reported_before_training(run_for):
    problems = [p for p in preflight(run_for(log_with="all")).problems if p.severity == "error"]
    assert [p.what for p in problems] == ["needs --logging_dir"]


def test_nothing_is_logged_unless_requested(run_for):
    run = run_for(max_train_steps=1)
    train(run)
    assert not list(Path(run.save.output_dir).rglob("events.out*"))


def test_notes_go_to_the_terminal_or_to_the_log_file(tmp_path, capsys):
    from neonym.errors import UserError
    from neonym.runs.console import Terminal
    from neonym.runs.events import Noted

    log = tmp_path / "logs" / "run.log"
    log.parent.mkdir()
    log.write_text("of an earlier run")
    report = Terminal(level="WARNING", log=log)
    report(Noted("info", "note: small"))
    report(Noted("warning", "warning: large"))
    report(Noted("result", "mychar4: LEARNED"))
    shown = capsys.readouterr().err
    assert "small" not in log.read_text()
    assert "warning: large" in log.read_text()
    assert "earlier" not in log.read_text()
    Terminal(log=log)  # as of another process, which writes nothing
    assert "warning: large" in log.read_text()
    assert "large" not in shown
    assert "LEARNED" in shown
    with pytest.raises(UserError, match="console_log_file"):
        Terminal(log=tmp_path / "logs")
