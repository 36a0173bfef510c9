"""A new word that is being prepared: settings under their flat names, as the user typed them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from neonym import Problem, RunConfig
from neonym.config.command_line import SECRETS, as_toml
from neonym.config.schema import fields_of
from neonym.config.values import Arguments, as_flag_text, as_written
from neonym.config.without_effect import DIFFUSION_ONLY, FLOW_ONLY

Values = dict[str, Any]
FIELDS: dict[str, tuple[str, FieldInfo]] = {name: (section, info) for section, name, info in fields_of(RunConfig)}
SAMPLES = 5  # times that sample images are generated in a run
MAIN = ("num_vectors_per_token", "max_train_steps", "learning_rate", "train_batch_size", "resolution")
# Settings that have a place of their own on the page, or none: keys of online services stay in the environment
ELSEWHERE = (
    "pretrained_model_name_or_path", "train_data_dir", "dataset_config", "token_string", "init_word", "output_dir",
    *MAIN, *SECRETS,
)  # fmt: skip
# Settings that a word may bring along: how it was learned, and no place on this machine
OF_RECIPES = frozenset(
    name
    for name, (section, _) in FIELDS.items()
    if section in ("model", "concept", "dataset", "optim", "objective", "eval")
    and not name.endswith(("_dir", "_file", "_config", "_path", "_json"))
    and name not in ("vae", "clip_l", "clip_g", "t5xxl", "qwen3", "text_encoders", "tokenizer", "weights", *ELSEWHERE)
) | {*MAIN, "init_word", "token_string"}
PRESETS: dict[str, Values] = {
    "Object": {"num_vectors_per_token": "2", "flip_aug": True, "shuffle_caption": False},
    "Style": {"num_vectors_per_token": "4", "flip_aug": True, "shuffle_caption": True},
    "Face": {"num_vectors_per_token": "6", "flip_aug": False, "shuffle_caption": False},
}


@dataclass
class Draft:
    """The settings of a new word. A setting that is empty has its default."""

    values: Values = field(default_factory=dict)

    def set(self, name: str, value: Any) -> None:
        """Set a setting, or unset it with an empty value."""
        if is_default(name, value):
            self.values.pop(name, None)
        else:
            self.values[name] = value

    def update(self, values: Mapping[str, Any]) -> None:
        """Set several settings."""
        for name, value in values.items():
            self.set(name, value)

    def run(self) -> RunConfig:
        """Return the run that the settings describe. Raises ConfigError with every wrong value."""
        return RunConfig.parse(**{name: typed(name, value) for name, value in self.values.items()})

    def command(self) -> str:
        """Return the command line that trains the word, for a shell."""
        words = ["neonym", "train"]
        for name, value in self.values.items():
            if value is True:
                words.append(f"--{name}")
            elif isinstance(value := typed(name, value), (list, tuple)):
                words += [f"--{name}", *map(as_flag_text, value)]
            else:
                words.append(f"--{name}={as_flag_text(value)}")
        return shlex.join(words)

    def toml(self) -> str:
        """Return the settings as a config file. Raises ConfigError with every wrong value."""
        return as_toml(self.run())


def is_default(name: str, value: Any) -> bool:
    """Return whether a value is empty, or that which a setting has by itself."""
    return value in (None, "", [], ()) or (name in FIELDS and value == FIELDS[name][1].default)


def typed(name: str, value: Any) -> Any:
    """Return a value as a config file would hold it: texts of a setting with several values are split."""
    if isinstance(value, str) and name in FIELDS and is_list(FIELDS[name][1]):
        return shlex.split(value) if value.count('"') % 2 == 0 and value.count("'") % 2 == 0 else value.split()
    return value


def is_list(info: FieldInfo) -> bool:
    """Return whether a setting has several values."""
    kinds = (info.annotation, *get_args(info.annotation))
    return any(kind is Arguments or get_origin(kind) in (tuple, list) for kind in kinds)


def draft_of(run: RunConfig) -> Draft:
    """Return the draft with the settings of a run that differ from their defaults."""
    draft = Draft()
    for name, (section, info) in FIELDS.items():
        value = getattr(getattr(run, section), name)
        if value != info.default and name not in SECRETS:
            draft.set(name, as_written(value))
    return draft


def acting(process: str | None) -> list[str]:
    """Return the settings that can have an effect on a model, by its process; all of them if that is unknown."""
    without = {"flow": set(DIFFUSION_ONLY), "diffusion": set(FLOW_ONLY)}.get(process or "", set())
    return [name for name in FIELDS if name not in without and name not in ELSEWHERE]


def by_setting(problems: Iterable[Problem], token: str = "") -> dict[str, list[Problem]]:
    """Return problems by the setting that they are about, "" for those of none: images, captions, the model."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(setting_of(problem.where, token), []).append(problem)
    return found


def setting_of(where: str, token: str) -> str:
    """Return the setting that the place of a problem names, or "" if it names none."""
    if where.startswith("the init word"):
        return "init_word"
    plain = where.replace("`", "").replace("--", "")
    if token and plain == token:
        return "token_string"
    first = plain.replace("=", " ").split(" ", 1)[0]
    return first if first in FIELDS else ""


def with_schedule(draft: Draft, defaults: Mapping[str, str], has_prompts: bool) -> Draft:
    """Return the draft with evaluations, sample images and saved steps in between, where the user sets none."""
    planned = Draft(dict(draft.values))
    if "eval_every_n_steps" not in planned.values:
        planned.set("eval_every_n_steps", defaults.get("eval_every_n_steps"))
    steps = str(planned.values.get("max_train_steps") or defaults.get("max_train_steps") or "")
    if not steps.isdecimal():
        return planned
    interval = max(1, int(steps) // SAMPLES)
    if has_prompts and not planned.values.keys() & {"sample_every_n_steps", "sample_every_n_epochs"}:
        planned.set("sample_every_n_steps", interval)
    if defaults.get("save_every_n_steps") == "0" and not any(name.startswith("save_every") for name in planned.values):
        planned.set("save_every_n_steps", interval)
    return planned
