"""Optimizers as records: which class a name stands for, and what the rest of the program must know of it.

A new optimizer is one record in `OPTIMIZERS`. No torch is imported here; `neonym.optim.optimizers` makes the classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from neonym.errors import Problem, nearest
from neonym.extras import MODULES, install


@dataclass(frozen=True)
class OptimizerRecord:
    """An optimizer and its capabilities.

    `longest_step` says what bounds one step of a number: the learning "rate" (Adam and its like, whatever the clipped
    gradient is), the clipped "gradient", or the "momentum" that adds up clipped gradients; None if nothing is known.
    """

    name: str  # as sd-scripts spells it; users may write it in any case
    path: str  # the dotted path of its class
    settings: Mapping[str, Any] = field(
        default_factory=dict
    )  # what the class is made with unless the user says otherwise
    smaller: tuple[
        str, ...
    ] = ()  # names for 8-bit or paged state; this one is used instead, for its state is kilobytes
    finds_rate: bool = False  # the learning rate given is a factor near 1
    own_schedule: bool = False  # a schedule of learning rates would disturb it
    averages: bool = False  # its result is an average of its steps: it has `train()` and `eval()`
    relative_steps: bool = False  # it takes `relative_step`: the rate then follows from the word's size and the step
    waits_at_zero: bool = False  # it cannot step at a rate of 0, with which a warm-up begins
    longest_step: Literal["rate", "gradient", "momentum"] | None = None

    @property
    def package(self) -> str:
        """Return the package that has the class."""
        return self.path.partition(".")[0]

    def is_relative(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether, with the user's `arguments`, the rate follows from the word's size: none may be given then."""
        given = {**self.settings, **arguments}
        return self.relative_steps and bool(given.get("relative_step", True) or given.get("warmup_init"))

    def has_own_schedule(self, arguments: Mapping[str, Any]) -> bool:
        """Return whether a schedule would disturb it with the user's `arguments`."""
        return self.own_schedule or self.is_relative(arguments)


def _dadaptation(name: str, *, home: str = "dadaptation", waits_at_zero: bool = False) -> OptimizerRecord:
    """Return the record of an optimizer of D-Adaptation (Defazio & Mishchenko 2023)."""
    return OptimizerRecord(name, f"{home}.{name}", finds_rate=True, waits_at_zero=waits_at_zero)


def _schedule_free(name: str, longest_step: Literal["rate", "gradient"], **settings: Any) -> OptimizerRecord:
    """Return the record of a schedule-free optimizer (Defazio et al. 2024)."""
    path = f"schedulefree.{name}"
    return OptimizerRecord(name, path, settings, own_schedule=True, averages=True, longest_step=longest_step)


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
    OptimizerRecord("DAdaptation", f"{EXPERIMENTAL}.DAdaptAdamPreprint", finds_rate=True),
    _dadaptation("DAdaptAdamPreprint", home=EXPERIMENTAL),
    _dadaptation("DAdaptAdaGrad"),
    _dadaptation("DAdaptAdam"),
    _dadaptation("DAdaptAdan"),
    _dadaptation("DAdaptAdanIP", home=EXPERIMENTAL),
    _dadaptation("DAdaptLion"),
    _dadaptation("DAdaptSGD", waits_at_zero=True),  # it divides by the rate
    OptimizerRecord("Prodigy", "prodigyopt.Prodigy", finds_rate=True),
    OptimizerRecord(
        "AdaFactor", "transformers.Adafactor", {"relative_step": True}, relative_steps=True, longest_step="rate"
    ),
    _schedule_free("RAdamScheduleFree", "rate"),
    _schedule_free("AdamWScheduleFree", "rate", weight_decay=0.0),
    _schedule_free("SGDScheduleFree", "gradient"),  # its momentum only weighs the average
    OptimizerRecord("Adam", "torch.optim.Adam", longest_step="rate"),
    OptimizerRecord("Adamax", "torch.optim.Adamax", longest_step="rate"),
    OptimizerRecord("NAdam", "torch.optim.NAdam", longest_step="rate"),
    OptimizerRecord("RAdam", "torch.optim.RAdam", longest_step="rate"),
    OptimizerRecord("SGD", "torch.optim.SGD", longest_step="momentum"),
)  # fmt: skip
DEFAULT = "AdamW"


def listed(name: str) -> OptimizerRecord | None:
    """Return the record that a name stands for, in any case, or None if it is not listed; no name means AdamW."""
    wanted = (name or DEFAULT).lower()
    return next((o for o in OPTIMIZERS if wanted in (n.lower() for n in (o.name, *o.smaller))), None)


def optimizer_name(name: str) -> str:
    """Return the name as it is listed, 8-bit and paged variants as their plain form; else the name as given."""
    record = listed(name)
    return record.name if record else name


def class_path(name: str) -> str:
    """Return the dotted path of a listed optimizer, of one of torch.optim, or the path itself."""
    record = listed(name)
    return record.path if record else name if "." in name else f"torch.optim.{name}"


def optimizer_problem(name: str) -> Problem | None:
    """Return what is wrong with a name: it is unknown, or its package is missing. What a class takes is found by making it."""
    path, where = class_path(name), "--optimizer_type"
    package = path.partition(".")[0]
    if path == f"torch.optim.{name}":
        return None if _in_torch(name) else Problem("error", f"`{name}` is not known", where, suggestion(name))
    if package and package.isidentifier() and find_spec(package) is not None:
        return None
    what = f"`{name}` needs a package that is not installed ({package or 'without a name'})"
    return Problem(
        "error", what, where, install(package) if package in MODULES else "Install it, or choose another optimizer"
    )


def suggestion(name: str) -> str:
    """Return the advice for a name that is not known."""
    names = [o.name for o in OPTIMIZERS]
    smaller = [n for o in OPTIMIZERS for n in o.smaller]
    return nearest(name, (*names, *smaller)) or f"Known: {', '.join(names)}, or a dotted path"


def _in_torch(name: str) -> bool:
    """Return whether torch has an optimizer of that name: it keeps each in a file of its own."""
    spec = find_spec("torch")
    places = spec.submodule_search_locations if spec else None
    files = (file for place in places or () for file in (Path(place) / "optim").glob("[!_]*.py"))
    return any(file.stem.replace("_", "") == name.lower() for file in files)
