"""Runs from flat flags, checked as `neonym check` checks them."""

import json
from pathlib import Path

from neonym.config.command_line import Given
from neonym.config.flat import validated
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.preflight.preflight import Preflight, preflight
from support import WORD


def settings(**flags) -> RunConfig:
    """A run from flat flags."""
    tree: dict[str, dict] = {}
    homes = {name: section for section, name, _ in fields_of(RunConfig)}
    for name, value in flags.items():
        tree.setdefault(homes[name], {})[name] = value
    return RunConfig.model_validate(tree)


def check(folder: Path | str, **flags) -> Preflight:
    """A folder of images of WORD, looked at as `neonym check` does."""
    return check_flags(train_data_dir=str(folder), token_string=WORD, **flags)


def check_flags(**flags) -> Preflight:
    """What is known of a run from flat flags, right or wrong, as on a command line."""
    given = Given(dict.fromkeys(flags, "command line"))
    run = validated(RunConfig, flags, given)
    return preflight(run, given.problems)


def check_table(tmp_path: Path, table: dict, **flags) -> Preflight:
    """The same for a data-set file."""
    file = tmp_path / "table.json"
    file.write_text(json.dumps(table))
    return check_flags(dataset_config=str(file), token_string=WORD, **flags)


def said(ready: Preflight, *severities: str) -> str:
    """Its problems of these severities (default: errors), a line each."""
    return "\n".join(str(p) for p in ready.problems if p.severity in (severities or ("error",)))
