"""The training plan: a run without errors, complete before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neonym.config.dataset import DatasetConfig
from neonym.config.run import RunConfig
from neonym.data.plan import ConceptPlan
from neonym.data.records import Dataset
from neonym.errors import Problem
from neonym.generation.request.prompts import SamplePrompt
from neonym.models.source import ModelSource
from neonym.models.tokenizers.word_tokenizer import WordTokenizer
from neonym.optim.schedules import Schedule
from neonym.preflight.milestones import Milestones
from neonym.runs.outputs import run_folder
from neonym.types import ImageRecord

if TYPE_CHECKING:
    from torch import Tensor

ENOUGH_HELD_OUT = 4  # images to judge a word by


@dataclass(frozen=True)
class PlannedConcept:
    """One word of a run: where it starts from, what it learns from and how fast, and what it is judged on."""

    token: str
    file_name: str  # of its embedding file, without ending
    vectors: int
    init_word: str
    start: Mapping[str, Tensor] | None  # {encoder: [n,W]} from its --weights file; None: the pieces of its init word
    encoders: tuple[str, ...]  # the text encoders whose rows learn
    learning_rate: float  # what its optimizer is made with
    schedule: Schedule | None  # step -> learning rate; None: the optimizer has a schedule of its own
    samples: ConceptPlan  # the samples of each step
    records: tuple[ImageRecord, ...]  # its images, those of regularisation among them
    held_out: tuple[ImageRecord, ...]

    @property
    def seed(self) -> int:
        """The key of everything random about the word: the same whether it learns alone or beside others."""
        return self.samples.seed

    @property
    def training_images(self) -> list[ImageRecord]:
        """The images of the word itself, without those of regularisation."""
        return [record for record in self.records if not record.is_reg]

    @property
    def is_judged_on_held_out(self) -> bool:
        """Whether enough of its images are held out to judge it by them; else it is judged on its training images."""
        return len(self.held_out) >= ENOUGH_HELD_OUT


@dataclass(frozen=True)
class TrainingPlan:
    """A run without errors: what it learns, from what and for how long, and where its files go. Nothing is left open."""

    run: RunConfig  # with every setting that the model decides
    source: ModelSource
    tokenizers: dict[str, WordTokenizer]  # {encoder: its tokenizer}, which has ids for the words
    data: DatasetConfig  # the data-set file, or what stands for it, with every value resolved
    datasets: tuple[Dataset, ...]
    records: tuple[ImageRecord, ...]  # the training images
    held_out: tuple[ImageRecord, ...]
    concepts: tuple[PlannedConcept, ...]
    milestones: Milestones
    prompts: tuple[SamplePrompt, ...]  # of the sample images
    model_warmup: str | None  # the warm-up that the model's defaults give; None: the user or the schedule says
    problems: tuple[Problem, ...]  # warnings and notes

    @property
    def tokens(self) -> list[str]:
        """The words, in their order."""
        return [concept.token for concept in self.concepts]

    @property
    def step_sizes(self) -> list[int]:
        """The number of samples of a step, per data set."""
        return step_sizes(self.datasets, self.run)

    @property
    def run_folder(self) -> Path:
        """The folder of the run's state, events and verdict."""
        return run_folder(self.run, self.tokens)

    @property
    def step_folder(self) -> Path:
        """The folder of the files that are kept of steps although the user asked for none."""
        return kept_steps_folder(self.run_folder)


def step_sizes(datasets: tuple[Dataset, ...], run: RunConfig) -> list[int]:
    """Return the number of samples of a step per data set: its batch size times gradient accumulation."""
    return [dataset.batch_size * run.optim.gradient_accumulation_steps for dataset in datasets]


def kept_steps_folder(folder: Path) -> Path:
    """Return where files of steps are kept in a run's folder."""
    return folder / "steps"
