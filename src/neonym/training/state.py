"""States: what resuming needs, in kilobytes.

A state holds the step, the rows and the moments of their optimizer. No state of a random generator is needed: all
random numbers are functions of keys, such as the step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from neonym.errors import UserError
from neonym.io.atomic import atomic_write
from neonym.training.concept import Concept
from neonym.training.early_stopping import EarlyStopping

WORD = "0/"  # the start of the names in a state: of its first word, which is its only one


@dataclass
class TrainState:
    """The progress of a run; `step` is the number of steps done."""

    concept: Concept
    fingerprint: dict[str, str]  # {setting: value} of everything that decides the result
    step: int = 0
    origin: str = ""  # the state that --resume named, if the run started from one
    early_stopping: EarlyStopping | None = None


def tensors_of(state: TrainState) -> dict[str, torch.Tensor]:
    """Return rows, initial rows, averages and optimizer moments under flat names."""
    tensors, concept = {}, state.concept
    for name, rows in concept.rows.items():
        tensors[f"{name}/rows"] = rows.detach()
        tensors[f"{name}/start"] = concept.start[name]
    for after in concept.after_step:
        tensors |= {f"{name}/{after.name}": values for name, values in after.kept.items()}
    whole = concept.optimizer.state_dict()
    for kind, parts in (("optimizer", whole["state"].items()), ("groups", enumerate(whole["param_groups"]))):
        for index, values in parts:
            tensors |= {f"{kind}/{index}/{k}": v for k, v in values.items() if isinstance(v, torch.Tensor)}
    for name, values in (state.early_stopping.best if state.early_stopping else {}).items():
        tensors[f"{name}/best"] = values
    return {f"{WORD}{name}": tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}


def optimizer_numbers(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what an optimizer keeps beside tensors: numbers per parameter, and per group (`d` of D-Adaptation)."""
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


class OptimizerNumbers(BaseModel):
    """The numbers of one optimizer, as `optimizer_numbers` returns them."""

    model_config = ConfigDict(strict=True)
    values: dict[str, dict[str, Any]]
    groups: list[dict[str, Any]]
    defaults: dict[str, Any]


class Facts(BaseModel):
    """The contents of a state beside its tensors."""

    model_config = ConfigDict(strict=True)
    step: int = Field(ge=0)
    fingerprint: dict[str, str]
    origin: str = ""
    optimizers: list[OptimizerNumbers]
    evaluations: list[list[float]] = []
    scaler: dict[str, Any] | None = None


def save_state(state: TrainState, file: Path) -> None:
    """Write a state atomically, and wait until it is on the disk. Raises UserError if it cannot be written."""
    facts: dict[str, Any] = {"step": state.step, "fingerprint": state.fingerprint, "origin": state.origin}
    facts["optimizers"] = [optimizer_numbers(state.concept.optimizer)]
    if state.early_stopping is not None:
        facts["evaluations"] = [[loss] for loss in state.early_stopping.history]
    if state.concept.scaler is not None:
        facts["scaler"] = state.concept.scaler.state_dict()
    tensors = tensors_of(state)
    facts["sha256"] = checksum(facts, tensors)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, lasting=True) as part:
            part.write_bytes(save(tensors, {"neonym": json.dumps(facts)}))
    except OSError as error:
        raise UserError(f"the state cannot be saved ({error})", str(file), "Is the disk full?") from error


def checksum(facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of everything in a state."""
    digest = sha256(json.dumps(facts).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass
class SavedState:
    """A state that was read from a file, compared with the settings of the present run."""

    file: Path
    facts: Facts
    tensors: dict[str, torch.Tensor]
    changed: dict[str, str]  # {setting: "was ..., is ..."} of the settings that differ

    @property
    def step(self) -> int:
        """The number of steps done."""
        return self.facts.step

    def differences(self) -> str:
        """Return the settings that differ, for a message."""
        return "; ".join(f"{key} ({values})" for key, values in self.changed.items())


def read_state(file: Path, fingerprint: dict[str, str], fix: str = "") -> SavedState:
    """Return the state in `file`, without needing a model. Raises UserError if it is not as `save_state` wrote it."""
    fix = fix or "Choose another --output_name, or pass --restart to start from the beginning"
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get("neonym")
            # copied, because a tensor's alignment in the file would change how sums over it are rounded
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
        if text is None:
            raise ValueError("Neonym did not write it")
        facts = checked_facts(json.loads(text), tensors)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"the saved state is damaged ({error})", str(file), fix) from error
    old, new = facts.fingerprint, fingerprint
    keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return SavedState(file, facts, tensors, {key: f"was {old.get(key)}, is {new.get(key)}" for key in keys})


def checked_facts(table: Any, tensors: Mapping[str, torch.Tensor]) -> Facts:
    """Return the facts of a state. Raises ValueError if they do not belong to these tensors, or are incomplete."""
    noted = table.pop("sha256", None) if isinstance(table, dict) else None
    if noted is None or noted != checksum(table, tensors):
        raise ValueError("its checksum is wrong, or an older version wrote it")
    try:
        return Facts.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'its facts'}: {first['msg']}") from error


def restore(state: TrainState, saved: SavedState) -> None:
    """Restore what `save_state` saved. Raises UserError if the saved state does not fit."""
    facts, concept, state.step = saved.facts, state.concept, saved.step
    tensors = {name.removeprefix(WORD): values for name, values in saved.tensors.items()}
    try:
        if len(facts.optimizers) != 1:
            raise ValueError(f"it holds {len(facts.optimizers)} words, as states of older versions may")
        if concept.scaler is not None and facts.scaler is not None:
            concept.scaler.load_state_dict(facts.scaler)
        for name, rows in concept.rows.items():
            if (saved_shape := tensors[f"{name}/rows"].shape) != rows.shape:
                raise ValueError(f"its rows are {tuple(saved_shape)}, not {tuple(rows.shape)}")
        concept.set_rows({name: tensors[f"{name}/rows"] for name in concept.rows})
        for name, rows in concept.rows.items():
            concept.start[name] = tensors[f"{name}/start"].to(rows.device)
        for after in concept.after_step:
            kept = {name: tensors[f"{name}/{after.name}"] for name in after.kept}
            after.kept = {name: values.to(concept.rows[name].device) for name, values in kept.items()}
        if state.early_stopping is not None:
            best = {
                name: tensors[f"{name}/best"].to(rows.device)
                for name, rows in concept.rows.items()
                if facts.evaluations
            }
            state.early_stopping.restore([loss for (loss,) in facts.evaluations], best)
        restore_optimizer(concept.optimizer, tensors, facts.optimizers[0])
    except Exception as error:  # each optimizer has errors of its own
        fix = "Use the word, number of vectors, model and optimizer of the run that saved it"
        raise UserError(f"the state does not fit this run ({error!r})", str(saved.file), fix) from error


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], numbers: OptimizerNumbers
) -> None:
    """Restore an optimizer's moments, and the numbers beside them.

    A tensor is restored as a tensor, because a Python number would round differently.
    """
    values: dict[int, dict[str, Any]] = {int(i): dict(entries) for i, entries in numbers.values.items()}
    found: list[dict[str, Any]] = [{} for _ in numbers.groups]
    for kind, home in (("optimizer/", values), ("groups/", found)):
        for key, tensor in tensors.items():
            if key.startswith(kind):
                index, entry = key.removeprefix(kind).split("/")
                home[int(index)][entry] = tensor
    given = numbers.defaults  # the arguments it was created with, for which the present run's settings win
    groups = [
        {
            **now,
            **{k: tuple(v) if isinstance(v, list) else v for k, v in old.items() if k not in given or v != given[k]},
            **of_group,
        }
        for now, old, of_group in zip(optimizer.state_dict()["param_groups"], numbers.groups, found, strict=True)
    ]
    optimizer.load_state_dict({"state": values, "param_groups": groups})
