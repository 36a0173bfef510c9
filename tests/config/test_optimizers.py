"""Tests that optimizer records match their classes, and that one record adds an optimizer."""

import inspect

import pytest
import torch

from neonym import train
from neonym.config import optimizers
from neonym.config.optimizers import OPTIMIZERS, OptimizerRecord, listed_optimizer, optimizer_name
from neonym.extras import MODULES
from neonym.formats import read_embedding
from neonym.models.model import load_model
from neonym.optim.optimizers import found_rate, longest_step, make_optimizer, optimizer_class, rate_now, record_of
from neonym.preflight.preflight import preflight
from neonym.training.concepts import add_concept

HERE = __name__


class SignDescent(torch.optim.Optimizer):
    """An optimizer whose steps are as long as the learning rate, against the sign of the gradient."""

    def __init__(self, params, lr=0.01, stretch=1.0):
        super().__init__(params, {"lr": lr, "stretch": stretch})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for rows in group["params"]:
                rows.sub_(group["lr"] * group["stretch"] * rows.grad.sign())


class Averaging(SignDescent):
    """An optimizer that averages its steps and finds its rate, as one of an unknown package would."""

    def __init__(self, params, lr=1.0, d0=1e-6):
        super().__init__(params, lr)

    def train(self):
        self.training = True

    def eval(self):
        self.training = False


@pytest.fixture
def new_record(monkeypatch):
    """Add the record of a new optimizer and return it."""
    record = OptimizerRecord(
        "SignDescent", f"{HERE}.SignDescent", {"stretch": 0.5}, smaller=("SignDescent8bit",), longest_step="rate"
    )
    monkeypatch.setattr(optimizers, "OPTIMIZERS", (*OPTIMIZERS, record))
    return record


@pytest.mark.parametrize("record", OPTIMIZERS, ids=lambda record: record.name)
def test_a_record_matches_its_class(record):
    found = optimizer_class(record.name)
    parameters = inspect.signature(found).parameters
    assert record.averages == hasattr(found, "eval")
    assert record.finds_rate == ("d0" in parameters)
    assert record.relative_steps == ("relative_step" in parameters)
    assert set(record.settings) <= set(parameters)
    assert (record.longest_step == "momentum") <= ("momentum" in parameters)
    assert record.package in ("torch", "transformers") or MODULES[record.package].extra == "optimizers"


@pytest.mark.parametrize("record", OPTIMIZERS, ids=lambda record: record.name)
def test_a_record_names_where_its_rates_are(record):
    rows = torch.nn.Parameter(torch.ones(1, 4))
    optimizer = make_optimizer([rows], record.name, 0.5)
    for _ in range(2):
        rows.grad = torch.ones(1, 4)
        optimizer.step()
    group = optimizer.param_groups[0]
    assert ("d" in group) == (record.found_rate == "d") == record.finds_rate
    assert record.last_rate in group
    assert ("scheduled_lr" in group) == (record.last_rate == "scheduled_lr")
    assert (group["lr"] is None) == (record.rate_method is not None)
    assert rate_now(optimizer, record) > 0
    assert found_rate(optimizer, record) == (group["d"] * 0.5 if record.finds_rate else None)


@pytest.mark.parametrize("record", [r for r in OPTIMIZERS if r.longest_step == "rate"], ids=lambda record: record.name)
def test_a_step_is_no_longer_than_its_bound(record):
    """With a gradient clipped to 1, a step is about one learning rate long, even RAdam's first five."""
    arguments = {"relative_step": False} if record.relative_steps else {}
    assert longest_step(record, arguments, 1.0, 4) == 1.0
    rows = torch.nn.Parameter(torch.ones(1, 4))
    optimizer = make_optimizer([rows], record.name, 0.01, arguments)
    for _ in range(8):
        before = rows.detach().clone()
        rows.grad = torch.tensor([[1.0, 0, 0, 0]])
        optimizer.step()
        assert float((rows.detach() - before).abs().max()) <= 0.011


def test_each_name_is_listed_once():
    names = [name.lower() for record in OPTIMIZERS for name in (record.name, *record.smaller)]
    assert len(names) == len(set(names))


def test_an_optimizer_with_waits_at_zero_cannot_step_at_a_rate_of_zero():
    waiting = [record for record in OPTIMIZERS if record.waits_at_zero]
    assert waiting
    for record in waiting:
        rows = torch.nn.Parameter(torch.ones(1, 4))
        optimizer = make_optimizer([rows], record.name, 1.0)
        optimizer.param_groups[0]["lr"] = 0.0
        rows.grad = torch.ones(1, 4)
        with pytest.raises(ZeroDivisionError):
            optimizer.step()


def test_one_record_adds_an_optimizer(run_for, new_record):
    assert optimizer_name("signdescent8BIT") == "SignDescent"
    assert record_of("SIGNDESCENT") is new_record
    ready = preflight(run_for(optimizer_type="SignDescent8bit", learning_rate=1e-7, max_train_steps=100))
    text = "\n".join(str(p) for p in ready.problems)
    assert "SignDescent8bit is replaced by SignDescent" in text
    assert "can hardly be learned" in text
    result = train(run_for(optimizer_type="SignDescent", learning_rate=0.02))
    assert result.verdicts[0].encoders["text_encoder"].distance > 0
    assert read_embedding(result.files[0]).vectors["text_encoder"].isfinite().all()
    concept = add_concept(load_model(), preflight(run_for("again", optimizer_type="SignDescent")).complete_plan())
    assert concept.record is new_record
    assert concept.optimizer.param_groups[0]["stretch"] == 0.5


def test_a_class_at_a_dotted_path_is_inspected():
    plain, averaging = record_of(f"{HERE}.SignDescent"), record_of(f"{HERE}.Averaging")
    assert (plain.finds_rate, plain.averages, plain.own_schedule, plain.longest_step) == (False, False, False, None)
    assert (averaging.finds_rate, averaging.averages, averaging.own_schedule) == (True, True, True)
    assert record_of(f"{HERE}.Averaging") is averaging  # the class is inspected only once
    assert (averaging.found_rate, averaging.last_rate) == ("d", "scheduled_lr")
    optimizer = make_optimizer([torch.nn.Parameter(torch.ones(1))], f"{HERE}.Averaging", 0.5)
    assert optimizer.training
    assert (rate_now(optimizer, averaging), found_rate(optimizer, averaging)) == (0.5, None)  # its group names neither


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("torch.optim.adamw.AdamW", "AdamW"),
        ("torch.optim.nadam", "NAdam"),
        ("transformers.optimization.Adafactor", "AdaFactor"),
        ("dadaptation.dadapt_sgd.DAdaptSGD", "DAdaptSGD"),
        ("schedulefree.adamw_schedulefree.AdamWScheduleFree", "AdamWScheduleFree"),
    ],
)
def test_the_path_of_a_listed_class_has_its_capabilities_but_not_its_default_arguments(path, name):
    found, known = record_of(path), listed_optimizer(name)
    capabilities = (
        "found_rate",
        "last_rate",
        "rate_method",
        "finds_rate",
        "own_schedule",
        "averages",
        "relative_steps",
        "waits_at_zero",
        "longest_step",
    )
    assert [getattr(found, c) for c in capabilities] == [getattr(known, c) for c in capabilities]
    assert found.settings == {}
    optimizer = make_optimizer([torch.nn.Parameter(torch.ones(1))], path, 0.5)
    assert optimizer.param_groups[0]["lr"] == (None if name == "AdaFactor" else 0.5)


@pytest.mark.parametrize("name", ["no.such.Thing", "Adan", "pathlib.Path", "torch.optim.Nothing"])
def test_a_name_without_an_optimizer_has_a_record_without_capabilities(name):
    """The capabilities of a missing optimizer can be read, because they are needed before it is reported."""
    record = record_of(name)
    assert record == OptimizerRecord(name, record.path)
