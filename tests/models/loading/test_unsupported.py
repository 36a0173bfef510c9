"""Verify that unsupported, damaged or inconsistent models are refused by name before any weight is read."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.checkpoints import make_parts, save_folder, single_file_tensors
from neonym.cli.main import main
from neonym.errors import ModelError
from neonym.models.loading.identify import identify
from neonym.models.model import load_model
from neonym.models.tokenizers.loading import load_tokenizers
from neonym.preflight.preflight import preflight
from support import GOLDEN
from support.checks import said, settings
from support.data_sets import make_images

UNET = "model.diffusion_model."


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def model(request, tmp_path_factory):
    """Return a family and the tensors of a tiny single-file checkpoint of it."""
    return request.param, single_file_tensors(make_parts(request.param, tiny=True), request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a tiny SD 1.x model in a Diffusers folder."""
    place = tmp_path_factory.mktemp("folder") / "model"
    save_folder(make_parts("sd1", tiny=True), "sd1", place, "epsilon")
    return place


def one(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(1, 7) for name in names}


OTHERS = {
    "is a LoRA": [one("lora_unet_down_blocks_0.lora_down.weight"), one("unet.down_blocks.0.attn1.to_q.lora_A.weight"),
                  one("lora_unet_x.hada_w1_a"), one("lora_te_x.lokr_w1"), one("oft_unet_x.oft_blocks"),
                  one("lora_unet_x.alpha", "bundle_emb.word.emb_params")],
    "is an embedding": [{"emb_params": torch.zeros(2, 768)}, {"<tok>": torch.zeros(1024)},
                        {"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}],
    "is a VAE alone": [one("encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"),
                       one("encoder.down_blocks.0.resnets.0.conv1.weight"), one("first_stage_model.encoder.down.0.x")],
    "is the U-Net of a model alone": [one("down_blocks.0.resnets.0.conv1.weight", "time_embedding.linear_1.weight")],
    "is a text encoder alone": [one("text_model.embeddings.token_embedding.weight")],
    "is a ControlNet": [one("control_model.input_blocks.0.0.weight"), one("controlnet_cond_embedding.conv_in.weight")],
    "is a diffusion transformer of an unknown family": [one("pos_embed", "blocks.0.attn.qkv.weight"), one("double_blocks.0.img_attn.qkv.weight")],
    "is a Stable Cascade": [one("clip_txt_mapper.weight")],
    "has quantized weights": [one(f"{UNET}input_blocks.0.0.weight", f"{UNET}input_blocks.0.0.scale_weight"), one("scaled_fp8"),
                         one(f"{UNET}out.2.weight", f"{UNET}out.2.weight.quant_state.bitsandbytes__nf4")],
    "no U-Net. .*only an average": [one("model_ema.diffusion_modelout2weight", "first_stage_model.x")],
    "is an upscaler": [one("model.1.sub.0.RDB1.conv1.0.weight")],
    "has no U-Net and no VAE": [one("something"), {}],
}  # fmt: skip


@pytest.mark.parametrize("words", OTHERS)
def test_other_files_are_refused_by_name(tmp_path, words):
    for tensors in OTHERS[words]:
        for path in (tmp_path / "x.safetensors", tmp_path / "x.ckpt"):
            save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
            with pytest.raises(ModelError, match=words):
                identify(str(path))
    web = {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(1, 768)}, "name": "x"}
    torch.save(web, tmp_path / "word.pt")
    with pytest.raises(ModelError, match="is an embedding.*--weights"):
        identify(str(tmp_path / "word.pt"))


def test_missing_and_unexpected_weights_of_a_file_are_reported(model, tmp_path):
    family, tensors = model
    path = tmp_path / "x.safetensors"
    text = {"sd1": "cond_stage_model.", "sd2": "cond_stage_model.", "sdxl": "conditioner.embedders.0."}[family]
    for without, words in {
        "first_stage_model.": "has no VAE.*--vae", UNET: "has no U-Net", text: "a refiner" if family == "sdxl" else "no text encoder",
        f"{UNET}input_blocks.0.0.weight": "input_blocks.0.0.weight", f"{UNET}out.2.weight": "out.2.weight",
        f"{UNET}input_blocks.1.0.out_layers.3.weight": "input_blocks.1.0.out_layers",
        "first_stage_model.encoder.down.0.": "weights are missing",
    }.items():  # fmt: skip
        save_file({n: t for n, t in tensors.items() if not n.startswith(without)}, path)
        with pytest.raises(ModelError, match=words):
            identify(str(path))
    first = f"{UNET}input_blocks.0.0.weight"
    for extra, words in {
        "edm_mean": "another noise schedule", "edm_vpred.sigma_max": "another noise schedule", f"{UNET}motion_modules.0.x": "motion module",
    }.items():  # fmt: skip
        save_file({**tensors, extra: torch.zeros(4)}, path)
        with pytest.raises(ModelError, match=words):
            identify(str(path))
    for channels, words in {9: "inpainting", 8: "InstructPix2Pix", 5: "depth"}.items():
        save_file({**tensors, first: torch.zeros(32, channels, 3, 3)}, path)
        with pytest.raises(ModelError, match=words):
            identify(str(path))
    if family != "sdxl":
        save_file({**tensors, f"{UNET}label_emb.0.0.weight": torch.zeros(4, 4)}, path)
        with pytest.raises(ModelError, match="unCLIP"):
            identify(str(path))


def test_check_names_missing_and_misshapen_weights(model, tmp_path, capsys):
    """This holds for weights in the middle of every part, in a file and in a folder, before any weight is read."""
    family, tensors = model
    parts, file, place = make_parts(family, tiny=True), tmp_path / "x.safetensors", tmp_path / "folder"
    save_folder(parts, family, place, "epsilon")
    images = make_images(tmp_path / "p", 2, size=(64, 64))

    def said_of(name: Path) -> str:
        flags = [f"--pretrained_model_name_or_path={name}", f"--train_data_dir={images}", "--token_string=mychar4"]
        assert main(["check", *flags]) == 2
        shown = capsys.readouterr()
        return shown.out + shown.err

    text = {"sd1": "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc2.weight",
            "sd2": "cond_stage_model.model.transformer.resblocks.1.mlp.c_proj.weight",
            "sdxl": "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_proj.weight"}[family]  # fmt: skip
    for name, shown in {
        f"{UNET}middle_block.0.out_layers.3.bias": "mid_block.resnets.0.conv2.bias",
        f"{UNET}output_blocks.4.1.norm.weight": "up_blocks.1.attentions.1.norm.weight",
        "first_stage_model.decoder.mid.block_1.conv1.weight": "decoder.mid_block.resnets.0.conv1.weight",
        text: "encoder.layers.1.mlp.fc2.weight",
    }.items():
        save_file({n: t for n, t in tensors.items() if n != name}, file)
        reported = said_of(file)
        assert "1 weights of its" in reported
        assert f"are missing: {shown}" in reported.replace("text_model.", "")
        save_file({**tensors, name: torch.zeros(*tensors[name].shape, 2)}, file)
        assert "of other shapes" in said_of(file)
    save_file({**tensors, f"{UNET}output_blocks.4.1.extra.weight": torch.zeros(1)}, file)
    assert "are unknown: up_blocks.1.attentions.1.extra.weight" in said_of(file)
    for part in parts:
        (weights,) = (place / part).glob("*.safetensors")
        whole = load_file(weights)
        left_out = sorted(whole)[len(whole) // 2]
        save_file({n: t for n, t in whole.items() if n != left_out}, weights)
        assert f"are missing: {left_out}" in said_of(place)
        save_file(whole, weights)


def test_the_source_of_the_prediction_type(model, tmp_path):
    """Metadata comes first, then markers among the keys, the .yaml file, and the user. A guess is reported as one."""
    family, tensors = model
    path, marked = tmp_path / "x.safetensors", {**tensors, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    v, yaml = "v_prediction", tmp_path / "x.yaml"
    for given, metadata, beside, flag, expected, by in (
        (tensors, {"modelspec.prediction_type": "v"}, "", None, v, "its metadata"),
        (marked, {"modelspec.prediction_type": "epsilon"}, "", True, "epsilon", "its metadata"),
        (tensors, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "", None, v, "its metadata"),
        (marked, None, "", None, v, "its key `v_pred`"),
        (tensors, None, 'model:\n  params:\n    parameterization: "v"\n', None, v, "the .yaml beside it"),
        (tensors, None, "model:\n  params:\n    parameterization: eps\n", True, "epsilon", "the .yaml beside it"),
        (tensors, None, "", True, v, "--v_parameterization"),
        (tensors, None, "", False, "epsilon", ""),
    ):
        save_file(given, path, metadata)
        yaml.write_text(beside)
        source = identify(str(path), v_parameterization=flag)
        assert (source.family.name, source.prediction_type) == (family, expected)
        assert source.prediction_from == by
        assert source.configs["scheduler"]["rescale_betas_zero_snr"] == ("ztsnr" in given)
    yaml.unlink()
    save_file(tensors, path, {"modelspec.prediction_type": "epsilon"})
    flags = {"train_data_dir": str(make_images(tmp_path / "p", 2, size=(64, 64))), "token_string": "mychar4",
             "pretrained_model_name_or_path": str(path)}  # fmt: skip
    told = said(preflight(settings(**flags, v_parameterization=True, v2=family != "sdxl", sdxl=family == "sdxl")))
    assert "predicts noise (epsilon), according to its metadata" in told
    assert ("--v2" in told) == (family == "sd1")
    assert "--sdxl" not in told
    save_file(tensors, path)
    guess = said(preflight(settings(**flags)), "warning")
    assert ("does not record whether it predicts noise or v" in guess) == (family == "sd2")
    obeyed = preflight(settings(**flags, v_parameterization=True))
    assert obeyed.source is not None
    assert obeyed.source.prediction_type == "v_prediction"
    assert "v is used, as --v_parameterization says" in said(obeyed, "note")


def test_tokenizers_give_the_golden_ids(tmp_path):
    """SDXL's own tokenizers are used, from a file and from a folder whose second one declares "!" as padding."""
    cases = json.loads((GOLDEN / "d_tokenization.json").read_text())["cases"]
    parts = make_parts("sdxl", tiny=True)
    save_folder(parts, "sdxl", tmp_path / "folder", "epsilon")
    save_file(single_file_tensors(parts, "sdxl"), tmp_path / "x.safetensors")
    kinds = {"sd1": "text_encoder", "sdxl_tokenizer2": "text_encoder_2"}
    for name in ("folder", "x.safetensors"):
        source, seen = identify(str(tmp_path / name)), 0
        for length in (75, 150, 225):
            tokenizers = load_tokenizers(source, length)
            for case in cases:
                given = case["inputs"]
                if given["tokenizer"] in kinds and (given["max_token_length"] or 75) == length:
                    found = tokenizers[kinds[given["tokenizer"]]](given["caption"])
                    assert found.ids == case["expected"]["input_ids"], given
                    seen += 1
        assert seen > 50


def test_names_in_a_file_may_differ(tmp_path):
    """Text encoders may lack `text_model.` or have unused weights, and a VAE file may have old Diffusers names."""
    parts = make_parts("sd1", tiny=True, dtype=torch.float32)
    tensors, path = single_file_tensors(parts, "sd1"), tmp_path / "x.safetensors"
    shorter = {n.replace("transformer.text_model.", "transformer."): t for n, t in tensors.items()}
    unused = {"cond_stage_model.transformer.text_projection.weight": torch.zeros(64, 64), "betas": torch.zeros(9),
              "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
              "first_stage_model.loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)}  # fmt: skip
    expected = parts["text_encoder"].get_input_embeddings().weight
    for content in (shorter, {**tensors, **unused}):
        save_file(content, path)
        assert torch.equal(load_model(str(path)).text.vocabulary("text_encoder"), expected)
    state = parts["vae"].state_dict()
    older = {n.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value").replace("to_out.0", "proj_attn"): t
             for n, t in state.items()}  # fmt: skip
    bare = {n: t for n, t in tensors.items() if not n.startswith("first_stage_model.")}
    save_file(bare, path)
    for i, content in enumerate((state, older)):
        save_file(content, tmp_path / f"vae{i}.safetensors")
        loaded = load_model(identify(str(path), vae=str(tmp_path / f"vae{i}.safetensors"))).modules()["vae"]
        assert all(torch.equal(weight, state[name]) for name, weight in loaded.state_dict().items())


def test_a_converter_may_leave_out_what_sd2_does_not_use(tmp_path):
    """OpenCLIP's last layer and its projection may be missing: diffusers' own conversion to one file writes neither."""
    parts = make_parts("sd2", tiny=True, dtype=torch.float32)
    whole, path = single_file_tensors(parts, "sd2"), tmp_path / "x.safetensors"
    last = f"resblocks.{parts['text_encoder'].config.num_hidden_layers}."
    save_file({n: t for n, t in whole.items() if last not in n and not n.endswith(".text_projection")}, path)
    text = load_model(str(path)).modules()["text_encoder"]
    expected = parts["text_encoder"].state_dict()
    found = {n.replace("token_embedding.frozen.", "token_embedding."): t for n, t in text.state_dict().items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model_index.json", None, "is not a checkpoint file"),
        ("model_index.json", '{"_class_name": "FluxPipeline"}', ""),
        ("model_index.json", "[" * 100000, "cannot be read"),
        ("unet/config.json", "[]", "is not a config"),
        (
            "unet/config.json",
            '{"_class_name": "FluxTransformer2DModel"}',
            "is a StableDiffusionPipeline, which is not supported",
        ),
        ("unet/config.json", '{"_class_name": "UNet2DConditionModel", "sample_size": "x"}', "configs are invalid"),
        ("unet/config.json", '{"_class_name": "UNet2DConditionModel", "in_channels": 9}', "for inpainting"),
        (
            "unet/config.json",
            '{"_class_name": "UNet2DConditionModel", "class_embed_type": "projection"}',
            "which is not supported",
        ),
        ("scheduler/scheduler_config.json", '{"_class_name": "EDMEulerScheduler"}', "another noise schedule"),
        ("text_encoder/config.json", '{"a":', "cannot be read"),
        (
            "text_encoder/config.json",
            '{"model_type": "clip_text_model", "vocab_size": null}',
            "configs are invalid .text_encoder",
        ),
        ("scheduler/scheduler_config.json", None, "scheduler_config.json is missing"),
        ("tokenizer/tokenizer.json", None, "no vocab.json"),
        ("tokenizer/tokenizer.json", "{}", "tokenizer cannot be read"),
        ("tokenizer/tokenizer_config.json", "null", "tokenizer cannot be read"),
        ("vae/diffusion_pytorch_model.safetensors", None, "no weights in `vae`"),
        ("text_encoder/model.safetensors", None, "no weights in `text_encoder`"),
    ],
)
def test_incomplete_and_damaged_folders_are_refused(folder, tmp_path, file, content, words):
    place = tmp_path / "model"
    shutil.copytree(folder, place)
    (place / file).unlink()
    if content is not None:
        (place / file).write_text(content)
    if not words:
        assert identify(str(place)).family.name == "sd1"  # the parts say what it is
        return
    with pytest.raises(ModelError, match=words):
        load_tokenizers(identify(str(place)), 75)
    with pytest.raises(ModelError, match="is a part of a Diffusers folder"):
        identify(str(folder / "unet"))


def test_refiners_are_refused_and_other_json_files_ignored(tmp_path):
    save_folder(make_parts("sdxl", tiny=True), "sdxl", tmp_path / "xl", "epsilon")
    (tmp_path / "xl" / "prompts.json").write_text('["a list"]')
    assert identify(str(tmp_path / "xl")).family.name == "sdxl"
    shutil.rmtree(tmp_path / "xl" / "text_encoder")
    with pytest.raises(ModelError, match="a refiner"):
        identify(str(tmp_path / "xl"))


def test_each_part_has_its_own_variant_and_pickles_run_nothing(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    place = tmp_path / "model"
    shutil.copytree(folder, place)
    unet = place / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    vae = place / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(vae), vae.with_suffix(".bin"))
    vae.unlink()
    (place / "vae" / "openvino_model.bin").write_bytes(b"something else")
    source = identify(str(place))
    assert {p: w.variant for p, w in source.weights.items()} == {"unet": "non_ema", "text_encoder": None, "vae": None}
    theirs, ours = load_model(str(folder)).modules(), load_model(source).modules()
    for part in ("unet", "vae"):
        assert all(torch.equal(a, b) for a, b in zip(theirs[part].parameters(), ours[part].parameters(), strict=True))
    text = place / "text_encoder" / "model.safetensors"
    torch.save({"x": Evil()}, text.with_name("pytorch_model.bin"))
    text.unlink()
    with pytest.raises(ModelError, match=r"wants to run code \(posix.system\)"):
        load_model(str(place))
    assert not (tmp_path / "ran").exists()


def test_pickled_checkpoints_that_claim_too_much_are_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {f"{UNET}x": torch.ones(1).expand(10**6, 10**6)}}, path)
    with pytest.raises(ModelError, match="claims more numbers"):
        identify(str(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100 << 20))
    with pytest.raises(ModelError, match="compressed archive"):
        identify(str(path))
    torch.save({"state_dict": {f"{UNET}x": torch.ones(1)}, "beside": bytearray(b"x")}, path)
    with pytest.raises(ModelError, match="bytearray, which can allocate any amount of memory"):
        identify(str(path))
    torch.save({f"{UNET}x": torch.ones(1000)}, path)
    whole = path.read_bytes()
    for part in (0, 3, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:part])
        with pytest.raises(ModelError, match="damaged"):
            identify(str(path))


def test_the_network_is_used_only_for_hub_ids(folder, tmp_path, monkeypatch, capsys):
    """A missing file is not a hub ID (a socket would fail the test), and files missing from the cache are named."""
    from huggingface_hub import constants

    for name in ("models/none.safetensors", "a/b.ckpt", "a/b/c", str(tmp_path / "none"), "none"):
        with pytest.raises(ModelError, match="no such file or folder"):
            identify(name)
    with pytest.raises(ModelError, match="Check --vae"):
        identify(str(folder), vae="a/none.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / "abc"
    shutil.copytree(folder, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    assert identify("someone/tiny", offline=True).weights["unet"].variant is None
    assert identify(str(folder), vae="someone/tiny", offline=True).vae == snapshot / "vae"
    with pytest.raises(ModelError, match="model_index.json not found in the cache"):
        identify("someone/else", offline=True)
    (snapshot / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (snapshot / "text_encoder" / "model.safetensors").unlink()
    missing = "unet/diffusion_pytorch_model.safetensors, text_encoder/model.safetensors not found in the cache"
    with pytest.raises(ModelError, match=missing):
        identify("someone/tiny", offline=True)
    (snapshot / "vae" / "config.json").unlink()
    with pytest.raises(ModelError, match="vae/config.json not found in the cache"):
        identify("someone/tiny", offline=True)
    (snapshot / "model_index.json").unlink()
    with pytest.raises(ModelError, match="model_index.json not found in the cache"):
        identify("someone/tiny", offline=True)
    images = make_images(tmp_path / "p", 2)
    flags = [
        "--pretrained_model_name_or_path=someone/else",
        "--offline",
        f"--train_data_dir={images}",
        "--token_string=mychar4",
    ]
    assert main(["train", *flags]) == 2
    assert "someone/else" in capsys.readouterr().err
    assert json.loads((Path(folder) / "model_index.json").read_text())
