"""Verify that a model of several files is the model of the Diffusers folder, and that wrong files are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLFlux2, AutoencoderKLQwenImage
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, Qwen3Config, Qwen3Model

from neonym.cli.main import main
from neonym.errors import ModelError
from neonym.models.families.flux2 import FLUX2_DEV
from neonym.models.loading.encoder_files import EncoderFacts
from neonym.models.loading.identify import identify
from neonym.models.loading.recognise import source_notes
from neonym.models.loading.separate_files import FLAGS, Given, fits, missing_encoders
from neonym.models.model import Model, load_model
from neonym.training.objective import Objective
from neonym.training.step import sample_losses
from support import original_names
from support.batches import CAPTIONS, batch_of
from support.data_sets import make_images
from support.families import FAMILIES, tiny_model
from support.quantized import comfy_quant, old_scaled, per_row, save_gguf

KEYS = {"flux1": {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"}, "chroma": {"text_encoder": "t5xxl"},
        "sd3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}, "zimage": {"text_encoder": "qwen3"},
        "flux2_klein_4b": {"text_encoder": "qwen3"}, "flux2_dev": {"text_encoder": "mistral3_24b"}, "anima": {"text_encoder": "qwen3"}}  # fmt: skip
MAKERS = dict(FAMILIES)


def clip_with_one_head(kind: type, width: int = 64) -> Any:
    """Return CLIP with heads of 64 numbers, as published ones have, which no shape tells."""
    act = "quick_gelu" if kind is CLIPTextModel or width == 64 else "gelu"
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=96, projection_dim=width, num_hidden_layers=2,
        num_attention_heads=width // 64, hidden_act=act, bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
    )  # fmt: skip
    return kind(config)


def vae_with_usual_groups(usual: Any) -> Any:
    """Return a VAE with what shapes do not tell of a small one: norms of 32 groups, as published ones have."""
    if isinstance(usual, AutoencoderKLQwenImage):
        return AutoencoderKLQwenImage(base_dim=8)
    widths = {"block_out_channels": (32, 32, 32, 32), "norm_num_groups": 32, "sample_size": 1024}
    more = {"latent_channels": 32} if isinstance(usual, AutoencoderKLFlux2) else {}
    return type(usual).from_config({**usual.config, **widths, **more})


def changed(part: Any, **values: Any) -> Any:
    """Return a part with other values in its config, and new weights."""
    return type(part).from_config({**part.config, **values})


def with_usual_rope(qwen: Any) -> Qwen3Model:
    """Return Qwen3 with the rotary positions of published ones."""
    rope = {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    return Qwen3Model(Qwen3Config(**{**qwen.config.to_dict(), **rope}))


def parts_of(family: str) -> dict[str, Any]:
    """Return the parts of a tiny model whose configs follow from shapes."""
    torch.manual_seed(1)
    parts = MAKERS[family]()
    parts["vae"] = vae_with_usual_groups(parts["vae"])
    if "qwen3" in KEYS[family].values():
        parts["text_encoder"] = with_usual_rope(parts["text_encoder"])
    if family == "flux1":
        parts["text_encoder"] = clip_with_one_head(CLIPTextModel)
        parts["transformer"] = changed(parts["transformer"], pooled_projection_dim=64)
    if family == "sd3":
        parts["text_encoder"] = clip_with_one_head(CLIPTextModelWithProjection)
        with torch.no_grad():
            parts["text_encoder"].text_projection.weight.copy_(torch.eye(64))  # as published files leave it out
        parts["text_encoder_2"] = clip_with_one_head(CLIPTextModelWithProjection, 128)
        parts["transformer"] = changed(parts["transformer"], sample_size=128)
    if family == "zimage":
        parts["transformer"] = changed(parts["transformer"], axes_lens=[1536, 512, 512])
    if family.startswith("flux2"):
        parts["transformer"] = changed(parts["transformer"], in_channels=128)
    if family == "anima":
        parts["transformer"] = changed(parts["transformer"], max_size=[128, 240, 240])
    return parts


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a module as files have them: tied ones once."""
    state = module.state_dict()
    seen, found = set(), {}
    for name, tensor in state.items():
        if name != "encoder.embed_tokens.weight" and tensor.data_ptr() not in seen:
            found[name] = tensor.detach().clone().contiguous()
            seen.add(tensor.data_ptr())
    return found


def encoder_tensors(key: str, module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a text encoder under the names of published files."""
    own = weights_of(module)
    if key == "mistral3_24b":  # without what sees images, and with the tokenizer
        own = {n.removeprefix("model.language_model."): t for n, t in own.items() if "language_model" in n}
        return {f"model.{name}": tensor for name, tensor in own.items()} | {
            "tekken_model": torch.zeros(9, dtype=torch.uint8)
        }
    if key == "qwen3":
        return {f"model.{name}": tensor for name, tensor in own.items()}
    if key.startswith("clip"):
        own = {n if n.startswith(("text_model.", "text_projection")) else f"text_model.{n}": t for n, t in own.items()}
        extras = {"text_model.embeddings.position_ids": torch.arange(77)[None], "logit_scale": torch.ones(())}
        return {n: t for n, t in own.items() if not (key == "clip_l" and "text_projection" in n)} | extras
    return own


def original_tensors(family: str, parts: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights of the transformer's file under their original names."""
    if family == "anima":
        return original_names.anima(weights_of(parts["transformer"]), weights_of(parts["text_conditioner"]))
    return original_names.ORIGINAL[family](weights_of(parts["transformer"]))


class Files:
    """The files of a tiny model."""

    def __init__(self, family: str, home: Path, transformer: Callable = dict, encoders: Callable = dict):
        self.family, self.home, self.parts = family, home, parts_of(family)
        self.tensors = original_tensors(family, self.parts)
        self.vae_tensors = weights_of(self.parts["vae"])
        if family != "anima":
            self.vae_tensors = original_names.vae(self.vae_tensors)
        self.texts = {key: encoder_tensors(key, self.parts[part]) for part, key in KEYS[family].items()}
        home.mkdir(exist_ok=True)
        self.transformer, self.vae = home / "transformer.safetensors", home / "ae.safetensors"
        save_file(contiguous(transformer(self.tensors)), self.transformer)
        save_file(contiguous(self.vae_tensors), self.vae)
        self.encoders = {key: home / f"{key}.safetensors" for key in self.texts}
        for key, path in self.encoders.items():
            save_file(contiguous(encoders(self.texts[key])), path)

    def given(self) -> tuple[Given, ...]:
        return tuple(Given(key if key in FLAGS else "text_encoders", str(path)) for key, path in self.encoders.items())

    def all_in_one(self) -> Path:
        """Save everything in one file, and return it."""
        path = self.home / "whole.safetensors"
        texts = {f"text_encoders.{key}.transformer.{n}": t for key, own in self.texts.items() for n, t in own.items()}
        save_file(contiguous({**{f"model.diffusion_model.{n}": t for n, t in self.tensors.items()},
                              **{f"vae.{n}": t for n, t in self.vae_tensors.items()}, **texts}), path)  # fmt: skip
        return path


def contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def states(model: Model) -> dict[str, dict[str, torch.Tensor]]:
    return {name: module.state_dict() for name, module in model.modules().items()}


def assert_equal(one: Model, other: Model, but: float = 0) -> None:
    """Verify that two models have the same weights, or the denoiser's within `but` of the largest in each."""
    theirs, ours = states(one), states(other)
    assert theirs.keys() == ours.keys()
    for part, own in ours.items():
        assert own.keys() == theirs[part].keys()
        for name, tensor in own.items():
            bound = but * tensor.abs().max() if tensor.is_floating_point() else 0
            assert (tensor - theirs[part][name]).abs().max() <= bound, (part, name)


@pytest.fixture(params=KEYS)
def family(request) -> str:
    return request.param


def folder_of(family: str, home: Path, monkeypatch) -> Path:
    monkeypatch.setitem(FAMILIES, family, lambda: parts_of(family))
    return tiny_model(family, home / "folder")


def test_files_are_the_folder_bit_for_bit(family, tmp_path, monkeypatch):
    """Each encoder by its flag, all of them in any order, everything in one file: the same model and predictions."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = load_model(str(folder_of(family, tmp_path, monkeypatch)))
    files = Files(family, tmp_path / "files")
    source = identify(str(files.transformer), vae=str(files.vae), text_encoders=files.given())
    assert (source.family.name, source.file) == (family, files.transformer)
    model = load_model(source)
    assert_equal(folder, model)
    assert folder.source.configs["scheduler"]["shift"] in (source.configs["scheduler"]["shift"], 1.0, 3.0)
    assert source.latents == folder.source.latents
    assert source.facts.native_size == folder.source.facts.native_size
    assert source.widths == folder.source.widths
    whole = identify(str(files.all_in_one()))
    assert_equal(folder, load_model(whole))
    assert {part: w.files for part, w in whole.weights.items()} == dict.fromkeys(whole.weights, (whole.file,))
    if family != "sd3":  # two CLIP models of unknown sizes can only be told by their flags
        some = [Given("text_encoders", str(path)) for path in reversed(files.encoders.values())]
        assert_equal(folder, load_model(identify(str(files.transformer), vae=str(files.vae), text_encoders=some)))
    with torch.no_grad():  # configs say more than weights
        one, other = (sample_losses(own, batch_of(own, CAPTIONS), Objective()) for own in (folder, model))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("form", "bound"), [(old_scaled, 2**-4), (comfy_quant, 2**-4), (per_row, 2**-4), (lambda own: {n: t.to(torch.float8_e4m3fn) for n, t in own.items()}, 2**-4)],
    ids=["scaled", "comfy_quant", "rows", "plain"],
)  # fmt: skip
@pytest.mark.parametrize("family", ["flux1", "zimage"])
def test_files_in_fp8_are_the_folder_within_their_error(family, form, bound, tmp_path, monkeypatch):
    folder = load_model(str(folder_of(family, tmp_path, monkeypatch)))
    files = Files(family, tmp_path / "files", transformer=form, encoders=form if form is old_scaled else dict)
    model = load_model(identify(str(files.transformer), vae=str(files.vae), text_encoders=files.given()))
    assert_equal(folder, model, bound)


@pytest.mark.parametrize("family", ["flux1", "zimage"])
def test_a_gguf_transformer_is_the_folder_within_its_error(family, tmp_path, monkeypatch):
    folder = load_model(str(folder_of(family, tmp_path, monkeypatch)))
    files = Files(family, tmp_path / "files")
    path = tmp_path / "x-Q8_0.gguf"
    save_gguf(files.tensors, path, "Q8_0", "flux" if family == "flux1" else "lumina2")
    model = load_model(identify(str(path), vae=str(files.vae), text_encoders=files.given()))
    assert_equal(folder, model, 2**-7)


def said(run: Callable) -> list[str]:
    with pytest.raises(ModelError) as error:
        run()
    assert error.value.exit_code == 2
    return [str(problem) for problem in error.value.problems]


@pytest.fixture(scope="module")
def flux(tmp_path_factory) -> Files:
    return Files("flux1", tmp_path_factory.mktemp("flux"))


def test_missing_parts_are_all_named(flux):
    problems = said(lambda: identify(str(flux.transformer)))
    assert len(problems) == 3
    for problem, words in zip(problems, ("clip_l.*--clip_l", "t5xxl.*--t5xxl", "needs a VAE.*--vae"), strict=True):
        assert pytest.importorskip("re").search(words, problem)


def test_the_text_encoder_of_dev_may_have_only_the_layers_that_are_read():
    """Its file has no flag of its own, and is published with 40 layers and with the first 30."""
    (problem,) = missing_encoders({"text_encoder": "mistral3_24b"}, {}, FLUX2_DEV, "flux2_dev.safetensors")
    assert problem.fix == "Pass its file with --text_encoders"
    for kind, does in {"mistral3_24b": True, "mistral3_24b_30_layers": True, "mistral3_24b_20_layers": False}.items():
        assert fits(EncoderFacts("mistral", kind, 5120, ""), "mistral3_24b") is does


def test_swapped_files_are_all_named(flux):
    """Each says what was found in it, and where it belongs."""
    swapped = [Given("clip_l", str(flux.encoders["t5xxl"])), Given("t5xxl", str(flux.vae))]
    problems = said(lambda: identify(str(flux.transformer), vae=str(flux.encoders["clip_l"]), text_encoders=swapped))
    text = "\n".join(problems)
    assert "--clip_l" in problems[0]
    assert "is t5, not clip_l. Pass it with --t5xxl" in problems[0]
    assert "is the VAE kl_16ch, not a text encoder. Pass it with --vae" in problems[1]
    assert "is the text encoder clip, not a VAE" in text
    assert "needs the text encoder t5xxl" in text


def test_files_for_another_family_or_twice_are_named(flux, tmp_path):
    other = Files("zimage", tmp_path / "z")
    given = [*flux.given(), Given("qwen3", str(other.encoders["qwen3"])), Given("text_encoders", str(flux.encoders["clip_l"])),
             Given("text_encoders", str(tmp_path / "none.safetensors")), Given("text_encoders", str(flux.transformer))]  # fmt: skip
    problems = said(lambda: identify(str(flux.transformer), vae=str(flux.vae), text_encoders=given))
    assert len(problems) == 4
    for problem, words in zip(
        problems,
        ("is qwen3, which FLUX.1 does not read. It reads clip_l and t5xxl", "is clip, like --clip_l", "there is no such file",
         "is a FLUX.1 transformer, not a text encoder"),
        strict=True,
    ):  # fmt: skip
        assert words in problem


def test_a_vae_of_another_family_is_named(flux, tmp_path):
    four = {**flux.vae_tensors, "encoder.conv_out.weight": torch.zeros(8, 32, 3, 3)}
    save_file(contiguous(four), tmp_path / "sdxl_vae.safetensors")
    (problem,) = said(
        lambda: identify(str(flux.transformer), vae=str(tmp_path / "sdxl_vae.safetensors"), text_encoders=flux.given())
    )
    assert "is the VAE kl_4ch, but FLUX.1 needs kl_16ch" in problem
    (problem,) = said(
        lambda: identify(str(flux.transformer), vae=str(tmp_path / "none.safetensors"), text_encoders=flux.given())
    )
    assert "--vae" in problem


def test_encoders_are_not_for_whole_models(flux, tmp_path, monkeypatch):
    folder = folder_of("flux1", tmp_path, monkeypatch)
    (problem,) = said(lambda: identify(str(folder), text_encoders=flux.given()))
    assert "has its own text encoders" in problem
    assert "Leave out --clip_l, --t5xxl" in problem


def test_truncated_and_incomplete_files_are_named(flux, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(flux.transformer.read_bytes()[:-50])
    assert "damaged" in said(lambda: identify(str(path), vae=str(flux.vae), text_encoders=flux.given()))[0]
    for name, words in {
        "txt_in.weight": "weights are missing or have other shapes", "double_blocks.0.txt_mlp.2.bias": "1 weights of its FluxTransformer2DModel are missing",
    }.items():  # fmt: skip
        save_file(contiguous({n: t for n, t in flux.tensors.items() if n != name}), path)
        assert words in said(lambda: identify(str(path), vae=str(flux.vae), text_encoders=flux.given()))[0]
    save_file(contiguous({n: t for n, t in flux.texts["t5xxl"].items() if ".wo." not in n}), path)
    given = [Given("clip_l", str(flux.encoders["clip_l"])), Given("t5xxl", str(path))]
    assert (
        "of its T5EncoderModel are missing"
        in said(lambda: identify(str(flux.transformer), vae=str(flux.vae), text_encoders=given))[0]
    )


def test_a_transformer_under_the_names_of_diffusers_needs_its_config(flux, tmp_path):
    network = flux.parts["transformer"]
    network.save_pretrained(tmp_path / "transformer")
    path = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    source = identify(str(path), vae=str(flux.vae), text_encoders=flux.given())
    state = load_model(source).modules()["transformer"].state_dict()
    assert all(torch.equal(state[n], t) for n, t in network.state_dict().items())
    path.with_name("config.json").unlink()
    assert (
        "no config.json beside it"
        in said(lambda: identify(str(path), vae=str(flux.vae), text_encoders=flux.given()))[0]
    )


def test_what_a_file_is_taken_for_is_noted(flux, tmp_path):
    from neonym.models.loading.recognise import source_notes

    path = tmp_path / "flux1-krea-dev.safetensors"
    path.write_bytes(flux.transformer.read_bytes())
    source = identify(str(path), vae=str(flux.vae), text_encoders=flux.given())
    assert any("krea" in str(note) and "its name" in str(note) for note in source_notes(source))


@pytest.mark.parametrize(("family", "name", "warned"), [
    ("flux1", "ae", ""), ("flux1", "my_vae", ""), ("flux1", "sd3.5_vae", "that of Stable Diffusion 3"),
    ("zimage", "flux_vae", ""), ("sd3", "ae", "that of FLUX.1"), ("sd3", "sd3_vae", ""),
])  # fmt: skip
def test_a_vae_that_is_called_another_is_taken_with_a_warning(family, name, warned, tmp_path):
    """FLUX.1's and SD3's have the same shapes; Z-Image's is FLUX.1's."""
    files = Files(family, tmp_path / "files")
    vae = files.vae.rename(files.vae.with_stem(name)) if name != "ae" else files.vae
    source = identify(str(files.transformer), vae=str(vae), text_encoders=files.given())
    said = [str(note) for note in source_notes(source) if str(vae) in str(note)]
    assert len(said) == bool(warned)
    assert all(warned in text and "according to its name" in text for text in said)
    save_file(contiguous(files.vae_tensors), vae, {"modelspec.title": "The VAE of SD3"})
    told = [note for note in map(str, source_notes(source)) if str(vae) in note]
    assert ["its metadata" in note for note in told] == [True] * (family != "sd3")


def test_the_command_line_names_all_problems_and_writes_nothing(flux, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = make_images(tmp_path / "p", 1, size=(64, 64))
    flags = [f"--pretrained_model_name_or_path={flux.transformer}", f"--train_data_dir={images}", "--token_string=mychar4",
             f"--clip_l={flux.encoders['t5xxl']}", f"--ae={flux.vae}", "--output_dir=out"]  # fmt: skip
    assert main(["train", *flags]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "is t5, not clip_l" in shown
    assert "needs the text encoder t5xxl" in shown
    assert not Path("out").exists()
    good = [
        *flags[:3],
        f"--text_encoders={flux.encoders['t5xxl']}",
        f"--clip_l={flux.encoders['clip_l']}",
        f"--ae={flux.vae}",
    ]
    assert main(["check", *good]) == 0
