"""The training plan of a word: everything about its training, complete before any weights are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neonym.config.dataset import DatasetConfig
from neonym.config.run import RunConfig
from neonym.data.datasets import Dataset
from neonym.data.plan import ConceptPlan
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

ENOUGH_HELD_OUT = 4  # held-out images that suffice to judge a word


@dataclass(frozen=True)
class PlannedConcept:
    """A word to learn: where it starts, what it learns from, how fast, and what it is judged on."""

    token: str
    file_name: str  # the name of its embedding file, without the ending
    vectors: int
    init_word: str
    start: Mapping[str, Tensor] | None  # {encoder: [n,W]} from its --weights file; None: the tokens of its init word
    with_rows: tuple[str, ...]  # the text encoders that have rows of the word; the others read its init word
    encoders: tuple[str, ...]  # the text encoders whose rows are trained
    learning_rate: float  # the rate of the first of these encoders, with which its optimizer is made
    has_default_rate: bool  # the user gives none
    own_rates: Mapping[str, float]  # the rates that the user gives for single encoders
    schedule: Schedule | None  # step -> learning rate; None: the optimizer has a schedule of its own
    samples: ConceptPlan  # the samples of each step
    records: tuple[ImageRecord, ...]  # its training images, including regularisation images
    held_out: tuple[ImageRecord, ...]

    @property
    def seed(self) -> int:
        """The seed of everything random about the word, which does not depend on the other words of the run."""
        return self.samples.seed

    @property
    def training_images(self) -> list[ImageRecord]:
        """The training images of the word, without regularisation images."""
        return [record for record in self.records if not record.is_reg]

    @property
    def is_judged_on_held_out(self) -> bool:
        """Whether the word is judged on held-out images; if there are too few, it is judged on training images."""
        return len(self.held_out) >= ENOUGH_HELD_OUT


@dataclass(frozen=True)
class TrainingPlan:
    """The training of one word, without errors: what it learns, from what, for how long, and where its files go.

    A run that teaches several words has a plan for each of them, as if each were alone.
    """

    run: RunConfig  # with every setting that the model decides, and the word's own
    source: ModelSource
    tokenizers: dict[str, WordTokenizer]  # {encoder: its tokenizer, which has ids for the word}
    data: DatasetConfig  # the dataset file or its equivalent, with every value resolved
    datasets: tuple[Dataset, ...]
    concept: PlannedConcept
    milestones: Milestones
    prompts: tuple[SamplePrompt, ...]  # the prompts of the sample images
    model_warmup: str | None  # the default warm-up of the model; None: the user or the schedule decides
    problems: tuple[Problem, ...]  # warnings and notes
    at_once: int | None = None  # the samples that go through the model together, if `--fit` chose them

    @property
    def token(self) -> str:
        """The word."""
        return self.concept.token

    @property
    def encodes_in_each_step(self) -> bool:
        """Whether some images look different each time they are used, so that the VAE encodes them in every step."""
        records = (*self.concept.records, *self.concept.held_out)
        return any(record.image_rules.changes for record in records)

    @property
    def step_sizes(self) -> list[int]:
        """The number of samples in a step, for each dataset."""
        return step_sizes(self.datasets, self.run)

    @property
    def run_folder(self) -> Path:
        """The folder with the state, the events and the verdict of the run."""
        return run_folder(self.run, self.token)

    @property
    def step_folder(self) -> Path:
        """The folder of the files that are saved by step if the user requests none."""
        return kept_steps_folder(self.run_folder)


def step_sizes(datasets: tuple[Dataset, ...], run: RunConfig) -> list[int]:
    """Return the number of samples in a step for each dataset: batch size times gradient accumulation steps."""
    return [dataset.batch_size * run.optim.gradient_accumulation_steps for dataset in datasets]


def kept_steps_folder(folder: Path) -> Path:
    """Return the folder within a run folder for the files that are saved by step."""
    return folder / "steps"
