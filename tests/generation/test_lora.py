"""LoRA files: how they change images, and files that are refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from neonym.errors import ModelError
from neonym.generation.lora import Networks
from neonym.generation.pipeline import Pipeline
from neonym.models.model import load_model
from support.jobs import JOB, image_of
from support.lora import make_lora


def test_the_multiplier_of_a_lora_scales_its_effect(tmp_path):
    model = load_model()
    plain = image_of(Pipeline(model), JOB)
    files = [str(tmp_path / f"{i}.safetensors") for i in range(2)]
    for i, file in enumerate(files):
        save_file(make_lora(model, seed=i), file)
    networks = Networks(model, files, (1.0,))
    pipeline = Pipeline(model, networks=networks)
    generated = {
        m: image_of(pipeline, replace(JOB, multipliers=m)) for m in ((0.0,), (1.0, 0.0), (0.5, 0.0), (1.0, 1.0))
    }
    assert np.abs(generated[0.0,] - plain).max() <= 1
    change = {m: np.abs(image - plain).mean() for m, image in generated.items()}
    assert 0 < change[0.5, 0.0] < change[1.0, 0.0]
    assert not np.array_equal(generated[1.0, 0.0], generated[1.0, 1.0])
    # the last multiplier applies to all that follow
    assert np.array_equal(image_of(pipeline, replace(JOB, multipliers=(1.0,))), generated[1.0, 1.0])
    merged = Pipeline(other := load_model(), networks=Networks(other, files[:1], (1.0,), merge=True))
    assert np.abs(image_of(merged, JOB) - generated[1.0, 0.0]).max() <= 2


def test_a_lora_is_added_to_the_weights_as_in_sd_scripts(tmp_path):
    """The change of a weight is multiplier x alpha / rank x up x down."""
    tensors = make_lora(load_model())
    save_file(tensors, tmp_path / "lora.safetensors")
    model = load_model()
    networks = Networks(model, [str(tmp_path / "lora.safetensors")], (0.7,))
    assert networks.problems == []
    generated = image_of(Pipeline(model, networks=networks), replace(JOB, multipliers=(0.7,)))
    other: Any = load_model()
    with torch.no_grad():
        for start, body, module in (
            ("lora_unet_", "", other.denoiser), ("lora_te_", "text_model.", other.text.encoders["text_encoder"]),
        ):  # fmt: skip
            for name, layer in module.named_modules():
                key = start + (body + name.removeprefix(body)).replace(".", "_")
                if f"{key}.alpha" in tensors:
                    change = tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"]
                    layer.weight += 0.7 * tensors[f"{key}.alpha"] / 2 * change
    assert np.abs(generated - image_of(Pipeline(other), JOB)).max() <= 1


def test_files_that_are_not_a_fitting_lora_are_refused(tmp_path, capfd):
    def load(name, tensors):
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / name)
        return Networks(load_model(), [str(tmp_path / name)], ())

    good = make_lora(load_model())
    with pytest.raises(ModelError, match="holds no LoRA"):
        load("none.safetensors", {"a": torch.ones(2)})
    with pytest.raises(ModelError, match="holds no LoRA"):
        load("loha.safetensors", {key.replace("lora_down.weight", "hada_w1_a"): t for key, t in good.items()})
    with pytest.raises(ModelError, match="of its layers fits the model|does not fit the model"):
        load("other.safetensors", {"x.lora_down.weight": torch.ones(2, 2)})
    with pytest.raises(ModelError, match="does not fit the model"):
        load("wide.safetensors", {key: torch.ones(2, 9) if "down.w" in key else t for key, t in good.items()})
    with pytest.raises(ModelError, match="not finite"):
        load("nan.safetensors", {key: t * float("nan") for key, t in good.items()})
    more = {key.replace("down_blocks_1", "down_blocks_9"): t for key, t in good.items() if "down_blocks_1" in key}
    (problem,) = load("more.safetensors", good | more).problems
    assert f"{len(more) // 3} of its {(len(good) + len(more)) // 3} layers are not in the model" in problem.what
    assert len(capfd.readouterr().err) < 500  # diffusers' list of every shape is not printed
