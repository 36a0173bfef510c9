"""Tests of losses, loss weights, noise and timesteps against formulas computed independently in float64."""

import math

import numpy as np
import pytest
import torch

from neonym.models.process.diffusion import Diffusion
from neonym.models.process.noise import NoiseRules, keyed_noise, keyed_share
from neonym.training.objective import Objective
from neonym.types import Noisy

KEYS = [(11, 3, slot) for slot in range(6)]
LEVELS = [0.0, 0.1, 0.35, 0.6, 0.9, 0.999]
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
ALPHAS = np.cumprod(1 - BETAS)  # float64 [1000]


def process(kind: str = "epsilon", **rules) -> Diffusion:
    """Return Stable Diffusion's noising process with these rules."""
    return Diffusion(torch.tensor(ALPHAS, dtype=torch.float32), kind, NoiseRules(**rules))


def latents() -> torch.Tensor:
    """Return fixed random latents, [6,4,8,8]."""
    return torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(5))


def pair(kind: str) -> tuple[torch.Tensor, Noisy]:
    """Return a prediction and the noisy latents that it belongs to."""
    x0 = latents()
    return torch.roll(x0, 1), process(kind).add_noise(x0, KEYS, LEVELS)


def facts(noisy: Noisy) -> tuple[np.ndarray, np.ndarray]:
    """Return the timesteps and signal-to-noise ratios, float64 [B]."""
    t = noisy.t.numpy()
    return t, ALPHAS[t] / (1 - ALPHAS[t])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("loss_type", ["l2", "l1", "huber", "smooth_l1"])
@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
def test_distances_follow_their_formulas(kind, loss_type, schedule):
    prediction, noisy = pair(kind)
    t, snr = facts(noisy)
    hc, scale = 0.07, 1.5
    thresholds = {
        "constant": np.full(6, hc),
        "exponential": np.exp(np.log(hc) * t / 1000),
        "snr": (1 - hc) / (1 + np.sqrt(1 / snr)) ** 2 + hc,
    }
    c = (thresholds[schedule] * scale)[:, None, None, None]
    error = prediction.double().numpy() - noisy.target.double().numpy()
    expected = {
        "l2": error**2,
        "l1": np.abs(error),
        "huber": 2 * c * (np.sqrt(error**2 + c**2) - c),
        "smooth_l1": 2 * (np.sqrt(error**2 + c**2) - c),
    }[loss_type].mean((1, 2, 3))
    found = Objective(loss_type, schedule, huber_c=hc, huber_scale=scale).loss(prediction, noisy)
    assert np.allclose(found.numpy(), expected, rtol=2e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    "settings",
    [
        {"min_snr_gamma": 5.0},
        {"min_snr_gamma": 1.0, "debiased_estimation_loss": True},
        {"scale_v_pred_loss_like_noise_pred": True},
        {"v_pred_like_loss": 0.3},
        {"debiased_estimation_loss": True},
    ],
)
def test_loss_weights_follow_their_formulas(kind, settings):
    prediction, noisy = pair(kind)
    _, snr = facts(noisy)
    capped, v, weight = np.minimum(snr, 1000), kind == "v_prediction", np.ones(6)
    if gamma := settings.get("min_snr_gamma"):
        weight *= np.minimum(snr, gamma) / (snr + 1 if v else snr)
    if settings.get("scale_v_pred_loss_like_noise_pred"):
        weight *= capped / (capped + 1)
    if k := settings.get("v_pred_like_loss"):
        weight += k * weight * (capped + 1) / capped
    if settings.get("debiased_estimation_loss"):
        weight *= 1 / (capped + 1) if v else 1 / np.sqrt(capped)
    plain = ((prediction.double() - noisy.target.double()) ** 2).mean((1, 2, 3)).numpy()
    assert np.allclose(Objective(**settings).loss(prediction, noisy).numpy(), plain * weight, rtol=2e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_noisy_latents_and_targets_follow_their_formulas(kind):
    x0 = latents()
    noisy = process(kind).add_noise(x0, KEYS, LEVELS)
    assert noisy.t.tolist() == [0, 100, 350, 600, 900, 999]
    a = ALPHAS[noisy.t.numpy()][:, None, None, None]
    noise = keyed_noise(x0, KEYS, "noise").double().numpy()
    assert np.allclose(noisy.x_t, np.sqrt(a) * x0.double().numpy() + np.sqrt(1 - a) * noise, atol=1e-5)
    velocity = np.sqrt(a) * noise - np.sqrt(1 - a) * x0.double().numpy()
    assert np.allclose(noisy.target, velocity if kind == "v_prediction" else noise, atol=1e-5)


def test_noise_offset_shifts_each_channel():
    x0 = latents()
    plain, channel = (keyed_noise(like, KEYS, name) for like, name in ((x0, "noise"), (x0[..., :1, :1], "offset")))
    fixed = NoiseRules(noise_offset=0.1).noise(x0, KEYS)
    assert torch.allclose(fixed, plain + 0.1 * channel, atol=1e-6)
    drawn = NoiseRules(noise_offset=0.1, noise_offset_random_strength=True).noise(x0, KEYS)
    assert torch.allclose(drawn, plain + 0.1 * keyed_share(x0, KEYS, "offset strength") * channel, atol=1e-6)
    adapted = NoiseRules(noise_offset=0.1, adaptive_noise_scale=-2.0).noise(x0, KEYS)
    strength = (0.1 - 2.0 * x0.double().mean((2, 3), keepdim=True).abs()).clamp(min=0)
    assert 0 < int((strength == 0).sum()) < strength.numel()
    assert torch.allclose(adapted.double(), plain.double() + strength * channel.double(), atol=1e-6)


def test_multires_noise_has_unit_variance():
    """Multi-resolution noise has unit variance, and its coarse levels correlate neighbouring positions."""
    x0 = torch.zeros(2, 4, 16, 24)
    one = NoiseRules(multires_noise_iterations=1).noise(x0, KEYS[:2])
    total = keyed_noise(x0, KEYS[:2], "noise") + keyed_noise(x0, KEYS[:2], "multires 0")
    assert torch.allclose(one, total / total.std((1, 2, 3), keepdim=True), atol=1e-6)
    many = NoiseRules(multires_noise_iterations=6, multires_noise_discount=0.8).noise(x0, KEYS[:2])
    assert torch.allclose(many.std((1, 2, 3)), torch.ones(2), atol=1e-5)
    near, far = (float((a[..., 1:] * a[..., :-1]).mean()) for a in (many, one))
    assert near > 0.15 > abs(far)  # low resolutions correlate neighbours


def test_input_perturbation_is_not_part_of_the_target():
    x0 = latents()
    plain = process().add_noise(x0, KEYS, LEVELS)
    extra = process(ip_noise_gamma=0.2).add_noise(x0, KEYS, LEVELS)
    assert torch.equal(plain.target, extra.target)
    a = torch.tensor(ALPHAS[extra.t.numpy()])[:, None, None, None]
    expected = plain.x_t.double() + (1 - a).sqrt() * 0.2 * keyed_noise(x0, KEYS, "perturbation").double()
    assert torch.allclose(extra.x_t.double(), expected, atol=1e-5)
    drawn = process(ip_noise_gamma=0.2, ip_noise_gamma_random_strength=True).rules.perturbation(x0, KEYS)
    share = keyed_share(x0, KEYS, "perturbation strength")
    assert torch.allclose(drawn, 0.2 * share * keyed_noise(x0, KEYS, "perturbation"), atol=1e-6)
    assert len(share.unique()) == len(KEYS)


def test_timesteps_stay_within_their_limits():
    narrow = process(min_timestep=200, max_timestep=300)
    assert narrow.timesteps([0.0, 0.5, 0.9999]).tolist() == [200, 250, 299]
    assert process().timesteps([0.0, 0.9999]).tolist() == [0, 999]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_zero_terminal_snr_rescales_the_schedule(kind):
    """The last timestep has no signal, the first is unchanged, and the loss weights follow the changed table."""
    changed = process(kind).with_zero_terminal_snr()
    root = np.sqrt(ALPHAS)
    expected = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    assert np.allclose(changed.alphas_cumprod, expected, atol=1e-6)
    assert float(changed.alphas_cumprod[-1]) == 0
    noisy = changed.add_noise(latents(), KEYS, LEVELS)
    assert math.isclose(float(noisy.snr[2]), expected[350] / (1 - expected[350]), rel_tol=1e-4)
    assert float(noisy.snr[-1]) == 0
    for settings in ({"min_snr_gamma": 5.0}, {"loss_type": "huber"}, {"debiased_estimation_loss": True}):
        assert bool(Objective(**settings).loss(latents(), noisy).isfinite().all())


@pytest.mark.parametrize(
    "rules", [{"noise_offset": 0.1, "noise_offset_random_strength": True}, {"multires_noise_iterations": 4}]
)
def test_the_noise_of_a_sample_does_not_depend_on_its_batch(rules):
    x0 = latents()
    together = process(**rules).add_noise(x0, KEYS, LEVELS).x_t
    alone = torch.cat(
        [process(**rules).add_noise(x0[i : i + 1], KEYS[i : i + 1], LEVELS[i : i + 1]).x_t for i in range(6)]
    )
    assert torch.equal(together, alone)
