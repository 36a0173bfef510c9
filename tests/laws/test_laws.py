"""Tests of the seven laws (docs/design.md) by real training on the built-in model."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neonym import train
from neonym.errors import FormatError, UserError
from neonym.formats import read_embedding
from neonym.generation.judge import LEARNED
from neonym.runs.events import Event, Stepped
from neonym.runs.stop import Stop
from neonym.training import lanes as training
from neonym.training import load as training_load
from neonym.training.objective import Objective
from support import BATCH_INVARIANT
from support.checks import settings
from support.data_sets import make_images
from support.runs import rows, start, stop_at, wait_for_step


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_law_1_resume_is_invisible(run_for, number, code):
    """A run that a real signal stops and the same command continues writes the same file as an undisturbed run."""
    options = {
        "max_train_steps": 40,
        "num_vectors_per_token": 2,
        "state_every_n_steps": 3,
        "shuffle_caption": True,
        "flip_aug": True,
    }
    whole = train(run_for("whole", **options))
    run = run_for("parts", **options)
    process = start(run)
    folder = Path(run.save.output_dir) / "mychar4-run"
    wait_for_step(folder, 6, process)
    process.send_signal(number)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == code, output
    assert (folder / "state.safetensors").exists(), output
    assert not (Path(run.save.output_dir) / "mychar4.safetensors").exists()
    again = start(run)
    output = again.communicate(timeout=300)[0]
    assert again.returncode in (0, 3), output
    assert "continuing from step" in output
    assert whole.files[0].read_bytes() == (Path(run.save.output_dir) / "mychar4.safetensors").read_bytes()
    assert not (folder / "state.safetensors").exists()


def test_law_1_resume_refuses_other_settings(run_for):
    stopped = train(run_for(), **stop_at(3))
    assert stopped.steps == 3
    assert not stopped.files
    with pytest.raises(UserError, match="learning_rate"):
        train(run_for(learning_rate=1e-3))
    assert train(run_for(learning_rate=1e-3, restart=True)).steps == 8


def test_law_1_resume_accepts_another_evaluation_interval(run_for):
    """The interval of evaluations may change on resuming, unless early stopping depends on it."""
    train(run_for(), **stop_at(3))
    assert train(run_for(eval_every_n_steps=2)).steps == 8
    train(run_for("early", early_stop=True), **stop_at(3))
    with pytest.raises(UserError, match="eval_every_n_steps"):
        train(run_for("early", early_stop=True, eval_every_n_steps=2))


def test_a_stop_before_the_first_step_leaves_the_whole_run_to_do(run_for):
    stop = Stop()
    stop.request(signal.SIGTERM)
    stopped = train(run_for(), stop=stop)
    assert (stopped.steps, stopped.signal, stopped.files) == (0, signal.SIGTERM, [])
    assert train(run_for()).steps == 8


def test_a_step_without_the_word_does_not_move_its_rows(run_for, tmp_path, images):
    """A step with regularisation images alone leaves the rows unchanged, even with momentum."""
    make_images(tmp_path / "reg", 6, caption="a sticker of a thing")
    config = tmp_path / "reg.toml"
    config.write_text(
        f"""
        [[datasets]]
        batch_size = 1
        [[datasets.subsets]]
        image_dir = '{images}'
        [[datasets.subsets]]
        image_dir = '{tmp_path / "reg"}'
        is_reg = true
        """
    )
    moved = {}

    def watch(event: Event) -> None:
        if isinstance(event, Stepped):
            moved[event.step] = concepts[0].rows["text_encoder"].detach().clone()

    def begin_steps(run):
        concepts.append(run.state.concept)
        plans.append(run.plan.concept.samples)
        inner(run)

    concepts, plans, inner = [], [], training.begin_steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "begin_steps", begin_steps)
        train(run_for(dataset_config=str(config), train_data_dir=None, max_train_steps=12), [watch])
    regular = [step for step in range(1, 12) if plans[0].draws(step)[0].record.is_reg]
    assert 3 <= len(regular) <= 8
    for step in range(1, 12):
        assert torch.equal(moved[step + 1], moved[step]) == (step in regular)


def two_concepts(tmp_path: Path) -> str:
    """Write a dataset file with two words, and return its path."""
    make_images(tmp_path / "b", 5, caption="a flat drawing of a zyzzo")
    file = tmp_path / "two.toml"
    file.write_text(
        f"""
        [[concepts]]
        token_string = "mychar4"
        num_vectors_per_token = 2
        [[concepts]]
        token_string = "zyzzo"
        [[datasets]]
        [[datasets.subsets]]
        concept = "mychar4"
        image_dir = '{tmp_path / "pictures"}'
        [[datasets.subsets]]
        concept = "zyzzo"
        image_dir = '{tmp_path / "b"}'
        """
    )
    return str(file)


def test_law_2_words_learn_the_same_alone_and_together(run_for, tmp_path, images):
    config = two_concepts(tmp_path)
    common = {"max_train_steps": 10, "eval_samples": 8, "cpu": True, "learning_rate": 0.005, "resolution": "64"}
    both = train(settings(dataset_config=config, output_dir=str(tmp_path / "both"), **common))
    assert [f.stem for f in both.files] == ["mychar4", "zyzzo"]
    first = train(run_for("first", max_train_steps=10, num_vectors_per_token=2))
    second = train(run_for("second", max_train_steps=10, token_string="zyzzo", train_data_dir=str(tmp_path / "b")))
    assert torch.equal(rows(both.files[0]), rows(first.files[0]))
    assert torch.equal(rows(both.files[1]), rows(second.files[0]))


def test_law_4_micro_batch_size_changes_nothing(run_for):
    """Runs with other micro-batches learn the same rows, bit for bit where the CPU is batch-invariant.

    Elsewhere the learning rate is low, because Adam magnifies differences in rounding.
    """
    rate = {} if BATCH_INVARIANT else {"learning_rate": 3e-4}
    whole = train(run_for("whole", **rate))
    small = train(run_for("small", micro_batch_size=1, **rate))
    uneven = train(run_for("uneven", micro_batch_size=3, **rate))
    accumulated = train(run_for("accumulated", train_batch_size=2, gradient_accumulation_steps=2, **rate))
    for other in (small, uneven, accumulated):
        difference = (rows(whole.files[0]) - rows(other.files[0])).abs().max()
        assert difference <= (0 if BATCH_INVARIANT else 1e-6)


def test_law_5_the_model_is_frozen(run_for, monkeypatch):
    """Training leaves every tensor of the model unchanged, and only the rows have optimizer state."""
    seen = {}

    def hashes(model):
        digests = {}
        for name, module in model.modules().items():
            for key, tensor in module.state_dict().items():
                digests[name, key] = hashlib.sha256(tensor.cpu().contiguous().numpy().tobytes()).hexdigest()
        return digests

    def load(*args, **kwargs):
        seen["model"] = load_model(*args, **kwargs)
        seen["before"] = hashes(seen["model"])
        return seen["model"]

    def begin_steps(run):
        seen["concept"] = run.state.concept
        inner(run)

    load_model, inner = training_load.load_model, training.begin_steps
    monkeypatch.setattr(training_load, "load_model", load)
    monkeypatch.setattr(training, "begin_steps", begin_steps)
    train(run_for(num_vectors_per_token=3))
    assert hashes(seen["model"]) == seen["before"]
    trainable = [p for m in seen["model"].modules().values() for p in m.parameters() if p.requires_grad]
    assert trainable == []
    state = seen["concept"].optimizer.state_dict()["state"]
    sizes = sum(t.numel() for values in state.values() for t in values.values())
    assert sizes == 2 * 3 * 128 + 1  # two moments of 3 rows of 128, and the step count
    assert all(p.grad is None for m in seen["model"].modules().values() for p in m.parameters())


def test_law_6_a_run_with_nan_losses_ends_without_writing(run_for, monkeypatch):
    clean, calls = Objective.loss, []

    def poisoned(self, prediction, noisy, mask=None):
        calls.append(1)
        loss = clean(self, prediction, noisy, mask)
        return loss * float("nan") if len(calls) > 12 else loss

    monkeypatch.setattr(Objective, "loss", poisoned)
    run = run_for(max_train_steps=40, save_every_n_steps=2)
    with pytest.raises(UserError, match=r"first of step \d+ \(\d+\.png.*not a number"):
        train(run)
    files = list(Path(run.save.output_dir).glob("*.safetensors"))
    assert files, "the files saved before the fault should be there"
    assert all(bool(rows(f).isfinite().all()) for f in files)
    assert not (Path(run.save.output_dir) / "mychar4.safetensors").exists()


def test_law_6_a_few_bad_steps_are_skipped(run_for, monkeypatch):
    """A run skips two steps whose loss is not finite, continues, learns and writes its file."""
    clean, calls = Objective.loss, []

    def poisoned(self, prediction, noisy, mask=None):
        calls.append(1)
        loss = clean(self, prediction, noisy, mask)
        return loss * float("inf") if len(calls) in (6, 7) else loss

    monkeypatch.setattr(Objective, "loss", poisoned)
    result = train(run_for(max_train_steps=12))
    assert result.steps == 12
    assert bool(rows(result.files[0]).isfinite().all())
    assert result.verdicts[0].loss_after < result.verdicts[0].loss_before


def test_law_6_a_run_without_gradients_ends(run_for, monkeypatch):
    """A run whose gradients are all zero ends with an error, as with a compiler whose backward pass is broken."""
    clean = Objective.loss

    def cut_off(self, prediction, noisy, mask=None):
        loss = clean(self, prediction, noisy, mask)
        return loss.detach() + 0 * loss

    monkeypatch.setattr(Objective, "loss", cut_off)
    run = run_for(max_train_steps=60)
    with pytest.raises(UserError, match="no gradient in 20 steps"):
        train(run)
    assert not (Path(run.save.output_dir) / "mychar4.safetensors").exists()


def test_law_6_a_full_disk_leaves_the_old_file_intact(tmp_path):
    """A failed write leaves the old file intact; a limit on the file size stands for a full disk."""
    from neonym.formats import write_embedding
    from neonym.types import Embedding

    path = tmp_path / "word.safetensors"
    write_embedding(Embedding("word", {"text_encoder": torch.ones(1, 128)}), path)
    before = path.read_bytes()
    code = """
import resource, signal, sys, torch
from neonym.formats import write_embedding
from neonym.types import Embedding
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
write_embedding(Embedding("word", {"text_encoder": 2 * torch.ones(1, 128)}), sys.argv[1])
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "FormatError" in done.stderr
    assert "cannot be written" in done.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.glob("*word*")] == ["word.safetensors"]


def test_law_6_two_processes_do_not_write_to_one_run(run_for, tmp_path):
    """A run refuses a folder that a real process has locked, and uses it once that process is killed."""
    folder = tmp_path / "out" / "mychar4-run"
    folder.mkdir(parents=True)
    code = """
import sys, time
from pathlib import Path
from neonym.io.atomic import alone_in
with alone_in(Path(sys.argv[1])) as alone:
    print(alone, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        with pytest.raises(UserError, match="another process is training here"):
            train(run_for(max_train_steps=1))
        assert not list(folder.iterdir())
        other.kill()
    assert train(run_for(max_train_steps=1)).steps == 1
    assert sorted(p.name for p in folder.iterdir()) == ["events.jsonl", "finished.safetensors", "verdict.json"]


def test_law_6_a_run_that_cannot_learn_reports_it(run_for):
    """A run with sd-scripts' documented rate warns before, gives an honest verdict after, and exits with code 3."""
    run = run_for(learning_rate=1e-6, lr_scheduler="constant", max_train_steps=10)
    process = start(run)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 3, output
    assert "can hardly be learned" in output
    assert "NOT LEARNED" in output
    verdict = json.loads((Path(run.save.output_dir) / "mychar4-run" / "verdict.json").read_text())
    assert verdict[0]["word"] != LEARNED


class Evil:
    """An object whose pickle creates a folder when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("inside", [False, True])
def test_law_7_no_pickle_runs_code(tmp_path, inside):
    trap, file = tmp_path / "trap", tmp_path / "evil.pt"
    content = {"string_to_param": {"*": Evil(str(trap))}} if inside else Evil(str(trap))
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(FormatError, match="evil.pt"):
        read_embedding(file)
    torch.save({"emb_params": Evil(str(trap))}, file)
    with pytest.raises(FormatError, match="evil.pt"):
        read_embedding(file)
    assert not trap.exists()


def test_law_7_a_missing_model_is_not_downloaded(run_for):
    with pytest.raises(UserError, match="runwayml"):
        train(run_for(pretrained_model_name_or_path="runwayml/stable-diffusion-v1-5"))
