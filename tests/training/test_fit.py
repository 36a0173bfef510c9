"""Verify that `--fit` chooses settings that fit the memory of the device, and only if the user chooses none."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import FluxTransformer2DModel

from neonym.errors import UserError
from neonym.models.loading.folder import read_config
from neonym.models.loading.sizes import needs_of
from neonym.models.memory import Choice, Step, estimate
from neonym.models.storage import Storage
from neonym.preflight.preflight import preflight
from neonym.runs.dispatcher import Dispatcher
from neonym.runs.stop import Stop
from neonym.training import load, memory
from neonym.training.ending import Result
from neonym.training.memory import Memory, choice_of, step_of, storage_of
from neonym.training.resume import run_identity
from neonym.training.run import train_plans
from neonym.training.setup import samples_at_once
from support.checks import settings
from support.data_sets import make_images
from support.families import SIDE, tiny_model, tiny_t5

CPU = SimpleNamespace(device=torch.device("cpu"), mixed_precision="no", num_processes=1)
GPU = SimpleNamespace(
    device=torch.device("cuda"), mixed_precision="no", num_processes=1
)  # whose memory is not that of the CPU
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


def with_memory(monkeypatch, total: float, free: float | None = None) -> None:
    """Let the device have so many bytes; None: all of them are free."""
    found = Memory(total, total if free is None else free)
    monkeypatch.setattr(memory, "memory_of", lambda _, repeatable: Memory.whole(total) if repeatable else found)


def with_fit(plan, accelerator, note):
    """Return the plan of the only word of a run with what `--fit` chooses."""
    (found,) = memory.with_fit([plan], accelerator, note)
    return found


def fitted(plan, bytes_of_device: float, monkeypatch) -> tuple:
    """Return the memory settings that fit a device, and the notes."""
    notes: list[str] = []
    with_memory(monkeypatch, bytes_of_device)
    compute = with_fit(plan, GPU, notes.append).run.compute
    return (
        compute.base_precision,
        compute.encoder_precision,
        compute.gradient_checkpointing,
        compute.blocks_to_swap,
    ), notes


def needed(plan, choice: Choice) -> float:
    return estimate(needs_of(plan.source, plan.tokenizers, STEP), choice).total


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
    found, notes = fitted(plan, 1.2e9, monkeypatch)
    assert found == (
        wanted.base_precision, wanted.encoder_precision, wanted.gradient_checkpointing, wanted.blocks_to_swap,
    )  # fmt: skip
    assert notes == []
    _, notes = fitted(plan, 0.8e9, monkeypatch)
    assert len(notes) == 1
    assert "it may fail" in notes[0]


def test_t5_waits_before_anything_is_quantized_if_it_learns_nothing(plan_of, monkeypatch):
    plan = plan_of(train_encoders=("clip_l",))
    step, wanted = replace(STEP, without_rows=(T5,)), Choice(Storage(waiting=(T5,)), True)
    memory_needed = estimate(needs_of(plan.source, plan.tokenizers, step), wanted).total
    with_memory(monkeypatch, memory_needed)
    notes: list[str] = []
    assert not with_fit(plan, CPU, notes.append).run.compute.cache_text_encoder_outputs  # nothing would be saved
    notes.clear()
    found = with_fit(plan, GPU, notes.append).run
    assert found.compute.cache_text_encoder_outputs
    assert found.compute.base_precision == "auto"
    assert "--cache_text_encoder_outputs" in notes[0]
    assert storage_of(found, plan.source, torch.device("cuda"), notes.append) == Storage(waiting=(T5,))
    assert storage_of(found, plan.source, CPU.device, notes.append) == Storage()  # it is there already


def test_a_word_has_the_choice_that_it_has_alone(plan_of, monkeypatch, tmp_path):
    """A word with a larger batch needs quantized weights; the one beside it keeps the model as it is."""
    with_memory(monkeypatch, needed(plan_of(), Choice(Storage())))

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
        fitted(plan_of(), 0.8e9, monkeypatch)


def test_models_without_an_estimate_are_left_alone(unet_plan, monkeypatch):
    plan = unet_plan()
    configs = {**plan.source.configs, "neonym": {"gpu_memory": 8}}
    configs["unet"] = {**configs["unet"], "cross_attention_dim": 77}
    plan = replace(plan, source=replace(plan.source, configs=configs))
    with_memory(monkeypatch, 1.0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=1))
    notes: list[str] = []
    found = with_fit(plan, GPU, notes.append)
    assert found is plan
    assert "no estimate of the memory" in notes[0]
    assert samples_at_once(found, GPU.device) == 1  # by the rule of the model's defaults


@pytest.fixture
def unet_plan(run_for):
    """Return a function that plans a run of the built-in model, which has a U-Net, with steps of 8 large samples."""

    def plan(**flags):
        return preflight(run_for("out", **{"resolution": "256", "train_batch_size": 8, **flags})).complete_plan()

    return plan


def unet_needs(plan, choice: Choice) -> float:
    """Return the bytes that a step of 8 samples needs with a choice."""
    return estimate(needs_of(plan.source, plan.tokenizers, Step((256, 256), 8, 4)), choice).total


WAYS_OF_UNETS = [
    Choice(Storage()),
    Choice(Storage(), samples=4),
    Choice(Storage(), samples=1),
    Choice(Storage(), True, 2),
]


@pytest.mark.parametrize("way", WAYS_OF_UNETS, ids=str)
def test_a_unet_gets_smaller_batches_and_then_checkpointing(unet_plan, monkeypatch, way):
    """The first of these that fits is used, and the note names it by flags that a user can type."""
    plan, notes = unet_plan(), list[str]()
    with_memory(monkeypatch, unet_needs(plan, way))
    found = with_fit(plan, GPU, notes.append)
    assert found.run.compute.gradient_checkpointing == way.checkpointing
    assert found.run.compute.base_precision == "auto"
    assert found.run.compute.micro_batch_size is None  # which would also be the limit for several words
    assert samples_at_once(found, GPU.device) == (way.samples or 8)
    assert len(notes) == (way != WAYS_OF_UNETS[0])
    assert all(note.endswith(f"-> {way} (about {unet_needs(plan, way) / 1e9:.1f} GB)") for note in notes)


def test_only_8_bits_depend_on_the_memory_that_a_device_has(unet_plan, monkeypatch):
    """Another program on the GPU changes the precision of no run, and of a repeatable one nothing."""
    plan, notes = unet_plan(), list[str]()
    least = unet_needs(plan, Choice(Storage(), True, 1))
    in_8_bits = unet_needs(plan, Choice(Storage("fp8", "fp8"), True, 1))
    with_memory(monkeypatch, least - 1)
    assert with_fit(plan, GPU, notes.append).run.compute.base_precision == "fp8"
    notes.clear()
    with_memory(monkeypatch, 80e9, in_8_bits)
    found = with_fit(plan, GPU, notes.append)
    assert found.run.compute.gradient_checkpointing
    assert run_identity(found) == run_identity(plan)  # it continues a run that had all of the memory
    assert samples_at_once(found, GPU.device) <= 2  # encoding an image takes more than a step with two samples
    assert "of 80.0 GB are free" in notes[0]
    assert "it may fail" in notes[1]
    whole = with_fit(unet_plan(deterministic=True), GPU, pytest.fail)
    assert not whole.run.compute.gradient_checkpointing
    assert samples_at_once(whole, GPU.device) == 8


@pytest.mark.parametrize("flags", [{"gradient_checkpointing": True}, {"base_precision": "int8"}])
def test_micro_batches_are_chosen_beside_settings_of_the_user(unet_plan, monkeypatch, flags):
    plan, notes = unet_plan(**flags), list[str]()
    way = replace(choice_of(plan.run, plan.source, GPU.device), samples=2)
    with_memory(monkeypatch, unet_needs(plan, way))
    found = with_fit(plan, GPU, notes.append)
    assert found.run == plan.run
    assert samples_at_once(found, GPU.device) == 2
    assert "--micro_batch_size=2" in notes[0]


def test_micro_batches_of_the_user_are_kept(unet_plan, monkeypatch):
    plan, notes = unet_plan(micro_batch_size=8), list[str]()
    with_memory(monkeypatch, unet_needs(plan, Choice(Storage(), samples=1)))
    found = with_fit(plan, GPU, notes.append)
    assert samples_at_once(found, GPU.device) == 8
    assert found.run.compute.gradient_checkpointing


def test_a_vae_that_encodes_in_every_step_stays_beside_the_model(unet_plan):
    plain, augmented = unet_plan(), unet_plan(color_aug=True)
    without, beside = (step_of([plan], GPU, True) for plan in (plain, augmented))
    assert beside == replace(without, keeps_vae=True)
    needs = needs_of(plain.source, plain.tokenizers, without)
    more = [estimate(needs._replace(step=step), Choice(Storage())).activations for step in (without, beside)]
    assert more[1] - more[0] == 4 * sum(needs.sizes.vae.numbers) > 0


def test_a_cpu_that_does_not_hold_the_model_is_no_place_to_wait(unet_plan, monkeypatch):
    """The estimate of encoding then includes the weights."""
    plan = unet_plan()
    with_memory(monkeypatch, 1e12)
    assert memory.ways_of([plan], GPU).needs.step.can_leave
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(total=1000))
    assert not memory.ways_of([plan], GPU).needs.step.can_leave


def test_nothing_is_chosen_for_a_unet_on_a_cpu(unet_plan, monkeypatch):
    plan = unet_plan()
    with_memory(monkeypatch, 1.0)
    assert with_fit(plan, CPU, pytest.fail) is plan
    assert samples_at_once(plan, CPU.device) is None


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
