"""What resuming needs: the step, the rows, their optimizer's moments. Kilobytes; no random state, keys make it needless."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from neonym.errors import UserError
from neonym.learn.rows import Concept


@dataclass
class TrainState:
    """How far a run is. `step` is the number of steps done."""

    concepts: Sequence[Concept]
    fingerprint: dict[str, str]  # everything that decides the numbers: setting -> value
    step: int = 0
    scaler: torch.amp.GradScaler | None = None  # pyright: ignore[reportPrivateImportUsage]


def tensors_of(state: TrainState) -> dict[str, torch.Tensor]:
    """Rows, starting rows and optimizer moments under flat names."""
    tensors = {}
    for c, concept in enumerate(state.concepts):
        for name, rows in concept.rows.items():
            tensors[f"{c}/{name}/rows"] = rows.detach()
            tensors[f"{c}/{name}/start"] = concept.start[name]
        for index, values in concept.optimizer.state_dict()["state"].items():
            tensors |= {f"{c}/optimizer/{index}/{key}": value for key, value in values.items()}
    return {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}


def save_state(state: TrainState, file: Path) -> None:
    """Complete or absent. Raises UserError."""
    facts = {"step": state.step, "fingerprint": state.fingerprint}
    if state.scaler is not None:
        facts["scaler"] = state.scaler.state_dict()
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        save_file(tensors_of(state), part, {"neonym": json.dumps(facts)})
        part.replace(file)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise UserError(f"the state cannot be saved ({error})", str(file), "Is the disk full?") from error


@dataclass
class Saved:
    """A state as it lies in a file."""

    step: int
    tensors: dict[str, torch.Tensor]
    scaler: dict[str, Any] | None


def read_state(file: Path, fingerprint: dict[str, str]) -> Saved | None:
    """The state in `file`, or None if there is none; no model is needed for it.

    Raises UserError if the file belongs to a run with other settings, naming them, or is damaged.
    """
    if not file.exists():
        return None
    fix = "Give the run its old settings, choose another --output_name, or pass --restart to begin anew"
    try:
        with safe_open(file, framework="pt") as opened:
            facts = json.loads((opened.metadata() or {})["neonym"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"the saved state is damaged ({error})", str(file), fix) from error
    old, new = facts["fingerprint"], fingerprint
    changed = [
        f"{key} (was {old.get(key)}, is {new.get(key)})" for key in sorted({*old, *new}) if old.get(key) != new.get(key)
    ]
    if changed:
        raise UserError(f"an unfinished run is there with other settings: {'; '.join(changed)}", str(file), fix)
    return Saved(facts["step"], tensors, facts.get("scaler"))


@torch.no_grad()
def restore(state: TrainState, saved: Saved) -> None:
    """Put everything back where `save_state` took it from."""
    tensors, state.step = saved.tensors, saved.step
    if state.scaler is not None and saved.scaler is not None:
        state.scaler.load_state_dict(saved.scaler)
    for c, concept in enumerate(state.concepts):
        for name, rows in concept.rows.items():
            rows.copy_(tensors[f"{c}/{name}/rows"])
            concept.start[name] = tensors[f"{c}/{name}/start"].to(rows.device)
        moments: dict[int, dict[str, torch.Tensor]] = {}
        prefix = f"{c}/optimizer/"
        for key, tensor in tensors.items():
            if key.startswith(prefix):
                index, entry = key.removeprefix(prefix).split("/")
                moments.setdefault(int(index), {})[entry] = tensor
        whole = concept.optimizer.state_dict()
        concept.optimizer.load_state_dict({"state": moments, "param_groups": whole["param_groups"]})
