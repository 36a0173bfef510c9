"""TensorBoard and Weights & Biases, through accelerate: sd-scripts' scalars, and what tells whether a word is learned."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from neonym.config.resolve import read_table
from neonym.config.run import RunConfig, fields_of
from neonym.errors import UserError
from neonym.optim.optimizers import rate_now
from neonym.runs.outputs import PROJECT
from neonym.training.concept import Concept

FLUSH_STEPS = 50
# parts of names of settings that are not logged
PRIVATE = ("dir", "path", "key", "token", "config", "weights", "resume", "prompts")


class Trackers:
    """`loss` and `lr` by step, `lr/d*lr` where an optimizer finds its rate, `loss/epoch`; per word `eval`, `norm`, `distance`.

    Losses stay on their device until many can be fetched at once. What goes wrong while training is said, and training goes on.
    """

    def __init__(
        self, accelerator: Accelerator, run: RunConfig, concepts: Sequence[Concept], steps_per_epoch: int,
        say: Callable[[str], None],
    ):  # fmt: skip
        self.accelerator, self.concepts, self.steps_per_epoch, self.say = accelerator, concepts, steps_per_epoch, say
        self.on, self.folder = bool(accelerator.log_with), None
        self.pending: list[tuple[int, torch.Tensor, dict[str, float]]] = []
        self.epoch: list[float] = []
        if self.on:
            if run.log.wandb_api_key:
                os.environ["WANDB_API_KEY"] = run.log.wandb_api_key
            name = run.log.log_tracker_name or PROJECT
            try:
                accelerator.init_trackers(name, config=shown_settings(run), init_kwargs=tracker_arguments(run))
            except Exception as error:  # each tracker has errors of its own
                fix = "Check its arguments, its key and the network"
                raise UserError(f"the tracker cannot start ({error})", "--log_with", fix) from error
            if accelerator.logging_dir is not None and any(t.name == "tensorboard" for t in accelerator.trackers):
                self.folder = Path(accelerator.logging_dir) / name

    def step(self, step: int, losses: torch.Tensor) -> None:
        """`step`: how many are done."""
        if not self.on:
            return
        rates = {}
        for concept in self.concepts:
            group = concept.optimizer.param_groups[0]
            rates[self.name("lr", concept)] = rate_now(concept.optimizer)
            if "d" in group:
                rates[self.name("lr/d*lr", concept)] = float(group["d"]) * float(group["lr"])
        self.pending.append((step, losses, rates))
        if len(self.pending) >= FLUSH_STEPS:
            self.flush()

    def flush(self) -> None:
        """One transfer from the device for many steps."""
        if not self.pending:
            return
        values = torch.stack([losses for _, losses, _ in self.pending]).tolist()
        for (step, _, rates), losses in zip(self.pending, values, strict=True):
            named = {self.name("loss", c): loss for c, loss in zip(self.concepts, losses, strict=True)}
            self.epoch.append(sum(losses) / len(losses))
            if step % self.steps_per_epoch == 0:
                named["loss/epoch"] = sum(self.epoch) / len(self.epoch)
                self.epoch = []
            self.send(lambda values={**named, **rates}, step=step: self.accelerator.log(values, step=step))
        self.pending = []

    def send(self, write: Callable[[], object]) -> None:
        """Let the trackers write something. A folder that is gone is made again."""
        if not self.on:
            return
        try:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            write()
        except Exception as error:  # each tracker has errors of its own
            self.on = False
            self.say(f"warning: nothing more is logged ({error}). The training goes on.")

    def evaluated(self, step: int, means: Sequence[float]) -> None:
        """The evaluation loss of each word, how long its vectors are and how far they are from their start."""
        if not self.on:
            return
        self.flush()
        values: dict[str, float] = {}
        for concept, mean in zip(self.concepts, means, strict=True):
            rows = torch.cat([r.flatten(1) for r in concept.result().values()], dim=1)
            start = torch.cat([r.flatten(1) for r in concept.start.values()], dim=1)
            values[f"eval/{concept.token}"] = mean
            values[f"norm/{concept.token}"] = float(rows.norm(dim=1).mean())
            values[f"distance/{concept.token}"] = float((rows - start).norm(dim=1).mean())
        self.send(lambda: self.accelerator.log(values, step=step))

    def picture(self, step: int, file: Path) -> None:
        """A sheet of sample pictures."""
        self.flush()  # trackers take steps in order
        for tracker in self.accelerator.trackers if self.on else ():
            pixels = np.asarray(Image.open(file).convert("RGB"))[None]  # [1,H,W,3]
            options: dict[str, Any] = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            self.send(lambda t=tracker, o=options, p=pixels: t.log_images({"samples": p}, step=step, **o))

    def end(self) -> None:
        if self.on:
            self.flush()
            self.send(self.accelerator.end_training)

    def name(self, what: str, concept: Concept) -> str:
        return what if len(self.concepts) == 1 else f"{what}/{concept.token}"


def shown_settings(run: RunConfig) -> dict[str, Any] | None:
    """What `--log_config` logs: no paths, no keys."""
    if not run.log.log_config:
        return None
    values = {name: getattr(getattr(run, section), name) for section, name, _ in fields_of(RunConfig)}
    return {n: str(v) for n, v in values.items() if v is not None and not any(part in n for part in PRIVATE)}


def tracker_arguments(run: RunConfig) -> dict[str, Any]:
    """Arguments of the trackers' start, by tracker. Raises ConfigError if their file cannot be read."""
    file = run.log.log_tracker_config
    arguments = {} if file is None else read_table(Path(file))
    if run.log.wandb_run_name:
        arguments.setdefault("wandb", {}).setdefault("name", run.log.wandb_run_name)
    return arguments
