"""The data set of a run: its file, or a folder of images, with the words that it shows."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neonym.config.dataset import ConceptSpec
from neonym.config.file_kinds import IMAGES, misplaced
from neonym.config.resolve import Resolved, check_flags, read_table, resolve
from neonym.config.run import DatasetSettings, RunConfig
from neonym.errors import ConfigError, Problem, in_one_line
from neonym.text.words import clean

NO_NAME = "the new word has no name"


def read_dataset(run: RunConfig, known: Sequence[Problem] = ()) -> Resolved:
    """Return the resolved data set of a run, where its values come from, and every problem of its file after those `known`."""
    found = Resolved(problems=[*known])
    try:
        table, where = dataset_table(run, found)
    except ConfigError as error:
        found.problems += error.problems
        return found
    if not where:
        concept_of_flags(run, found)
        return found
    read = resolve(table, run, where)
    found.add(read.problems)
    read.problems = found.problems
    refuse_flags_of_words(run, where, read)
    concepts = read.concepts or concept_of_flags(run, read)
    readable = tuple(concept for concept in concepts if concept)
    read.problems += dict.fromkeys(name_problems(readable, run))  # each once
    if readable and readable == concepts:
        read.problems += subset_problems(read.shown, list(dict.fromkeys(c.token_string for c in readable)))
    read.config = read.config and (None if read.failed() else read.config.model_copy(update={"concepts": readable}))
    return read


def dataset_table(run: RunConfig, found: Resolved) -> tuple[Any, str]:
    """Return the data-set file's table, or the one made from the folder flags, and where it stands.

    Raises ConfigError if the file cannot be read or is of another kind.
    """
    flags = run.dataset
    if flags.dataset_config is not None:
        for name in ("train_data_dir", "reg_data_dir", "in_json"):
            if getattr(flags, name) is not None:
                what = "is ignored: --dataset_config names the images"
                found.problems.append(Problem("warning", what, f"--{name}"))
        return read_dataset_file(Path(flags.dataset_config)), flags.dataset_config
    if flags.in_json is not None:
        if flags.reg_data_dir is not None:
            what = "is ignored: --in_json names the images, and metadata files have no regularisation images"
            fix = "Use caption files beside the images instead of --in_json (neonym caption split)"
            found.problems.append(Problem("warning", what, "--reg_data_dir", fix))
        if wrong := misplaced(flags.in_json, "in_json"):
            raise ConfigError([wrong])
        folder = {} if flags.train_data_dir is None else {"image_dir": flags.train_data_dir}
        return {"datasets": [{"subsets": [{"metadata_file": flags.in_json, **folder}]}]}, "--in_json"
    if flags.train_data_dir:
        table = folder_table(flags, found.problems)
        return table, "--train_data_dir" if table else ""
    return None, ""


def read_dataset_file(path: Path) -> Any:
    """Return the raw table of a data-set file, TOML or JSON by its ending. Raises ConfigError if it cannot be read."""
    if wrong := misplaced(path, "dataset_config"):
        raise ConfigError([wrong])
    if path.suffix.lower() not in (".toml", ".json"):
        what = "is neither a .toml nor a .json file"
        fix = "A data-set file is TOML (.toml) or JSON (.json); a folder of images is given with --train_data_dir"
        raise ConfigError([Problem("error", what, str(path), fix)])
    return read_table(path, "Check the path, or give a folder of images with --train_data_dir")


def refuse_flags_of_words(run: RunConfig, where: str, read: Resolved) -> None:
    """Report the flags that describe one word if the file has `[[concepts]]` of its own."""
    flags = run.concept
    given = [
        f"--{name}"
        for name, field in type(flags).model_fields.items()
        if getattr(flags, name) != field.default and name in ConceptSpec.model_fields
    ]
    if read.concepts and given:
        read.error(f"{where} has [[concepts]] of its own", ", ".join(given), "Use one or the other")


def concept_of_flags(run: RunConfig, found: Resolved) -> tuple[ConceptSpec | None, ...]:
    """Return the concept of `--token_string`, alone in a tuple; report a missing or wrong one, and return ()."""
    flags = run.concept
    if not (flags.token_string or "").strip():
        fix = "For example --token_string=mychar4; the captions must contain it"
        found.error(NO_NAME, "--token_string", fix)
        return ()
    values, one = flags.model_dump(exclude={"train_encoders"}), Resolved()
    check_flags(ConceptSpec, values, one)
    found.add(one.problems)
    return () if one.problems else (ConceptSpec.model_validate(values),)


def name_problems(concepts: Sequence[ConceptSpec], run: RunConfig) -> Iterator[Problem]:
    """Yield a problem for words that do not differ after cleaning, or that cannot be file names but have to be."""
    counts = Counter(clean(concept.token_string) for concept in concepts)
    for concept in concepts:
        token, where = concept.token_string, f"`{concept.token_string}`"
        if not clean(token) or token != token.strip():
            yield Problem("error", "a word is not empty and has no blanks around it", where)
        if counts[clean(token)] > 1:
            yield Problem("error", "stands for two concepts (case does not matter)", where)
        if set(token) & set('/\\:*?"|\0') and (run.save.output_name is None or len(concepts) > 1):
            yield Problem("error", "cannot be a file name", where, "With one word, --output_name gives another")
        if concept.init_word is not None and not clean(concept.init_word):
            yield Problem("error", "the init word is empty", where, "Give an ordinary word")
    if len(concepts) > 1 and run.save.output_name in [concept.token_string for concept in concepts]:
        yield Problem("error", "is also the name of a concept", "--output_name", "Choose another")


def subset_problems(shown: Mapping[str, Any], tokens: Sequence[str]) -> Iterator[Problem]:
    """Yield a problem for each subset that does not name one of several concepts.

    `shown` holds the concept that each subset names, by the subset's place.
    """
    for place, concept in shown.items():
        if concept is None and len(tokens) > 1:
            fix = f'Add concept = "..." (one of {", ".join(tokens)})'
            yield Problem("error", "does not say which concept it shows", place, fix)
        elif isinstance(concept, str) and concept not in tokens:
            yield Problem("error", f"concept `{concept}` is not listed", place, f"Known: {', '.join(tokens)}")


def folder_table(flags: DatasetSettings, problems: list[Problem]) -> dict[str, Any]:
    """Return `--train_data_dir` and `--reg_data_dir` as a data-set table.

    Each holds `N_name` folders, or is one plain folder of images.
    """
    assert flags.train_data_dir is not None
    subsets = folder_subsets(Path(flags.train_data_dir), "--train_data_dir", False, problems)
    if flags.reg_data_dir is not None:
        subsets += folder_subsets(Path(flags.reg_data_dir), "--reg_data_dir", True, problems)
    return {"datasets": [{"subsets": subsets}]} if subsets else {}


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; a link that leads to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def folder_subsets(folder: Path, flag: str, is_reg: bool, problems: list[Problem]) -> list[dict[str, Any]]:
    """Return a folder's subsets as tables, sorted by name so that every machine sees the same order."""
    if not folder.is_dir():
        none = Problem("error", f"{in_one_line(str(folder))} is not a folder", flag)
        problems.append(misplaced(folder, flag.removeprefix("--")) or none)
        return []
    subsets = []
    try:
        with os.scandir(folder) as entries:  # knows what each entry is without opening it
            found = [(entry.name, is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        problems.append(Problem("error", f"{in_one_line(str(folder))} cannot be read ({error.strerror})", flag))
        return []
    for child in sorted(folder / name for name, folds in found if folds):
        number, _, name = child.name.partition("_")
        try:
            repeats = int(number)
        except ValueError:
            problems.append(Problem("note", "is ignored: its name is not `N_name`", str(child)))
            continue
        if repeats < 1:
            what = f"is ignored: according to its name, its images count {repeats} times"
            problems.append(Problem("warning", what, str(child)))
            continue
        if number == child.name:
            what = f"is a folder `N_name` without a name: each of its images counts {repeats} times"
            fix = f"Name it `1_{number}` if that is not meant"
            problems.append(Problem("warning", what, str(child), fix))
        subsets.append({"image_dir": str(child), "num_repeats": repeats, "class_tokens": name, "is_reg": is_reg})
    names = [name.lower() for name, folds in found if not folds]
    if subsets and any(name.endswith(IMAGES) for name in names):
        what = "its own images are ignored, because it has `N_name` folders"
        problems.append(Problem("warning", what, str(folder), "Move them into a folder such as `1_name`"))
    return subsets or [{"image_dir": str(folder), "is_reg": is_reg}]
