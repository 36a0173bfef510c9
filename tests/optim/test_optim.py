"""Tests of optimizers and schedules under sd-scripts' names, alone and in training."""

import math

import pytest
import torch
from transformers import get_scheduler

from neonym import train
from neonym.config.optimizers import OPTIMIZERS, optimizer_name
from neonym.config.values import Arguments, Rate, Steps
from neonym.errors import ConfigError
from neonym.formats import read_embedding
from neonym.models.model import load_model
from neonym.optim.optimizers import make_optimizer, rate_now, record_of
from neonym.optim.rates import make_schedule
from neonym.optim.schedules import named_schedule
from neonym.preflight.learning import optimizer_errors
from neonym.preflight.preflight import preflight
from neonym.training import lanes as training
from neonym.training.concepts import add_concept
from support.checks import check_flags, settings
from support.runs import stop_at


def curve(name: str, steps: int = 100, rate: float = 1.0, **options) -> list[float]:
    found = named_schedule(rate, name, steps, **options)
    return [found(step) for step in range(steps)]


def test_schedules_follow_their_formulas():
    assert curve("constant") == [1.0] * 100
    assert curve("Constant_With_Warmup", warmup=10)[:12] == pytest.approx([i / 10 for i in range(10)] + [1, 1])
    assert curve("linear", warmup=20) == pytest.approx([min(i / 20, (100 - i) / 80) for i in range(100)])
    assert curve("cosine") == pytest.approx([0.5 + 0.5 * math.cos(math.pi * i / 100) for i in range(100)])
    restarts = [0.5 + 0.5 * math.cos(math.pi * (2 * i / 100 % 1)) for i in range(100)]
    assert curve("cosine_with_restarts", cycles=2) == pytest.approx(restarts)
    falling = [(0.02 - 1e-7) * (1 - i / 100) ** 2 + 1e-7 for i in range(100)]
    assert curve("polynomial", rate=0.02, power=2.0) == pytest.approx(falling)
    assert curve("inverse_sqrt", warmup=16)[16:] == pytest.approx([math.sqrt(16 / i) for i in range(16, 100)])
    low = curve("cosine_with_min_lr", min_ratio=0.1)
    assert low == pytest.approx([0.1 + 0.9 * (0.5 + 0.5 * math.cos(math.pi * i / 100)) for i in range(100)])
    stable = curve("warmup_stable_decay", warmup=10, decay=30, min_ratio=0.2)
    assert stable[10:70] == [1.0] * 60
    assert stable[0] == pytest.approx(0.2)
    assert stable[85] == pytest.approx(0.6, abs=0.03)
    steps = curve("piecewise_constant", arguments={"step_rules": "1:10,0.1:20,0.01:30,0.005"})
    assert [steps[i] for i in (0, 9, 10, 19, 20, 29, 30, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01, 0.005, 0.005]
    )


@pytest.mark.parametrize("warmup", [0, 1, 10, 200])
def test_simple_schedules_equal_those_of_transformers(warmup):
    def theirs(name: str) -> list[float]:
        scheduler = get_scheduler(name, torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), warmup, 100)
        return [scheduler.lr_lambdas[0](step) for step in range(100)]

    for name in ("constant_with_warmup", "linear", "cosine"):
        assert curve(name, warmup=warmup) == theirs(name)
    assert curve("constant") == theirs("constant")


def test_a_schedule_of_torch_is_a_function_of_the_step():
    rate = named_schedule(1.0, "", 50, kind="StepLR", arguments={"step_size": 10, "gamma": 0.5})
    assert [rate(step) for step in (49, 0, 10, 25, 9)] == [0.0625, 1.0, 0.5, 0.25, 1.0]


def test_staged_rates_are_parsed():
    rate = Rate.parse("0.005:100, 1e-3:1000, 5e-4")
    assert [rate.at(s) for s in (0, 99, 100, 999, 1000, 10**6)] == [0.005, 0.005, 1e-3, 1e-3, 5e-4, 5e-4]
    assert Rate.parse("0.01:5,0.001:10").at(50) == 0.001
    for wrong in ("x", "1e-3:100,1e-4:50", "0:5,1", "1e-3,1e-4", "nan:5,1"):
        with pytest.raises(ValueError, match=r"is not a learning rate|must"):
            Rate.parse(wrong)


def test_steps_and_shares_are_parsed():
    assert [Steps.parse(text).of(200) for text in ("10", "0.1", "10%", "0", "100%", "1.0")] == [10, 20, 20, 0, 200, 1]
    assert [Steps.parse(text).of(50) for text in ("0.15", "0.29", "5%", "0.99", "0.06")] == [7, 14, 2, 49, 3]
    for wrong in ("1.5", "-1", "150%", "ten", "nan", "inf"):
        with pytest.raises(ValueError, match="neither"):
            Steps.parse(wrong)


def test_arguments_are_parsed_as_python_literals():
    found = Arguments.parse(["betas=0.9,0.99", "decouple=True", "name='x'"]).values
    assert found == {"betas": (0.9, 0.99), "decouple": True, "name": "x"}
    with pytest.raises(ValueError, match=r"`decouple=true`, `eps`"):
        Arguments.parse(["decouple=true", "eps", "a=1"])


def distance(rows: torch.Tensor) -> float:
    return float((rows.detach() - 0.3).square().sum())


LISTED = [name for record in OPTIMIZERS for name in (record.name, *record.smaller)]


@pytest.mark.parametrize("name", [*LISTED, "torch.optim.NAdam", "RMSprop", "adamw8BIT"])
def test_every_optimizer_lowers_the_loss(name):
    """Rows at 1 come closer to their target at 0.3, and the optimizer has no other parameters."""
    rows = torch.nn.Parameter(torch.ones(2, 3))
    finds_rate = record_of(name).finds_rate
    optimizer = make_optimizer([rows], name, 1.0 if finds_rate else 0.02)
    first = distance(rows)
    for _ in range(200 if finds_rate else 60):
        loss = ((rows - 0.3) ** 2).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if record_of(name).averages:
        optimizer.eval()
    assert distance(rows) < 0.9 * first
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1
    rate = {"learning_rate": 1.0} if finds_rate else {}
    assert optimizer_errors(settings(optimizer_type=name, **rate).optim) == []


def test_optimizer_names_match_in_any_case():
    assert optimizer_name("ADAMW8BIT") == "AdamW"
    assert optimizer_name("prodigy") == "Prodigy"
    assert optimizer_name("") == "AdamW"
    assert optimizer_name("my.module.Class") == "my.module.Class"


def test_wrong_optimizers_are_errors():
    for name, words in (
        ("Adan", "Did you mean"),
        ("no.such.Thing", "needs a package"),
        ("pathlib.Path", "no optimizer"),
    ):
        with pytest.raises(ConfigError, match=words if words != "no optimizer" else "is not an optimizer"):
            make_optimizer([torch.nn.Parameter(torch.zeros(1))], name)
    with pytest.raises(ConfigError, match="does not accept these arguments"):
        make_optimizer([torch.nn.Parameter(torch.zeros(1))], "AdamW", 1e-3, {"growth": 1})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Prodigy", {"learning_rate": 1.0}),
        ("DAdaptAdam", {"learning_rate": 1.0}),
        ("DAdaptAdanIP", {"learning_rate": 1.0}),
        ("DAdaptSGD", {"learning_rate": 1.0, "lr_warmup_steps": "2"}),
        ("AdamWScheduleFree", {}),
        ("AdaFactor", {}),
        ("Lion8bit", {}),
        ("AdamW", {"ema_decay": 0.9}),
    ],
)
def test_law_1_holds_for_optimizers_that_keep_more_than_moments(run_for, name, options):
    """A run of 8 steps writes the same file, bit for bit, as one that is stopped after 5 and resumed."""
    base = {"optimizer_type": name, "state_every_n_steps": 1, "max_train_steps": 8, **options}
    whole = train(run_for("whole", **base))

    stopped = train(run_for("parts", **base), **stop_at(5))
    assert stopped.signal == 15
    parts = train(run_for("parts", **base))
    assert parts.steps == 8
    a, b = (read_embedding(r.files[0]).vectors["text_encoder"] for r in (whole, parts))
    assert torch.equal(a, b)
    assert not torch.equal(a, torch.zeros_like(a))


@pytest.mark.parametrize(
    "name",
    [
        *("AdamW8bit", "Lion", "SGDNesterov", "DAdaptation", "DAdaptAdaGrad", "DAdaptAdan", "DAdaptLion"),
        *("RAdamScheduleFree", "SGDScheduleFree", "torch.optim.NAdam"),
    ],
)
def test_other_optimizers_also_train_a_word(run_for, name):
    rate = 1.0 if record_of(name).finds_rate else 0.02
    result = train(run_for(optimizer_type=name, learning_rate=rate, max_train_steps=8))
    encoder = result.verdicts[0].encoders["text_encoder"]
    assert encoder.distance > 0
    assert torch.isfinite(read_embedding(result.files[0]).vectors["text_encoder"]).all()


def test_the_rate_that_an_optimizer_finds_is_known_and_an_extra_average_gets_a_warning(run_for):
    """AdaFactor's rate is relative to the size of the rows (Shazeer & Stern 2018)."""
    rows = torch.nn.Parameter(torch.full((2, 3), 0.5))
    optimizer, record = make_optimizer([rows], "AdaFactor"), record_of("AdaFactor")
    assert rate_now(optimizer, record) == 0.0
    for _ in range(2):
        rows.grad = torch.ones(2, 3)
        optimizer.step()
    assert rate_now(optimizer, record) == pytest.approx(1e-2 * 0.5, rel=0.05)
    ready = preflight(run_for(optimizer_type="AdamWScheduleFree", ema_decay=0.9))
    assert any(p.where == "--ema_decay" and "already saves an average" in p.what for p in ready.problems)
    assert add_concept(load_model(), ready.complete_plan()).after_step == []


def test_a_schedule_free_optimizer_saves_its_average(run_for):
    """The saved vectors are the average, not the point that steps start from, and reading them changes nothing."""
    seen = {}
    inner = training.begin_steps

    def watch(run):
        seen["concept"] = run.state.concept
        inner(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "begin_steps", watch)
        result = train(run_for(optimizer_type="AdamWScheduleFree", learning_rate=0.02))
    concept = seen["concept"]
    raw = concept.rows["text_encoder"].detach().clone()
    saved = read_embedding(result.files[0]).vectors["text_encoder"]
    assert torch.equal(concept.result()["text_encoder"], saved)
    assert torch.equal(concept.rows["text_encoder"], raw)
    assert not torch.allclose(saved, raw)
    assert concept.optimizer.param_groups[0]["train_mode"]


def test_a_concept_may_have_a_rate_of_its_own(tmp_path, images, run_for):
    config = tmp_path / "two.toml"
    config.write_text(
        "\n".join(
            f'[[concepts]]\ntoken_string = "{word}"\nlearning_rate = {rate}'
            for word, rate in (("mychar4", 0.02), ("slowly", 1e-6))
        )
        + "\n[[datasets]]\n"
        + "\n".join(
            f'[[datasets.subsets]]\nimage_dir = \'{images}\'\nconcept = "{word}"\nclass_tokens = "{word}"\ncaption_extension = ".none"'
            for word in ("mychar4", "slowly")
        )
    )
    result = train(run_for(dataset_config=str(config), train_data_dir=None, token_string=None))
    fast, slow = (v.encoders["text_encoder"].distance for v in result.verdicts)
    assert fast > 100 * slow > 0


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (3, 0), (20, 6), (100, 30), (1600, 30)])
def test_the_default_warm_up_has_30_steps_but_at_most_30_percent_of_the_run(total, warmup):
    optim = settings(train_data_dir="x", learning_rate=1.0).optim
    rates = [make_schedule(optim, Rate.constant(1.0), total)(step) for step in range(min(total, warmup + 1))]
    assert rates == pytest.approx([step / warmup for step in range(warmup)] + [1.0])


def test_all_mistakes_in_rates_and_schedules_are_reported_together():
    found = check_flags(
        train_data_dir="x", learning_rate="fast", lr_warmup_steps="1.5", lr_scheduler="cosin", optimizer_args=["a"],
        adaptive_noise_scale=0.1, min_timestep=500, max_timestep=400, ema_decay=1.0,
    )  # fmt: skip
    text = "\n".join(str(p) for p in found.problems if p.severity == "error")
    for words in (
        "--learning_rate", "--lr_warmup_steps", "Did you mean `cosine`?", "--optimizer_args: `a` cannot be read",
        "needs a --noise_offset above 0", "--min_timestep", "--ema_decay",
    ):  # fmt: skip
        assert words in text, words


def test_a_schedule_that_lacks_a_setting_is_an_error():
    for options, words in (
        ({"lr_scheduler": "cosine_with_min_lr"}, "lr_scheduler_min_lr_ratio"),
        ({"lr_scheduler": "piecewise_constant"}, "step_rules"),
        ({"lr_scheduler": "adafactor"}, "belongs to the optimizer AdaFactor"),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 5}, "constant_with_warmup"),
        ({"lr_scheduler_type": "ReduceLROnPlateau"}, "could not be resumed exactly"),
        ({"lr_scheduler": "cosine", "learning_rate": "1e-3:10,1e-4"}, "a schedule of its own"),
    ):
        text = "\n".join(str(p) for p in preflight(settings(train_data_dir="x", **options)).problems)
        assert words in text, words


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ["step_rules='1:10,0.1:20'"]}, "--lr_scheduler"),
        ({"lr_scheduler_type": "OneCycleLR", "lr_scheduler_args": ["max_lr=1"]}, "--lr_scheduler_args"),
        ({"lr_scheduler_type": "StepLR", "lr_scheduler_args": ["step_size=0"]}, "--lr_scheduler_args"),
        ({"optimizer_type": "Lion", "optimizer_args": ["betas=2,3"]}, "--optimizer_args"),
        ({"optimizer_type": "LBFGS"}, "--optimizer_type"),
    ],
)
def test_settings_that_a_library_refuses_are_reported_before_a_model_is_loaded(images, options, where):
    problems = preflight(settings(train_data_dir=str(images), token_string="mychar4", **options)).problems
    assert [p.where for p in problems if p.severity == "error"] == [where]


def test_options_that_a_schedule_does_not_use_get_a_warning(run_for):
    run = run_for(lr_scheduler="linear", lr_scheduler_power=2.0, lr_decay_steps="10%")
    said = {p.where for p in preflight(run).problems if "has no effect on the schedule linear" in p.what}
    assert said == {"--lr_scheduler_power", "--lr_decay_steps"}
    ready = preflight(run_for(optimizer_type="AdaFactor", lr_warmup_steps="5"))
    assert any("stages and warm-up are not used" in p.what for p in ready.problems)


def test_a_small_factor_for_an_optimizer_that_finds_its_rate_gets_a_warning(run_for):
    ready = preflight(run_for(optimizer_type="Prodigy", learning_rate=1e-4))
    assert any("finds the learning rate itself" in p.what for p in ready.problems)
    ready = preflight(run_for(optimizer_type="prodigy", learning_rate=None))
    assert ready.run.optim.learning_rate == Rate.constant(1.0)
    assert not [p for p in ready.problems if p.where == "--learning_rate"]


@pytest.mark.parametrize(
    ("options", "hopeless"),
    [
        ({"learning_rate": 1e-6}, True),
        ({"learning_rate": 1e-6, "optimizer_type": "PagedAdamW8bit", "lr_scheduler": "constant"}, True),
        ({"learning_rate": 1e-6, "optimizer_type": "Adam"}, True),
        ({"learning_rate": 1e-6, "optimizer_type": "torch.optim.RAdam"}, True),
        ({"learning_rate": 1e-6, "optimizer_type": "Lion8bit"}, True),
        ({"learning_rate": 1e-6, "optimizer_type": "AdaFactor", "optimizer_args": ["relative_step=False"]}, True),
        ({"learning_rate": 1e-6, "optimizer_type": "AdamWScheduleFree"}, True),
        ({"learning_rate": "1e-3:1,1e-7"}, True),
        ({"learning_rate": 5e-3, "initial_step": 99}, True),
        ({"learning_rate": 5e-3}, False),
        ({"learning_rate": 5e-3, "optimizer_type": "AdamWScheduleFree"}, False),
        ({"learning_rate": 1e-6, "optimizer_type": "AdaFactor"}, False),  # it does not use that rate
        ({"learning_rate": 1.0, "optimizer_type": "Prodigy"}, False),
        ({"learning_rate": 1e-6, "optimizer_type": "SGDNesterov8bit"}, True),  # its steps are as long as gradients are
        ({"learning_rate": 1e-5, "optimizer_type": "SGDScheduleFree"}, True),
        ({"learning_rate": 1.0, "optimizer_type": "SGDNesterov"}, False),
        ({"learning_rate": 1e-6, "optimizer_type": "SGDNesterov", "max_grad_norm": 0.0}, False),  # nothing bounds them
    ],
)
def test_a_run_that_cannot_learn_gets_a_warning_with_every_optimizer(run_for, options, hopeless):
    ready = preflight(run_for(max_train_steps=100, **options))
    assert any("can hardly be learned" in p.what for p in ready.problems) == hopeless
    assert not ready.failed()


def test_a_run_that_is_too_short_gets_a_warning_about_its_length(run_for):
    ready = preflight(run_for(max_train_steps=2, lr_warmup_steps="2", learning_rate=0.02))
    (warning,) = [p for p in ready.problems if "can hardly be learned" in p.what]
    assert warning.where == "--max_train_steps"
    assert warning.what.startswith("2 steps at")


def test_a_word_starts_from_its_weights_file(run_for):
    first = train(run_for("first", num_vectors_per_token=2, max_train_steps=4))
    file = str(first.files[0])
    again = train(run_for("again", num_vectors_per_token=2, max_train_steps=1, learning_rate=1e-9, weights=file))
    a, b = (read_embedding(r.files[0]).vectors["text_encoder"] for r in (first, again))
    assert torch.allclose(a, b, atol=1e-7)
