"""Verify how the noise levels of a flow are drawn, and which settings mean nothing for a flow or for diffusion."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from neonym import train
from neonym.cli.main import main
from neonym.config.without_effect import FLOW_ONLY
from neonym.models.model import load_model
from neonym.models.process.flow import Flow
from neonym.models.process.sigmas import FlowSpec, ShiftLine
from neonym.preflight.preflight import preflight
from neonym.training.setup import objective_of, process_of
from support.checks import check
from support.data_sets import make_images
from support.toy_family import (
    PATCH,
)

SAMPLINGS = (
    {"timestep_sampling": "sigma"},
    {"timestep_sampling": "sigma", "discrete_flow_shift": 1.0},
    {"timestep_sampling": "sigma", "weighting_scheme": "logit_normal", "logit_mean": -1.0},
    {"timestep_sampling": "sigma", "weighting_scheme": "mode", "mode_scale": 1.6},
    {"timestep_sampling": "uniform"},
    {"timestep_sampling": "sigmoid"},
    {"timestep_sampling": "sigmoid", "sigmoid_scale": 0.2},
    {"timestep_sampling": "shift", "discrete_flow_shift": 1.5},
    {"timestep_sampling": "flux_shift"},
    {"timestep_sampling": "logit_normal", "discrete_flow_shift": 8.0},
    {"timestep_sampling": "logit_normal", "logit_mean": 0.7},
    {"timestep_sampling": "logit_normal", "logit_std": 0.3},
    {"timestep_sampling": "inverted_parabola"},
    {"timestep_draws": "uniform"},
    {"model_prediction_type": "sigma_scaled"},
    {"model_prediction_type": "sigma_scaled", "weighting_scheme": "sigma_sqrt", "loss_type": "huber"},
    {"model_prediction_type": "sigma_scaled", "weighting_scheme": "cosmap"},
    {"min_timestep": 300, "max_timestep": 600},
)


def test_words_are_learned_with_each_way_of_drawing_sigma(run_for):
    """Every one of the settings changes what is learned, and none of them warns that it has no effect."""
    learned = []
    for index, flags in enumerate(({}, *SAMPLINGS)):
        run = run_for(f"sampling {index}", max_train_steps=2, **flags)
        assert not [p for p in preflight(run).problems if "has no effect" in p.what], flags
        learned.append(load_file(train(run).files[0])["t5xxl"])
    for index, rows in enumerate(learned):
        assert bool(rows.isfinite().all())
        assert not any(torch.equal(rows, other) for other in learned[:index]), ({}, *SAMPLINGS)[index]


def test_the_family_decides_how_sigma_is_drawn_and_the_user_may_choose_otherwise(run_for):
    found = preflight(run_for("defaults", max_train_steps=2))
    shown = {name: (default.value, str(default)) for name, default in found.defaults.items()}
    assert shown["timestep_sampling"] == ("logit_normal", "default for Toy (a guess)")
    assert shown["discrete_flow_shift"] == (3.0, "default for Toy (a guess)")
    plain, same = (
        load_file(train(run_for(name, max_train_steps=2, **flags)).files[0])["t5xxl"]
        for name, flags in (("plain", {}), ("same", {"timestep_sampling": "shift", "discrete_flow_shift": 3.0}))
    )
    assert torch.equal(plain, same)  # sigmoid(n), shifted
    assert "discrete_flow_shift" not in preflight(run_for("uniform", timestep_sampling="uniform")).defaults


def test_a_shift_by_size_is_that_of_the_family_unless_a_number_is_given(folder, run_for):
    model = load_model(str(folder))
    x0, key = torch.zeros(1, 16, 64, 96), [(1, 2, 3)]
    spec = FlowSpec(shift=2.0, line=ShiftLine(100, 1.0, 1000, 3.0))
    model.process = Flow.of(spec, PATCH, torch.float32)
    tokens, run = 32 * 48, run_for("line")
    for flags, shift in (
        ({}, math.exp(1 + 2 * (tokens - 100) / 900)),
        ({"discrete_flow_shift": 5.0}, 5.0),
        ({"timestep_sampling": "shift"}, 2.0),
        ({"timestep_sampling": "flux_shift"}, math.exp(0.5 + 0.65 * (tokens - 256) / 3840)),
        ({"timestep_sampling": "sigmoid"}, 1.0),
    ):
        given = run.model_copy(update={"objective": run.objective.model_copy(update=flags)})
        t = float(process_of(model, given).add_noise(x0, key, [0.5]).t)
        assert t == pytest.approx(1000 * shift / (1 + shift), rel=1e-6), flags


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"zero_terminal_snr": True}, "--zero_terminal_snr has no effect on a flow: it always ends at pure noise"),
        ({"min_snr_gamma": 5.0}, "--min_snr_gamma has no effect on a flow"),
        ({"debiased_estimation_loss": True}, "--debiased_estimation_loss has no effect on a flow"),
        ({"scale_v_pred_loss_like_noise_pred": True}, "has no effect on a flow: it predicts neither noise nor v"),
        ({"v_pred_like_loss": 0.5}, "--v_pred_like_loss has no effect on a flow"),
        ({"v_parameterization": True}, "--v_parameterization has no effect on a flow"),
        ({"guidance_scale": 3.5}, "--guidance_scale has no effect on a model that reads no guidance scale"),
        ({"sigmoid_scale": 2.0}, "--sigmoid_scale has no effect on --timestep_sampling=logit_normal"),
        ({"timestep_sampling": "uniform", "discrete_flow_shift": 2.0}, "--discrete_flow_shift has no effect on"),
        ({"timestep_sampling": "sigma", "logit_std": 2.0}, "--logit_std has no effect without"),
        ({"mode_scale": 1.0}, "--mode_scale has no effect without --timestep_sampling=sigma"),
        ({"weighting_scheme": "mode"}, "--weighting_scheme has no effect without --timestep_sampling=sigma"),
        ({"weighting_scheme": "cosmap"}, "has no effect without --model_prediction_type=sigma_scaled"),
        ({"model_prediction_type": "additive"}, "--model_prediction_type has no effect as additive"),
    ],
    ids=str,
)  # fmt: skip
def test_a_setting_without_meaning_for_a_flow_is_reported_and_has_no_effect(run_for, flags, words, tmp_path):
    run = run_for("flow", max_train_steps=1, **flags)
    found = preflight(run)
    (warning,) = [str(p) for p in found.problems if p.severity == "warning" and "has no effect" in p.what]
    assert words in warning
    assert not [p for p in found.problems if p.severity == "error"]
    plain = train(run_for("plain", max_train_steps=1)).files[0]
    if "timestep_sampling" not in flags:
        assert torch.equal(load_file(train(run).files[0])["t5xxl"], load_file(plain)["t5xxl"])


def test_settings_of_flows_without_meaning_for_diffusion_are_reported(tmp_path):
    flags = {
        "timestep_sampling": "uniform", "discrete_flow_shift": 3.0, "sigmoid_scale": 2.0, "logit_mean": 1.0,
        "logit_std": 2.0, "mode_scale": 1.0, "weighting_scheme": "cosmap", "model_prediction_type": "sigma_scaled",
        "guidance_scale": 3.5,
    }  # fmt: skip
    found = check(make_images(tmp_path / "a", 3), **flags)
    warned = {p.where: p for p in found.problems if "has no effect on a diffusion model" in p.what}
    assert set(warned) == {f"--{name}" for name in flags} == {f"--{name}" for name in FLOW_ONLY}
    assert "--timestep_draws=uniform" in warned["--timestep_sampling"].fix
    source = found.complete_plan().source
    objective, plain = (objective_of(run, source) for run in (found.run, check(tmp_path / "a").run))
    assert objective == plain


def test_all_wrong_values_of_a_flow_are_reported_at_once(folder, tmp_path, capsys):
    wrong = {
        "timestep_sampling": "sigmoidal", "discrete_flow_shift": "0", "sigmoid_scale": "-1", "logit_mean": "nan",
        "logit_std": "0", "mode_scale": "1.8", "weighting_scheme": "minsnr", "model_prediction_type": "v",
        "guidance_scale": "-0.5", "timestep_draws": "often", "min_timestep": "700", "max_timestep": "200",
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in wrong.items()]
    images = make_images(tmp_path / "images", 2)
    out = tmp_path / "out"
    run = [f"--pretrained_model_name_or_path={folder}", f"--train_data_dir={images}", "--token_string=mychar4"]
    assert main(["train", *run, *flags, f"--output_dir={out}"]) == 2
    said = capsys.readouterr().err
    assert all(f"--{name}" in said for name in wrong), said
    assert not out.exists()
