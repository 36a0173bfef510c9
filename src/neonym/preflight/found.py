"""The findings of a check: the problems of a run, and everything that is known about it before weights are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from neonym.config.dataset import DatasetConfig
from neonym.config.resolve import Origins
from neonym.config.run import RunConfig
from neonym.data.datasets import Dataset
from neonym.errors import ConfigError, Problem
from neonym.models.source import ModelSource
from neonym.preflight.captions import Lost
from neonym.preflight.defaults import UsedDefaults
from neonym.preflight.plan import TrainingPlan
from neonym.preflight.possible_captions import Tokenizers
from neonym.types import ImageRecord


@dataclass(frozen=True)
class Preflight:
    """The result of checking a run: all its problems, and a plan for each word if none of them is an error.

    The other fields are for `neonym check`, which shows what is known even about a run with errors.
    """

    run: RunConfig
    problems: tuple[Problem, ...]
    plans: tuple[TrainingPlan, ...] = ()
    config: DatasetConfig | None = None
    origins: Origins = field(default_factory=dict)  # where the values of the dataset come from
    source: ModelSource | None = None
    defaults: UsedDefaults = field(default_factory=dict)  # the defaults of settings that the user leaves to the model
    tokenizers: Tokenizers = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    records: tuple[ImageRecord, ...] = ()
    held_out: tuple[ImageRecord, ...] = ()
    lost: tuple[Lost, ...] = ()  # captions without their word, and why

    @property
    def tokens(self) -> list[str]:
        """The words, in the order of the dataset file."""
        return [concept.token_string for concept in self.config.concepts] if self.config else []

    def with_problems(self, problems: Iterable[Problem], **changes: Any) -> Preflight:
        """Return a copy with more problems, and with these fields changed."""
        return replace(self, problems=(*self.problems, *problems), **changes)

    def failed(self) -> bool:
        """Return whether there is an error among the problems."""
        return any(problem.severity == "error" for problem in self.problems)

    def raise_errors(self) -> None:
        """Raise ConfigError with all errors, if there are any."""
        if self.failed():
            raise ConfigError(list(self.problems))

    def complete_plans(self) -> tuple[TrainingPlan, ...]:
        """Return the plan of each word. Raises ConfigError with all errors, if there are any."""
        if not self.plans:
            raise ConfigError(list(self.problems))
        return self.plans

    def complete_plan(self) -> TrainingPlan:
        """Return the plan of a run that teaches a single word, as `complete_plans` does."""
        (plan,) = self.complete_plans()
        return plan
