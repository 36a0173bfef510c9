"""What resuming needs: the step, the rows, their optimizer's moments. Kilobytes; no random state, keys make it needless."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from neonym.errors import UserError
from neonym.files import whole_file
from neonym.learn.plateau import Plateau
from neonym.learn.rows import Concept


@dataclass
class TrainState:
    """How far a run is. `step` is the number of steps done."""

    concepts: Sequence[Concept]
    fingerprint: dict[str, str]  # everything that decides the numbers: setting -> value
    step: int = 0
    origin: str = ""  # the state that --resume named, if the run began from one
    scaler: torch.amp.GradScaler | None = None  # pyright: ignore[reportPrivateImportUsage]
    plateau: Plateau | None = None


def tensors_of(state: TrainState) -> dict[str, torch.Tensor]:
    """Rows, starting rows, averages and optimizer moments under flat names."""
    tensors = {}
    for c, concept in enumerate(state.concepts):
        for name, rows in concept.rows.items():
            tensors[f"{c}/{name}/rows"] = rows.detach()
            tensors[f"{c}/{name}/start"] = concept.start[name]
            if concept.average is not None:
                tensors[f"{c}/{name}/average"] = concept.average[name]
        whole = concept.optimizer.state_dict()
        for kind, parts in (("optimizer", whole["state"].items()), ("groups", enumerate(whole["param_groups"]))):
            for index, values in parts:
                tensors |= {f"{c}/{kind}/{index}/{k}": v for k, v in values.items() if isinstance(v, torch.Tensor)}
    for c, rows in enumerate(state.plateau.best if state.plateau else []):
        tensors |= {f"{c}/{name}/best": values for name, values in rows.items()}
    return {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}


def numbers_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What an optimizer keeps beside tensors: counts per parameter, and what it found out for a group (D-Adaptation)."""
    whole = optimizer.state_dict()
    values = {
        str(index): {key: value for key, value in entries.items() if not isinstance(value, torch.Tensor)}
        for index, entries in whole["state"].items()
    }
    groups = [
        {key: value for key, value in group.items() if key != "params" and not isinstance(value, torch.Tensor)}
        for group in whole["param_groups"]
    ]
    return {
        "values": values,
        "groups": groups,
        "defaults": {k: v for k, v in optimizer.defaults.items() if k != "params"},
    }


def save_state(state: TrainState, file: Path) -> None:
    """Complete or absent. Raises UserError."""
    facts: dict[str, Any] = {"step": state.step, "fingerprint": state.fingerprint, "origin": state.origin}
    facts["optimizers"] = [numbers_of(concept.optimizer) for concept in state.concepts]
    if state.plateau is not None:
        facts["evaluations"] = state.plateau.history
    if state.scaler is not None:
        facts["scaler"] = state.scaler.state_dict()
    try:
        with whole_file(file) as part:
            save_file(tensors_of(state), part, {"neonym": json.dumps(facts)})
    except (OSError, SafetensorError) as error:
        raise UserError(f"the state cannot be saved ({error})", str(file), "Is the disk full?") from error


@dataclass
class Saved:
    """A state as it lies in a file."""

    step: int
    tensors: dict[str, torch.Tensor]
    optimizers: list[dict[str, Any]]
    scaler: dict[str, Any] | None
    evaluations: list[list[float]]
    origin: str
    changed: dict[str, str]  # settings that are not those of the run that saved it -> what they were and are

    def differences(self) -> str:
        """For people."""
        return "; ".join(f"{key} ({values})" for key, values in self.changed.items())


def read_state(file: Path, fingerprint: dict[str, str]) -> Saved:
    """The state in `file`; no model is needed for it. Raises UserError if it is damaged."""
    fix = "Choose another --output_name, or pass --restart to begin anew"
    try:
        with safe_open(file, framework="pt") as opened:
            facts = json.loads((opened.metadata() or {})["neonym"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"the saved state is damaged ({error})", str(file), fix) from error
    old, new = facts["fingerprint"], fingerprint
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return Saved(
        facts["step"], tensors, facts["optimizers"], facts.get("scaler"), facts.get("evaluations", []),
        facts.get("origin", ""), {key: f"was {old.get(key)}, is {new.get(key)}" for key in keys},
    )  # fmt: skip


def restore(state: TrainState, saved: Saved) -> None:
    """Put everything back where `save_state` took it from. Raises UserError if it does not fit."""
    tensors, state.step = saved.tensors, saved.step
    if state.scaler is not None and saved.scaler is not None:
        state.scaler.load_state_dict(saved.scaler)
    if state.plateau is not None:
        state.plateau.history, state.plateau.best = list(saved.evaluations), []
    try:
        for c, concept in enumerate(state.concepts):
            for name, rows in concept.rows.items():
                if (saved_shape := tensors[f"{c}/{name}/rows"].shape) != rows.shape:
                    raise ValueError(f"its rows are {tuple(saved_shape)}, not {tuple(rows.shape)}")
            concept.put({name: tensors[f"{c}/{name}/rows"] for name in concept.rows})
            for name, rows in concept.rows.items():
                concept.start[name] = tensors[f"{c}/{name}/start"].to(rows.device)
                if concept.average is not None:
                    concept.average[name] = tensors[f"{c}/{name}/average"].to(rows.device)
            if state.plateau is not None and saved.evaluations:
                best = {name: tensors[f"{c}/{name}/best"].to(rows.device) for name, rows in concept.rows.items()}
                state.plateau.best.append(best)
            restore_optimizer(concept.optimizer, f"{c}/", tensors, saved.optimizers[c])
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        fix = "The words, their vectors, the model and the optimizer must be those of the run that saved it"
        raise UserError(f"the state does not fit this run ({error})", "--resume", fix) from error


def restore_optimizer(
    optimizer: torch.optim.Optimizer, prefix: str, tensors: dict[str, torch.Tensor], numbers: dict[str, Any]
) -> None:
    """The moments of `prefix` and the numbers beside them. What was a tensor is one again: numbers would round otherwise."""
    values: dict[int, dict[str, Any]] = {int(i): dict(entries) for i, entries in numbers["values"].items()}
    found: list[dict[str, Any]] = [{} for _ in numbers["groups"]]
    for kind, home in ((f"{prefix}optimizer/", values), (f"{prefix}groups/", found)):
        for key, tensor in tensors.items():
            if key.startswith(kind):
                index, entry = key.removeprefix(kind).split("/")
                home[int(index)][entry] = tensor
    given = numbers["defaults"]  # what it was made with: of this, the run's own settings hold
    groups = [
        {
            **now,
            **{k: tuple(v) if isinstance(v, list) else v for k, v in old.items() if k not in given or v != given[k]},
            **of_group,
        }
        for now, old, of_group in zip(optimizer.state_dict()["param_groups"], numbers["groups"], found, strict=True)
    ]
    optimizer.load_state_dict({"state": values, "param_groups": groups})
