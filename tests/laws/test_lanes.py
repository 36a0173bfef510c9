"""Tests of law 2 for lanes: many words learn with one model, and each becomes what it would have become alone."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neonym import KeptModel, RunConfig, UserError, train, train_words
from neonym.runs.events import Event, Failed, Finished, Stepped
from neonym.runs.stop import Stop
from neonym.training import lane, lanes, step
from neonym.training.micro_batches import MicroBatches
from support import BATCH_INVARIANT, ROOT
from support.data_sets import make_images
from support.runs import rows, wait_for_step

STEPS = 4


@pytest.fixture
def words(tmp_path):
    """Return a function that builds the runs of words with unlike images, lengths, rates, seeds and vectors."""

    def build(name: str, count: int = 4) -> list[RunConfig]:
        runs = []
        for index in range(count):
            word, folder = f"zyzzo{index}", tmp_path / f"images{index}"
            if not folder.exists():
                make_images(
                    folder, 3 + index, size=(128, 192) if index % 2 else (128, 128), caption=f"a drawing of a {word}"
                )
            runs.append(
                RunConfig.parse(
                    train_data_dir=folder, token_string=word, output_dir=tmp_path / name, cpu=True, eval_samples=8,
                    max_train_steps=STEPS + index, learning_rate=0.005 * (1 + index), seed=index, resolution=128, enable_bucket=True, min_bucket_reso=64,
                    num_vectors_per_token=1 + index % 2, train_batch_size=1 + index % 3, state_every_n_steps=1,
                    flip_aug=index == 1, lr_scheduler=("cosine", "constant")[index % 2], ema_decay=0.9 if index == 2 else None,
                )
            )  # fmt: skip
        return runs

    return build


@pytest.fixture
def shared(monkeypatch):
    """Return a list to which every micro-batch appends the words in it."""
    seen: list[set[int]] = []
    clean = MicroBatches.of

    def watched(*arguments):
        batches = clean(*arguments)
        seen.extend(set(batch.concept.tolist()) for batch in batches)
        return batches

    monkeypatch.setattr(MicroBatches, "of", watched)
    return seen


def test_words_in_lanes_become_what_they_become_alone(words, shared):
    """Their files are the same, byte for byte, whatever they share micro-batches with."""
    alone = [train(run) for run in words("alone")]
    shared.clear()
    together = train_words(words("together"), lanes=3)
    if BATCH_INVARIANT:
        assert max(map(len, shared)) == 2  # two of three words have images of one size
    for one, other in zip(alone, together, strict=True):
        assert one.files[0].read_bytes() == other.files[0].read_bytes()
        assert one.verdicts == other.verdicts
        assert one.steps == other.steps


def test_a_cpu_that_rounds_by_what_stands_beside_a_sample_computes_words_apart(words, shared, monkeypatch):
    """Whether words may share micro-batches is tried, not assumed: one bit that differs suffices to keep them apart."""
    clean = MicroBatches.gradients

    def rounded(self, runs, batches):
        found = clean(self, runs, batches)
        return [found[0].nextafter(torch.tensor(9.0)), *found[1:]] if len(batches) == 1 else found

    monkeypatch.setattr(MicroBatches, "gradients", rounded)
    train_words([words("out")[0], words("out")[2]])
    assert {len(own) for own in shared} == {1}


def test_samples_of_several_words_in_one_micro_batch_train_each_its_own(words, shared, monkeypatch):
    """Even where sums round differently, a word in a shared micro-batch learns what it learns alone."""
    monkeypatch.setattr(MicroBatches, "may_share", lambda *_: True)
    alone = [train(run) for run in words("alone", 3)]
    shared.clear()
    together = train_words(words("together", 3))
    assert {0, 2} in shared
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(rows(one.files[0]), rows(other.files[0]), atol=1e-4)


def test_a_word_that_ends_makes_room_for_the_next(words):
    """At most two words learn at a time; a third begins when the first is finished."""
    events: list[tuple[int, Event]] = []
    train_words(words("out"), lanes=2, listeners=lambda index: [lambda event: events.append((index, event))])
    learning, most = set(), 0
    for index, event in events:
        if isinstance(event, Stepped):
            learning.add(index)
            most = max(most, len(learning))
            assert event.word == f"zyzzo{index}"
        elif isinstance(event, Finished):
            learning.discard(index)
    assert most == 2
    firsts = [next(i for i, (index, _) in enumerate(events) if index == word) for word in range(4)]
    ends = [
        next(i for i, (index, e) in enumerate(events) if index == word and isinstance(e, Finished)) for word in range(4)
    ]
    assert firsts[2] > ends[0]


def test_a_word_whose_images_vanish_ends_alone(words, tmp_path):
    """Its images are read in every step; when they are gone, its lane ends with its own error."""
    alone = train(words("alone")[1])
    runs = words("together")
    broken = RunConfig.parse(
        train_data_dir=tmp_path / "images0", token_string="zyzzo0", output_dir=tmp_path / "together", cpu=True,
        resolution=128, max_train_steps=20, color_aug=True, learning_rate=0.005,
    )  # fmt: skip

    def listeners(index: int):
        def watch(event: Event) -> None:
            if index == 0 and isinstance(event, Stepped) and event.step == 3:
                for image in (tmp_path / "images0").glob("*.png"):
                    image.unlink()

        return [watch]

    failed, other = train_words([broken, runs[1]], lanes=2, listeners=listeners)
    assert isinstance(failed, UserError)
    assert "images0" in str(failed)
    assert not (tmp_path / "together" / "zyzzo0.safetensors").exists()
    assert other.files[0].read_bytes() == alone.files[0].read_bytes()


def test_a_word_that_diverges_ends_alone(words, spoiled_word):
    alone = train(words("alone", 2)[1])
    spoiled_word("zyzzo0")
    events: list[Event] = []
    runs = words("together", 2)
    runs[0] = runs[0].model_copy(update={"optim": runs[0].optim.model_copy(update={"max_train_steps": 60})})
    failed, other = train_words(runs, lanes=2, listeners=lambda index: [events.append] if index == 0 else [])
    assert "became infinite or not a number" in str(failed)
    assert any(isinstance(event, Failed) for event in events)
    assert other.files[0].read_bytes() == alone.files[0].read_bytes()


@pytest.fixture
def spoiled_word(monkeypatch):
    """Return a function that makes the gradients of one word infinite."""
    from neonym.training.concept import Concept

    def use(token: str) -> None:
        clean = Concept.sum_gradients

        def sum_gradients(self, accelerator):
            clean(self, accelerator)
            if self.token == token:
                for own in self.rows.values():
                    own.grad = torch.full_like(own, float("inf"))

        monkeypatch.setattr(Concept, "sum_gradients", sum_gradients)

    return use


def test_a_word_that_cannot_begin_is_reported_and_the_others_go_on(words, tmp_path):
    runs = words("out", 3)
    wrong = RunConfig.parse(train_data_dir=tmp_path / "nowhere", token_string="zyzzo9", output_dir=tmp_path / "out")
    held = tmp_path / "out" / "zyzzo1-run"
    held.mkdir(parents=True)
    (held / "state.safetensors").write_bytes(b"damaged")
    found = train_words([wrong, *runs])
    assert [isinstance(outcome, UserError) for outcome in found] == [True, False, True, False]
    assert "is not a folder" in str(found[0])
    assert "damaged" in str(found[2])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_lanes_resume_invisibly(words, tmp_path, number):
    """A process with three words that a signal ends continues with the same command: every file is the same."""
    whole = train_words(words("whole", 3), lanes=2)
    code = (
        "import sys; sys.path[:0] = ['tests', '.']; from pathlib import Path; from neonym import RunConfig, train_words, Stop\n"
        "from neonym.cli.signals import stopping\n"
        "import json; runs = [RunConfig.parse(**run) for run in json.loads(sys.argv[1])]; stop = Stop()\n"
        "with stopping(stop): train_words(runs, lanes=2, stop=stop)"
    )
    import json

    runs = words("parts", 3)
    flat = json.dumps([flat_settings(run) for run in runs])
    process = subprocess.Popen(
        [sys.executable, "-c", code, flat], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for_step(tmp_path / "parts" / "zyzzo1-run", 3, process)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert not (tmp_path / "parts" / "zyzzo2.safetensors").exists()
    parts = train_words(words("parts", 3), lanes=2)
    for one, other in zip(whole, parts, strict=True):
        assert one.files[0].read_bytes() == other.files[0].read_bytes()


def flat_settings(run: RunConfig) -> dict[str, object]:
    """Return the settings of a run under their flat names, as JSON holds them."""
    from neonym.config.values import as_written

    return {
        name: as_written(getattr(section, name))
        for section in (getattr(run, part) for part in type(run).model_fields)
        for name in section.model_fields_set
    }


def test_a_stop_ends_every_word(words):
    stop, events = Stop(), []

    def listeners(index: int):
        def watch(event: Event) -> None:
            if isinstance(event, Stepped) and index == 1 and event.step == 2:
                stop.request(signal.SIGINT)

        return [watch, events.append]

    found = train_words(words("out"), lanes=2, stop=stop, listeners=listeners)
    assert [(result.signal, result.steps) for result in found] == [(2, 2), (2, 2), (2, 0), (2, 0)]
    assert not any(result.files for result in found)
    whole, alone = train_words(words("out"), lanes=4), [train(run) for run in words("alone")]
    for one, other in zip(whole, alone, strict=True):
        assert torch.equal(rows(one.files[0]), rows(other.files[0]))


def test_words_with_one_token_learn_side_by_side(words, tmp_path):
    """Two runs of the same word with other settings do not read each other's rows."""
    runs = [words(name, 1)[0] for name in ("one", "two")]
    runs[1] = runs[1].model_copy(update={"optim": runs[1].optim.model_copy(update={"seed": 9})})
    together = train_words(runs)
    alone = [train(run.model_copy(update={"save": run.save.model_copy(update={"output_dir": str(tmp_path / f"alone{i}")})}))
             for i, run in enumerate(runs)]  # fmt: skip
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(rows(one.files[0]), rows(other.files[0]))
    assert not torch.equal(rows(together[0].files[0]), rows(together[1].files[0]))


def test_finished_words_are_not_trained_again(words):
    first = train_words(words("out", 2))
    again = train_words(words("out", 2))
    assert [result.was_finished for result in again] == [True, True]
    assert [result.files for result in again] == [result.files for result in first]
    assert [Path(file).exists() for result in again for file in result.files] == [True, True]


def test_a_kept_model_serves_the_next_words_and_changes_nothing(words, monkeypatch):
    """It is loaded once for two calls, and again for a model of another kind."""
    loads: list[int] = []
    clean = lanes.load_frozen_model
    monkeypatch.setattr(lanes, "load_frozen_model", lambda *of: loads.append(1) or clean(*of))
    kept, runs, alone = KeptModel(), words("out", 3), train_words(words("alone", 3))
    loads.clear()
    found = [*train_words(runs[:1], kept=kept), *train_words(runs[1:], kept=kept)]
    assert len(loads) == 1
    for one, other in zip(found, alone, strict=True):
        assert one.files[0].read_bytes() == other.files[0].read_bytes()
    changed = runs[0].model_copy(update={"model": runs[0].model.model_copy(update={"clip_skip": 2})})
    changed = changed.model_copy(update={"save": changed.save.model_copy(update={"restart": True})})
    train_words([changed], kept=kept)
    assert len(loads) == 2


def test_memory_for_the_model_is_needed_once(words, monkeypatch):
    """When a word takes a lane that has become free, the model is in memory already."""
    free = iter([True])

    def refuse(plan, accelerator):
        if not next(free, False):
            raise UserError("its weights do not fit", plan.source.name)

    monkeypatch.setattr(lane, "refuse_without_memory", refuse)
    found = train_words(words("out", 3), lanes=1)
    assert [outcome.files[0].name for outcome in found] == [f"zyzzo{index}.safetensors" for index in range(3)]


def test_a_word_that_cannot_be_saved_does_not_cost_the_others_their_states(words, spoiled_word, tmp_path):
    """At a stop, one word has no finite gradients: it ends with its error, and the other is saved and goes on."""
    spoiled_word("zyzzo0")
    runs, stop = words("together", 2), Stop()
    runs = [run.model_copy(update={"optim": run.optim.model_copy(update={"max_train_steps": 12})}) for run in runs]
    runs = [run.model_copy(update={"save": run.save.model_copy(update={"state_every_n_steps": 100})}) for run in runs]
    alone = train(
        runs[1].model_copy(update={"save": runs[1].save.model_copy(update={"output_dir": str(tmp_path / "a")})})
    )

    def watch(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 8:
            stop.request(signal.SIGTERM)

    failed, stopped = train_words(runs, lanes=2, stop=stop, listeners=lambda index: [watch] if index == 0 else [])
    assert "became infinite or not a number" in str(failed)
    assert (stopped.signal, stopped.steps) == (signal.SIGTERM, 8)
    assert train(runs[1]).files[0].read_bytes() == alone.files[0].read_bytes()


def test_a_gpu_without_memory_for_a_shared_micro_batch_gets_smaller_ones(words, shared, monkeypatch):
    """The step is repeated with half as many samples at once, and every word learns what it learns alone."""
    monkeypatch.setattr(MicroBatches, "may_share", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    clean = step.losses_of

    def limited(model, inputs, objective):
        if len(inputs.weight) > 2 and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("out of memory")
        return clean(model, inputs, objective)

    runs = [
        run.model_copy(update={"dataset": run.dataset.model_copy(update={"train_batch_size": 1})})
        for run in words("out")
    ]
    runs = [*runs[::2], words("more", 1)[0]]
    runs[-1] = runs[-1].model_copy(update={"dataset": runs[0].dataset})
    monkeypatch.setattr(step, "losses_of", limited)
    found = train_words(runs, lanes=3)
    assert all(outcome.files for outcome in found)
    assert {len(own) for own in shared[-3:]} <= {1, 2}
