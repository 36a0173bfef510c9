"""Tests that the message about a wrong --resume names the program of the state, and an embedding to start from."""

import pytest
import torch
from safetensors.torch import save_file

from neonym.cli.main import main
from neonym.preflight.resume_paths import resume_problem

ACCELERATE = ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl")


def word(file):
    save_file({"emb_params": torch.ones(1, 768)}, file)
    return file


def state(folder, *more):
    folder.mkdir(parents=True)
    for name in (*ACCELERATE, *more):
        (folder / name).write_bytes(b"x")
    return folder


@pytest.fixture
def paths(tmp_path):
    """Return rows of a path, the embedding that the message should name, and a part of the message."""
    (tmp_path / "sd").mkdir()
    late = word(tmp_path / "sd" / "a-step00000200.safetensors")
    early = word(tmp_path / "sd" / "a-step00000100.safetensors")
    sd = state(tmp_path / "sd" / "a-step00000100-state", "train_state.json")
    end = state(tmp_path / "sd" / "a-state")
    checkpoint = state(tmp_path / "df" / "checkpoint-500")
    steps = tmp_path / "df" / "learned_embeds-steps-500.bin"
    torch.save({"<cat>": torch.ones(1, 768)}, steps)
    card = tmp_path / "b.pt"
    torch.save({"string_to_param": {"*": torch.ones(1, 768)}}, card)
    optim = tmp_path / "b.pt.optim"
    torch.save({"hash": "x", "optimizer_state_dict": {}}, optim)
    return [
        (sd, early, "a training state of sd-scripts"), (sd / "optimizer.bin", early, "a training state of sd-scripts"),
        (end, None, "sd-scripts"), (checkpoint, steps, "a training state of diffusers"), (optim, card, "AUTOMATIC1111"),
        (card, card, "is an embedding"), (late, late, "is an embedding"),
        (tmp_path / "df", steps, "contains no state.safetensors"),
    ]  # fmt: skip


def test_states_of_other_programs_are_recognised(paths):
    for path, embedding, words in paths:
        problem = resume_problem(str(path))
        assert problem is not None, path
        assert words in problem.what
        assert "--weights" in problem.fix
        if embedding is not None:
            assert problem.fix.endswith(f"--weights {embedding}")


def test_states_of_neonym_are_recognised(tmp_path):
    (tmp_path / "out" / "x-state").mkdir(parents=True)
    file = tmp_path / "out" / "x-state" / "state.safetensors"
    file.write_bytes(b"")
    assert resume_problem(str(file.parent)) is None
    assert f"Use --resume {file.parent}" in str(resume_problem(str(file)))
    assert f"there is one in {file.parent}" in str(resume_problem(str(tmp_path / "out")))
    done = tmp_path / "x-run"
    done.mkdir()
    (done / "finished.safetensors").write_bytes(b"")
    assert "more --max_train_steps" in str(resume_problem(str(done)))
    assert "Running the same command again" in str(resume_problem("latest"))
    assert "there is no such folder" in str(resume_problem(str(tmp_path / "nix")))


def test_train_reports_it_and_writes_nothing(paths, images, tmp_path, capsys):
    path, _, words = paths[0]
    flags = [f"--train_data_dir={images}", "--token_string=mychar4", f"--output_dir={tmp_path / 'o'}"]
    assert main(["train", *flags, f"--resume={path}"]) == 2
    output = capsys.readouterr().err
    assert words in output
    assert output.count("\n") == 1
    assert not (tmp_path / "o").exists()
