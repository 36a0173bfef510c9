"""Verify checkpoints in every form: single files, pickles, Diffusers folders with variants, separate VAEs and hub IDs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.checkpoints import make_parts, save_folder, single_file_tensors
from neonym import train
from neonym.errors import ModelError
from neonym.generation.conditioning import conditioning
from neonym.generation.embeddings import add_files
from neonym.generation.images import generate_images
from neonym.models.loading import parts as loading_parts
from neonym.models.loading.assemble import load_part, token_table
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.preflight.preflight import preflight
from neonym.types import Conditions
from support.checks import settings
from support.data_sets import make_images


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def checkpoint(request, tmp_path_factory):
    """Return the family, the Diffusers folder and the single file of one tiny random model."""
    home, family = tmp_path_factory.mktemp(request.param), request.param
    parts = make_parts(family, tiny=True, dtype=torch.float32)
    save_folder(parts, family, home / "folder", "epsilon")
    save_file(single_file_tensors(parts, family), home / "model.safetensors")
    return family, home / "folder", home / "model.safetensors"


def outputs(name: Path | str, **options) -> list[torch.Tensor]:
    """Return what each part computes for fixed inputs.

    Weights are copied first: their alignment in a file changes rounding.
    """
    model = load_model(identify(str(name), **options))
    for weight in (w for module in model.modules().values() for w in module.parameters()):
        weight.data = weight.data.clone()
    generator = torch.Generator().manual_seed(0)
    text = conditioning(model, ["a photo of a cat"])
    noisy, sizes = torch.randn(1, 4, 8, 8, generator=generator), torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
    moments = model.vae.encode(torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1)
    with torch.no_grad():
        pooled = [] if text.pooled is None else [text.pooled]
        return [text.sequence, model.predict(noisy, torch.tensor([500]), text, Conditions(sizes)), moments, *pooled]


def test_a_single_file_is_the_same_model_as_its_folder(checkpoint):
    family, folder, file = checkpoint
    sources = [identify(str(folder)), identify(str(file))]
    assert [s.family.name for s in sources] == [family, family]
    assert sources[0].prediction_type == sources[1].prediction_type == "epsilon"
    for theirs, ours in zip(outputs(folder), outputs(file), strict=True):
        assert torch.equal(theirs, ours)
    assert len(sources[1].vae_hash()) == len(sources[1].text_hash()) == 64


def test_the_token_table_is_read_alone(checkpoint):
    """`inspect --model` reads vocabularies without loading a model."""
    for name in checkpoint[1:]:
        source = identify(str(name))
        model = load_model(source)
        for encoder in source.encoders:
            assert torch.equal(token_table(source.weights[encoder]), model.text.vocabulary(encoder))


def test_an_exclamation_mark_is_padding_for_sd2_alone(checkpoint):
    """SD 2.x and SDXL's second tokenizer both name their padding "!", but only SD 2.x reads captions in this way."""
    family, folder, file = checkpoint
    for name in (folder, file):
        for tokenizer in load_tokenizers(identify(str(name)), 75).values():
            assert (tokenizer("a cat!").ids[0][3] == 0) == (family == "sd2")


def test_conditioning_is_that_of_the_pipelines(checkpoint):
    """Short, empty, odd and long prompts agree, and so do other layers (diffusers' way fails with transformers 5)."""
    family, folder, file = checkpoint
    kind = diffusers.StableDiffusionXLPipeline if family == "sdxl" else diffusers.StableDiffusionPipeline
    pipeline = kind.from_pretrained(folder, dtype=torch.float32)
    for skip in (1, 2, 3) if family != "sdxl" else (1,):
        model = load_model(str(file), clip_skip=skip)
        for prompt in ("a photo of a cat", "", "Wait, what?  ÜBER, über: 3 cats", "a cat " * 60):
            found = conditioning(model, [prompt])
            if family == "sdxl":
                theirs, _, pooled, _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
                assert torch.allclose(found.pooled, pooled, atol=1e-5)
            elif skip == 1:
                theirs = pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
            else:
                text, size = (
                    pipeline.text_encoder,
                    {"padding": "max_length", "truncation": True, "return_tensors": "pt"},
                )
                states = text(pipeline.tokenizer(prompt, **size).input_ids, output_hidden_states=True).hidden_states
                theirs = text.final_layer_norm(states[-skip])
            assert torch.allclose(found.sequence[:, :76], theirs[:, :76], atol=1e-5), (prompt, skip)


def test_pickled_checkpoints(checkpoint, tmp_path):
    _, folder, file = checkpoint
    tensors = load_file(file)
    beside = {"global_step": 3, "loss": np.float64(0.5), "draws": [np.arange(3), np.array(["a"])]}  # data, not code
    for name, content in (("plain.ckpt", tensors), ("lightning.ckpt", {"state_dict": tensors, **beside})):
        torch.save(content, tmp_path / name)
        assert torch.equal(outputs(tmp_path / name)[1], outputs(folder)[1])

    shutil.copy(file, tmp_path / "renamed.ckpt")  # its content counts
    assert torch.equal(outputs(tmp_path / "renamed.ckpt")[1], outputs(folder)[1])

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"state_dict": tensors, "callbacks": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ModelError, match="wants to run code"):
        identify(str(tmp_path / "evil.ckpt"))
    assert not (tmp_path / "ran").exists()


def test_a_file_trains_and_its_word_loads(checkpoint, tmp_path):
    family, folder, file = checkpoint
    images = make_images(tmp_path / "p", 3, size=(64, 64))
    flags = {
        "train_data_dir": str(images), "token_string": "mychar4", "max_train_steps": 2, "eval_samples": 8, "cpu": True,
        "resolution": "64",
    }  # fmt: skip
    files = [
        train(settings(**flags, pretrained_model_name_or_path=str(name), output_dir=str(tmp_path / f"{i}"))).files[0]
        for i, name in enumerate((folder, file))
    ]
    one, other = (load_file(f) for f in files)
    assert set(one) == ({"clip_l", "clip_g"} if family == "sdxl" else {"emb_params"})
    assert all(torch.equal(one[name], other[name]) for name in one)
    if family == "sdxl":
        load_pair(folder, files[0])


def load_pair(folder: Path, file: Path) -> None:
    """Verify that diffusers' two calls for SDXL give the same conditioning."""
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
    rows = load_file(file)
    pipeline.load_textual_inversion(
        rows["clip_l"], token="mychar4", text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer
    )
    pipeline.load_textual_inversion(
        rows["clip_g"], token="mychar4", text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2
    )
    prompt = "a photo of mychar4"
    theirs, _, pooled, _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
    model = load_model(str(folder))
    add_files(model, [file])
    found = conditioning(model, [prompt])
    assert torch.allclose(found.sequence, theirs, atol=1e-5)
    assert found.pooled is not None
    assert torch.allclose(found.pooled, pooled, atol=1e-5)
    assert generate_images(model, [prompt], [0], steps=1, size=(64, 64))[0].size == (64, 64)


def test_one_of_two_encoders_can_be_left_unchanged(tmp_path):
    parts = make_parts("sdxl", tiny=True, dtype=torch.float32)
    save_folder(parts, "sdxl", tmp_path / "xl", "epsilon")
    images = make_images(tmp_path / "p", 2, size=(64, 64))
    flags = {
        "train_data_dir": str(images), "token_string": "mychar4", "max_train_steps": 2, "eval_samples": 8, "cpu": True,
        "resolution": "64", "pretrained_model_name_or_path": str(tmp_path / "xl"), "output_dir": str(tmp_path / "out"),
    }  # fmt: skip
    model = load_model(str(tmp_path / "xl"))
    start = {
        n: model.text.vocabulary(n)[model.text.tokenizers[n].token_ids("picture")[0]]
        for n in ("text_encoder", "text_encoder_2")
    }
    content = load_file(train(settings(**flags, train_encoders=("text_encoder_2",))).files[0])
    assert torch.equal(content["clip_l"][0], start["text_encoder"])
    assert not torch.equal(content["clip_g"][0], start["text_encoder_2"])
    text = "\n".join(str(p) for p in preflight(settings(**flags, train_encoders=("unet",), clip_skip=2)).problems)
    assert "--train_encoders" in text
    assert "--clip_skip" in text


def test_variants_and_separate_vaes(checkpoint, tmp_path):
    family, folder, file = checkpoint
    parts = make_parts(family, tiny=True)
    save_folder(parts, family, tmp_path / "half", "v_prediction", variant="fp16")
    source = identify(str(tmp_path / "half"))
    assert {weights.variant for weights in source.weights.values()} == {"fp16"}
    assert source.prediction_type == "v_prediction"
    assert (outputs(tmp_path / "half")[1] - outputs(folder)[1]).abs().mean() < 0.1  # half precision
    other = {n: t * 1.1 for n, t in load_file(file).items() if n.startswith("first_stage_model.")}
    save_file(other, tmp_path / "vae.safetensors")
    save_file({n.removeprefix("first_stage_model."): t for n, t in other.items()}, tmp_path / "bare.safetensors")
    with_vae = [
        outputs(name, vae=str(tmp_path / vae))[2]
        for name in (folder, file)
        for vae in ("vae.safetensors", "bare.safetensors")
    ]
    assert all(torch.equal(with_vae[0], moments) for moments in with_vae)
    assert not torch.equal(with_vae[0], outputs(folder)[2])
    assert torch.equal(outputs(file, vae=str(folder))[2], outputs(folder)[2])
    assert identify(str(file)).vae_hash() != identify(str(file), vae=str(tmp_path / "vae.safetensors")).vae_hash()
    with pytest.raises(ModelError, match="Check --vae"):
        identify(str(file), vae=str(tmp_path / "none"))
    with pytest.raises(ModelError, match="unet is UNet2DConditionModel, but the model needs AutoencoderKL"):
        identify(str(file), vae=str(folder / "unet"))


def test_weights_go_straight_to_the_device(checkpoint):
    """Tensors are moved one at a time: the device `meta` keeps nothing, so any other tensor is a copy on the host."""
    _, folder, file = checkpoint
    meta = torch.device("meta")
    for source in (identify(str(file)), identify(str(folder))):
        for part in source.kinds:
            loaded = load_part(source, part, torch.float16, meta)
            assert all(weight.is_meta for weight in loaded.parameters())


def test_weights_in_several_files(checkpoint, tmp_path):
    """Shards give the same model and, for one family, the same training.

    A missing shard is reported before any weight is read.
    """
    family, folder, _ = checkpoint
    shutil.copytree(folder, tmp_path / "shards")
    parts = make_parts(family, tiny=True, dtype=torch.float32)
    for name in ("unet", "text_encoder"):
        for file in (tmp_path / "shards" / name).glob("*.safetensors"):
            file.unlink()
        parts[name].save_pretrained(tmp_path / "shards" / name, max_shard_size="1MB")
        assert len(list((tmp_path / "shards" / name).glob("*-of-*.safetensors"))) > 1
    for theirs, ours in zip(outputs(folder), outputs(tmp_path / "shards"), strict=True):
        assert torch.equal(theirs, ours)
    if family == "sd1":
        flags = {
            "train_data_dir": str(make_images(tmp_path / "p", 3, size=(64, 64))), "token_string": "mychar4", "cpu": True,
            "max_train_steps": 2, "eval_samples": 8, "resolution": "64",
        }  # fmt: skip
        one, other = (
            load_file(train(settings(**flags, pretrained_model_name_or_path=str(n), output_dir=f"{n}-out")).files[0])
            for n in (tmp_path / "shards", folder)
        )
        assert torch.equal(one["emb_params"], other["emb_params"])
    lost = sorted((tmp_path / "shards" / "unet").glob("*-of-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ModelError, match=r"1 of the \d+ files of its `unet` are missing"):
        identify(str(tmp_path / "shards"))


def test_unsupported_files_are_refused_by_their_header(checkpoint, tmp_path):
    _, _, file = checkpoint
    tensors, path = load_file(file), tmp_path / "x.safetensors"
    some = {n: t for n, t in tensors.items() if not n.startswith("first_stage_model.")}
    inpainting = {**tensors, "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}
    for content, words in (
        (some, "no VAE"),
        ({"lora_unet_x.lora_down.weight": torch.zeros(1, 1)}, "is a LoRA"),
        (inpainting, "for inpainting"),
        ({"emb_params": torch.zeros(1, 768)}, "is an embedding"),
        ({"x": torch.zeros(1, 7)}, "not a Stable Diffusion checkpoint"),
    ):
        save_file(content, path)
        with pytest.raises(ModelError, match=words):
            identify(str(path))
    path.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="damaged"):
        identify(str(path))
    (tmp_path / "x.ckpt").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="damaged"):
        identify(str(tmp_path / "x.ckpt"))
    for name, what in (("x.gguf", "is not a GGUF file"), ("x.onnx", "is not a checkpoint")):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ModelError, match=what):
            identify(str(tmp_path / name))


def test_flags_are_checked_against_the_file(tmp_path):
    parts = make_parts("sd1", tiny=True)
    save_file(single_file_tensors(parts, "sd1"), tmp_path / "one.safetensors")
    images = make_images(tmp_path / "p", 2, size=(64, 64))
    ready = preflight(settings(train_data_dir=str(images), token_string="mychar4", v2=True, v_parameterization=True,
                             pretrained_model_name_or_path=str(tmp_path / "one.safetensors")))  # fmt: skip
    text = "\n".join(str(p) for p in ready.problems if p.severity == "error")
    assert "--v2" in text
    assert "--v_parameterization" not in text


def test_hub_ids_use_the_cache_and_report_what_is_missing(checkpoint, tmp_path):
    """A separate process is used, because the library reads the path of its cache when it is imported."""
    _, folder, _ = checkpoint
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(folder)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    code = (
        "import sys, socket\n"
        "def refuse(*a): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "from neonym.models.model import load_model\n"
        "from neonym.models.loading.identify import identify\n"
        "from neonym.errors import ModelError\n"
        "model = load_model(identify('someone/tiny', offline=True))\n"
        "try: identify('someone/else', offline=True)\n"
        "except ModelError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "someone/else" in done.stdout
    assert "uses only the cache" in done.stdout


def test_the_index_of_a_folder_is_read(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({}))
    with pytest.raises(ModelError, match="is not supported"):
        identify(str(tmp_path))


@pytest.mark.parametrize("old", [False, True])
def test_the_largest_part_is_loaded_when_it_costs_least(checkpoint, tmp_path, monkeypatch, old):
    """The denoiser is loaded first, while memory is empty, but last if a file is read whole for each part."""
    _, folder, file = checkpoint
    torch.save(load_file(file), tmp_path / "file.ckpt", _use_new_zipfile_serialization=not old)
    kept: list[str] = []
    monkeypatch.setattr(
        loading_parts, "load_part", lambda s, part, *rest: kept.append(part) or load_part(s, part, *rest)
    )
    assert torch.equal(outputs(tmp_path / "file.ckpt")[1], outputs(folder)[1])
    of_file = kept[: len(kept) // 2]
    assert of_file.index("unet") == (len(of_file) - 1 if old else 0)
    assert kept[len(kept) // 2] == "unet"  # of the folder
