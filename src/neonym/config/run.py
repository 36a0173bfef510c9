"""All settings of a training run, each with its type, default, help and limits.

Settings are grouped in sections for the reader, and flat for the user: sd-scripts' names are the flags. A setting whose
default is `None` takes its value from elsewhere, which its help names: often from the model (`models/defaults.py`).
"""

from typing import Any

from pydantic import PrivateAttr

from neonym.config.compute_settings import CacheSettings, ComputeSettings
from neonym.config.data_settings import ConceptSettings, DatasetSettings, ModelSettings
from neonym.config.flat import parse
from neonym.config.learning_settings import EvalSettings, ObjectiveSettings, OptimSettings
from neonym.config.output_settings import HubSettings, LogSettings, MetadataSettings, SampleSettings, SaveSettings
from neonym.config.schema import Section, group
from neonym.config.sdscripts import SDSCRIPTS, CompatSettings
from neonym.errors import Problem


class RunConfig(Section):
    """All settings of one training run."""

    model: ModelSettings = group(ModelSettings)
    concept: ConceptSettings = group(ConceptSettings)
    dataset: DatasetSettings = group(DatasetSettings)
    optim: OptimSettings = group(OptimSettings)
    objective: ObjectiveSettings = group(ObjectiveSettings)
    compute: ComputeSettings = group(ComputeSettings)
    cache: CacheSettings = group(CacheSettings)
    save: SaveSettings = group(SaveSettings)
    sample: SampleSettings = group(SampleSettings)
    log: LogSettings = group(LogSettings)
    metadata: MetadataSettings = group(MetadataSettings)
    hub: HubSettings = group(HubSettings)
    eval: EvalSettings = group(EvalSettings)

    _notes: tuple[Problem, ...] = PrivateAttr(())

    @property
    def notes(self) -> tuple[Problem, ...]:
        """Warnings and notes about the names that `parse` was given; `neonym.check` repeats them."""
        return self._notes

    @classmethod
    def parse(cls, **settings: Any) -> "RunConfig":
        """Return the settings under their flat names, as on the command line and in config files.

        Values are plain Python: `resolution=(512, 768)`, `optimizer_args=["betas=(0.9, 0.99)"]`, paths. sd-scripts'
        names are understood as on the command line. Raises ConfigError with every unknown name and every wrong value.
        """
        run, notes = parse(cls, settings, CompatSettings, SDSCRIPTS)
        run._notes = tuple(notes)
        return run
