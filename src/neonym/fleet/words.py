"""The words of a fleet, how far each one is, and how each one ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neonym.config.run import RunConfig

Ending = Literal["learned", "weak", "not learned", "failed", "stopped"]
State = Literal["waiting", "running", "learned", "weak", "not learned", "failed"]
STATES: tuple[State, ...] = ("waiting", "running", "learned", "weak", "not learned", "failed")
ENDINGS: dict[str, Ending] = {"LEARNED": "learned", "WEAK": "weak", "NOT LEARNED": "not learned"}
PROMPTS = "prompts.txt"
END = "finished.safetensors"  # the state of a finished run, in its run folder


@dataclass(frozen=True)
class Word:
    """One word of a plan. `name` is that of its files, and of its folder in the output folder."""

    name: str
    token: str
    settings: Mapping[str, Any] = field(hash=False)  # under their flat names, without the output folder
    where: str  # its place in the plan, for messages
    group: str = ""  # the same for words that can share one loaded model
    prompts: tuple[str, ...] = ()  # of its sample images

    def run(self, folder: Path, home: Path | None = None) -> RunConfig:
        """Return the settings of its run, which writes into `folder`.

        The file of its prompts is written into the folder `home` (default: `folder`). Raises ConfigError and OSError.
        """
        given = {**self.settings, "output_dir": str(folder)}
        if self.prompts:
            home = home or folder
            home.mkdir(parents=True, exist_ok=True)
            (home / PROMPTS).write_text("\n".join(self.prompts) + "\n", encoding="utf-8")
            given["sample_prompts"] = str(home / PROMPTS)
        return RunConfig.parse(**given)

    @property
    def run_folder(self) -> str:
        """The name of its run folder, which holds the state, the events and the verdict."""
        return f"{self.name}-run"

    @property
    def model(self) -> str:
        """The name of its model; an empty string for the built-in one, if the plan names none."""
        return str(self.settings.get("pretrained_model_name_or_path", ""))


@dataclass(frozen=True)
class Progress:
    """The progress of a word's run. Images are those that went through the model since the run started."""

    name: str
    step: int = 0
    steps: int = 0
    first_step: int = 0  # steps done by earlier processes
    samples_per_step: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """The end of a word's run.

    `machine` is what is wrong with the machine, not with the word, such as a full disk: another one may do it. `store`
    is what is wrong with the object store: it may answer later.
    """

    name: str
    ending: Ending
    error: str = ""
    verdict: Mapping[str, Any] | None = field(default=None, hash=False)
    step: int = 0
    was_finished: bool = False  # an earlier call had finished the run
    files: tuple[str, ...] = ()  # below the output folder
    sheet: str = ""  # a grid of sample images, likewise
    machine: str = ""
    store: str = ""


@dataclass(frozen=True)
class Shard:
    """Words that one process trains together, with one model, in lanes of one batch."""

    words: tuple[Word, ...]
    deaths: int = 0  # processes that died with it

    @property
    def group(self) -> str:
        """The group of its words."""
        return self.words[0].group
