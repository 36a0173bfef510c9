"""Tests of the defaults of each model family: scaled to the vocabulary, shown with their source, and used."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.checkpoints import make_parts, save_folder, single_file_tensors
from neonym.cli.main import main
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.config.values import Rate
from neonym.errors import ModelError
from neonym.formats import read_embedding
from neonym.models.defaults import PUBLISHED_SPREAD
from neonym.models.loading.identify import identify
from neonym.models.registry import families
from neonym.optim.rates import make_schedule
from neonym.preflight.preflight import preflight
from neonym.training.metadata import deciding_settings
from neonym.training.precision import precision_on_cuda
from neonym.training.resume import run_identity
from support import ROOT, WORD
from support.checks import check, check_flags, said, settings
from support.data_sets import make_images, subset

FAMILIES = {family.name: family.defaults for family in families()}
CLIP_LIKE = 0.0138  # spread of a vocabulary like CLIP's


def save_models(family: str, home: Path) -> Path:
    """Save a tiny random model, with a vocabulary as spread as CLIP's, as a Diffusers folder and as a single file."""
    parts = make_parts(family, tiny=True, dtype=torch.float32)
    for name, part in parts.items():
        if name.startswith("text_encoder"):
            torch.nn.init.normal_(part.get_input_embeddings().weight, std=CLIP_LIKE)
    save_folder(parts, family, home / "folder", "epsilon")
    save_file(single_file_tensors(parts, family), home / "model.safetensors")
    return home


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def models(request, tmp_path_factory):
    return request.param, save_models(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    return save_models("sd1", tmp_path_factory.mktemp("sd1"))


@pytest.fixture
def own(sd1, tmp_path):
    """Return a function that makes an SD 1.x folder with a neonym.json of these facts."""

    def build(**facts) -> str:
        folder = tmp_path / "own"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sd1 / "folder", folder)
        (folder / "neonym.json").write_text(json.dumps(facts))
        return str(folder)

    return build


@pytest.fixture
def small(tmp_path):
    return make_images(tmp_path / "a", 3, size=(64, 64))


def test_a_folder_a_word_and_an_init_word_are_enough(models, small, capsys):
    family, home = models
    for name in ("folder", "model.safetensors"):
        flags = [
            f"--pretrained_model_name_or_path={home / name}",
            f"--train_data_dir={small}",
            f"--token_string={WORD}",
        ]
        assert main(["check", *flags, "--init_word=animal", "--resolution=64", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        values = {name: default["value"] for name, default in found["defaults"].items()}
        assert values == {
            "learning_rate": 0.002 if family == "sdxl" else 0.004, "max_train_steps": 2000, "lr_warmup_steps": "10%",
            "train_batch_size": 4, "num_vectors_per_token": 4, "save_every_n_steps": 100,
            "mixed_precision": "bf16, else no" if family == "sd2" else "bf16, else fp16",
        }  # fmt: skip
        assert all(default["source"] for default in found["defaults"].values())
        assert {default["whose"] for default in found["defaults"].values()} == {FAMILIES[family].max_train_steps.whose}
        assert found["datasets"][0]["batch_size"] == found["config"][0]["settings"]["batch_size"] == 4


def test_check_shows_each_default_with_its_source(sd1, small, capsys):
    flags = [f"--pretrained_model_name_or_path={sd1 / 'folder'}", f"--train_data_dir={small}", f"--token_string={WORD}"]
    assert main(["check", *flags, "--resolution=64", "--learning_rate=1e-3"]) == 0
    text = capsys.readouterr().out
    assert "max_train_steps 2000: default for Stable Diffusion 1.x (invoke-training, InvokeAI 2,000-3,000" in text
    assert "learning_rate" not in text
    assert main(["check", *flags, "--resolution=64", "--print_config"]) == 0
    shown = capsys.readouterr().out
    for line in ("max_train_steps = 2000", "num_vectors_per_token = 4", 'lr_warmup_steps = "10%"', "batch_size = 4"):
        assert f"{line}  # default for Stable Diffusion 1.x (" in shown, line


def test_a_note_tells_how_to_end_a_long_run_sooner(sd1, small):
    model = {"pretrained_model_name_or_path": str(sd1 / "folder"), "resolution": "64"}
    text = said(check(small, **model), "note")
    assert "--max_train_steps: 2000, the default for Stable Diffusion 1.x" in text
    assert "a file is kept every 100 steps in outputs/mychar4-run/steps. --early_stop ends the run" in text
    assert "--early_stop ends" not in said(check(small, **model, early_stop=True), "note")
    assert "a file is kept" not in said(check(small, **model, save_every_n_epochs=5), "note")
    for given in ({"max_train_steps": 1000}, {"max_train_epochs": 9}):
        assert "--max_train_steps" not in said(check(small, **model, **given), "note")


def test_given_values_take_precedence_wherever_they_are_given(sd1, tmp_path, small):
    model = {"pretrained_model_name_or_path": str(sd1 / "folder"), "resolution": "64"}
    table = {**subset(tmp_path), "concepts": [{"token_string": WORD, "num_vectors_per_token": 2}]}
    table["datasets"][0]["batch_size"] = 1
    flags = {"max_train_epochs": 3, "save_n_epoch_ratio": 2, "lr_scheduler": "constant", "mixed_precision": "no"}
    (tmp_path / "table.json").write_text(json.dumps(table))
    ready = preflight(settings(dataset_config=str(tmp_path / "table.json"), **model, **flags))
    assert not said(ready)
    assert set(ready.defaults) == {"learning_rate"}
    assert ready.config is not None
    assert (ready.config.concepts[0].vectors, ready.datasets[0].batch_size) == (2, 1)
    milestones = ready.complete_plan().milestones
    assert (milestones.total, milestones.keep_every_n_steps) == (9, None)


def test_giving_the_value_of_a_default_makes_the_same_run():
    """States of runs from before models had defaults can therefore be resumed."""
    flags = {"train_data_dir": str(ROOT / "examples" / "nutkin"), "token_string": "nutkin", "early_stop": True}
    first = check_flags(**flags)
    values = {"max_train_steps": 100, "train_batch_size": 4, "num_vectors_per_token": 1, "learning_rate": 0.02}
    second = check_flags(**flags, eval_every_n_steps=5, **values)
    assert deciding_settings(first.run) == deciding_settings(second.run)
    assert first.complete_plan().milestones == second.complete_plan().milestones


def test_the_warm_up_of_a_model_is_part_of_the_identity_of_a_run(sd1, small, own):
    """The warm-up of the built-in model is not, so that older states can be resumed."""
    flags = {"resolution": "64", "learning_rate": 0.004, "num_vectors_per_token": 1, "max_train_steps": 100}
    least, tenth = (
        run_identity(check(small, **flags, pretrained_model_name_or_path=name).complete_plan())
        for name in (own(lr_warmup_steps="30"), str(sd1 / "folder"))
    )
    changed = {key for key in {*least, *tenth} if least.get(key) != tenth.get(key)}
    assert changed == {"default_warmup", "pretrained_model_name_or_path"}
    assert "default_warmup" not in least


def test_rates_scale_with_the_spread_of_the_vocabulary(models, tmp_path):
    """A vocabulary with ten times the spread has ten times the rate, in every precision."""
    family, home = models
    usual = FAMILIES[family].learning_rate
    tensors = load_file(home / "model.safetensors")
    table = next(name for name in tensors if name.endswith("token_embedding.weight"))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        save_file({n: t.to(dtype) for n, t in tensors.items()}, tmp_path / "x.safetensors")
        source = identify(str(tmp_path / "x.safetensors"))
        assert source.word_spread == pytest.approx(CLIP_LIKE, rel=0.03)
        assert source.defaults.learning_rate == usual
        save_file({n: (t * 10 if n == table else t).to(dtype) for n, t in tensors.items()}, tmp_path / "y.safetensors")
        farther = identify(str(tmp_path / "y.safetensors"))
        assert farther.word_spread == pytest.approx(10 * CLIP_LIKE, rel=0.03)
        assert farther.defaults.learning_rate.value == pytest.approx(10 * usual.value)
        assert f"{usual.value:g} ({usual.source}) x 0.14 / 0.0133" in farther.defaults.learning_rate.source


@pytest.mark.parametrize(
    ("spread", "rate"), [(PUBLISHED_SPREAD, 4e-3), (0.0133 / 2, 2e-3), (0.0266, 8e-3), (5.0, 4e-2), (1e-6, 4e-4)]
)
def test_a_model_may_define_its_own_spread(own, spread, rate):
    assert identify(own(word_spread=spread)).defaults.learning_rate.value == rate


def test_a_vocabulary_without_a_spread_keeps_the_published_rate(sd1, tmp_path):
    tensors = load_file(sd1 / "model.safetensors")
    table = next(name for name in tensors if name.endswith("token_embedding.weight"))
    for value in (0.0, float("nan")):
        tensors[table] = torch.full_like(tensors[table], value)
        save_file(tensors, tmp_path / "x.safetensors")
        assert identify(str(tmp_path / "x.safetensors")).defaults.learning_rate == FAMILIES["sd1"].learning_rate


@pytest.mark.parametrize(
    "wrong",
    [
        {"word_spread": 0}, {"word_spread": "x"}, {"word_spread": None}, {"learning_rate": -1}, {"learning_rate": "1e-3"},
        {"learning_rate": True}, {"max_train_steps": 0}, {"max_train_steps": 1.5}, {"train_batch_size": None},
        {"num_vectors_per_token": 300}, {"lr_warmup_steps": "many"}, {"lr_warmup_steps": "200%"},
        {"mixed_precision": "fp8"}, {"mixed_precision": ["no"]}, {"save_every_n_steps": -1}, {"eval_every_n_steps": 0},
    ],
)  # fmt: skip
def test_a_default_that_no_setting_can_have_is_an_error(own, wrong):
    with pytest.raises(ModelError, match="its configs are invalid"):
        identify(own(**wrong))


def test_a_run_with_only_defaults_trains_and_resumes(own, small, tmp_path, capsys):
    """The model decides everything, and the files saved by step are not next to the embedding file."""
    facts = {"max_train_steps": 5, "save_every_n_steps": 2, "lr_warmup_steps": 1, "source": "measured\nhere"}
    out = tmp_path / "out"
    flags = [
        f"--pretrained_model_name_or_path={own(**facts)}", f"--train_data_dir={small}", f"--token_string={WORD}",
        f"--output_dir={out}", "--init_word=animal", "--resolution=64", "--eval_samples=8", "--cpu",
    ]  # fmt: skip
    assert main(["train", *flags]) in (0, 3)
    kept = sorted(p.name for p in (out / f"{WORD}-run" / "steps").iterdir())
    assert kept == [f"{WORD}-step0000000{step}.safetensors" for step in (2, 4)]
    assert sorted(p.name for p in out.iterdir()) == [f"{WORD}-run", f"{WORD}.md", f"{WORD}.safetensors"]
    word = read_embedding(out / f"{WORD}.safetensors")
    assert len(word.vectors["text_encoder"]) == 4
    recorded = json.loads(word.metadata["neonym.settings"])
    assert {"max_train_steps": 5, "train_batch_size": 4, "learning_rate": 0.004}.items() <= recorded.items()
    capsys.readouterr()
    assert main(["train", *flags]) == 0
    assert "this run is finished already" in capsys.readouterr().err
    assert main(["train", *flags, "--max_train_steps=7"]) in (0, 3)  # the warm-up of a longer run is longer
    assert "continuing from step 5" in capsys.readouterr().err
    assert main(["check", *flags]) == 0
    assert r"max_train_steps 5: default for this model (measured\nhere)" in capsys.readouterr().out


def test_a_word_has_as_many_vectors_as_its_weights_file(sd1, small, tmp_path):
    folder, file = str(sd1 / "folder"), tmp_path / "three.safetensors"
    save_file({"emb_params": torch.randn(3, identify(folder).widths["text_encoder"])}, file)
    flags = {"pretrained_model_name_or_path": folder, "resolution": "64", "weights": str(file)}
    ready = check(small, **flags)
    assert not said(ready)
    assert ready.config is not None
    assert ready.config.concepts[0].vectors == 3
    assert "num_vectors_per_token" not in ready.defaults
    assert "--num_vectors_per_token of `mychar4` is 2" in said(check(small, **flags, num_vectors_per_token=2))


@pytest.mark.parametrize(
    ("total", "warmup"), [(2, 0), (50, 15), (100, 30), (300, 30), (500, 50), (2000, 200), (3000, 300)]
)
def test_the_warm_up_scales_with_the_length_of_the_run(total, warmup):
    optim = settings(train_data_dir="x", learning_rate=1.0).optim
    rate = make_schedule(optim, Rate.constant(1.0), total, FAMILIES["sd1"].lr_warmup_steps.value)
    assert rate(warmup) == 1.0
    assert warmup == 0 or rate(warmup - 1) == pytest.approx(1 - 1 / warmup)


@pytest.mark.parametrize(
    ("family", "has_bf16", "precision"),
    [
        ("sd1", True, "bf16"),
        ("sd1", False, "fp16"),
        ("sd2", True, "bf16"),
        ("sd2", False, "no"),
        ("sdxl", False, "fp16"),
    ],
)
def test_precision_on_a_gpu_depends_on_the_family(family, has_bf16, precision):
    assert precision_on_cuda(FAMILIES[family].mixed_precision.value, has_bf16) == precision


def test_the_built_in_model_computes_in_float32_everywhere():
    value = identify("builtin:emoji").defaults.mixed_precision.value
    assert {precision_on_cuda(value, has_bf16) for has_bf16 in (True, False)} == {"no"}


def test_early_stopping_evaluates_at_the_interval_of_the_model(sd1, small):
    flags = {"pretrained_model_name_or_path": str(sd1 / "folder"), "resolution": "64", "early_stop": True}
    assert check(small, **flags).run.eval.eval_every_n_steps == 50
    assert check(small, **flags, eval_every_n_steps=7).run.eval.eval_every_n_steps == 7
    assert check(small, resolution="64", early_stop=True).run.eval.eval_every_n_steps == 5
    assert check(small, resolution="64").run.eval.eval_every_n_steps == 0


def test_the_fix_for_a_rate_that_is_too_low_has_the_defaults_of_the_model(sd1, small):
    flags = {"pretrained_model_name_or_path": str(sd1 / "folder"), "resolution": "64"}
    text = said(check(small, **flags, learning_rate=2e-6, max_train_steps=1600), "warning")
    assert "For this model, use values around 0.004 for 2000 steps" in text
    assert "The default for this model is 2000 steps" in said(check(small, **flags, max_train_steps=2), "warning")


def test_an_optimizer_that_finds_its_rate_gets_a_factor_of_1(sd1, small):
    ready = check(small, pretrained_model_name_or_path=str(sd1 / "folder"), resolution="64", optimizer_type="Prodigy")
    assert ready.run.optim.learning_rate == Rate.constant(1.0)
    assert (
        str(ready.defaults["learning_rate"])
        == "default for Prodigy (it finds the rate itself, and multiplies it by this factor)"
    )


def numbers(text: str) -> list[float]:
    """Return the numbers in a text, such as 2,000 or 4e-3."""
    return [float(found.replace(",", "")) for found in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-\d+)?", text)]


WITH_A_NUMBER = ("learning_rate", "max_train_steps", "train_batch_size", "num_vectors_per_token", "lr_warmup_steps")


@pytest.mark.parametrize("name", WITH_A_NUMBER)
def test_help_and_documentation_state_the_defaults(name):
    built_in = identify("builtin:emoji").defaults
    values = [numbers(str(getattr(own, name).value))[0] for own in (built_in, *FAMILIES.values())]
    (row,) = re.findall(rf"^\| `--{name}` \|(.+)$", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)
    cells = [numbers(cell)[0] for cell in row.split("|")[:4]]
    assert values == [*cells, *[cells[-1]] * (len(values) - len(cells))]  # the flows have the last one's
    (help,) = (field.description or "" for _, flag, field in fields_of(RunConfig) if flag == name)
    assert set(values) <= set(numbers(help))
