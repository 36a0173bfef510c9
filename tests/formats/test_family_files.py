"""Verify the files of words for models with encoders other than CLIP: each program finds the vectors of each encoder."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from neonym.cli.main import main
from neonym.errors import FormatError
from neonym.formats import read_content, read_embedding, support_by_program, with_encoders, write_embedding
from neonym.formats.fitting import doubts, fitted, misfit
from neonym.formats.usage import usage_card
from neonym.models.family import Family
from neonym.models.loading.identify import identify
from neonym.models.registry import families, family_named
from neonym.types import Embedding
from support.comfyui_files import vectors_for

NEW = [family for family in families() if family.programs is not None]
KEYS = {  # what ComfyUI calls the vectors of each encoder, and their width; then OneTrainer
    "flux1": ({"clip_l": 768, "t5xxl": 4096}, {"clip_l", "t5"}),
    "sd3": ({"clip_l": 768, "clip_g": 1280, "t5xxl": 4096}, {"clip_l", "clip_g", "t5"}),
    "chroma": ({"t5xxl": 4096}, {"t5"}),
    "zimage": ({"qwen3_4b": 2560}, set()),
    "flux2_klein_4b": ({"qwen3_4b": 2560}, set()),
    "flux2_klein_9b": ({"qwen3_8b": 4096}, set()),
    "flux2_dev": ({"mistral3_24b": 5120}, set()),
    "anima": ({"qwen3_06b": 1024}, set()),
}


def rows_of(seed: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def word_of(family: Family, counts: dict[str, int] | None = None, **metadata: str) -> Embedding:
    """Return a word with random vectors for every encoder of a family, or for those in `counts`."""
    rows = {spec.name: rows_of(i, spec.width or 0) for i, spec in enumerate(family.encoders)}
    if counts is not None:
        rows = {name: rows_of(i, rows[name].shape[1], counts[name]) for i, name in enumerate(counts)}
    return Embedding("zyzzo", rows, {"neonym.family": family.name, **metadata})


def known(name: str) -> Family:
    family = family_named(name)
    assert family is not None, f"{name} is not registered"
    return family


def published(family: Family) -> dict[str, int]:
    return {spec.name: spec.width or 0 for spec in family.encoders}


@pytest.mark.parametrize("family", NEW, ids=lambda family: family.name)
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_comfyui_and_onetrainer_find_the_vectors_of_every_encoder(family, ending, tmp_path):
    word, (comfyui, onetrainer) = word_of(family), KEYS[family.name]
    file = write_embedding(word, tmp_path / f"zyzzo.{ending}")
    for (key, width), rows in zip(comfyui.items(), word.vectors.values(), strict=True):
        found = vectors_for(file, key, width)
        assert found is not None, key
        assert torch.equal(found, rows), key
    content = load_file(file) if ending == "safetensors" else torch.load(file, weights_only=True)
    assert set(content) == set(comfyui) | onetrainer
    assert {tensor.dtype for tensor in content.values()} == {torch.float32}
    for key, rows in zip(("clip_l", "clip_g", "t5"), word.vectors.values(), strict=False):
        if key in onetrainer and len(onetrainer) == 3:
            assert torch.equal(content.get(f"{key}_out", content.get(key)), rows)
    if onetrainer:
        assert torch.equal(content.get("t5_out", content.get("t5")), list(word.vectors.values())[-1])
    described = support_by_program(read_content(file), "zyzzo")
    assert described["ComfyUI"] == "reads it: embedding:zyzzo"
    assert described["OneTrainer"].startswith("reads it, to continue" if onetrainer else "does not read words")
    for program in ("AUTOMATIC1111", "InvokeAI", "stable-diffusion.cpp", "sd-scripts", "SD.Next"):
        assert described[program].startswith(f"does not read words for {family.label}"), program


@pytest.mark.parametrize("family", NEW, ids=lambda family: family.name)
@pytest.mark.parametrize("ending", ["safetensors", "pt", "bin", "ckpt", "png"])
def test_a_word_is_read_back_as_it_was_written(family, ending, tmp_path):
    word = word_of(family)
    found = read_embedding(write_embedding(word, tmp_path / f"zyzzo.{ending}"))
    assert found.token == "zyzzo"
    assert found.metadata["neonym.family"] == family.name
    assert found.vectors.keys() == word.vectors.keys()
    assert all(torch.equal(found.vectors[name], rows) for name, rows in word.vectors.items())
    assert not found.left_out


OTHERS = {  # file name -> tensors of another program: key -> width; the family that reads them
    "OneTrainer": ({"clip_l": 768, "t5": 4096}, "flux1"),
    "diffusers": ({"clip_l": 768, "t5": 4096}, "flux1"),
    "ComfyUI": ({"clip_l": 768, "t5xxl": 4096}, "flux1"),
    "half": ({"t5xxl": 4096}, "flux1"),
    "OneTrainer's": ({"clip_l": 768, "clip_g": 1280, "t5": 4096}, "sd3"),
    "two of three": ({"clip_l": 768, "t5xxl": 4096}, "sd3"),
    "first two": ({"clip_l": 768, "clip_g": 1280}, "sd3"),
    "T5": ({"t5": 4096}, "chroma"),
    "unnamed T5": ({"<tok>": 4096}, "chroma"),
    "plain T5": ({"emb_params": 4096}, "flux1"),
    "unnamed": ({"<tok>": 2560}, "zimage"),
    "klein": ({"qwen3_4b": 2560}, "flux2_klein_4b"),
    "large klein": ({"<tok>": 4096}, "flux2_klein_9b"),
    "dev": ({"mistral3_24b": 5120}, "flux2_dev"),
    "unnamed dev": ({"<tok>": 5120}, "flux2_dev"),
    "unnamed Anima": ({"<tok>": 1024}, "anima"),
    "bundled": ({"bundle_emb.tok.clip_l": 768, "bundle_emb.tok.t5xxl": 4096}, "flux1"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_programs_fit_the_model_at_hand(name, tmp_path):
    """The key decides which encoder reads a tensor; where it is no key of any encoder, the width does."""
    widths, own = OTHERS[name]
    family, tensors = known(own), {key: rows_of(i, width) for i, (key, width) in enumerate(widths.items())}
    save_file(tensors, tmp_path / "a.safetensors")
    found = fitted(read_embedding(tmp_path / "a.safetensors"), family, published(family))
    assert misfit("a", found, family, published(family), "a model") is None
    aliases = {key: spec.name for spec in family.encoders for key in spec.keys}
    by_width = {spec.width: spec.name for spec in family.encoders}
    for key, rows in tensors.items():
        encoder = aliases.get(key.rpartition(".")[2]) or by_width[rows.shape[1]]
        assert torch.equal(found.vectors[encoder], rows), key
    assert len(found.vectors) == len(tensors)


@pytest.mark.parametrize(
    ("widths", "own", "others"),
    [
        ({"clip_l": 768, "clip_g": 1280}, "sdxl", []),
        ({"clip_l": 768, "clip_g": 1280}, "sd3", ["SDXL"]),
        ({"clip_l": 768, "t5xxl": 4096}, "flux1", []),
        ({"t5xxl": 4096}, "flux1", ["Chroma"]),
        ({"t5xxl": 4096}, "chroma", []),
        ({"qwen3_4b": 2560}, "zimage", ["FLUX.2 klein 4B"]),
        ({"emb_params": 768}, "sd1", []),
    ],
)
def test_a_word_that_another_family_could_read_too_is_used_with_a_warning(widths, own, others, tmp_path):
    family, file = known(own), tmp_path / "a.safetensors"
    save_file({key: rows_of(i, width) for i, (key, width) in enumerate(widths.items())}, file)
    word = fitted(read_embedding(file), family, published(family))
    warnings = [problem for problem in doubts("a", file, word, family) if problem.severity == "warning"]
    labels = [label for label in others if label in {family.label for family in families()}]
    assert len(warnings) == bool(labels)
    assert all(label in str(warnings[0]) for label in labels)
    said = replace(word, metadata={"neonym.family": own})
    assert not [problem for problem in doubts("a", file, said, family) if problem.severity == "warning"]


@pytest.mark.parametrize(
    ("widths", "metadata", "own", "message"),
    [
        ({"clip_l": 768, "clip_g": 1280}, {"neonym.family": "sdxl"}, "sd3", "learned for SDXL, but M is Stable Diffusion 3"),
        ({"emb_params": 768}, {"neonym.family": "sd1"}, "flux1", "learned for Stable Diffusion 1.x, but M is FLUX.1"),
        ({"emb_params": 768}, {}, "flux1", "768 numbers called emb_params: M .FLUX.1. has no text encoder for them"),
        ({"clip_l": 768, "t5xxl": 4096}, {}, "sd1", "4096 numbers called t5xxl: M .Stable Diffusion 1.x. has no text"),
        ({"clip_l": 768, "t5": 4096}, {"modelspec.architecture": "flux-1-dev/textual-inversion"}, "sdxl", "for FLUX.1, but"),
        ({"qwen3_4b": 2560}, {"neonym.family": "flux2_klein_4b"}, "zimage", "learned for FLUX.2 klein 4B, but M is Z-Image"),
        ({"t5xxl": 4096}, {}, "zimage", "4096 numbers called t5xxl: M .Z-Image. has no text encoder"),
        ({"t5xxl": 4096}, {}, "flux2_klein_9b", "4096 numbers called t5xxl: M .FLUX.2 klein 9B. has no text encoder"),
        ({"mistral3_24b": 5120}, {}, "flux2_klein_9b", "5120 numbers called mistral3_24b: M .FLUX.2 klein 9B. has no text"),
        ({"clip_l": 768}, {}, "sdxl", "has no vectors for text_encoder_2"),
    ],
)  # fmt: skip
def test_a_word_of_another_family_is_refused(widths, metadata, own, message, tmp_path):
    family = known(own)
    known(metadata.get("neonym.family", own))
    save_file({key: rows_of(i, w) for i, (key, w) in enumerate(widths.items())}, tmp_path / "a.safetensors", metadata)
    word = fitted(read_embedding(tmp_path / "a.safetensors"), family, published(family))
    assert re.search(message, misfit("a", word, family, published(family), "M") or "")


@pytest.mark.parametrize(("key", "kind"), [("llama", "HiDream"), ("gemma", "Sana"), ("qwen3vl_4b", "Krea 2")])
def test_words_of_unsupported_families_are_refused_by_name(key, kind, tmp_path):
    save_file({"clip_l": rows_of(0, 768), key: rows_of(1, 4096)}, tmp_path / "a.safetensors")
    with pytest.raises(FormatError, match=kind):
        read_embedding(tmp_path / "a.safetensors")


def test_output_embeddings_are_named(tmp_path, capsys):
    tensors = {"clip_l": rows_of(0, 768), "t5": rows_of(1, 4096), "t5_out": rows_of(2, 4096)}
    save_file(tensors, tmp_path / "a.safetensors")
    found = read_embedding(tmp_path / "a.safetensors")
    assert torch.equal(found.vectors["text_encoder_2"], tensors["t5"])
    assert found.left_out == ("t5_out",)
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 0
    assert "OneTrainer's output embeddings (t5_out)" in capsys.readouterr().out


def test_a_word_may_leave_encoders_out_where_its_family_allows_it(tmp_path):
    flux, xl = known("flux1"), known("sdxl")
    file = write_embedding(word_of(flux, {"text_encoder_2": 3}), tmp_path / "a.safetensors")
    assert set(load_file(file)) == {"t5xxl", "t5"}
    assert read_embedding(file).vectors.keys() == {"text_encoder_2"}
    both = write_embedding(word_of(flux, {"text_encoder": 2, "text_encoder_2": 5}), tmp_path / "b.safetensors")
    assert {name: len(rows) for name, rows in read_embedding(both).vectors.items()} == {
        "text_encoder": 2,
        "text_encoder_2": 5,
    }
    with pytest.raises(FormatError, match="different numbers of vectors"):
        write_embedding(word_of(xl, {"text_encoder": 2, "text_encoder_2": 5}), tmp_path / "c.safetensors")
    with pytest.raises(FormatError, match="needs the vectors of all of its text encoders"):
        with_encoders(word_of(xl), ["clip_l"], "a file")


def test_convert_writes_the_file_that_forge_reads(tmp_path, capsys):
    word = word_of(known("flux1"))
    file, alone = write_embedding(word, tmp_path / "a.safetensors"), tmp_path / "a-clip_l.safetensors"
    assert main(["convert", str(file), str(alone), "--encoders", "clip_l"]) == 0
    assert {name: tuple(rows.shape) for name, rows in load_file(alone).items()} == {"clip_l": (2, 768)}
    assert torch.equal(load_file(alone)["clip_l"], word.vectors["text_encoder"])
    with safe_open(alone, "pt") as opened:
        assert opened.metadata()["neonym.family"] == "flux1"
    assert support_by_program(read_content(file), "a")["Forge"].startswith(
        "skips it: it reads a file with clip_l alone"
    )
    assert support_by_program(read_content(alone), "a-clip_l")["Forge"] == "reads it"
    assert support_by_program(read_content(alone), "a-clip_l")["ComfyUI"].startswith("reads it for clip_l only")
    assert vectors_for(alone, "clip_l", 768) is not None
    assert vectors_for(alone, "t5xxl", 4096) is None
    capsys.readouterr()
    assert main(["convert", str(file), str(tmp_path / "b.safetensors"), "--encoders", "clip_g"]) == 2
    assert "has no vectors for clip_g" in capsys.readouterr().err
    assert not (tmp_path / "b.safetensors").exists()


def test_inspect_tells_which_families_a_word_fits(tmp_path, capsys):
    flux = write_embedding(word_of(known("flux1")), tmp_path / "a.safetensors")
    unknown = tmp_path / "b.safetensors"
    save_file({"qwen3_4b": rows_of(0, 2560)}, unknown)
    for file, family, code in ((flux, "flux1", 0), (flux, "sdxl", 2), (unknown, "zimage", 0), (unknown, "flux1", 2)):
        assert main(["inspect", str(file), "--for", family]) == code, (file, family)
    capsys.readouterr()
    assert main(["inspect", str(flux), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["encoders"]["text_encoder_2"]["made_for"] == "FLUX.1 (its second encoder)"
    assert facts["programs"]["Forge Neo"] == "reads it, clip_l only"
    assert any("75 tokens" in note for note in facts["warnings"])


def test_the_card_says_what_to_type_and_where(tmp_path):
    word = word_of(known("flux1"), **{"neonym.base_model": "black-forest/flux"})
    file = write_embedding(word, tmp_path / "zyzzo.safetensors")
    write_embedding(with_encoders(word, ["clip_l"], file), tmp_path / "zyzzo-clip_l.safetensors")
    card = usage_card(word, file)
    assert "| ComfyUI | models/embeddings/ | `a photo of embedding:zyzzo` |" in card
    assert "| Forge | embeddings/ (the file zyzzo-clip_l.safetensors) | `a photo of zyzzo-clip_l` |" in card
    assert "| OneTrainer | its base embedding" in card
    assert "directly before `.`" in card
    assert "eos_token_id = 49407" in card
    z_image = word_of(known("zimage"), **{"neonym.base_model": "some/z-image"})
    card = usage_card(z_image, write_embedding(z_image, tmp_path / "b.safetensors"))
    assert "brackets are plain text for Z-Image" in card
    assert "diffusers has no loader of words in ZImagePipeline" in card
    assert "load_textual_inversion" not in card


@pytest.fixture(scope="module")
def flux_folder(tmp_path_factory) -> Path:
    from support.families import tiny_model

    return tiny_model("flux1", tmp_path_factory.mktemp("flux") / "model")


@pytest.fixture(scope="module")
def tiny_word(tmp_path_factory, flux_folder) -> Path:
    """Return a file with a word for the tiny model, with different numbers of vectors for its encoders."""
    widths = identify(str(flux_folder)).widths
    rows = {name: rows_of(i, width, 3 - i) for i, (name, width) in enumerate(widths.items())}
    word = Embedding("zyzzo", rows, {"neonym.family": "flux1", "neonym.init_word": "dog"})
    return write_embedding(word, tmp_path_factory.mktemp("word") / "zyzzo.safetensors")


def test_diffusers_loads_the_file_as_the_card_says_and_encodes_it_as_we_do(flux_folder, tiny_word, monkeypatch):
    """The card's code, run with the real pipeline, gives the same conditioning as Neonym, pooled text included."""
    from diffusers import FluxPipeline

    from neonym.generation.conditioning import conditioning
    from neonym.generation.embeddings import add_files
    from neonym.models.model import load_model

    pipe = FluxPipeline.from_pretrained(flux_folder)
    word = word_of(known("flux1"), **{"neonym.base_model": "black-forest/flux"})
    (tiny_word.parent / "wide").mkdir()
    card = usage_card(word, write_embedding(word, tiny_word.parent / "wide" / tiny_word.name))
    code = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tiny_word.parent)  # the file of the tiny model has the same name as that of the card
    lines = [line for line in code.splitlines() if not line.startswith("image =")]
    exec("\n".join(lines), {"pipe": pipe})
    content = load_file(tiny_word)
    for tokenizer, encoder, key in (
        (pipe.tokenizer, pipe.text_encoder, "clip_l"),
        (pipe.tokenizer_2, pipe.text_encoder_2, "t5xxl"),
    ):
        rows = content[key]
        ids = tokenizer.convert_tokens_to_ids(["zyzzo", *(f"zyzzo_{i}" for i in range(1, len(rows)))])
        assert torch.equal(encoder.get_input_embeddings().weight[ids], rows), key
    prompt = "a photo of zyzzo on a red background"
    theirs, pooled, _ = pipe.encode_prompt(prompt, prompt)
    model = load_model(str(flux_folder))
    assert add_files(model, [tiny_word]) == ["zyzzo"]
    ours = conditioning(model, [prompt])
    assert ours.pooled is not None
    torch.testing.assert_close(ours.sequence, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.pooled, pooled, rtol=1e-3, atol=1e-4)
    for module in pipe.text_encoder.modules():  # without the card's line, the pooled text is another one
        module.eos_token_id = 2
    assert not torch.allclose(pipe.encode_prompt(prompt, prompt)[1], pooled, atol=1e-3)


def test_an_encoder_without_vectors_reads_the_init_word(flux_folder, tiny_word, tmp_path):
    """A word with vectors for one encoder leaves the other one as if the init word stood there, or nothing."""
    from neonym.generation.conditioning import conditioning
    from neonym.generation.embeddings import add_embedding
    from neonym.models.model import load_model

    whole = read_embedding(tiny_word)
    model = load_model(str(flux_folder))
    plain = {text: conditioning(model, [f"a photo of {text}at night"]) for text in ("dog ", "")}
    for metadata, text in ((whole.metadata, "dog "), ({"neonym.family": "flux1"}, "")):
        add_embedding(model, with_encoders(replace(whole, metadata=metadata), ["clip_l"], ""))
        found = conditioning(model, ["a photo of zyzzo at night"])
        assert torch.equal(found.sequence, plain[text].sequence)
        assert found.pooled is not None
        assert not torch.allclose(found.pooled, plain[text].pooled, atol=1e-3)
        model.text.remove_word("zyzzo")
    add_embedding(model, with_encoders(whole, ["t5"], ""))
    found = conditioning(model, ["a photo of zyzzo at night"])
    assert torch.equal(found.pooled, plain["dog "].pooled)
    assert not torch.allclose(found.sequence, plain["dog "].sequence, atol=1e-3)
    model.text.remove_word("zyzzo")
    assert torch.equal(conditioning(model, ["a photo of dog at night"]).sequence, plain["dog "].sequence)


def test_a_run_that_trains_one_encoder_writes_its_vectors_only(flux_folder, tmp_path):
    from neonym import generate, train
    from neonym.models.model import load_model
    from support.checks import settings
    from support.data_sets import make_images
    from support.families import SIDE

    images = make_images(tmp_path / "images", 2, size=(SIDE, SIDE), caption="a photo of mychar4")
    shared = {
        "pretrained_model_name_or_path": str(flux_folder), "train_data_dir": str(images), "token_string": "mychar4",
        "init_word": "cat", "num_vectors_per_token": 2, "resolution": str(SIDE), "enable_bucket": False, "train_batch_size": 2,
        "max_train_steps": 2, "seed": 3, "eval_samples": 8, "cpu": True,
    }  # fmt: skip
    result = train(settings(**shared, output_dir=str(tmp_path / "one"), train_encoders=("clip_l",)))
    (file,) = result.files
    assert set(load_file(file)) == {"clip_l"}
    assert result.verdicts[0].encoders.keys() == {"text_encoder"}
    model = load_model(str(flux_folder))
    first, again = (generate("a photo of mychar4", [file], model, steps=1, size=(SIDE, SIDE))[0] for _ in range(2))
    assert first.tobytes() == again.tobytes()
    # continuing from the file of both encoders keeps the vectors of the encoder that is not trained
    (both,) = train(settings(**shared, output_dir=str(tmp_path / "both"))).files
    beside = both.with_name("mychar4-clip_l.safetensors")
    assert set(load_file(both)) == {"clip_l", "t5xxl", "t5"}
    assert set(load_file(beside)) == {"clip_l"}
    assert torch.equal(load_file(beside)["clip_l"], load_file(both)["clip_l"])
    flags = {**shared, "output_dir": str(tmp_path / "next"), "train_encoders": ("clip_l",), "weights": str(both)}
    (following,) = train(settings(**{name: value for name, value in flags.items() if name != "init_word"})).files
    assert torch.equal(load_file(following)["t5xxl"], load_file(both)["t5xxl"])
    assert not torch.equal(load_file(following)["clip_l"], load_file(both)["clip_l"])


def test_a_word_for_another_model_is_refused_before_anything_is_written(flux_folder, tmp_path, capsys):
    save_file({"emb_params": rows_of(0, 768)}, tmp_path / "sd.safetensors")
    flux = write_embedding(word_of(known("flux1")), tmp_path / "flux.safetensors")
    for model, file, said in (
        (str(flux_folder), tmp_path / "sd.safetensors", "emb_params"),
        ("builtin:emoji", flux, "FLUX.1"),
    ):
        out = tmp_path / "images"
        command = ["generate", "--ckpt", model, "--prompt", "a zyzzo", "--outdir", str(out), "--cpu"]
        flag = [f"--textual_inversion_embeddings=zyzzo={file}"]
        assert main([*command[:-1], *flag]) == 2
        assert said in capsys.readouterr().err
        assert not out.exists()
