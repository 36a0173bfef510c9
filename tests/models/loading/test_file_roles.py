"""Verify that every file is recognised by its header: role, family, variant, names and kind of numbers."""

import pytest

from neonym.errors import ModelError
from neonym.models.loading.file_roles import facts_of
from neonym.models.loading.header import Header
from neonym.models.loading.refusals import refuse
from neonym.models.registry import family_of_file
from support.headers import header_cases, header_of

CASES = header_cases()


@pytest.mark.parametrize("name", CASES)
def test_the_header_tells_what_a_file_is(name):
    """Every field of the golden entry is compared; what an entry leaves out is the plain case."""
    facts = facts_of(header_of(CASES[name]), name)
    expected = {"naming": "original", "quant": None, **CASES[name]["expected"]}
    expected.pop("note", None)
    found = {key: getattr(facts, key) for key in expected}
    assert found == expected


@pytest.mark.parametrize("name", CASES)
def test_a_name_without_a_file_name_tells_the_same(name):
    """The file name is asked only for what shapes cannot tell, and that is an assumption, not a fact."""
    header = header_of(CASES[name])
    with_name, without = facts_of(header, name), facts_of(header)
    assert (with_name.role, with_name.family, with_name.variant) == (without.role, without.family, without.variant)
    assert without.assumed is None or "neither" in without.assumed.reason


@pytest.mark.parametrize(
    ("case", "file_name", "metadata", "choice", "reason"),
    [
        ("z_image_turbo_bf16.safetensors", "z_image_turbo_bf16.safetensors", {}, "turbo", "its name"),
        ("z_image_turbo_bf16.safetensors", "z-image-de-turbo.safetensors", {}, "de_turbo", "its name"),
        ("z_image_turbo_bf16.safetensors", "turbot.safetensors", {}, "base", "neither"),
        ("z_image_turbo_bf16.safetensors", "x.safetensors", {"modelspec.title": "Z-Image Turbo"}, "turbo", "metadata"),
        ("flux1-dev.safetensors", "flux1-krea-dev_fp8.safetensors", {}, "krea", "its name"),
        ("flux1-dev.safetensors", "x.safetensors", {}, "dev", "neither"),
        ("sd35_large.safetensors", "sd3.5_large_turbo.safetensors", {}, "turbo", "its name"),
        ("klein_4b.safetensors", "flux-2-klein-base-4b.safetensors", {}, "base", "its name"),
        ("klein_4b.safetensors", "flux-2-klein-4b.safetensors", {}, "distilled", "its name"),
        ("klein_4b.safetensors", "x.safetensors", {}, "base", "neither"),
    ],
)
def test_what_shapes_do_not_tell_is_assumed_with_a_reason(case, file_name, metadata, choice, reason):
    header = header_of(CASES[case])
    assumed = facts_of(Header(header.shapes, metadata, header.dtypes), file_name).assumed
    assert assumed is not None
    assert assumed.choice.name == choice
    assert reason in assumed.reason
    assert choice not in assumed.others


def changed(case: str, **shapes: tuple[int, ...] | None) -> Header:
    """Return a golden header with other shapes; `__` stands for a dot, None removes a name."""
    header = header_of(CASES[case])
    new = {name.replace("__", "."): shape for name, shape in shapes.items()}
    kept = {**header.shapes, **{n: s for n, s in new.items() if s is not None}}
    return Header({n: s for n, s in kept.items() if new.get(n, ()) is not None}, {}, header.dtypes)


REFUSED = [
    (changed("flux1-dev.safetensors", img_in__weight=(3072, 384)), "x", "FLUX.1 Fill, which is for editing"),
    (changed("flux1-dev.safetensors", img_in__weight=(3072, 65)), "x", "reads more than noised latents"),
    (changed("flux1-dev.safetensors"), "flux1-kontext-dev.safetensors", "Kontext.*according to its name"),
    (header_of(CASES["flux1-depth-dev.safetensors"]), "x", "Depth or Canny"),
    (header_of(CASES["flux1-controlnet-diffusers.safetensors"]), "x", "is a ControlNet for FLUX.1"),
    (changed("chroma1-hd.safetensors", img_in_patch__weight=(3072, 3, 16, 16)), "x", "Radiance, which works on pixels"),
    (changed("z_image_turbo_bf16.safetensors", siglip_embedder__0__weight=(1152,)), "x", "Omni, which also reads images"),
    (header_of(CASES["cosmos1_t2w_7b.safetensors"]), "x", "Cosmos 1 transformer.*EDM"),
    (Header({n: s for n, s in header_of(CASES["anima-unprefixed.safetensors"]).shapes.items() if "llm_adapter" not in n}),
     "x", "Cosmos-Predict2.*llm_adapter"),
    (header_of(CASES["anima-text-conditioner-diffusers.safetensors"]), "x", "only the text conditioner of Anima"),
    (changed("hunyuan_video_t2v-comfy-names.safetensors", img_in__proj__weight=(3072, 33, 1, 2, 2)), "x", "image to video"),
    (header_of(CASES["lora_flux_kohya.safetensors"]), "x", "is a LoRA for FLUX.1, not a model"),
    (header_of(CASES["t5xxl_fp16.safetensors"]), "x", r"is a text encoder alone \(t5xxl\).*--text_encoders"),
    (header_of(CASES["vae-flux1-diffusers.safetensors"]), "x", r"is a VAE alone \(kl_16ch\).*--vae"),
    *((header_of(CASES[name]), "x", f"is a {label} transformer, for which words cannot be learned: ")
      for name, label in {"wan2.1_t2v_1.3B.safetensors": "Wan", "ltxv-2b.safetensors": "LTX-Video", "lumina2.safetensors": "Lumina-Image 2",
                          "auraflow_0.3.safetensors": "AuraFlow", "qwen_image_bf16.safetensors": "Qwen-Image"}.items()),
]  # fmt: skip


@pytest.mark.parametrize(("header", "file_name", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_what_cannot_be_learned_for_is_refused_with_its_reason(header, file_name, words):
    with pytest.raises(ModelError, match=words) as error:
        refuse(facts_of(header, file_name), "some file")
    assert "\n" not in str(error.value)
    assert error.value.problem.fix
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "label"),
    [("klein_4b.safetensors", "FLUX.2 klein 4B"), ("klein_9b-diffusers.safetensors", "FLUX.2 klein 9B"), ("anima-base.safetensors", "Anima"),
     ("flux1-schnell.safetensors", "FLUX.1"), ("sd35_large.safetensors", "Stable Diffusion 3"), ("flux2_dev.safetensors", "FLUX.2 dev"),
     ("wan2.1_t2v_1.3B.safetensors", None)],
)  # fmt: skip
def test_each_size_finds_its_family(name, label):
    facts = facts_of(header_of(CASES[name]), name)
    family = family_of_file(facts.family, facts.variant)
    assert (family and family.label) == label
    if label is not None:
        refuse(facts, name)
    else:
        with pytest.raises(ModelError):
            refuse(facts, name)


def test_sizes_of_no_published_encoder_still_tell_the_architecture():
    """A tiny T5 is a T5, of no known kind."""
    t5 = {"shared.weight": (100, 32), "encoder.block.0.layer.0.layer_norm.weight": (32,),
          "encoder.block.0.layer.1.DenseReluDense.wi_1.weight": (64, 32)}  # fmt: skip
    found = facts_of(Header(t5)).encoders[""]
    assert (found.architecture, found.kind, found.width) == ("t5", None, 32)


def test_a_file_of_nothing_known_is_other():
    assert facts_of(Header({"something": (1, 2)})).role == "other"
    assert facts_of(Header({})).role == "other"
