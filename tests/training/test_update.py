"""Tests of the update, with and without a gradient scaler, which runs on the CPU here; backward passes are real."""

import math
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from neonym import train
from neonym.errors import UserError
from neonym.formats import read_embedding
from neonym.models.encoders.rows import Rows
from neonym.models.model import load_model
from neonym.optim.optimizers import make_optimizer, record_of
from neonym.training import setup
from neonym.training.after_step import MovingAverage
from neonym.training.concept import SMALLEST_RATE, Concept, initial_rows
from neonym.training.finite import BAD_STEPS_ALLOWED
from neonym.training.objective import Objective
from neonym.training.state import TrainState, optimizer_numbers, tensors_of
from neonym.training.step import train_step
from neonym.training.update import StepCounts
from neonym.types import Work
from support import WORD
from support.updates import Update

SCALE = 65536.0  # the initial scale of torch's scaler


class Scaled(Accelerator):
    """An Accelerator with the scaler and the precision of a run in fp16 on a GPU, but on the CPU."""

    scale, precision = SCALE, "no"
    made: GradScaler

    def __init__(self, **arguments):
        super().__init__(**{**arguments, "mixed_precision": "no"})
        self.scaler = Scaled.made = GradScaler("cpu", init_scale=self.scale)

    @property
    def mixed_precision(self):
        return self.precision


@pytest.fixture
def scaled(monkeypatch):
    """Return a function that gives runs a scaler with an initial scale, and a precision."""

    def use(scale: float = SCALE, precision: str = "no") -> None:
        monkeypatch.setattr(Scaled, "scale", scale)
        monkeypatch.setattr(Scaled, "precision", precision)
        monkeypatch.setattr(setup, "Accelerator", Scaled)

    return use


def vector(result) -> torch.Tensor:
    """Return the learned vectors of a result."""
    return read_embedding(result.files[0]).vectors["text_encoder"]


def still_steps(updates: list[Update]) -> list[int]:
    """Return the steps that left the rows unchanged; the last step is not considered."""
    return [a.step for a, b in pairwise(updates) if torch.equal(a.rows, b.rows)]


@pytest.mark.parametrize(
    "options",
    [
        {"ema_decay": 0.9},
        {"optimizer_type": "DAdaptSGD", "learning_rate": 1.0, "lr_warmup_steps": "2"},
        {"optimizer_type": "AdamWScheduleFree"},
    ],
)
def test_a_scaler_does_not_change_the_result(run_for, scaled, updates, options):
    """A run learns the same with a scaler, bit for bit, because the scale is a power of two."""
    plain = train(run_for("plain", resolution="64", **options))
    without = list(updates)
    updates.clear()
    scaled()
    assert torch.equal(vector(plain), vector(train(run_for("scaled", resolution="64", **options))))
    assert len(without) == len(updates) == 8
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(without, updates, strict=True))
    assert {moment.scale for moment in updates} == {SCALE}
    assert still_steps(updates) == ([0] if "lr_warmup_steps" in options else still_steps(without))


@pytest.mark.parametrize("with_scaler", [True, False])
def test_a_step_with_an_infinite_gradient_is_skipped(run_for, scaled, spoiled, updates, with_scaler):
    """A step with an infinite gradient leaves rows, moments and average unchanged; the run continues and learns."""
    if with_scaler:
        scaled()
    spoiled({2: float("inf"), 3: float("nan"), 6: -float("inf")})
    result = train(run_for(max_train_steps=12, lr_warmup_steps="0", ema_decay=0.9))
    assert still_steps(updates) == [2, 3, 6]
    scales = [SCALE] * 3 + [SCALE / 2] + [SCALE / 4] * 3 + [SCALE / 8] * 5
    assert [moment.scale for moment in updates] == (scales if with_scaler else [1.0] * 12)
    (state,) = updates[-1].concept.optimizer.state.values()
    assert int(state["step"]) == 12 - 3
    assert vector(result).isfinite().all()
    assert result.verdicts[0].loss_after < result.verdicts[0].loss_before


def test_the_moving_average_ignores_skipped_steps():
    """The exponential moving average does not include skipped steps."""
    concept = small_concept(after_step=[MovingAverage(0.5, {"e": torch.zeros(1, 2)})])
    (average,) = concept.after_step
    for step, gradient in enumerate((1.0, float("nan"), 1.0)):
        before, kept = concept.rows["e"].detach().clone(), average.kept["e"].clone()
        concept.rows["e"].grad = torch.full((1, 2), gradient)
        concept.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = kept if step == 1 else kept.lerp(concept.rows["e"].detach(), 1 - decay)
        assert torch.equal(average.kept["e"], expected)
        assert torch.equal(concept.rows["e"], before) == (step == 1)
    assert torch.equal(concept.result()["e"], average.kept["e"])


def test_hooks_run_in_order_after_a_step():
    class Halve:
        name, is_result = "halves", False

        def __init__(self):
            self.kept = {}

        def __call__(self, step, rows):
            for values in rows.values():
                values.mul_(0.5)

    average = MovingAverage(0.5, {"e": torch.zeros(1, 2)})
    concept = small_concept(after_step=[Halve(), average])
    concept.rows["e"].grad = torch.ones(1, 2)
    concept.update(0)
    assert torch.equal(concept.rows["e"], torch.full((1, 2), -0.05))  # a step of SGD, then half of it
    assert torch.equal(average.kept["e"], torch.zeros(1, 2).lerp(concept.rows["e"].detach(), 0.9))


def small_concept(**options) -> Concept:
    """Return a concept of one vector of two zeros, which SGD moves by a tenth of its gradient."""
    rows = {"e": Rows(torch.zeros(1, 2))}
    start = {"e": torch.zeros(1, 2)}
    optimizer = make_optimizer(rows.values(), "SGD", 0.1)
    return Concept(WORD, "x", 0, rows, start, optimizer, record_of("SGD"), None, 0.0, **options)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_falling_scale_does_not_end_the_run(run_for, scaled, updates, precision):
    """A scale that is far too high falls without ending the run: fp16 overflows at first, bf16 never does."""
    scaled(2.0**32, precision)
    result = train(run_for(max_train_steps=16, lr_warmup_steps="0", resolution="64"))
    skipped = still_steps(updates)
    if precision == "fp16":
        assert set(skipped) >= set(range(BAD_STEPS_ALLOWED + 1))
    else:
        assert skipped == []
    assert updates[-1].scale == 2.0 ** (32 - len(skipped))
    assert updates[-1].concept.counts.read()[1] == 0
    assert vector(result).isfinite().all()
    assert not torch.equal(vector(result), updates[0].rows)


def test_gradients_that_stay_infinite_at_scale_1_end_the_run(run_for, scaled, spoiled, updates):
    """Skipped steps end a run (law 6) once the scale is 1, where the scaler no longer explains them."""
    scaled(4.0)
    spoiled({None: float("inf")})
    run = run_for(max_train_steps=60, resolution="64")
    with pytest.raises(UserError, match=rf"the gradients of `{WORD}`, 18 steps in a row, first of step 3 \(.*\.png"):
        train(run)
    assert len(updates) == 20
    assert still_steps(updates) == list(range(19))
    assert not (Path(run.save.output_dir) / f"{WORD}.safetensors").exists()


def test_gradients_that_stay_infinite_from_the_usual_scale_end_the_run(run_for, scaled, spoiled):
    scaled()
    spoiled({None: float("nan")})
    with pytest.raises(UserError, match=rf"the gradients of `{WORD}`, \d+ steps in a row, first of step 17 "):
        train(run_for(max_train_steps=60, resolution="64"))


def test_the_scale_is_resumed(run_for, scaled, spoiled, updates):
    """A resumed run has the scale of its state: 4 steps and 4 more give the file of 8."""
    scaled()
    flags = {"lr_warmup_steps": "0", "lr_scheduler": "constant", "resolution": "64"}
    spoiled({1: float("inf")})
    whole = train(run_for("whole", max_train_steps=8, **flags))
    assert updates[-1].scale == SCALE / 2
    spoiled({1: float("inf")})
    train(run_for("parts", max_train_steps=4, **flags))
    updates.clear()
    parts = train(run_for("parts", max_train_steps=8, **flags))
    assert [moment.step for moment in updates] == [4, 5, 6, 7]
    assert {moment.scale for moment in updates} == {SCALE / 2}
    assert torch.equal(vector(whole), vector(parts))


class TwoWords:
    """A model and two words, and a step that trains both without samples: the tests set their gradients."""

    def __init__(self, accelerator: Accelerator):
        self.model, self.accelerator, self.concepts = load_model(), accelerator, []
        for token in (WORD, "zyzzo"):
            start = initial_rows(self.model, "cat", 1)
            rows = {name: Rows(values.clone()) for name, values in start.items()}
            optimizer, scaler = make_optimizer(rows.values(), "SGD", 0.1), deepcopy(accelerator.scaler)
            concept = Concept(token, "cat", 0, rows, start, optimizer, record_of("SGD"), None, 0.0, scaler)
            self.concepts.append(concept)

    def step(self) -> Tensor:
        """Take a step, and return the losses [2]."""
        works = [Work(0, [], 1, 1, trains=True) for _ in self.concepts]
        return train_step(self.model, self.concepts, works, [], Objective(), self.accelerator)


def infinite() -> Tensor:
    """Return a gradient [1,128] that is not finite."""
    return torch.full((1, 128), float("inf"), dtype=torch.float64)


def test_a_word_with_an_infinite_gradient_does_not_disturb_another():
    """It is skipped and its scale falls; the other moves as it would alone, and keeps its scale."""
    words = TwoWords(Scaled(cpu=True))
    bad, good = words.concepts
    bad.rows["text_encoder"].gradients = infinite()
    good.rows["text_encoder"].gradients = torch.full((1, 128), SCALE, dtype=torch.float64)
    words.step()
    assert torch.equal(bad.rows["text_encoder"], bad.start["text_encoder"])
    assert torch.equal(good.rows["text_encoder"], good.start["text_encoder"] - 0.1)
    assert (bad.scaler.get_scale(), good.scaler.get_scale()) == (SCALE / 2, SCALE)
    assert [word.counts.read()[1] for word in words.concepts] == [0, 0]


def test_a_process_without_samples_can_unscale():
    """A process without a sample in its first step can unscale, although its scaler has scaled nothing yet."""
    words = TwoWords(Scaled(cpu=True))
    assert words.step().tolist() == [0, 0]
    assert all(torch.equal(c.rows["text_encoder"], c.start["text_encoder"]) for c in words.concepts)


def test_an_update_reads_no_number_of_the_device(monkeypatch):
    """Only the first step, which makes the optimizer's state, reads one; later ones would not make the host wait."""
    reads: list[str] = []
    concept = small_concept()
    concept.optimizer = make_optimizer(concept.rows.values(), "AdamW", 0.1)
    for name in ("__bool__", "__float__", "__int__", "tolist", "nonzero"):  # torch's AdamW reads its count by `item`
        whole = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda self, *given, n=name, w=whole: reads.append(n) or w(self, *given))
    for value, expected in ((1.0, ["__bool__"]), (2.0, []), (float("inf"), []), (1.0, [])):
        reads.clear()
        concept.rows["e"].grad = torch.full((1, 2), value)
        concept.update(0)
        assert reads == expected


@pytest.mark.parametrize(
    "name", ["AdamW", "SGD", "SGD plain", "Adafactor", "RMSprop", "NAdam", "Adagrad", "Rprop", "ASGD", "Lion"]
)
def test_a_step_that_is_undone_changes_nothing(name):
    """A step whose gradient is infinite leaves rows, moments, averages and counts of steps as they were."""
    if name == "Lion":
        pytest.importorskip("bitsandbytes", exc_type=ImportError)
    average = MovingAverage(0.5, {"e": torch.zeros(1, 2)})
    rows, arguments = {"e": Rows(torch.zeros(1, 2))}, {"momentum": 0.9} if name == "SGD" else {}
    name = name.removesuffix(" plain")
    optimizer = make_optimizer(rows.values(), name, 0.1, arguments)
    start = {"e": torch.zeros(1, 2)}
    concept = Concept(WORD, "x", 0, rows, start, optimizer, record_of(name), None, 0.0, after_step=[average])
    state = TrainState(concept, {})
    for step in range(3):
        concept.rows["e"].grad = torch.tensor([[1.0, -2.0]])
        concept.update(step)
    before, numbers = tensors_of(state), optimizer_numbers(optimizer)
    concept.rows["e"].grad = torch.tensor([[1.0, float("nan")]])
    concept.update(3)
    after = tensors_of(state)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert optimizer_numbers(optimizer) == numbers
    assert concept.counts.read() == (0, 1, 3)


def test_steps_are_counted_on_the_device():
    counts = StepCounts()
    assert counts.read() == (0, 0, 0)
    for step, (norm, scale) in enumerate(
        [(0.0, None), (0.0, None), (math.inf, 8.0), (math.nan, 1.0), (math.inf, None)]
    ):
        counts.add(step, torch.tensor(norm), None if scale is None else torch.tensor(scale))
        if step == 1:
            assert counts.read() == (2, 0, 0)
    assert counts.read() == (0, 2, 3)
    counts.add(5, torch.tensor(0.0), None)
    assert counts.read()[:2] == (0, 0)


def test_the_rate_is_not_zero_where_it_is_divided_by():
    """On a GPU, AdamW divides by the rate: at 0, a number without a gradient would become NaN."""
    concept, rates = small_concept(), []
    concept.learning_rate, (group,) = lambda step: 0.1 * step, concept.optimizer.param_groups
    concept.optimizer.step = lambda: rates.append(group["lr"])
    for is_capturable in (False, True):
        group["capturable"] = is_capturable
        for step in range(2):
            concept.rows["e"].grad = torch.ones(1, 2)
            concept.update(step)
    assert rates == [0.0, 0.1, SMALLEST_RATE, 0.1]
    assert torch.equal(torch.tensor(1.0) - SMALLEST_RATE, torch.tensor(1.0))
