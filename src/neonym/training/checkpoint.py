"""The files of a run: embedding files and how many of them are kept, state files, the verdict."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import torch
from pydantic import TypeAdapter

from neonym.config.data_settings import ModelSettings
from neonym.errors import Problem, UserError
from neonym.formats import read_embedding, with_encoders, write_embedding
from neonym.formats.usage import usage_card
from neonym.io.atomic import alone_in, atomic_write, clear_leftovers, sync_names
from neonym.io.json import as_json, null_as_nan, with_escaped_surrogates
from neonym.preflight.plan import TrainingPlan
from neonym.runs.outputs import (
    END,
    SAMPLE_NOW,
    SAMPLES,
    SAVE_NOW,
    STATE,
    VERDICT,
    epoch_suffix,
    one_encoder_file,
    state_folder,
    step_suffix,
    written_alone,
)
from neonym.training.concept import Concept
from neonym.training.metadata import run_metadata, user_metadata
from neonym.training.remote_state import fetch_state
from neonym.training.state import SavedState, TrainState, read_state, save_state
from neonym.training.verdict import Verdict
from neonym.types import Embedding

PRECISIONS = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def write_usage_card(file: Path, model: ModelSettings) -> None:
    """Write instructions for using the word, as a Markdown file beside its embedding file. Raises UserError."""
    names = ("vae", "clip_l", "clip_g", "t5xxl", "qwen3", "variant", "model_version")
    flags: dict[str, str | tuple[str, ...]] = {
        name: str(getattr(model, name)) for name in names if getattr(model, name)
    }
    flags |= {"text_encoders": model.text_encoders} if model.text_encoders else {}
    flags |= {"clip_skip": str(model.clip_skip)} if model.clip_skip > 1 else {}
    flags |= {"v_parameterization": ""} if model.v_parameterization else {}
    flags = {"ckpt": model.pretrained_model_name_or_path, **flags}
    write_text_file(file.with_suffix(".md"), usage_card(read_embedding(file), file, flags))


def write_text_file(file: Path, text: str) -> None:
    """Write a text file atomically: it is complete or absent. Raises UserError if it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, lasting=True) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", str(file), "Is the disk full?") from error


class CheckpointStore:
    """The writer and finder of one run's files."""

    def __init__(self, plan: TrainingPlan):
        self.model = plan.run.model
        self.save, self.hub, self.folder = plan.run.save, plan.run.hub, plan.run_folder
        self.locks, self.claimed = ExitStack(), 0  # the inode of the folder that is locked
        self.name = plan.concept.file_name
        self.state_file, self.end_file = self.folder / STATE, self.folder / END
        self.verdict_file = self.folder / VERDICT
        self.step_folder = plan.step_folder
        self.sample_folder = Path(self.save.output_dir) / SAMPLES
        self.metadata, self.user_metadata = run_metadata(plan), user_metadata(plan.run)
        self.alone = written_alone(plan.source.family, plan.concept.with_rows)  # keys of encoders

    @contextmanager
    def open(self) -> Iterator[None]:
        """Create the folders and lock them against other processes for the duration of the block.

        A path that cannot be written is thus reported before training. Half-written files of killed runs are removed.
        Raises UserError.
        """
        with self.locks:
            self.claim()
            for folder in (self.folder.parent, self.folder, self.sample_folder):
                clear_leftovers(folder)
            if self.save.restart:
                self.remove_states()
            for request in (SAVE_NOW, SAMPLE_NOW):  # of an earlier run, which ended before it could answer
                with suppress(OSError):
                    (self.folder / request).unlink()
            yield

    def claim(self) -> None:
        """Make sure that the run folder exists and belongs to this run alone.

        Someone may have deleted the folder during training, and another run may use it by now. Raises UserError.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = self.folder.stat().st_ino
            if number == self.claimed:
                return
            alone = self.locks.enter_context(alone_in(self.folder))
        except OSError as error:
            what = f"cannot be created ({error.strerror})"
            raise UserError(what, str(self.folder), "Choose another --output_dir") from error
        if not alone:
            fix = "Wait until it has finished, or choose another --output_name or --output_dir"
            raise UserError("another process is training here", str(self.folder), fix)
        self.claimed = number

    def remove_states(self) -> None:
        """Remove the states of earlier runs, so that this one starts from the beginning. Raises UserError."""
        try:
            self.state_file.unlink(missing_ok=True)
            self.end_file.unlink(missing_ok=True)
        except OSError as error:
            what = f"the states of earlier runs in this folder cannot be removed ({error.strerror})"
            raise UserError(what, str(self.folder), "Remove the folder yourself") from error

    @contextmanager
    def rescuing(self, state: TrainState) -> Iterator[None]:
        """Save the state elsewhere if the block fails to write its files, so that nothing learned is lost.

        Raises UserError that says where the state is and how to continue.
        """
        try:
            yield
        except (UserError, OSError) as error:
            problem = error.problem if isinstance(error, UserError) else Problem("error", str(error), str(self.folder))
            what, way = self.rescue(state)
            fix = f"{problem.fix or 'Fix the cause'}; {way}"
            raise UserError(f"{problem.what.rstrip('.')}; {what}", problem.where, fix) from error

    def rescue(self, state: TrainState) -> tuple[str, str]:
        """Save the state in the run folder if possible, else in a temporary one.

        Return two parts of a message: where the state is, and how to continue from it.
        """
        step = f"what was learned until step {state.step}"
        with suppress(UserError):
            self.save_state(state)
            return f"{step} is kept in {self.state_file}", "then run the same command again"
        with suppress(UserError, OSError):
            file = Path(mkdtemp(prefix="neonym-")) / STATE
            save_state(state, file)
            return f"{step} is kept in {file}", f"then run the same command with --resume {file.parent}"
        return f"{step} cannot be saved anywhere", "then run the same command again"

    def finished_files(self) -> list[Path]:
        """Return the files of a finished run: the embedding file, then its state folder if there is one."""
        folder = self.state_folder()
        return [
            self.file(),
            *self.one_encoder_files(),
            *([folder] if self.saves_final_state and folder.is_dir() else []),
        ]

    def one_encoder_files(self, suffix: str = "", folder: Path | None = None) -> dict[Path, str]:
        """Return the files beside an embedding file that hold the vectors of one encoder alone, each with its key."""
        home = folder or Path(self.save.output_dir)
        return {home / one_encoder_file(f"{self.name}{suffix}", key): key for key in self.alone}

    @property
    def saves_final_state(self) -> bool:
        """Whether a state folder is saved at the end."""
        return self.save.save_state or self.save.save_state_on_train_end

    def state_folder(self, suffix: str = "") -> Path:
        """Return the path of a state folder, with sd-scripts' name."""
        return Path(self.save.output_dir) / state_folder(self.name, suffix)

    def file(self, suffix: str = "", folder: Path | None = None) -> Path:
        """Return the path of an embedding file, by default in `--output_dir`."""
        return (folder or Path(self.save.output_dir)) / f"{self.name}{suffix}.{self.save.save_model_as}"

    def finished_state(self, fingerprint: dict[str, str]) -> SavedState | None:
        """Return the final state of a finished run with the same name, whatever its settings; None without such a run.

        Raises UserError if the state is damaged.
        """
        return read_state(self.end_file, fingerprint) if self.end_file.exists() else None

    def verdicts(self) -> list[Verdict] | None:
        """Return the verdict of the finished run: an empty list without a file, None if the file is damaged."""
        try:
            tables = null_as_nan(json.loads(self.verdict_file.read_bytes()))
            return TypeAdapter(list[Verdict]).validate_python(tables) or None
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError):
            return None

    def latest_state(self, fingerprint: dict[str, str], ended: SavedState | None) -> SavedState | None:
        """Return the state with the most steps; None if there is none.

        There are three candidates: the state that `--resume` names, that of an interrupted run with the same name, and
        the final one of a finished run. Raises UserError if the interrupted run had other settings, or if a state is
        damaged.
        """
        found = [self.requested_state(fingerprint), self.interrupted_state(fingerprint), ended]
        return max((saved for saved in found if saved is not None), key=lambda saved: saved.step, default=None)

    def requested_state(self, fingerprint: dict[str, str]) -> SavedState | None:
        """Return the state that `--resume` names; None without the setting. Raises UserError if it does not exist."""
        if self.save.resume is None:
            return None
        on_hub = self.hub.resume_from_huggingface
        folder = fetch_state(self.save.resume, self.hub, STATE) if on_hub else Path(self.save.resume)
        file = folder / STATE
        if not file.is_file():
            raise UserError(
                f"there is no {STATE} in this folder", f"--resume {self.save.resume}", "Name a `-state` folder"
            )
        return read_state(file, fingerprint, "Name another state, or leave --resume out")

    def interrupted_state(self, fingerprint: dict[str, str]) -> SavedState | None:
        """Return the state of an interrupted run of the same name, if any. Raises UserError if its settings differ."""
        if not self.state_file.exists():
            return None
        saved = read_state(self.state_file, fingerprint)
        if saved.changed:
            what = f"there is an unfinished run with other settings: {saved.differences()}"
            fix = "Restore its settings, choose another --output_name, or pass --restart to start from the beginning"
            raise UserError(what, str(self.state_file), fix)
        return saved

    def save_state(self, state: TrainState) -> None:
        """Save the state from which the same command continues when it is run again. Raises UserError."""
        self.claim()
        save_state(state, self.state_file)

    def save_last(self, state: TrainState) -> None:
        """Save the last state of a run. Raises UserError if it was saved elsewhere or could not be saved at all."""
        with self.rescuing(state):
            self.save_state(state)

    def save_step(self, state: TrainState) -> Iterator[Path]:
        """Save the files of a step, yielding each once it is written, and remove those that are not to be kept.

        Older files are kept as `--save_last_n_steps` says.
        """
        yield from self.save_named(state, step_suffix(state.step))
        keep, states = self.save.save_last_n_steps, self.save.save_last_n_steps_state
        every = self.save.save_every_n_steps or 1
        self.remove_older(
            r"-step(\d{8})", every, keep and state.step - keep, state.step - (states or keep or state.step)
        )

    def save_step_in_run_folder(self, state: TrainState) -> Iterator[Path]:
        """Save the embedding files of a step in the run folder, yielding each once it is written.

        Beside the final file, some programs would mistake them for the word.
        """
        self.step_folder.mkdir(parents=True, exist_ok=True)
        suffix = step_suffix(state.step)
        yield from self.write(state, suffix, self.step_folder)

    def save_epoch(self, state: TrainState, epoch: int, every: int) -> Iterator[Path]:
        """Save the files of an epoch, yielding each once it is written, and remove those that are not to be kept.

        Older files are kept as `--save_last_n_epochs` says.
        """
        yield from self.save_named(state, epoch_suffix(epoch))
        keep, states = self.save.save_last_n_epochs, self.save.save_last_n_epochs_state
        self.remove_older(
            r"-(\d{6})", every, keep and epoch - every * keep + 1, epoch - every * (states or keep or epoch) + 1
        )

    def save_named(self, state: TrainState, suffix: str) -> Iterator[Path]:
        """Save an embedding file and, if requested, a state folder, yielding each once it is there."""
        self.claim()
        yield from self.write(state, suffix)
        if self.save.save_state:
            yield self.save_state_folder(state, suffix)

    def save_state_folder(self, state: TrainState, suffix: str = "") -> Path:
        """Save a state folder, and return its path. Raises UserError."""
        folder = self.state_folder(suffix)
        clear_leftovers(folder)
        save_state(state, folder / STATE)
        return folder

    def remove_older(self, pattern: str, every: int, first: int | None, first_state: int) -> None:
        """Remove this run's embedding files numbered below `first`, and state folders numbered below `first_state`.

        Only multiples of `every` are removed: others were saved by another run.
        """
        files = [
            re.escape(self.name) + pattern + re.escape(ending)
            for ending in (f".{self.save.save_model_as}", *(one_encoder_file("", key) for key in self.alone))
        ]
        states = [f"{re.escape(self.name)}{pattern}-state"]
        for path in Path(self.save.output_dir).iterdir():
            file = number_in(path.name, files)
            if file is not None and file < (first or 0) and file % every == 0:
                path.unlink(missing_ok=True)
            state = number_in(path.name, states)
            if state is not None and state < first_state and state % every == 0:
                shutil.rmtree(path, ignore_errors=True)

    def write(self, state: TrainState, suffix: str = "", folder: Path | None = None) -> Iterator[Path]:
        """Write the embedding file, then the files of one encoder alone. Yield each once it is written.

        Raises FormatError.
        """
        embedding, file = self.embedding(state.concept, state.step), self.file(suffix, folder)
        yield write_embedding(embedding, file)
        for alone, key in self.one_encoder_files(suffix, folder).items():
            yield write_embedding(with_encoders(embedding, [key], file), alone)

    def embedding(self, concept: Concept, step: int) -> Embedding:
        """Return what is saved of a concept after this number of steps."""
        counts = {len(rows) for rows in concept.rows.values()}
        metadata = {
            **self.metadata,
            "modelspec.title": self.name,
            "modelspec.trigger_phrase": concept.token,
            "neonym.vectors": str(max(counts)),
            "neonym.init_word": concept.init_word,
            "neonym.steps": str(step),
            **self.user_metadata,
        }
        metadata = {key: with_escaped_surrogates(text) for key, text in metadata.items()}
        vectors = {encoder: rows.to(PRECISIONS[self.save.save_precision]) for encoder, rows in concept.result().items()}
        return Embedding(concept.token, vectors, metadata)

    def finish(self, state: TrainState, verdict: dict, whole: bool) -> list[Path]:
        """Write the embedding file and those beside it, a state folder if one is requested, and the verdict.

        The state is written last: until then the run can be resumed. The state of a `whole` run marks the run as
        finished. Raises UserError if something cannot be written; the state is then saved elsewhere.
        """
        with self.rescuing(state):
            self.claim()
            files = list(self.write(state))
            write_usage_card(files[0], self.model)
            if self.saves_final_state:
                files.append(self.save_state_folder(state))
            write_text_file(self.verdict_file, as_json([verdict], indent=2) + "\n")
            self.save_state(state)
            if whole:
                self.state_file.replace(self.end_file)
                sync_names(self.folder)
            return files


def number_in(name: str, patterns: Iterable[str]) -> int | None:
    """Return the number in a file name that one of the `patterns` matches; None for other files."""
    return next((int(found[1]) for pattern in patterns if (found := re.fullmatch(pattern, name))), None)
