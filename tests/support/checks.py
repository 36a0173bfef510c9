"""Helpers that build runs from flat flags and check them as `neonym check` does."""

import json
from pathlib import Path

from neonym.config.command_line import Given
from neonym.config.flat import validated
from neonym.config.run import RunConfig
from neonym.config.schema import fields_of
from neonym.preflight.preflight import Preflight, preflight
from support import WORD


def settings(**flags) -> RunConfig:
    """Return the run that flat flags describe."""
    tree: dict[str, dict] = {}
    homes = {name: section for section, name, _ in fields_of(RunConfig)}
    for name, value in flags.items():
        tree.setdefault(homes[name], {})[name] = value
    return RunConfig.model_validate(tree)


def check(folder: Path | str, **flags) -> Preflight:
    """Return the preflight of a run on a folder with images of WORD."""
    return check_flags(train_data_dir=str(folder), token_string=WORD, **flags)


def check_flags(**flags) -> Preflight:
    """Return the preflight of a run from flat flags, valid or not, as on a command line."""
    given = Given(dict.fromkeys(flags, "command line"))
    run = validated(RunConfig, flags, given)
    return preflight(run, given.problems)


def check_table(tmp_path: Path, table: dict, **flags) -> Preflight:
    """Return the preflight of a run on a dataset file with the given table."""
    file = tmp_path / "table.json"
    file.write_text(json.dumps(table))
    return check_flags(dataset_config=str(file), token_string=WORD, **flags)


def said(ready: Preflight, *severities: str) -> str:
    """Return the problems of a preflight with these severities (default: errors), one per line."""
    return "\n".join(str(p) for p in ready.problems if p.severity in (severities or ("error",)))
