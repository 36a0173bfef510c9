"""Optimizers as records: the class that a name stands for, and what the rest of the program must know about it.

To add an optimizer, add one record to `OPTIMIZERS`. This module does not import torch; `neonym.optim.optimizers`
makes the optimizers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from neonym.errors import Problem, nearest
from neonym.extras import MODULES, install_command


@dataclass(frozen=True)
class OptimizerRecord:
    """A frozen record of an optimizer and its capabilities.

    `longest_step` names what bounds the step of one number of a vector: the learning "rate" (as for Adam, whatever the
    clipped gradient is), the clipped "gradient", or "momentum", which adds up clipped gradients; None if unknown.
    """

    name: str  # in sd-scripts' spelling; users may write it in any case
    path: str  # the dotted path of its class
    settings: Mapping[str, Any] = field(default_factory=dict)  # default arguments of the class
    # names of 8-bit and paged variants: this optimizer is used instead, since its state takes only kilobytes
    smaller: tuple[str, ...] = ()
    finds_rate: bool = False  # the given learning rate is a factor near 1
    # Names in its first parameter group: of the rate that it finds, and of the rate of its last step
    found_rate: str | None = None
    last_rate: str = "lr"
    # Its method that returns the rate of the last step from the group and the state, if the group's rate is None
    rate_method: str | None = None
    own_schedule: bool = False  # it must not have a learning-rate schedule
    averages: bool = False  # its result is an average over its steps, and it has `train()` and `eval()`
    relative_steps: bool = False  # with `relative_step`, it derives its rate from the norm of the vectors and the step
    waits_at_zero: bool = False  # it cannot step at a rate of 0, at which a warm-up begins
    longest_step: Literal["rate", "gradient", "momentum"] | None = None

    @property
    def package(self) -> str:
        """The package that provides the class."""
        return self.path.partition(".")[0]

    def is_relative(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether the optimizer, with the user's `arguments`, finds its own rate and must not be given one."""
        given = {**self.settings, **arguments}
        return self.relative_steps and bool(given.get("relative_step", True) or given.get("warmup_init"))

    def has_own_schedule(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether the optimizer, with the user's `arguments`, must not have a learning-rate schedule."""
        return self.own_schedule or self.is_relative(arguments)


def _dadaptation(name: str, *, home: str = "dadaptation", waits_at_zero: bool = False) -> OptimizerRecord:
    """Return the record of an optimizer of D-Adaptation (Defazio & Mishchenko 2023)."""
    return OptimizerRecord(name, f"{home}.{name}", finds_rate=True, found_rate="d", waits_at_zero=waits_at_zero)


def _schedule_free(name: str, longest_step: Literal["rate", "gradient"], **settings: Any) -> OptimizerRecord:
    """Return the record of a schedule-free optimizer (Defazio et al. 2024)."""
    path = f"schedulefree.{name}"
    return OptimizerRecord(
        name, path, settings, own_schedule=True, averages=True, last_rate="scheduled_lr", longest_step=longest_step
    )


EXPERIMENTAL = "dadaptation.experimental"
OPTIMIZERS = (
    OptimizerRecord(
        "AdamW", "torch.optim.AdamW", {"weight_decay": 0.0}, longest_step="rate",
        smaller=("AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit"),
    ),
    OptimizerRecord("Lion", "lion_pytorch.Lion", longest_step="rate", smaller=("Lion8bit", "PagedLion8bit")),
    OptimizerRecord(
        "SGDNesterov", "torch.optim.SGD", {"nesterov": True, "momentum": 0.9}, longest_step="momentum",
        smaller=("SGDNesterov8bit",),
    ),
    OptimizerRecord("DAdaptation", f"{EXPERIMENTAL}.DAdaptAdamPreprint", finds_rate=True, found_rate="d"),
    _dadaptation("DAdaptAdamPreprint", home=EXPERIMENTAL),
    _dadaptation("DAdaptAdaGrad"),
    _dadaptation("DAdaptAdam"),
    _dadaptation("DAdaptAdan"),
    _dadaptation("DAdaptAdanIP", home=EXPERIMENTAL),
    _dadaptation("DAdaptLion"),
    _dadaptation("DAdaptSGD", waits_at_zero=True),  # it divides by the rate
    OptimizerRecord("Prodigy", "prodigyopt.Prodigy", finds_rate=True, found_rate="d"),
    OptimizerRecord(
        "AdaFactor", "transformers.Adafactor", {"relative_step": True}, relative_steps=True, longest_step="rate",
        rate_method="_get_lr",
    ),
    _schedule_free("RAdamScheduleFree", "rate"),
    _schedule_free("AdamWScheduleFree", "rate", weight_decay=0.0),
    _schedule_free("SGDScheduleFree", "gradient"),  # its momentum only weights the average
    OptimizerRecord("Adam", "torch.optim.Adam", longest_step="rate"),
    OptimizerRecord("Adamax", "torch.optim.Adamax", longest_step="rate"),
    OptimizerRecord("NAdam", "torch.optim.NAdam", longest_step="rate"),
    OptimizerRecord("RAdam", "torch.optim.RAdam", longest_step="rate"),
    OptimizerRecord("SGD", "torch.optim.SGD", longest_step="momentum"),
)  # fmt: skip
DEFAULT = "AdamW"


def listed_optimizer(name: str) -> OptimizerRecord | None:
    """Return the record of a name, in any case; None if it is not listed. An empty name stands for AdamW."""
    wanted = (name or DEFAULT).lower()
    return next((o for o in OPTIMIZERS if wanted in (n.lower() for n in (o.name, *o.smaller))), None)


def optimizer_name(name: str) -> str:
    """Return the listed spelling of a name, that of the full optimizer for an 8-bit or paged one, or else the name."""
    record = listed_optimizer(name)
    return record.name if record else name


def class_path(name: str) -> str:
    """Return the dotted path of a listed optimizer or of a class in torch.optim, or a dotted path unchanged."""
    record = listed_optimizer(name)
    return record.path if record else name if "." in name else f"torch.optim.{name}"


def optimizer_problem(name: str) -> Problem | None:
    """Return the problem of a name that is unknown or whose package is missing; None for any other name.

    Whether the class accepts its settings shows only when the optimizer is made.
    """
    path, where = class_path(name), "--optimizer_type"
    package = path.partition(".")[0]
    if path == f"torch.optim.{name}":
        return None if _in_torch(name) else Problem("error", f"`{name}` is not known", where, suggestion(name))
    if package and package.isidentifier() and find_spec(package) is not None:
        return None
    what = f"`{name}` needs a package that is not installed ({package or 'without a name'})"
    return Problem(
        "error",
        what,
        where,
        install_command(package) if package in MODULES else "Install it, or choose another optimizer",
    )


def suggestion(name: str) -> str:
    """Return the fix for an unknown name: the most similar name, or a list of all."""
    names = [o.name for o in OPTIMIZERS]
    smaller = [n for o in OPTIMIZERS for n in o.smaller]
    return nearest(name, (*names, *smaller)) or f"Known: {', '.join(names)}, or a dotted path"


def _in_torch(name: str) -> bool:
    """Return whether torch has an optimizer of that name, by looking for its file instead of importing torch."""
    spec = find_spec("torch")
    places = spec.submodule_search_locations if spec else None
    files = (file for place in places or () for file in (Path(place) / "optim").glob("[!_]*.py"))
    return any(file.stem.replace("_", "") == name.lower() for file in files)
