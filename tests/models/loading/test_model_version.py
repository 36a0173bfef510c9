"""Verify that --model_version says which of several models of the same shapes a model is, whatever its name says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neonym.cli.main import main
from neonym.config.generate import GenerateSettings
from neonym.errors import ModelError
from neonym.generation.metadata import recorded_settings
from neonym.models.loading.file_roles import facts_of
from neonym.models.loading.identify import identify
from neonym.models.loading.recognise import source_notes, source_of
from neonym.training.metadata import deciding_settings, recipe_settings, version_metadata
from support.checks import check, said, settings
from support.data_sets import make_images
from support.families import tiny_model
from support.headers import header_cases, header_of

CASES = header_cases()
Z_IMAGE, FLUX = "z_image_turbo_bf16.safetensors", "flux1-dev.safetensors"
FOLDERS = [  # family, name of the folder, version, and the guidance scale and the steps that follow
    ("zimage", "z-image-turbo", None, 1.0, 9),
    ("zimage", "z-image-turbo", "base", 5.0, None),
    ("zimage", "z-image-de-turbo", None, 5.0, None),
    ("zimage", "my-model", "Turbo", 1.0, 9),
    ("zimage", "my-model", "de-turbo", 5.0, None),
    ("chroma", "Chroma1-Flash", "hd", 5.0, 35),
    ("chroma", "my-model", "flash", 1.0, 35),
    ("flux2_klein_4b", "klein", "distilled", 1.0, 4),
    ("sd3", "sd3.5-turbo", "medium", 4.0, 28),
    ("flux1", "kontext-style-dev", "dev", 1.0, 28),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("folders")
    return {family: tiny_model(family, home / family) for family in dict.fromkeys(row[0] for row in FOLDERS)}


def renamed(folder: Path, home: Path, name: str) -> Path:
    """Return a model under another name, which says what it is taken for."""
    (home / name).symlink_to(folder)
    return home / name


@pytest.mark.parametrize(
    ("case", "file_name", "version", "choice"),
    [
        (Z_IMAGE, "z_image_turbo_bf16.safetensors", "base", "base"),
        (Z_IMAGE, "x.safetensors", "TURBO", "turbo"),
        (Z_IMAGE, "x.safetensors", "de-turbo", "de_turbo"),
        (Z_IMAGE, "x.safetensors", "de_turbo", "de_turbo"),
        (FLUX, "kontext-style-dev.safetensors", "dev", "dev"),
        (FLUX, "flux1-dev.safetensors", "kontext", "kontext"),
        ("sd35_large.safetensors", "turbo.safetensors", "large", "large"),
        ("sd35_medium.safetensors", "x.safetensors", "turbo", "turbo"),
        ("klein_4b.safetensors", "flux-2-klein-4b.safetensors", "base", "base"),
        ("chroma1-hd.safetensors", "x.safetensors", "flash", "flash"),
    ],
)
def test_the_user_overrules_the_name_of_a_file(case, file_name, version, choice):
    assumed = facts_of(header_of(CASES[case]), file_name, version).assumed
    assert assumed is not None
    assert (assumed.choice.name, assumed.reason) == (choice, "as --model_version says")


@pytest.mark.parametrize(("family", "name", "version", "guidance", "steps"), FOLDERS)
def test_the_user_overrules_the_name_of_a_folder(folders, family, name, version, guidance, steps, tmp_path):
    source = identify(str(renamed(folders[family], tmp_path, name)), version=version)
    assert (source.guidance, source.facts.steps) == (guidance, steps)
    assert any("as --model_version says" in str(note) for note in source_notes(source)) == (version is not None)


def test_the_user_overrules_the_index_of_a_folder(folders, tmp_path):
    """klein's index says whether it is distilled; a changed model may have kept that of its base."""
    home = tmp_path / "klein"
    shutil.copytree(folders["flux2_klein_4b"], home)
    assert (identify(str(home)).facts.steps, identify(str(home), version="distilled").facts.steps) == (50, 4)


def test_the_user_overrules_the_name_of_a_hub_model(folders, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--someone--z-image-turbo" / "snapshots" / "abc"
    shutil.copytree(folders["zimage"], snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    steps = [
        identify("someone/z-image-turbo", offline=True, version=version).facts.steps for version in (None, "de_turbo")
    ]
    assert steps == [9, None]


@pytest.fixture(scope="module")
def flux_file(tmp_path_factory) -> Path:
    """Return a file with the names and shapes by which a transformer of FLUX.1 dev is told."""
    names = {"img_in.weight": 64, "guidance_in.in_layer.weight": 8, "vector_in.in_layer.weight": 8,
             "double_blocks.0.img_attn.qkv.weight": 8}  # fmt: skip
    path = tmp_path_factory.mktemp("flux") / "flux1-dev.safetensors"
    save_file({name: torch.ones(8, width) for name, width in names.items()}, path)
    return path


def test_a_renamed_kontext_is_refused_if_the_user_says_what_it_is(flux_file, folders):
    for model in (flux_file, folders["flux1"]):
        with pytest.raises(ModelError, match=r"Kontext.*\(as --model_version says\)") as error:
            identify(str(model), version="kontext")
        assert len(error.value.problems) == 1


def test_a_dev_that_is_called_kontext_is_accepted_if_the_user_says_so(flux_file, tmp_path):
    path = tmp_path / "kontext-style-dev.safetensors"
    shutil.copy(flux_file, path)
    with pytest.raises(ModelError, match="Kontext.*according to its name"):
        identify(str(path))
    with pytest.raises(ModelError, match="needs the text encoder clip_l"):  # and goes on to its other files
        identify(str(path), version="dev")


def test_an_unknown_version_is_an_error_with_those_that_there_are(flux_file, folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = make_images(tmp_path / "p", 1, size=(64, 64))
    for model, choices in ((flux_file, "dev, krea or kontext"), (folders["zimage"], "base, de_turbo or turbo")):
        named = ["--model_version=schnell", "--offline"]
        train = [f"--pretrained_model_name_or_path={model}", f"--train_data_dir={images}", "--token_string=mychar4"]
        assert main(["train", *train, *named, "--output_dir=out"]) == 2
        training = capsys.readouterr().err
        assert main(["generate", f"--ckpt={model}", "--prompt=a cat", "--outdir=out", *named]) == 2
        for text in (training, capsys.readouterr().err):
            assert "--model_version schnell: there is no such version of" in text
            assert f"Choose {choices}" in text
            assert text.count("error") == 1
    assert not (tmp_path / "out").exists()


def test_verify_and_inspect_take_it_too(folders, tmp_path, capsys):
    word = tmp_path / "mychar4.safetensors"
    save_file({"qwen3_4b": torch.randn(2, 64)}, word)
    for command in (["verify"], ["inspect"]):
        assert main([*command, str(word), f"--model={folders['zimage']}", "--model_version=flash"]) == 2
        assert "Choose base, de_turbo or turbo" in capsys.readouterr().err
    assert main(["inspect", str(word), f"--model={folders['zimage']}", "--model_version=turbo"]) == 0


def test_a_model_that_comes_in_one_version_says_so(tmp_path):
    """The warning names what decides instead, as for --variant of a file."""
    images = make_images(tmp_path / "p", 1, size=(64, 64))
    warnings = said(check(images, model_version="turbo"), "warning")
    assert "--model_version turbo has no effect: the files of this model (Stable Diffusion 1.x) say which" in warnings


def test_a_note_says_how_to_overrule_what_is_assumed():
    transformer = {"_class_name": "ZImageTransformer2DModel"}
    configs = {
        "transformer": transformer,
        "scheduler": {},
        "origin": {"choice": "turbo", "reason": "according to its name", "others": ["base", "de_turbo"]},
    }
    (note,) = source_notes(source_of("x.safetensors", Path(), configs))
    assert str(note) == (
        "x.safetensors: it is taken for turbo, according to its name; base and de_turbo have the same weights by shape. "
        "If it is another one, say so with --model_version base or de_turbo."
    )


def test_it_is_part_of_what_a_run_is_compared_by_and_of_what_files_record(folders):
    assert deciding_settings(settings(model_version="turbo"))["model_version"] == "turbo"
    assert deciding_settings(settings()) != deciding_settings(settings(model_version="turbo"))
    assert recipe_settings(settings(model_version="turbo")) == {"model_version": "turbo"}
    assert recorded_settings(GenerateSettings(model_version="turbo")) == {"model_version": "turbo"}
    turbo, base = (identify(str(folders["zimage"]), version=own) for own in ("turbo", None))
    assert (version_metadata(turbo), version_metadata(base)) == ({"neonym.model_version": "turbo"}, {})
