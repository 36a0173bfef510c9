"""Verify the estimates of memory: exact numbers of weights, published figures, and choices that fit."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks.full_size import CONFIGS
from neonym.config.run import RunConfig
from neonym.models.loading.assemble import empty_part, scheme_rules
from neonym.models.loading.identify import identify
from neonym.models.loading.sizes import needs_of, sizes_of
from neonym.models.memory import (
    RESERVE,
    Activations,
    Choice,
    Needs,
    Step,
    choices,
    estimate,
    fitting_choice,
    part_memory,
    smaller_batches,
)
from neonym.models.offload import swap_blocks, swapped_blocks
from neonym.models.quantization import quantize
from neonym.models.registry import families
from neonym.models.source import ModelSource
from neonym.models.storage import SCHEMES, Storage, spread
from neonym.models.tokenizers.loading import load_tokenizers

SIDE = Step((1024, 1024))
STEP = Step((128, 128), 4)
ACTIVATIONS = Activations(31e9, 2.6e9, 2.7e9)


def source_of(name: str) -> ModelSource:
    family = next(family for family in families() if family.name == name)
    return replace(identify("builtin:emoji"), family=family, configs=CONFIGS[name])


@pytest.fixture(params=[family.name for family in families() if family.name in CONFIGS])
def full(request) -> Needs:
    """Return the weights of a model of full size, with activations like those of FLUX.1 at 1024 pixels."""
    return Needs(sizes_of(source_of(request.param)), SIDE, ACTIVATIONS)


def test_the_numbers_of_weights_are_those_of_the_published_models():
    """Billions, from families.md 1.12: FLUX.1 dev 11.90 with T5-XXL 4.76, Z-Image 6.16 with 35 of Qwen3-4B's 36."""
    flux, z_image = sizes_of(source_of("flux1")), sizes_of(source_of("zimage"))
    assert sum(flux.denoiser.numbers) == pytest.approx(11.90e9, abs=5e6)
    assert sum(flux.encoders["text_encoder_2"].numbers) == pytest.approx(4.762e9, abs=1e6)
    assert len(flux.denoiser.blocks) == 57
    assert sum(z_image.denoiser.numbers) == pytest.approx(6.16e9, abs=1e7)
    assert sum(z_image.encoders["text_encoder"].numbers) == pytest.approx(4.022e9 * 35 / 36, rel=0.01)
    assert len(z_image.denoiser.blocks) == 34
    dev = sizes_of(source_of("flux2_dev"))
    assert sum(dev.denoiser.numbers) == pytest.approx(32.22e9, abs=5e6)
    assert sum(dev.encoders["text_encoder"].numbers) == pytest.approx(
        17.34e9, abs=1e7
    )  # 30 of 40 layers, and the token table
    assert len(dev.denoiser.blocks) == 56


def test_each_saving_needs_less_than_the_one_before(full):
    needed = [estimate(full, choice).total for choice in choices(len(full.sizes.denoiser.blocks))]
    plain, checkpointed = needed[:2]
    assert plain > checkpointed > min(needed)
    by_scheme = [part_memory(full.sizes.denoiser, scheme, 0, 2) for scheme in (None, "fp8", "nf4")]
    assert by_scheme == sorted(by_scheme, reverse=True)
    by_count = [part_memory(full.sizes.denoiser, "fp8", count, 2) for count in (0, 10, 20, 30)]
    assert by_count == sorted(by_count, reverse=True)


@pytest.mark.parametrize("gigabytes", [8, 12, 16, 24, 48, 80])
def test_a_choice_fits_and_no_better_one_does(full, gigabytes):
    memory = gigabytes * 2**30
    blocks = len(full.sizes.denoiser.blocks)
    choice, needed = fitting_choice(full, memory, choices(blocks))
    least = min(estimate(full, own).total for own in choices(blocks))
    assert needed.total <= max(memory, least)
    for better in choices(blocks):
        if better == choice:
            break
        assert estimate(full, better).total > memory


def test_the_smallest_choice_is_left_if_none_fits(full):
    blocks = len(full.sizes.denoiser.blocks)
    choice, needed = fitting_choice(full, 1e9, choices(blocks))
    assert choice.storage == Storage("nf4", "nf4", blocks)
    assert needed.total > RESERVE
    choice, _ = fitting_choice(full, 1e9, choices(blocks, can_swap=False))
    assert choice.storage == Storage("nf4", "nf4")


def test_an_encoder_waits_before_anything_is_quantized():
    """FLUX.1 with CLIP alone on 32 GB: T5 waits in the memory of the CPU, and no number changes."""
    flux, idle = Needs(sizes_of(source_of("flux1")), SIDE, ACTIVATIONS), ("text_encoder_2",)
    plain, waiting = Choice(Storage(), True), Choice(Storage(waiting=idle), True)
    there, saved = estimate(flux, plain), estimate(flux, waiting)
    assert there.activations == saved.activations
    t5 = flux.sizes.encoders["text_encoder_2"]
    assert there.weights - saved.weights == pytest.approx(sum(sum(block) for block in t5.blocks[:-2]) * 2)
    choice, needed = fitting_choice(flux, 32e9, choices(len(flux.sizes.denoiser.blocks), can_wait=idle))
    assert choice == waiting
    assert needed.total < 32e9 < there.total


def test_the_vae_decides_if_it_needs_more_than_a_step(full):
    """It encodes the images before the first step, in float32 and beside all weights."""
    huge = estimate(full._replace(activations=Activations(3e9, 1e9, 40e9)), Choice(Storage(), True))
    assert huge.encoding == 40e9 + 4 * sum(full.sizes.vae.numbers)
    assert huge.total == huge.weights + huge.encoding + huge.reserve
    assert huge.reserve == pytest.approx(RESERVE + 0.1 * huge.encoding)


def test_a_unet_is_away_while_the_vae_encodes_before_the_first_step():
    source = identify("builtin:emoji")
    sizes = sizes_of(source)
    assert sizes is not None
    needs = Needs(sizes, STEP, Activations(1e9, 1e9, 9e9))
    first, each = (
        estimate(needs, Choice(Storage())),
        estimate(needs._replace(step=replace(STEP, keeps_vae=True)), Choice(Storage())),
    )
    assert first.total == first.encoding + first.reserve
    assert each.total == each.weights + each.encoding + each.reserve


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_weights_take_what_is_estimated(scheme, small_flux):
    """The bytes of a network that is really quantized and swapped, except for scales and alignment."""
    source, module = small_flux
    quantize(module, scheme_rules(source.family, "transformer", scheme, None))
    sizes = sizes_of(source).denoiser
    assert held(module) == pytest.approx(sizes.numbers.memory(scheme, 4), rel=0.05)
    blocks = swapped_blocks(module, source.family.denoiser.blocks, 4)
    ring = swap_blocks(module, blocks, torch.device("cpu"))
    assert held(module) + sum(map(len, ring.buffers)) == pytest.approx(part_memory(sizes, scheme, 4, 4), rel=0.05)


@pytest.fixture
def small_flux():
    configs = json.loads(json.dumps(CONFIGS["flux1"]))
    configs["transformer"] |= {
        "num_layers": 2, "num_single_layers": 4, "attention_head_dim": 16, "num_attention_heads": 16,
        "joint_attention_dim": 64, "axes_dims_rope": [4, 6, 6],
    }  # fmt: skip
    source = replace(source_of("flux1"), configs=configs)
    torch.manual_seed(0)
    module = empty_part(source, "transformer").to_empty(device="cpu").requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_()
    return source, module


def held(module) -> int:
    """Return the bytes of all tensors of a network that are not views of a buffer of `offload.Ring`."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(t.nbytes for t in tensors if t.untyped_storage().nbytes() == t.nbytes)


def test_an_estimate_is_of_the_weights_and_of_the_activations_of_all_samples():
    source = identify("builtin:emoji")
    needs = needs_of(source, load_tokenizers(source), STEP)
    assert needs is not None
    assert sum(needs.sizes.denoiser.numbers) == sum(own.numel() for own in empty_part(source, "unet").parameters())
    plain, both = Choice(Storage()), Choice(Storage("fp8", "fp8"), True, 1)
    whole, least = estimate(needs, plain), estimate(needs, both)
    assert whole.activations == 4 * needs.activations.plain
    assert least.activations == needs.activations.checkpointed < needs.activations.plain
    assert least.weights < whole.weights


def test_the_samples_of_a_choice_go_through_the_model_together(full):
    needs = full._replace(step=replace(SIDE, samples=4))
    whole, two, more = (estimate(needs, Choice(Storage(), samples=n)).activations for n in (None, 2, 8))
    assert whole == more == 2 * two
    assert smaller_batches(1) == (None,)
    assert smaller_batches(4) == (None, 2, 1)
    assert smaller_batches(6) == (None, 4, 2, 1)


@pytest.mark.parametrize(
    ("choice", "flags"),
    [
        (Choice(Storage()), ""),
        (Choice(Storage("fp8", "fp8", 3), True), "--base_precision=fp8 --blocks_to_swap=3 --gradient_checkpointing"),
        (Choice(Storage(None, "fp8"), samples=2), "--micro_batch_size=2 --encoder_precision=fp8"),
        (Choice(Storage(waiting=("text_encoder_2",))), "--cache_text_encoder_outputs"),
    ],
)
def test_a_choice_is_named_by_the_flags_that_a_user_can_type(choice, flags):
    assert str(choice) == flags
    given = dict.fromkeys(("train_data_dir", "token_string"), "a")
    pairs = (flag.removeprefix("--").partition("=") for flag in flags.split())
    compute = RunConfig.parse(**given, **{name: value or True for name, _, value in pairs}).compute
    assert (compute.micro_batch_size, compute.gradient_checkpointing) == (choice.samples, choice.checkpointing)
    assert compute.base_precision == (choice.storage.denoiser or "auto")


def test_there_is_no_estimate_for_an_invalid_config():
    source = source_of("flux1")
    configs = {**source.configs, "transformer": {**source.configs["transformer"], "num_layers": "many"}}
    assert sizes_of(replace(source, configs=configs)) is None
    source = identify("builtin:emoji")
    configs = {**source.configs, "unet": {**source.configs["unet"], "cross_attention_dim": 77}}
    assert needs_of(replace(source, configs=configs), load_tokenizers(source), STEP) is None


def test_indices_are_spread_evenly():
    assert spread(3, 7) == [0, 2, 4]
    assert spread(100, 3) == [0, 1, 2]
    assert spread(0, 3) == []
