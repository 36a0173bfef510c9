"""Tests that each text encoder has a learning rate of its own, in proportion to the spread of its vocabulary."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.checkpoints import make_parts, save_folder
from neonym import train
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.models.source import ModelSource
from neonym.optim.encoder_rates import encoder_factors
from neonym.optim.optimizers import make_optimizer
from neonym.preflight.preflight import preflight
from support.checks import settings
from support.data_sets import make_images
from support.families import SIDE, tiny_model

FIRST, SECOND = "text_encoder", "text_encoder_2"
SPREADS = {FIRST: 0.0133, SECOND: 0.665}  # 1 : 50


def with_spreads(folder: Path, spreads: dict[str, float]) -> Path:
    """Scale the token tables in a Diffusers folder to these spreads."""
    for part, spread in spreads.items():
        (file,) = (folder / part).glob("*.safetensors")
        tensors = load_file(file)
        for name in tensors:
            if name.endswith(("token_embedding.weight", "shared.weight")):
                tensors[name] = tensors[name] / tensors[name].double().std().float() * spread
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def flux(tmp_path_factory) -> Path:
    return with_spreads(tiny_model("flux1", tmp_path_factory.mktemp("flux") / "model"), SPREADS)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl") / "model"
    save_folder(make_parts("sdxl", tiny=True, dtype=torch.float32), "sdxl", folder, "epsilon")
    return with_spreads(folder, SPREADS)


@pytest.fixture
def run_on(tmp_path):
    """Return a function that makes the settings of a short run on a model."""
    images = make_images(tmp_path / "images", 2, (SIDE, SIDE), caption="a photo of mychar4")

    def make(model: Path, name: str = "word", **flags):
        usual = {
            "max_train_steps": 1, "lr_scheduler": "constant", "train_batch_size": 2, "num_vectors_per_token": 2,
            "resolution": str(SIDE),
        }  # fmt: skip
        return settings(
            pretrained_model_name_or_path=str(model), train_data_dir=str(images), token_string="mychar4",
            init_word="dog", output_dir=str(tmp_path / name), eval_samples=8, **(usual | flags),
        )  # fmt: skip

    return make


def moved(model: Path, run) -> dict[str, float]:
    """Train, and return how far the median number of the rows of each encoder moved."""
    plan = preflight(run).complete_plan()
    train(run)
    (file,) = Path(run.save.output_dir).glob("*-run/*.safetensors")
    state = load_file(file)
    steps = {
        encoder: state[f"0/{encoder}/rows"] - state[f"0/{encoder}/start"]
        for encoder in plan.source.encoders
        if f"0/{encoder}/rows" in state
    }
    return {encoder: float(step.abs().median()) for encoder, step in steps.items()}


def said(run, severity: str) -> str:
    return "\n".join(str(problem) for problem in preflight(run).problems if problem.severity == severity)


def test_rates_are_in_proportion_to_the_spreads_of_the_vocabularies(flux, run_on, monkeypatch):
    """A first step of Adam moves every number by the rate."""
    source = identify(str(flux))
    assert source.spreads == {e: pytest.approx(spread, rel=0.05) for e, spread in SPREADS.items()}
    found = moved(flux, run_on(flux, learning_rate=2e-3))
    ratio = float(f"{source.spreads[SECOND] / source.spreads[FIRST]:.1e}")
    assert ratio == pytest.approx(50, rel=0.06)
    assert found == {FIRST: pytest.approx(2e-3, rel=0.01), SECOND: pytest.approx(2e-3 * ratio, rel=0.01)}
    note = said(run_on(flux, learning_rate=2e-3), "note")
    assert f"0.002 for text_encoder, {2e-3 * ratio:.2g} for text_encoder_2 (the spreads of their" in note


def test_spreads_that_no_check_measures_are_measured_when_the_model_is_loaded(flux, run_on, monkeypatch):
    measured = identify(str(flux)).spreads
    model = load_model(str(flux))
    assert {name: model.text.spread(name) for name in measured} == pytest.approx(measured, rel=1e-6)
    with_known = moved(flux, run_on(flux, "known", learning_rate=2e-3))
    real = identify
    monkeypatch.setattr(
        "neonym.preflight.preflight.identify", lambda *args: replace(real(*args), spreads={}, word_spread=0.0133)
    )
    run, notes = run_on(flux, "late", learning_rate=2e-3), []
    assert "for text_encoder_2" not in said(run, "note")
    assert moved(flux, run) == with_known
    train(run_on(flux, "again", learning_rate=2e-3), listeners=[lambda event: notes.append(getattr(event, "text", ""))])
    assert any("0.002 for text_encoder, 0.1 for text_encoder_2" in note for note in notes), notes


def pickled(folder: Path) -> Path:
    """Replace the weights of the text encoder in a Diffusers folder by a pickle with the same weights."""
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    return folder


@pytest.fixture(scope="module")
def chroma(tmp_path_factory) -> Path:
    return with_spreads(tiny_model("chroma", tmp_path_factory.mktemp("chroma") / "model"), {FIRST: 0.665})


def test_a_default_rate_for_a_vocabulary_that_no_check_measures_is_scaled_when_it_is_read(chroma, run_on, tmp_path):
    """T5's spread is not published, so the run has the rate that it would have with weights that a check can measure."""
    hidden = pickled(Path(shutil.copytree(chroma, tmp_path / "pickled")))
    usual = preflight(run_on(chroma)).defaults["learning_rate"].value
    assert usual == pytest.approx(0.1)  # 2e-3 x 50
    open_rate = preflight(run_on(hidden)).defaults["learning_rate"]
    assert open_rate.value == 2e-3
    assert "scaled to the spread of its words when the weights are read" in str(open_rate)
    notes: list[str] = []
    run = run_on(hidden, "hidden", lr_warmup_steps="0")
    file = train(run, listeners=[lambda event: notes.append(getattr(event, "text", ""))]).files[0]
    assert any(f"{usual:g} for text_encoder (the spreads of their vocabularies" in note for note in notes), notes
    assert any("measured when the weights were read, are 0.6" in note for note in notes), notes
    with safe_open(file, "pt") as opened:
        recorded = json.loads(opened.metadata()["neonym.settings"])
    assert recorded["learning_rate"] == usual
    run = run_on(hidden, "again", lr_warmup_steps="0")
    assert moved(hidden, run) == {FIRST: pytest.approx(usual, rel=0.01)}
    given = run_on(hidden, "given", lr_warmup_steps="0", learning_rate=2e-3)
    assert moved(hidden, given) == {FIRST: pytest.approx(2e-3, rel=0.01)}
    (verdict,) = train(run_on(hidden, "slow", learning_rate=1e-6)).verdicts
    assert "hardly moved" in verdict.advice
    assert f"for AdamW, around {usual:g} suits this model" in verdict.advice


def test_the_defaults_of_a_hub_id_do_not_depend_on_the_download(chroma, flux, monkeypatch):
    """They come from published facts alone, even if the weights are there and could be measured."""
    monkeypatch.setattr(ModelSource, "on_hub", True)
    for folder, knows in ((chroma, False), (flux, True)):
        source = identify(str(folder))
        assert source.spreads == {}
        assert source.knows_spread(FIRST) == knows
        assert source.defaults.learning_rate.value == 2e-3
        assert ("when the weights are read" in source.defaults.learning_rate.source) != knows
    assert not source.knows_spread(SECOND)


def test_a_rate_of_one_encoder_may_be_given(flux, run_on):
    own = {"learning_rate": 2e-3, "encoder_learning_rates": ("t5xxl=0.03",)}
    assert moved(flux, run_on(flux, **own)) == {
        FIRST: pytest.approx(2e-3, rel=0.01), SECOND: pytest.approx(0.03, rel=0.01)
    }  # fmt: skip
    both = {"encoder_learning_rates": ("text_encoder=1e-3", "text_encoder_2=0.2")}
    assert moved(flux, run_on(flux, "both", **both)) == {
        FIRST: pytest.approx(1e-3, rel=0.01), SECOND: pytest.approx(0.2, rel=0.01)
    }  # fmt: skip


def test_a_schedule_scales_all_rates(flux, run_on):
    """With a linear decay, the second of two steps has half the rate."""
    flags = {"learning_rate": 2e-3, "lr_scheduler": "linear", "lr_warmup_steps": "0", "max_train_steps": 2}
    found = moved(flux, run_on(flux, **flags))
    assert found[SECOND] / found[FIRST] == pytest.approx(50, rel=0.5)  # the second gradient is another
    assert 2e-3 < found[FIRST] < 4e-3


def test_encoders_are_chosen_by_name_or_by_key_and_the_first_of_them_has_the_rate(flux, run_on):
    found = moved(flux, run_on(flux, learning_rate=2e-3, train_encoders=("t5xxl",)))
    assert found == {SECOND: pytest.approx(2e-3, rel=0.01)}
    by_default = preflight(run_on(flux, "default", train_encoders=(SECOND,)))
    rate = by_default.defaults["learning_rate"]
    assert rate.value == pytest.approx(2e-3 * 50, rel=0.2)  # that of its own spread
    assert "x 0.6" in str(rate)
    assert preflight(run_on(flux, "first", train_encoders=("clip_l",))).defaults["learning_rate"].value == 2e-3


def test_sdxl_has_one_rate_for_both_encoders_as_published(sdxl, run_on):
    found = moved(sdxl, run_on(sdxl, learning_rate=2e-3, resolution="64"))
    assert found == {FIRST: pytest.approx(2e-3, rel=0.01), SECOND: pytest.approx(2e-3, rel=0.01)}
    assert "for text_encoder_2" not in said(run_on(sdxl, learning_rate=2e-3, resolution="64"), "note")


def test_one_rate_makes_one_group_of_parameters():
    """The states of the optimizer of models with one rate are those of earlier versions."""
    rows = [torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(2)]
    assert len(make_optimizer(rows, "AdamW", 0.5, factors=[1.0, 1.0]).param_groups) == 1
    groups = make_optimizer(rows, "AdamW", 0.5, factors=[1.0, 4.0]).param_groups
    assert [group["lr"] for group in groups] == [0.5, 2.0]


def test_runs_with_several_rates_resume_exactly(flux, run_on):
    (whole,) = train(run_on(flux, "whole", max_train_steps=3)).files
    train(run_on(flux, "parts", max_train_steps=2))
    (parts,) = train(run_on(flux, "parts", max_train_steps=3)).files
    assert whole.read_bytes() == parts.read_bytes()


@pytest.mark.parametrize("optimizer", ["Lion", "SGDScheduleFree", "AdaFactor", "Prodigy", "RAdamScheduleFree"])
def test_every_kind_of_optimizer_trains_several_encoders(flux, run_on, optimizer):
    # signs of two steps may cancel; rectified Adam waits for an estimate of the variance
    steps = {"Lion": 1, "RAdamScheduleFree": 8}.get(optimizer, 2)
    found = moved(flux, run_on(flux, optimizer_type=optimizer, lr_warmup_steps="0", max_train_steps=steps))
    assert all(0 < distance < 1e6 for distance in found.values())
    if optimizer == "Lion":
        assert found[SECOND] / found[FIRST] == pytest.approx(50, rel=0.1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"encoder_learning_rates": ("clip_g=1",)}, "--encoder_learning_rates: the model has no clip_g"),
        ({"encoder_learning_rates": ("t5xxl=0",)}, "0 is not a rate above 0"),
        ({"encoder_learning_rates": ("t5xxl='a'",)}, "'a' is not a rate above 0"),
        ({"encoder_learning_rates": ("t5xxl=True",)}, "True is not a rate above 0"),
        ({"encoder_learning_rates": ("t5xxl=1",), "optimizer_type": "Prodigy"}, "Prodigy finds one rate for all"),
        ({"encoder_learning_rates": ("t5xxl=1",), "optimizer_type": "AdaFactor"}, "AdaFactor finds one rate for all"),
        ({"train_encoders": ("text_encoder", "t5")}, "--train_encoders: the model has no t5"),
    ],
)
def test_wrong_rates_and_encoders_are_errors(flux, run_on, flags, words):
    assert words in said(run_on(flux, **flags), "error")


def test_a_rate_of_an_encoder_that_is_not_trained_is_reported(flux, run_on):
    flags = {"encoder_learning_rates": ("t5xxl=1",), "train_encoders": ("clip_l",)}
    assert "--encoder_learning_rates t5xxl has no effect" in said(run_on(flux, **flags), "warning")


def test_a_rate_that_is_too_low_for_one_encoder_is_reported(flux, run_on):
    run = run_on(flux, learning_rate=2e-3, max_train_steps=100, encoder_learning_rates=("t5xxl=1e-4",))
    assert "at learning rate 0.0001 can move a number of the word by no more than 0.01" in said(run, "warning")


def test_factors_need_both_spreads():
    assert encoder_factors(["a", "b"], {"a": 0.5}, {}, 1e-3) == {"a": 1.0, "b": 1.0}
    assert encoder_factors(["a", "b"], {"a": None, "b": 0.5}, {}, 1e-3) == {"a": 1.0, "b": 1.0}
    assert encoder_factors(["b", "a"], {"a": 0.5, "b": 0.1}, {"a": 2e-3}, 1e-3) == {"b": 1.0, "a": 2.0}
    assert encoder_factors(["a", "b"], {"a": 0.3, "b": 0.1}, {}, 1e-3) == {"a": 1.0, "b": 0.33}
