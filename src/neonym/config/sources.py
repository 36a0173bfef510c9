"""The dataset of a run, from a dataset file or a folder of images, and the words that it teaches."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neonym.config.dataset import ConceptSpec
from neonym.config.file_kinds import IMAGES, misplaced
from neonym.config.resolve import Resolved, check_flags, read_table, resolve
from neonym.config.run import RunConfig
from neonym.errors import ConfigError, Problem, in_one_line
from neonym.text.words import clean

NO_NAME = "the new word has no name"


def read_dataset(run: RunConfig, known: Sequence[Problem] = ()) -> Resolved:
    """Return the dataset of a run with its values resolved, and its problems after those that are `known`."""
    found = Resolved(problems=[*known])
    try:
        table, where = dataset_table(run, found)
    except ConfigError as error:
        found.problems += error.problems
        return found
    if not where:
        concept_from_flags(run, found)
        return found
    read = resolve(table, run, where)
    found.add(read.problems)
    read.problems = found.problems
    check_word_flags(run, where, read)
    concepts = read.concepts or concept_from_flags(run, read)
    readable = tuple(concept for concept in concepts if concept)
    read.problems += dict.fromkeys(token_problems(readable, run))  # each once
    if readable and readable == concepts:
        read.problems += subset_problems(read.subset_concepts, list(dict.fromkeys(c.token_string for c in readable)))
    read.config = read.config and (None if read.failed() else read.config.model_copy(update={"concepts": readable}))
    return read


def dataset_table(run: RunConfig, found: Resolved) -> tuple[Any, str]:
    """Return the dataset table of a file, or one made from the folder flags, and its name for messages.

    Raises ConfigError if the file cannot be read or is of another kind.
    """
    flags = run.dataset
    if flags.dataset_config is not None:
        for name in ("train_data_dir", "reg_data_dir", "in_json"):
            if getattr(flags, name) is not None:
                what = "is ignored, because --dataset_config names the images"
                found.problems.append(Problem("warning", what, f"--{name}"))
        return read_dataset_file(Path(flags.dataset_config)), flags.dataset_config
    if flags.in_json is not None:
        if flags.reg_data_dir is not None:
            what = "is ignored, because --in_json names the images, and metadata files have no regularisation images"
            fix = "Use caption files next to the images instead of --in_json (neonym caption split)"
            found.problems.append(Problem("warning", what, "--reg_data_dir", fix))
        if wrong := misplaced(flags.in_json, "in_json"):
            raise ConfigError([wrong])
        folder = {} if flags.train_data_dir is None else {"image_dir": flags.train_data_dir}
        return {"datasets": [{"subsets": [{"metadata_file": flags.in_json, **folder}]}]}, "--in_json"
    if flags.train_data_dir:
        table = folder_table(flags.train_data_dir, flags.reg_data_dir, found.problems)
        return table, "--train_data_dir" if table else ""
    return None, ""


def read_dataset_file(path: Path) -> Any:
    """Return the table of a dataset file, TOML or JSON by its ending. Raises ConfigError if it cannot be read."""
    if wrong := misplaced(path, "dataset_config"):
        raise ConfigError([wrong])
    if path.suffix.lower() not in (".toml", ".json"):
        what = "is neither a .toml nor a .json file"
        fix = "Pass a dataset file in TOML or JSON, or a folder of images with --train_data_dir"
        raise ConfigError([Problem("error", what, str(path), fix)])
    return read_table(path, "Check the path, or pass a folder of images with --train_data_dir")


def check_word_flags(run: RunConfig, where: str, read: Resolved) -> None:
    """Report the flags that describe one word if the dataset file has `[[concepts]]`."""
    flags = run.concept
    given = [
        f"--{name}"
        for name, field in type(flags).model_fields.items()
        if getattr(flags, name) != field.default and name in ConceptSpec.model_fields
    ]
    if read.concepts and given:
        read.error(f"cannot be combined with the [[concepts]] of {where}", ", ".join(given), "Use one or the other")


def concept_from_flags(run: RunConfig, found: Resolved) -> tuple[ConceptSpec | None, ...]:
    """Return a tuple with the concept of `--token_string`. If it is missing or wrong, report it and return ()."""
    flags = run.concept
    if not (flags.token_string or "").strip():
        fix = "Choose one, such as --token_string=mychar4; the captions must contain it"
        found.error(NO_NAME, "--token_string", fix)
        return ()
    values, one = flags.model_dump(exclude={"train_encoders"}), Resolved()
    check_flags(ConceptSpec, values, one)
    found.add(one.problems)
    return () if one.problems else (ConceptSpec.model_validate(values),)


def token_problems(concepts: Sequence[ConceptSpec], run: RunConfig) -> Iterator[Problem]:
    """Yield an error for each word that equals another one after cleaning, or whose file cannot be named after it."""
    counts = Counter(clean(concept.token_string) for concept in concepts)
    for concept in concepts:
        token, where = concept.token_string, f"`{concept.token_string}`"
        if not clean(token) or token != token.strip():
            yield Problem("error", "must not be empty, or begin or end with spaces", where, "Choose another word")
        if counts[clean(token)] > 1:
            yield Problem(
                "error", "is the word of two concepts (case is ignored)", where, "Choose another word for one of them"
            )
        if set(token) & set('/\\:*?"|\0') and (run.save.output_name is None or len(concepts) > 1):
            yield Problem(
                "error",
                "cannot be a file name",
                where,
                "Choose another word, or, with a single word, set --output_name",
            )
        if concept.init_word is not None and not clean(concept.init_word):
            yield Problem("error", "the init word is empty", where, "Use an ordinary word, or leave the flag out")
    if len(concepts) > 1 and run.save.output_name is not None:
        yield Problem("warning", "is not used: files of several words are named after them", "--output_name")
    if len(concepts) > 1 and run.save.resume is not None:
        fix = "Leave it out: the same command continues every word that was interrupted"
        yield Problem("error", f"names the state of one word, but there are {len(concepts)}", "--resume", fix)


def subset_problems(subset_concepts: Mapping[str, Any], tokens: Sequence[str]) -> Iterator[Problem]:
    """Yield an error for each subset that names an unknown concept, or none although there are several.

    `subset_concepts` has the concept that each subset names, by the place of the subset in the file.
    """
    for place, concept in subset_concepts.items():
        if concept is None and len(tokens) > 1:
            fix = f'Add concept = "..." (one of {", ".join(tokens)})'
            yield Problem("error", "does not name the concept that its images show", place, fix)
        elif isinstance(concept, str) and concept not in tokens:
            yield Problem("error", f"the concept `{concept}` is not listed", place, f"Known: {', '.join(tokens)}")


def folder_table(train_data_dir: str, reg_data_dir: str | None, problems: list[Problem]) -> dict[str, Any]:
    """Return a dataset table for the folders of these two flags, or {} if they have no images.

    Each is a folder of `N_name` folders, or a plain folder of images.
    """
    subsets = folder_subsets(Path(train_data_dir), "--train_data_dir", False, problems)
    if reg_data_dir is not None:
        subsets += folder_subsets(Path(reg_data_dir), "--reg_data_dir", True, problems)
    return {"datasets": [{"subsets": subsets}]} if subsets else {}


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether a directory entry is a folder. A link that points to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def folder_subsets(folder: Path, flag: str, is_reg: bool, problems: list[Problem]) -> list[dict[str, Any]]:
    """Return the subsets of a folder as tables, sorted by name so that the order is the same on every machine."""
    if not folder.is_dir():
        none = Problem("error", f"{in_one_line(str(folder))} is not a folder", flag)
        problems.append(misplaced(folder, flag.removeprefix("--")) or none)
        return []
    subsets = []
    try:
        with os.scandir(folder) as entries:  # tells folders from files without opening them
            found = [(entry.name, is_folder(entry)) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        problems.append(Problem("error", f"{in_one_line(str(folder))} cannot be read ({error.strerror})", flag))
        return []
    for child in sorted(folder / name for name, folds in found if folds):
        number, _, name = child.name.partition("_")
        try:
            repeats = int(number)
        except ValueError:
            problems.append(Problem("note", "is skipped, because its name is not `N_name`", str(child)))
            continue
        if repeats < 1:
            what = f"is skipped, because by its name each image counts {repeats} times"
            problems.append(Problem("warning", what, str(child)))
            continue
        if number == child.name:
            what = f"is an `N_name` folder without a name: each of its images counts {repeats} times"
            fix = f"Rename it to `1_{number}` if each image should count once"
            problems.append(Problem("warning", what, str(child), fix))
        subsets.append({"image_dir": str(child), "num_repeats": repeats, "class_tokens": name, "is_reg": is_reg})
    names = [name.lower() for name, folds in found if not folds]
    if subsets and any(name.endswith(IMAGES) for name in names):
        what = "the images outside of its `N_name` folders are skipped"
        problems.append(Problem("warning", what, str(folder), "Move them into a folder such as `1_name`"))
    return subsets or [{"image_dir": str(folder), "is_reg": is_reg}]
