"""TensorBoard and wandb follow a real run; nothing reaches the network."""

from pathlib import Path

import pytest

from neonym.learn import loop
from neonym.learn.prepare import prepare


def test_tensorboard_gets_sd_scripts_scalars_and_ours(run_for, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    prompts = tmp_path / "p.txt"
    prompts.write_text("a mychar4 --s 2 --w 64 --h 64")
    logs = tmp_path / "logs"
    loop.train(
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
    epoch = [e.value for e in found.Scalars("loss/epoch")]
    losses = [e.value for e in found.Scalars("loss")]
    assert epoch == pytest.approx([(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)], rel=1e-5)
    assert found.Scalars("distance/mychar4")[-1].value > 0
    assert found.Tags()["images"]


def test_wandb_offline(run_for, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    result = loop.train(run_for(log_with="wandb", wandb_run_name="first", max_train_steps=2))
    assert result.steps == 2
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_what_trackers_need_is_said_before(run_for):
    problems = [p for p in prepare(run_for(log_with="all")).problems if p.severity == "error"]
    assert [p.what for p in problems] == ["needs --logging_dir"]


def test_nothing_is_logged_without_being_asked(run_for):
    run = run_for(max_train_steps=1)
    loop.train(run)
    assert not list(Path(run.save.output_dir).rglob("events.out*"))
