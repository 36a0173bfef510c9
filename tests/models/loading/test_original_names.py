"""Verify that original names are converted completely, and that configs follow from shapes, at any size."""

from importlib import import_module

import diffusers
import pytest
import torch
import transformers
from accelerate import init_empty_weights
from diffusers.loaders import single_file_utils as converters

from neonym.models.encoders.blocks import keep_blocks
from neonym.models.families import anima_names
from neonym.models.family import LatentSpec
from neonym.models.loading.assemble import under_vae_names
from neonym.models.loading.encoder_configs import CONFIGS, encoder_config
from neonym.models.loading.file_roles import facts_of
from neonym.models.loading.header import Header, Part
from neonym.models.loading.vae_config import separate_vae_config
from neonym.models.registry import family_of_file
from support import original_names
from support.headers import header_cases, header_of

CASES = header_cases()
NAMES = {family: import_module(f"neonym.models.families.{module}_names") for family, module in {
    "flux1": "flux", "chroma": "chroma", "sd3": "sd3", "zimage": "z_image", "flux2": "flux2", "anima": "anima"
}.items()}  # fmt: skip
FULL = [
    name
    for name, case in CASES.items()
    if case["expected"]["family"] in NAMES
    and case["expected"].get("naming") is None
    and case["expected"]["role"] in ("transformer", "model")
    and case["expected"]["variant"] != "depth_or_canny"
    and case["expected"].get("quant") in (None, "fp8", "gguf")
]


def on_meta(header: Header, prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a header that have a prefix, without data."""
    parts = ("vae.", "first_stage_model.", "text_encoders.")
    return {
        name: torch.empty(shape, device="meta")
        for name, shape in header.shapes.items()
        if name.startswith(prefix) and (prefix or not name.startswith(parts))
    }


def empty(config: dict) -> torch.nn.Module:
    """Return a network without weights. The numbers of fixed positions, which take seconds, are left out."""

    def positions(width: int, side: int, **_: object) -> torch.Tensor:
        return torch.empty(side * side, width)

    with init_empty_weights(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.models.embeddings.get_2d_sincos_pos_embed", positions)
        return getattr(diffusers, config["_class_name"]).from_config(config)


def values_of(network: torch.nn.Module) -> dict[str, object]:
    """Return the config of a network; a tuple and a list are the same."""
    config = network.config
    return {k: list(v) if isinstance(v, (tuple, list)) else v for k, v in config.items() if not k.startswith("_")}


def shapes_of(tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", FULL)
def test_a_full_size_transformer_is_complete_and_strict(name):
    header = header_of(CASES[name])
    facts = facts_of(header, name)
    names = NAMES[facts.family]
    config = names.config_from(Part(header, facts.prefix))
    found = names.from_original_names(on_meta(header, facts.prefix), config)
    assert shapes_of(found) == shapes_of(empty(config).state_dict())
    if facts.family == "anima":
        config = anima_names.conditioner_config(Part(header, facts.prefix))
        found = anima_names.conditioner_weights(on_meta(header, facts.prefix))
        assert shapes_of(found) == shapes_of(empty(config).state_dict())


def test_klein_9b_is_complete_and_strict():
    """Its original names are those of 4B with more blocks and other widths, and become those of its Diffusers folder."""
    small, golden = header_of(CASES["klein_4b.safetensors"]), header_of(CASES["klein_9b-diffusers.safetensors"])
    widths, blocks = {7680: 12288}, {"double_blocks": (5, 8), "single_blocks": (20, 24)}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in small.shapes.items():
        own = tuple(widths.get(side, side // 3072 * 4096 if side % 3072 == 0 else side) for side in shape)
        kind, _, rest = name.partition(".")
        first = rest.startswith("0.")
        copies = range(blocks[kind][1]) if kind in blocks and first else ()
        shapes |= {f"{kind}.{i}.{rest.removeprefix('0.')}": own for i in copies}
        shapes |= {} if kind in blocks else {name: own}
    header = Header(shapes)
    facts = facts_of(header, "flux-2-klein-9b.safetensors")
    assert (facts.family, facts.variant, facts.naming) == ("flux2", "klein_9b", "original")
    family = family_of_file(facts.family, facts.variant)
    assert family is not None
    assert family.label == "FLUX.2 klein 9B"
    for prefix in ("", "model.diffusion_model."):
        part = Part(Header({f"{prefix}{name}": shape for name, shape in shapes.items()}), prefix)
        config = NAMES["flux2"].config_from(part)
        found = NAMES["flux2"].from_original_names(on_meta(part.header, prefix), config)
        assert shapes_of(found) == shapes_of(empty(config).state_dict()) == golden.shapes
    expected = {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}
    assert {key: config[key] for key in expected} == expected
    assert not config["guidance_embeds"]


PUBLISHED = {  # config values of published models
    "flux1-dev.safetensors": {"num_attention_heads": 24, "axes_dims_rope": [16, 56, 56], "guidance_embeds": True, "in_channels": 64,
                              "joint_attention_dim": 4096, "num_layers": 19, "num_single_layers": 38, "pooled_projection_dim": 768},
    "flux1-schnell.safetensors": {"guidance_embeds": False},
    "sd35_medium.safetensors": {"dual_attention_layers": list(range(13)), "pos_embed_max_size": 384, "qk_norm": "rms_norm"},
    "sd3_medium_incl_clips_t5xxlfp8.safetensors": {"dual_attention_layers": [], "qk_norm": None, "num_attention_heads": 24},
    "z_image_turbo_bf16.safetensors": {"axes_dims": [32, 48, 48], "n_kv_heads": 30, "cap_feat_dim": 2560, "in_channels": 16},
    "flux2_dev.safetensors": {"guidance_embeds": True, "num_layers": 8, "joint_attention_dim": 15360, "mlp_ratio": 3.0, "axes_dims_rope": [32] * 4, "num_single_layers": 48},
    "anima-base.safetensors": {"in_channels": 16, "mlp_ratio": 4.0, "adaln_lora_dim": 256, "text_embed_dim": 1024},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_configs_are_those_of_published_models(name):
    header = header_of(CASES[name])
    facts = facts_of(header, name)
    config = NAMES[facts.family].config_from(Part(header, facts.prefix))
    assert {key: config[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("family", ["flux1", "chroma"])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("leaf", ["scale", "weight"])
def test_our_conversion_is_that_of_diffusers(family, prefix, leaf):
    """Only rows are moved, so matrices of one column tell as much as whole ones."""
    name = {"flux1": "flux1-dev.safetensors", "chroma": "chroma1-hd.safetensors"}[family]
    convert = {"flux1": converters.convert_flux_transformer_checkpoint_to_diffusers,
               "chroma": converters.convert_chroma_transformer_checkpoint_to_diffusers}[family]  # fmt: skip
    header = header_of(CASES[name])
    generator = torch.Generator().manual_seed(3)
    thin = {n: torch.rand(shape[0], *(1 for _ in shape[1:]), generator=generator) for n, shape in header.shapes.items()}
    expected = convert(dict(thin))
    config = NAMES[family].config_from(Part(header))
    ours = NAMES[family].from_original_names(
        {f"{prefix}{n.removesuffix('scale') + leaf if n.endswith('.scale') else n}": t for n, t in thin.items()}, config
    )
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[n], t) for n, t in expected.items())


TINY = {
    "flux1": lambda: diffusers.FluxTransformer2DModel(
        num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
        pooled_projection_dim=40, axes_dims_rope=(4, 6, 6), guidance_embeds=True),
    "chroma": lambda: diffusers.ChromaTransformer2DModel(
        num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
        axes_dims_rope=(4, 6, 6), approximator_num_channels=64, approximator_hidden_dim=48, approximator_layers=2),
    "flux2": lambda: diffusers.Flux2Transformer2DModel(
        num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24,
        axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False),
    "zimage": lambda: diffusers.ZImageTransformer2DModel(
        dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=24, axes_dims=[4, 6, 6],
        axes_lens=[1536, 512, 512]),
    "sd3": lambda: diffusers.SD3Transformer2DModel(
        num_layers=3, attention_head_dim=8, num_attention_heads=4, joint_attention_dim=24, caption_projection_dim=32,
        pooled_projection_dim=40, pos_embed_max_size=12, qk_norm="rms_norm", dual_attention_layers=(0, 1), sample_size=128),
}  # fmt: skip


@pytest.mark.parametrize("family", TINY)
def test_tiny_files_have_the_same_weights_and_config(family):
    """Config values that shapes do not tell, such as the size of a picture, are those of published models."""
    network = TINY[family]()
    weights = network.state_dict()
    for norm in (n for n in weights if ".norm" in n):
        weights[norm].uniform_()
    original = original_names.ORIGINAL[family](weights)
    header = Header({n: tuple(t.shape) for n, t in original.items()})
    facts = facts_of(header)
    assert (facts.family, facts.role) == (family, "transformer")
    config = NAMES[family].config_from(Part(header))
    assert values_of(empty(config)) == values_of(network)
    found = NAMES[family].from_original_names(dict(original), config)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[n], t) for n, t in weights.items())


def test_a_tiny_anima_file_is_split_in_two():
    network = diffusers.CosmosTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=16, num_layers=2, text_embed_dim=24,
        adaln_lora_dim=8, rope_scale=(1.0, 4.0, 4.0), concat_padding_mask=True, extra_pos_embed_type=None,
    )  # fmt: skip
    conditioner = diffusers.AnimaTextConditioner(
        source_dim=24, target_dim=24, model_dim=24, num_layers=2, num_attention_heads=3, target_vocab_size=64
    )
    tensors = original_names.anima(network.state_dict(), conditioner.state_dict())
    for prefix in ("", "net."):
        original = {f"{prefix}{n}": t for n, t in tensors.items()}
        header = Header({n: tuple(t.shape) for n, t in original.items()})
        facts = facts_of(header)
        assert (facts.family, facts.prefix) == ("anima", prefix)
        config = anima_names.config_from(Part(header, prefix))
        found = anima_names.from_original_names(dict(original), config)
        assert all(torch.equal(found[n], t) for n, t in network.state_dict().items())
        assert shapes_of(found) == shapes_of(empty(config).state_dict())
        own = empty(anima_names.conditioner_config(Part(header, prefix)))
        assert shapes_of(own.state_dict()) == shapes_of(anima_names.conditioner_weights(original))
        assert own.config["num_attention_heads"] == 3


VAES = {  # file -> the VAE of the family, and its prefix
    "sd35_large.safetensors": LatentSpec(16, scaling_factor=1.5305, shift_factor=0.0609),
    "flux1-dev-fp8-checkpoint.safetensors": LatentSpec(16, scaling_factor=0.3611, shift_factor=0.1159),
    "qwen_image_vae.safetensors": LatentSpec(16, module="AutoencoderKLQwenImage"),
    "vae-flux1-diffusers.safetensors": LatentSpec(16, scaling_factor=0.3611, shift_factor=0.1159),
    "vae-qwenimage-diffusers.safetensors": LatentSpec(16, module="AutoencoderKLQwenImage"),
}  # fmt: skip


@pytest.mark.parametrize("name", VAES)
def test_a_full_size_vae_is_complete_and_strict(name):
    header, latents = header_of(CASES[name]), VAES[name]
    facts = facts_of(header).vae
    assert facts is not None
    config = separate_vae_config(header, facts, latents)
    found = under_vae_names(on_meta(header, facts.prefix), facts.prefix, config)
    assert shapes_of(found) == shapes_of(empty(config).state_dict())
    if latents.module == "AutoencoderKL":
        assert (config["scaling_factor"], config["shift_factor"]) == (latents.scaling_factor, latents.shift_factor)
        assert not config["use_quant_conv"]
        assert not config["use_post_quant_conv"]
    else:
        assert len(config["latents_mean"]) == len(config["latents_std"]) == 16


def test_the_statistics_of_flux_2_are_kept():
    """Diffusers' converter drops them, and latents would not be normalised without a word."""
    with init_empty_weights():
        whole = diffusers.AutoencoderKLFlux2()
    original = original_names.vae(whole.state_dict())
    header = Header({name: tuple(tensor.shape) for name, tensor in original.items()})
    facts = facts_of(header).vae
    assert facts is not None
    assert facts.kind == "kl_32ch"
    config = separate_vae_config(header, facts, LatentSpec(128, module="AutoencoderKLFlux2"))
    assert shapes_of(under_vae_names(dict(original), "", config)) == shapes_of(empty(config).state_dict())
    assert {"scaling_factor", "shift_factor"}.isdisjoint(config)


ENCODERS = {
    "clip_l_with_extras.safetensors": ("CLIPTextModelWithProjection", {"num_attention_heads": 12, "hidden_act": "quick_gelu", "eos_token_id": 49407}),
    "t5xxl_fp16.safetensors": ("T5EncoderModel", {"num_heads": 64, "d_kv": 64, "d_ff": 10240, "num_layers": 24}),
    "t5xxl_with_embed_tokens.safetensors": ("T5EncoderModel", {"num_layers": 24}),
    "qwen_3_4b.safetensors": ("Qwen3Model", {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "num_hidden_layers": 36}),
    "qwen_3_06b_base.safetensors": ("Qwen3Model", {"num_attention_heads": 16, "num_key_value_heads": 8, "num_hidden_layers": 28}),
    "Qwen3-4B-Q8_0.gguf": ("Qwen3Model", {"hidden_size": 2560, "intermediate_size": 9728}),
    "mistral_3_small_flux2_bf16.safetensors": ("MistralModel", {"num_hidden_layers": 40, "num_attention_heads": 32}),
    "mistral_3_small_flux2_pruned.safetensors": ("MistralModel", {"num_hidden_layers": 30, "intermediate_size": 32768}),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_a_full_size_text_encoder_is_complete(name):
    from neonym.models.loading.assemble import as_wanted, other_names
    from neonym.models.loading.file_roles import with_library_names

    header = with_library_names(header_of(CASES[name]))
    (facts,) = facts_of(header).encoders.values()
    kind, values = ENCODERS[name]
    config = encoder_config(Part(header, facts.prefix), facts, facts.kind or "")
    assert {key: config[key] for key in values} == values
    found = getattr(transformers, kind)
    with init_empty_weights():
        module = found(found.config_class.from_dict(config))
    if kind == "MistralModel":  # whose file may have only what FLUX.2 reads
        keep_blocks(module, 30)
    wanted = module.state_dict()
    named = {as_wanted(n, wanted): t for n, t in on_meta(header, facts.prefix).items()}
    assert set(wanted) - set(named) - other_names(module, named) == set()
    assert all(named[n].shape == t.shape for n, t in wanted.items() if n in named)


def test_rope_and_epsilon_of_qwen_are_those_of_the_published_model():
    header = header_of(CASES["qwen_3_4b.safetensors"])
    config = transformers.Qwen3Config.from_dict(CONFIGS["qwen3"](Part(header)))
    assert config.rope_parameters["rope_theta"] == 1e6
    assert config.rms_norm_eps == 1e-6
    assert config.tie_word_embeddings
