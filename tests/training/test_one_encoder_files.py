"""Tests of the file with the vectors of one encoder alone, which a run of FLUX.1 writes beside each embedding file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from neonym import train
from neonym.cli.main import main
from neonym.config.output_settings import HubSettings
from neonym.config.run import RunConfig
from neonym.errors import UserError
from neonym.preflight.preflight import preflight
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.events import Event, Finished, Saved
from neonym.runs.hub import HubUploads
from neonym.training import checkpoint
from support.checks import settings
from support.data_sets import make_images
from support.families import SIDE, tiny_model
from support.runs import flags_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_model("flux1", tmp_path_factory.mktemp("flux") / "model")


@pytest.fixture
def run_for(folder, tmp_path) -> Callable[..., RunConfig]:
    """Return a function that returns a short run, with other settings. What is None is left out."""
    images = make_images(tmp_path / "images", 2, size=(SIDE, SIDE), caption="a photo of mychar4")

    def run(**values) -> RunConfig:
        shared = {
            "pretrained_model_name_or_path": str(folder), "train_data_dir": str(images), "token_string": "mychar4",
            "init_word": "cat", "resolution": str(SIDE), "train_batch_size": 1, "max_train_steps": 4, "seed": 3,
            "eval_samples": 8, "cpu": True, "output_dir": str(tmp_path / "out"), "num_vectors_per_token": 1,
        }  # fmt: skip
        return settings(**{name: value for name, value in {**shared, **values}.items() if value is not None})

    return run


def step(number: int | None, kind: str = "") -> str:
    """Return the name of a file of a step, or of the end, `kind` of which is a second file."""
    return f"mychar4{'' if number is None else f'-step{number:08d}'}{kind}.safetensors"


def test_it_is_written_and_removed_with_every_saved_step(run_for, tmp_path):
    events: list[Event] = []
    train(run_for(save_every_n_steps=1, save_last_n_steps=2), listeners=[events.append])
    second = "-clip_l"
    kept = [step(n, kind) for n in (2, 3, 4, None) for kind in ("", second)]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors")) == sorted(kept)
    saved = [event.file.name for event in events if isinstance(event, Saved)]
    assert saved == [step(n, kind) for n in (1, 2, 3, 4) for kind in ("", second)]
    (finished,) = (event for event in events if isinstance(event, Finished))
    assert [file.name for file in finished.files] == [step(None), step(None, second)]
    for number in (2, 3, 4, None):
        both, alone = (load_file(tmp_path / "out" / step(number, kind)) for kind in ("", second))
        assert alone.keys() == {"clip_l"}
        assert torch.equal(alone["clip_l"], both["clip_l"])
    with safe_open(tmp_path / "out" / step(2, second), "pt") as opened:
        assert opened.metadata()["neonym.steps"] == "2"
    first, last = (load_file(tmp_path / "out" / step(n, second))["clip_l"] for n in (2, None))
    assert not torch.equal(first, last)


def test_it_is_written_and_removed_with_every_saved_epoch_and_in_any_layout(run_for, tmp_path):
    """The second file is a .safetensors file, whatever the first one is. Files of steps that nobody asked for are kept."""
    train(
        run_for(
            max_train_steps=None, max_train_epochs=4, save_every_n_epochs=1, save_last_n_epochs=1, save_model_as="pt"
        )
    )
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix in (".pt", ".safetensors"))
    assert names == [
        "mychar4-000003-clip_l.safetensors",
        "mychar4-000003.pt",
        "mychar4-clip_l.safetensors",
        "mychar4.pt",
    ]


def test_it_is_uploaded_like_any_saved_file(run_for, monkeypatch):
    sent: list[str] = []
    monkeypatch.setattr(HubUploads, "open", lambda self: setattr(self, "is_open", True))
    monkeypatch.setattr(HubUploads, "send", lambda self, name, content: sent.append(name) or "")
    uploads = HubUploads(HubSettings(huggingface_repo_id="me/words"), Dispatcher())
    train(run_for(save_every_n_steps=2), listeners=[uploads])
    assert sorted(sent) == sorted(step(n, kind) for n in (2, 4, None) for kind in ("", "-clip_l"))


def test_what_cannot_be_written_at_the_end_is_rescued(run_for, tmp_path, monkeypatch):
    """The state is kept when the second file fails, and the same command then finishes the run with the same numbers."""
    expected = load_file(train(run_for(output_dir=str(tmp_path / "other"))).files[0])
    real = checkpoint.write_embedding

    def failing(embedding, path):
        if path.name == step(None, "-clip_l"):
            raise UserError("cannot be written (No space left on device)", str(path), "Is the disk full?")
        return real(embedding, path)

    monkeypatch.setattr(checkpoint, "write_embedding", failing)
    with pytest.raises(UserError, match="what was learned until step 4 is kept in"):
        train(run_for())
    monkeypatch.undo()
    again = train(run_for())
    assert (tmp_path / "out" / step(None, "-clip_l")).is_file()
    assert all(torch.equal(rows, expected[key]) for key, rows in load_file(again.files[0]).items())


def test_its_name_is_tried_before_training(run_for, tmp_path):
    (tmp_path / "out" / "mychar4-clip_l.safetensors").mkdir(parents=True)
    assert "mychar4-clip_l.safetensors is a folder" in "\n".join(map(str, preflight(run_for()).problems))
    long = run_for(output_name="a" * 225, save_every_n_steps=1)
    (problem,) = (str(problem) for problem in preflight(long).problems if problem.severity == "error")
    assert "-clip_l.safetensors" in problem
    assert "too long for this disk" in problem


def dataset_file(home: Path, *words: str) -> Path:
    """Write a dataset file of several words, and return it."""
    tables = [f'[[concepts]]\ntoken_string = "{word}"\ninit_word = "cat"\n' for word in words] + ["[[datasets]]"]
    for word in words:
        images = make_images(home / f"images of {word}", 1, size=(SIDE, SIDE), caption=f"a photo of {word}")
        tables += [f'[[datasets.subsets]]\nimage_dir = "{images}"\nconcept = "{word}"']
    file = home / "words.toml"
    file.write_text("\n".join(tables))
    return file


@pytest.mark.parametrize(
    ("words", "more", "is_refused"),
    [
        (("foo", "foo-clip_l"), {}, True),
        (("foo-step00000002-clip_l", "foo"), {}, True),
        (("foo", "foo-t5xxl"), {}, False),
        (("foo", "foo-clip_l"), {"save_model_as": "pt"}, False),
        (("foo", "foo-clip_l"), {"train_encoders": ("t5xxl",)}, False),
    ],
)
def test_a_word_that_is_called_like_a_second_file_is_refused(run_for, tmp_path, words, more, is_refused, capsys):
    file = dataset_file(tmp_path, *words)
    run = run_for(
        dataset_config=str(file),
        train_data_dir=None,
        token_string=None,
        init_word=None,
        num_vectors_per_token=None,
        **more,
    )
    errors = [str(problem) for problem in preflight(run).problems if problem.severity == "error"]
    assert bool(errors) == is_refused, errors
    if is_refused:
        assert "`foo` has a second file of this name" in errors[0]
        assert len(errors) == 1


def test_files_of_other_runs_are_not_replaced(run_for, tmp_path, capsys):
    """One is the second file of `mychar4`, the other is a word of its own; both are found before anything is written."""
    train(run_for())
    out, second = tmp_path / "out", tmp_path / "out" / "mychar4-clip_l.safetensors"
    before = second.read_bytes()
    assert main(["train", *flags_of(run_for(output_name="mychar4-clip_l"))]) == 2
    message = capsys.readouterr().err
    assert "is that of the second file of `mychar4`" in message
    assert second.read_bytes() == before
    assert not (out / "mychar4-clip_l-run").exists()
    second.unlink()
    train(run_for(output_name="mychar4-clip_l"))
    before = second.read_bytes()
    assert main(["train", *flags_of(run_for(restart=True))]) == 2
    assert "that is the file of another word" in capsys.readouterr().err
    assert second.read_bytes() == before
    assert train(run_for(output_name="mychar4-clip_l")).was_finished
