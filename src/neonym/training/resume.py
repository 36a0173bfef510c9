"""Find where a run starts: at its first step, at a saved state, or not at all because it is finished."""

from __future__ import annotations

from dataclasses import dataclass, field

from neonym.data.plan import fingerprint
from neonym.optim.rates import MIN_WARMUP
from neonym.preflight.plan import TrainingPlan
from neonym.training.checkpoint import CheckpointStore
from neonym.training.metadata import deciding_settings
from neonym.training.state import SavedState

LENGTH = {"max_train_steps", "max_train_epochs"}


@dataclass
class StartingPoint:
    """The point at which a run starts: the `saved` state, or the first step.

    `finished` is the report on a run that has nothing left to do, else empty.
    """

    fingerprint: dict[str, str]
    saved: SavedState | None = None
    finished: str = ""
    notes: list[str] = field(default_factory=list)


def find_starting_point(plan: TrainingPlan, store: CheckpointStore) -> StartingPoint:
    """Return where a run starts.

    A finished run is not repeated: with more steps it is continued, with other settings it is replaced. Raises
    UserError for an interrupted run with other settings, and for a damaged state.
    """
    found = StartingPoint(run_identity(plan))
    ended, resume = store.finished_state(found.fingerprint), plan.run.save.resume
    if ended is not None:
        same = not ended.changed or (set(ended.changed) <= LENGTH and plan.milestones.total > ended.step)
        if not same or ended.facts.origin != (resume or ""):
            what = ended.differences() or "it started from another state"
            found.notes.append(f"note: the finished run in {store.folder} had other settings and is replaced: {what}")
            ended = None
    if ended is not None and not ended.changed and store.file().exists():
        found.saved, found.finished = ended, report_on_finished(ended, store, plan.milestones.total)
        return found
    saved = found.saved = store.latest_state(found.fingerprint, ended)
    if saved is not None:
        kind = "finished" if saved is ended else "interrupted"
        found.notes.append(f"continuing from step {saved.step} of {resume or f'the {kind} run in {store.folder}'}")
        if saved.changed:
            found.notes.append(f"note: the settings differ from those of the saved run: {saved.differences()}")
    return found


def report_on_finished(ended: SavedState, store: CheckpointStore, total: int) -> str:
    """Return the report on a finished run: its file, its verdict, and how to continue or repeat it."""
    verdicts = store.verdicts()
    words = "".join(f" `{verdict.token}`: {verdict.word}." for verdict in verdicts or ())
    if verdicts is None:
        words = f" Its verdict is unknown: {store.verdict_file} is damaged."
    more = f"To continue from step {ended.step}, raise --max_train_steps. " if ended.step >= total else ""
    begin = "To start from the beginning, pass --restart; to write another file, choose another --output_dir"
    return f"this run is finished already, so nothing was done: {store.file()}.{words} {more}{begin}."


def run_identity(plan: TrainingPlan) -> dict[str, str]:
    """Return everything that decides the result of a run: two runs with the same identity are the same run."""
    concept = plan.concept
    concepts = [c.model_dump(exclude={"weights"}) for c in plan.data.concepts]
    start = {encoder: rows.tolist() for encoder, rows in (concept.start or {}).items()}
    starts = {} if concept.start is None else {concept.token: start}
    records = [*concept.records, *concept.held_out]
    images = fingerprint(records, len(concept.records), plan.step_sizes, concepts, starts)
    return {
        **deciding_settings(plan.run),
        **warmup_set_by_defaults(plan),
        "model_hash": plan.source.text_hash(),
        "pictures_and_captions": images,
    }


def warmup_set_by_defaults(plan: TrainingPlan) -> dict[str, str]:
    """Return the warm-up that the model's defaults set, unless it is the shortest one.

    The settings themselves do not show it.
    """
    default = plan.model_warmup
    return {} if default is None or default == MIN_WARMUP else {"default_warmup": default}
