"""Verify that `--fit` chooses settings that fit the memory of the device, and only if the user chooses none."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxTransformer2DModel

from neonym.errors import UserError
from neonym.models.loading.folder import read_config
from neonym.models.loading.sizes import sizes_of
from neonym.models.memory import Choice, Step, estimate
from neonym.models.storage import Storage
from neonym.preflight.preflight import preflight
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.stop import Stop
from neonym.training import load, memory
from neonym.training.ending import Result
from neonym.training.memory import storage_of, with_fit
from neonym.training.run import train_plans
from support.checks import settings
from support.data_sets import make_images
from support.families import SIDE, tiny_model, tiny_t5

CPU = SimpleNamespace(device=torch.device("cpu"), mixed_precision="no")
GPU = SimpleNamespace(device=torch.device("cuda"), mixed_precision="no")  # whose memory is not that of the CPU
T5 = "text_encoder_2"
STEP = Step((SIDE, SIDE), 1, 4)


@pytest.fixture(scope="module")
def plan_of(tmp_path_factory):
    """Return a function that plans a run of a tiny FLUX.1 with these settings."""
    home = tmp_path_factory.mktemp("fit")
    model = tiny_model("flux1", home / "model")
    blocks_of_one_size = {"num_layers": 0, "num_single_layers": 8}
    config = {**read_config(model / "transformer" / "config.json"), **blocks_of_one_size}
    FluxTransformer2DModel.from_config(config).save_pretrained(model / "transformer")
    tiny_t5(layers=6).save_pretrained(model / T5)  # more blocks than there are buffers
    images = make_images(home / "images", count=1, size=(SIDE, SIDE), caption="a mychar4")

    def plan(**flags):
        given = {
            "pretrained_model_name_or_path": str(model), "train_data_dir": str(images), "token_string": "mychar4",
            "resolution": f"{SIDE}", "train_batch_size": 1, "micro_batch_size": 1, "output_dir": str(home / "out"), "cpu": True,
        }  # fmt: skip
        return preflight(settings(**{**given, **flags})).complete_plan()

    return plan


def fitted(plan, bytes_of_device: float, monkeypatch) -> tuple:
    """Return the memory settings that fit a device, and the notes."""
    notes: list[str] = []
    monkeypatch.setattr(memory, "memory_of", lambda _: bytes_of_device)
    compute = with_fit(plan, GPU, notes.append).compute
    return (
        compute.base_precision,
        compute.encoder_precision,
        compute.gradient_checkpointing,
        compute.blocks_to_swap,
    ), notes


def needed(plan, choice: Choice) -> float:
    return estimate(sizes_of(plan.source), STEP, choice).total


def test_a_run_that_fits_stays_as_it_is(plan_of, monkeypatch):
    plan = plan_of()
    found, notes = fitted(plan, needed(plan, Choice(Storage())), monkeypatch)
    assert found == ("auto", "auto", False, None)
    assert notes == []


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (Choice(Storage("fp8", "fp8"), True), ("fp8", "fp8", True, 0)),
        (Choice(Storage("fp8", "fp8", 4), True), ("fp8", "fp8", True, 4)),
        (Choice(Storage("nf4", "nf4", 7), True), ("nf4", "nf4", True, 7)),
    ],
)
def test_what_fits_is_chosen_and_said_in_one_note(plan_of, monkeypatch, choice, wanted):
    plan = plan_of()
    found, notes = fitted(plan, needed(plan, choice), monkeypatch)
    assert found == wanted
    assert len(notes) == 1
    assert notes[0].startswith("note: --fit: a step needs about")
    assert str(choice) in notes[0]


@pytest.mark.parametrize(
    "flags",
    [
        {"fit": "off"}, {"base_precision": "int8"}, {"encoder_precision": "bf16"}, {"gradient_checkpointing": True},
        {"blocks_to_swap": 0}, {"cache_text_encoder_outputs": True},
    ],
)  # fmt: skip
def test_settings_of_the_user_are_kept(plan_of, monkeypatch, flags):
    """A note says if they will probably not fit."""
    plan = plan_of(**flags)
    wanted = plan.run.compute
    found, notes = fitted(plan, 1.6e9, monkeypatch)
    assert found == (
        wanted.base_precision, wanted.encoder_precision, wanted.gradient_checkpointing, wanted.blocks_to_swap,
    )  # fmt: skip
    assert notes == []
    _, notes = fitted(plan, 1e9, monkeypatch)
    assert len(notes) == 1
    assert "it may fail" in notes[0]


def test_t5_waits_before_anything_is_quantized_if_it_learns_nothing(plan_of, monkeypatch):
    plan = plan_of(train_encoders=("clip_l",))
    step, wanted = replace(STEP, without_rows=(T5,)), Choice(Storage(waiting=(T5,)), True)
    memory_needed = estimate(sizes_of(plan.source), step, wanted).total
    monkeypatch.setattr(memory, "memory_of", lambda _: memory_needed)
    notes: list[str] = []
    assert not with_fit(plan, CPU, notes.append).compute.cache_text_encoder_outputs  # nothing would be saved
    notes.clear()
    found = with_fit(plan, GPU, notes.append)
    assert found.compute.cache_text_encoder_outputs
    assert found.compute.base_precision == "bf16"
    assert "text_encoder_2 in the memory of the CPU" in notes[0]
    assert storage_of(found, plan.source, torch.device("cuda"), notes.append) == Storage(waiting=(T5,))
    assert storage_of(found, plan.source, CPU.device, notes.append) == Storage()  # it is there already


def test_a_word_has_the_choice_that_it_has_alone(plan_of, monkeypatch, tmp_path):
    """A word with a larger batch needs quantized weights; the one beside it keeps the model as it is."""
    of_one_sample = needed(plan_of(), Choice(Storage()))
    monkeypatch.setattr(memory, "memory_of", lambda _: of_one_sample)

    def trained(name: str, *batches: int) -> list[bytes]:
        plans = [
            plan_of(
                max_train_steps=1, eval_samples=8, output_name=f"batch{batch}", train_batch_size=batch,
                micro_batch_size=None, output_dir=str(tmp_path / name),
            )
            for batch in batches
        ]  # fmt: skip
        found = train_plans(plans, [Dispatcher() for _ in plans], Stop())
        return [result.files[0].read_bytes() for result in found if isinstance(result, Result)]

    loaded: list[Storage] = []
    clean = load.load_model
    monkeypatch.setattr(
        load,
        "load_model",
        lambda source, *args, **flags: loaded.append(source.storage) or clean(source, *args, **flags),
    )
    together = trained("together", 8, 1)
    assert [storage == Storage() for storage in loaded] == [False, True]
    assert together == [*trained("alone", 8), *trained("alone", 1)]


def test_a_model_that_cannot_fit_is_refused(plan_of, monkeypatch):
    with pytest.raises(UserError, match="its weights need about"):
        fitted(plan_of(), 1e9, monkeypatch)


def test_models_without_an_estimate_are_left_alone(run_for, monkeypatch):
    plan = preflight(run_for("out")).complete_plan()
    found, notes = fitted(plan, 1.0, monkeypatch)
    assert found == ("auto", "auto", False, None)
    assert notes == []


def test_encoders_follow_the_denoiser_unless_they_are_set(plan_of):
    notes: list[str] = []
    plan = plan_of(base_precision="int8", blocks_to_swap=3)
    assert storage_of(plan.run, plan.source, CPU.device, notes.append) == Storage("int8", "int8", 3)
    assert notes == ["note: the weights of text_encoder_2 are kept in int8, except for the table of all tokens"]
    plan = plan_of(base_precision="fp8", encoder_precision="bf16")
    assert storage_of(plan.run, plan.source, CPU.device, notes.append) == Storage("fp8", None, 0)
    assert len(notes) == 1


def test_a_device_without_8_bit_floats_gets_integers(plan_of):
    notes: list[str] = []
    plan = plan_of(base_precision="fp8", encoder_precision="nf4")
    assert storage_of(plan.run, plan.source, torch.device("mps"), notes.append) == Storage("int8", "nf4", 0)
    assert notes[0].startswith("note: fp8 -> int8")
