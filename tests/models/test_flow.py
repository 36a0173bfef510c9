"""Tests of how sigma is drawn for flows: quantiles against float64 formulas, distributions against direct draws."""

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from neonym.config import learning_settings
from neonym.models.process import sigmas
from neonym.models.process.flow import LEAST_SIGMA, Flow
from neonym.models.process.noise import NoiseRules, keyed_noise
from neonym.models.process.sigmas import FLUX_LINE, FlowSpec, ShiftLine
from neonym.training.objective import Objective

LEVELS = [0.0, 1e-6, 0.03, 0.25, 0.4997, 0.5004, 0.77, 0.9, 0.999, 1 - 1e-9, 1 - 2.0**-53]
QWEN_LINE = ShiftLine(256, 0.5, 8192, 0.9)
SIZES = {(64, 64): 1024, (96, 96): 2304, (128, 128): 4096, (160, 160): 6400, (104, 152): 52 * 76, (16, 16): 64}
FLOWS = {
    "logit-normal": Flow(),
    "logit-normal, its numbers": Flow(logit_mean=0.4, logit_std=1.6, shift=3.0),
    "logit-normal, line": Flow(line=QWEN_LINE, patch=2, logit_mean=-0.3),
    "uniform": Flow(sampling="uniform", shift=3.0, line=FLUX_LINE),
    "sigmoid": Flow(sampling="sigmoid", shift=3.0, sigmoid_scale=0.7, line=FLUX_LINE),
    "shift": Flow(sampling="shift", shift=3.1582, sigmoid_scale=1.3, line=FLUX_LINE),
    "shift towards the image": Flow(sampling="shift", shift=0.5),
    "flux_shift": Flow(sampling="flux_shift", shift=9.0, patch=2, line=QWEN_LINE),
    "flux2_shift": Flow(sampling="flux2_shift", sigmoid_scale=2.0, patch=1),
    "parabola": Flow(sampling="inverted_parabola", shift=3.0),
    "sigma": Flow(sampling="sigma", shift=3.0),
    "sigma, loss weight": Flow(sampling="sigma", weighting_scheme="cosmap"),
    "sigma, logit-normal": Flow(
        sampling="sigma", shift=3.0, weighting_scheme="logit_normal", logit_mean=0.5, logit_std=1.2
    ),
    "sigma, mode": Flow(sampling="sigma", weighting_scheme="mode"),
    "sigma, steep mode": Flow(sampling="sigma", weighting_scheme="mode", mode_scale=1.75, shift=1.7),
    "sigma, flat mode": Flow(sampling="sigma", weighting_scheme="mode", mode_scale=-1.0),
}
each_flow = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


def normal(level: float) -> float:
    """Return a quantile of the normal distribution."""
    inside = min(max(level, 2.0**-53), 1 - 2.0**-53)
    return float(torch.special.ndtri(torch.tensor(inside, dtype=torch.float64)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def factor(flow: Flow, tokens: int) -> float:
    """Return the shift that a flow should have for images of this many tokens."""
    if flow.sampling in ("flux_shift", "flux2_shift"):
        return math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))
    if flow.sampling == "logit_normal" and flow.line is QWEN_LINE:
        return math.exp(0.5 + (0.9 - 0.5) * (tokens - 256) / (8192 - 256))
    return flow.shift if flow.sampling in ("shift", "sigma", "logit_normal") else 1.0


def table_index(flow: Flow, level: float) -> int:
    """Return the quantile of the index into the table of sigmas, which begins at pure noise."""
    if flow.weighting_scheme == "logit_normal":
        u = sigmoid(flow.logit_mean + flow.logit_std * normal(1 - level))
    elif flow.weighting_scheme == "mode":
        u = 1 - level - flow.mode_scale * (math.cos(math.pi * level / 2) ** 2 - 1 + level)
    else:
        u = 1 - level
    return max(min(math.ceil(round(u * 1000, 6)) - 1, 999), 0)  # of the half-open cells (i, i + 1]


def expected(flow: Flow, level: float, tokens: int) -> float:
    """Return a quantile of sigma, from the formulas."""
    s = factor(flow, tokens)
    if flow.sampling == "uniform":
        return level
    if flow.sampling == "inverted_parabola":
        grid = np.linspace(0, 1, 2_000_001)
        density = 2 - 7.7 * (grid - 0.5) ** 2
        steps = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
        return float(np.interp(level * steps[-1], steps, grid))
    if flow.sampling == "sigma":
        drawn = (1000 - table_index(flow, level)) / 1000
    elif flow.sampling == "logit_normal":
        drawn = sigmoid(flow.logit_mean + flow.logit_std * normal(level))
    else:
        drawn = sigmoid(flow.sigmoid_scale * normal(level))
    return s * drawn / (1 + (s - 1) * drawn)


@each_flow
@pytest.mark.parametrize("tokens", [64, 1024, 4096, 6400])
def test_sigmas_are_quantiles(flow, tokens):
    found = flow.sigmas(LEVELS, tokens)
    assert found.dtype == torch.float32
    wanted = [max(expected(flow, level, tokens), LEAST_SIGMA) for level in LEVELS]
    assert np.allclose(found.double().numpy(), wanted, rtol=3e-7, atol=2e-8)
    assert found.tolist() == sorted(found.tolist())
    assert bool(((found > 0) & (found <= 1)).all())


def draws(flow: Flow, tokens: int, count: int) -> np.ndarray:
    """Return sigmas drawn as the definitions of sd-scripts and OneTrainer say."""
    rng = np.random.default_rng(7)
    n, u, s = rng.standard_normal(count), rng.random(count), factor(flow, tokens)
    if flow.sampling == "uniform":
        return u
    if flow.sampling == "inverted_parabola":
        x = rng.random(4 * count)
        return x[rng.random(4 * count) * 2 < 2 - 7.7 * (x - 0.5) ** 2][:count]
    if flow.sampling == "sigma":
        if flow.weighting_scheme == "logit_normal":
            u = sigmoid(flow.logit_mean + flow.logit_std * n)
        elif flow.weighting_scheme == "mode":
            u = 1 - u - flow.mode_scale * (np.cos(math.pi * u / 2) ** 2 - 1 + u)
        table = np.linspace(1, 1000, 1000)[::-1] / 1000
        table = s * table / (1 + (s - 1) * table)
        return table[np.clip(np.floor(u * 1000).astype(int), 0, 999)]
    mean, std = (flow.logit_mean, flow.logit_std) if flow.sampling == "logit_normal" else (0.0, flow.sigmoid_scale)
    drawn = sigmoid(mean + std * n)
    return s * drawn / (1 + (s - 1) * drawn)


@each_flow
def test_evenly_spread_levels_have_the_distribution_of_direct_draws(flow):
    count, tokens = 100_000, 1024
    found = flow.sigmas([(i + 0.5) / 20_000 for i in range(20_000)], tokens).double().numpy()
    drawn = np.sort(draws(flow, tokens, count))
    points = np.linspace(0.005, 0.9955, 300)  # between the sigmas of the table
    difference = [np.searchsorted(found, p) / len(found) - np.searchsorted(drawn, p) / count for p in points]
    assert np.abs(difference).max() < 0.008
    assert found.mean() == pytest.approx(drawn.mean(), abs=0.004)


@pytest.mark.parametrize(("size", "tokens"), SIZES.items(), ids=str)
def test_the_shift_follows_the_size_of_latents(size, tokens):
    """The published values are e^mu 1.878, 2.332, 3.158 and 4.665 for squares of 512, 768, 1024 and 1280 pixels."""
    published = {1024: 1.878, 2304: 2.332, 4096: 3.158, 6400: 4.665}
    if tokens in published:
        assert FLUX_LINE.shift(tokens) == pytest.approx(published[tokens], abs=1e-3)
    x0 = torch.zeros(1, 16, *size)
    s = math.exp(0.5 + 0.65 * (tokens - 256) / 3840)
    for kind in ("flux_shift", "flux2_shift"):
        packed = Flow(sampling=kind, patch=2).add_noise(x0, [(1, 2, 3)], [0.5])
        assert float(packed.t) == pytest.approx(1000 * s / (1 + s), rel=1e-6)
    whole = Flow(sampling="flux2_shift").add_noise(torch.zeros(1, 128, size[0] // 2, size[1] // 2), [(1, 2, 3)], [0.5])
    assert float(whole.t) == pytest.approx(1000 * s / (1 + s), rel=1e-6)


@each_flow
def test_limits_narrow_the_distribution(flow):
    narrow = flow.with_rules(NoiseRules(min_timestep=200, max_timestep=700))
    whole = flow.sigmas(LEVELS, 1024).double()
    assert torch.allclose(narrow.sigmas(LEVELS, 1024).double(), 0.2 + 0.5 * whole, atol=1e-5)


@each_flow
def test_a_sample_is_the_same_in_any_batch(flow):
    x0 = torch.randn(4, 16, 24, 32, generator=torch.Generator().manual_seed(3))
    keys, levels = [(5, 1, slot) for slot in range(4)], [0.1, 0.35, 0.6, 0.85]
    together = flow.add_noise(x0, keys, levels)
    for i in range(4):
        alone = flow.add_noise(x0[i : i + 1], keys[i : i + 1], levels[i : i + 1])
        assert torch.equal(alone.x_t[0], together.x_t[i])
        assert torch.equal(alone.t[0], together.t[i])


@each_flow
def test_noised_latents_targets_and_losses_follow_their_formulas(flow):
    x0 = torch.randn(3, 16, 16, 24, generator=torch.Generator().manual_seed(3))
    keys, levels = [(5, 1, slot) for slot in range(3)], [0.0, 0.4, 1 - 2.0**-53]
    noisy = flow.add_noise(x0, keys, levels)
    sigma = flow.sigmas(levels, (16 // flow.patch) * (24 // flow.patch)).double()
    s, noise = sigma[:, None, None, None], keyed_noise(x0, keys, "noise").double()
    assert torch.allclose(noisy.x_t.double(), (1 - s) * x0.double() + s * noise, atol=1e-6)
    assert torch.allclose(noisy.target.double(), noise - x0.double(), atol=1e-6)
    assert torch.allclose(noisy.t.double(), 1000 * sigma, rtol=1e-6)
    predicted = torch.roll(noisy.target, 1)
    error = predicted.double() - noisy.target.double()
    plain = error.square().mean((1, 2, 3))
    for kind in ("raw", "additive"):
        for scheme in ("none", "cosmap", "sigma_sqrt"):
            loss = Objective(model_prediction_type=kind, weighting_scheme=scheme).loss(predicted, noisy)
            assert torch.allclose(loss.double(), plain, rtol=1e-5)
    denoised = noisy.x_t.double() - s * predicted.double()
    latents = noisy.x_t.double() - s * noisy.target.double()
    squared = (denoised - latents).square().mean((1, 2, 3))
    weights = {
        "none": 1.0, "uniform": 1.0, "logit_normal": 1.0, "mode": 1.0, "sigma_sqrt": sigma**-2,
        "cosmap": 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2)),
    }  # fmt: skip
    for scheme, weight in weights.items():
        loss = Objective(model_prediction_type="sigma_scaled", weighting_scheme=scheme).loss(predicted, noisy)
        assert torch.allclose(loss.double(), weight * squared, rtol=1e-4, atol=1e-9)


def test_a_network_that_rounds_sigma_gets_latents_mixed_with_the_rounded_one():
    spec = FlowSpec("flux_shift", line=FLUX_LINE, rounds_sigma=True)
    flow = Flow.of(spec, 2, torch.bfloat16)
    x0 = torch.randn(4, 16, 24, 32)
    noisy = flow.add_noise(x0, [(5, 1, slot) for slot in range(4)], [0.11, 0.35, 0.6, 0.85])
    sigma = noisy.t / 1000
    assert torch.equal(sigma.bfloat16().float() * 1000, noisy.t)  # what the network reads is what was mixed
    noise = keyed_noise(x0, [(5, 1, slot) for slot in range(4)], "noise")
    s = sigma.bfloat16().float()[:, None, None, None]
    assert torch.allclose(noisy.x_t, (1 - s) * x0 + s * noise, atol=1e-6)
    exact = Flow.of(spec, 2, torch.float32)
    assert exact == Flow.of(replace(spec, rounds_sigma=False), 2, torch.bfloat16)
    assert not torch.equal(exact.sigmas([0.11], 1024), flow.sigmas([0.11], 1024))


def test_settings_and_processes_have_the_same_names():
    assert learning_settings.FlowSampling == sigmas.FlowSampling
    assert {flow.sampling for flow in FLOWS.values()} == set(get_args(sigmas.FlowSampling))
