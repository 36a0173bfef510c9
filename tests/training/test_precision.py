"""Verify runs in bf16 on a CPU: the model is kept in it, and the laws hold as they do in float32."""

import pytest
import torch

from neonym import train
from neonym.formats import read_embedding
from neonym.models.loading import cpu_precision
from neonym.models.loading.identify import identify
from neonym.training import load, precision
from neonym.training.precision import with_precision
from support import BATCH_INVARIANT
from support.checks import settings

FLAGS = {"mixed_precision": "bf16", "resolution": "64", "lr_warmup_steps": "0", "lr_scheduler": "constant"}


def vector(result) -> torch.Tensor:
    """Return the learned vectors [n,128] of a result."""
    return read_embedding(result.files[0]).vectors["text_encoder"]


def test_a_word_is_learned_and_resumed_in_bf16(run_for, monkeypatch):
    """The weights and the arithmetic are bf16; 3 steps and 3 more give the file of 6."""
    loaded = []
    original = load.load_model
    monkeypatch.setattr(
        load, "load_model", lambda *given, **more: loaded.append(original(*given, **more)) or loaded[-1]
    )
    whole = train(run_for("whole", max_train_steps=6, **FLAGS))
    assert loaded[0].dtype == torch.bfloat16
    assert {own.dtype for own in loaded[0].text.encoders["text_encoder"].parameters()} == {torch.bfloat16}
    train(run_for("parts", max_train_steps=3, **FLAGS))
    parts = train(run_for("parts", max_train_steps=6, **FLAGS))
    assert vector(whole).isfinite().all()
    assert torch.equal(vector(whole), vector(parts))


@pytest.mark.skipif(not BATCH_INVARIANT, reason="this CPU rounds otherwise")
def test_micro_batches_change_nothing_in_bf16(run_for):
    whole = train(run_for("whole", max_train_steps=3, train_batch_size=3, **FLAGS))
    split = train(run_for("split", max_train_steps=3, train_batch_size=3, micro_batch_size=1, **FLAGS))
    assert torch.equal(vector(whole), vector(split))


def test_auto_is_bf16_for_large_models_on_a_cpu_with_units(monkeypatch):
    """The built-in model is small, and stays in float32; a choice of the user stays as it is."""
    run, source, notes = settings(train_data_dir="x"), identify("builtin:emoji"), []
    assert with_precision(run, source, notes.append).compute.mixed_precision == "no"
    monkeypatch.setattr(precision, "is_bf16_on_cpu", lambda source: True)
    assert with_precision(run, source, notes.append).compute.mixed_precision == "bf16"
    assert len(notes) == 1
    own = settings(train_data_dir="x", mixed_precision="fp16")
    assert with_precision(own, source, notes.append).compute.mixed_precision == "fp16"
    assert max(source.widths.values()) < cpu_precision.LARGE
