"""Checks the optimizer, the learning rate and the schedule: do they work, and can a word be learned with them?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from neonym.config.dataset import ConceptSpec
from neonym.config.learning_settings import OptimSettings
from neonym.config.optimizers import optimizer_name
from neonym.config.values import Rate
from neonym.errors import ConfigError, Problem, counted
from neonym.models.source import ModelSource
from neonym.optim.encoder_rates import encoder_factors, rates_in_words
from neonym.optim.optimizers import longest_step, make_optimizer, record_of
from neonym.optim.rates import TOO_SHORT, make_schedule, suitable_rate
from neonym.optim.schedules import Schedule, reach
from neonym.preflight.milestones import Milestones

PROBE_RATE = Rate.constant(5e-3)  # for an optimizer that is made only to find out whether it can be
PROBE_STEPS = 100  # for a schedule that is made before the length of the run is known


def optimizer_errors(optim: OptimSettings) -> list[Problem]:
    """Return why the optimizer or the schedule cannot be made or used. Both are tried, so that neither fails later."""
    rate = optim.learning_rate or PROBE_RATE
    try:
        make_schedule(optim, rate, optim.max_train_steps or PROBE_STEPS)
        if optimizer_name(optim.optimizer_type) == "AdamW" and not optim.optimizer_arguments:
            return []  # nothing can go wrong, and torch takes seconds to import
        from torch import ones, zeros
        from torch.nn import Parameter

        probe = Parameter(zeros(1, 4))
        probe.grad = ones(1, 4)  # not zeros: DAdaptSGD divides by the norm of the first one
        optimizer = make_optimizer([probe], optim.optimizer_type, rate.first, optim.optimizer_arguments)
    except ConfigError as error:
        return error.problems
    try:
        optimizer.step()
    except Exception as error:  # a class may raise any exception: LBFGS needs a closure, SparseAdam sparse gradients
        what = f"{optim.optimizer_type} fails at an ordinary step ({error})"
        fix = "Choose another optimizer, or other --optimizer_args"
        return [Problem("error", what, "--optimizer_type", fix)]
    return []


def rate_of(spec: ConceptSpec, optim: OptimSettings) -> Rate:
    """Return the learning rate of a word: its own if it has one, or else that of the run."""
    own = spec.learning_rate
    return optim.learning_rate or PROBE_RATE if own is None else Rate.constant(own)


def own_rates_of(optim: OptimSettings, source: ModelSource) -> dict[str, float]:
    """Return the learning rates that the user gives for single encoders, {encoder: rate}."""
    given = optim.encoder_learning_rates.values
    return {encoder: rate for name, rate in given.items() if (encoder := source.family.encoder_named(name))}


def factors_of(source: ModelSource, optim: OptimSettings, encoders: Sequence[str], rate: Rate) -> dict[str, float]:
    """Return the factor of each trained encoder's learning rate, as far as it is known before weights are read."""
    spreads = {} if has_one_rate(source, optim) else source.spreads
    return encoder_factors(encoders, spreads, own_rates_of(optim, source), rate.first)


def has_one_rate(source: ModelSource, optim: OptimSettings) -> bool:
    """Return whether all encoders have one learning rate: that of the family is, or the optimizer finds only one."""
    record = record_of(optim.optimizer_type)
    return source.family.one_rate or record.finds_rate or record.is_relative(optim.optimizer_arguments)


def encoder_rate_notes(source: ModelSource, factors: Mapping[str, float], rate: Rate) -> Iterator[Problem]:
    """Yield a note with the rate of each encoder, if they differ."""
    if set(factors.values()) != {1.0} and all(map(source.knows_spread, factors)):
        spreads = ", ".join(f"{source.spread_of(encoder):.2g}" for encoder in factors)
        what = f"{rates_in_words(factors, rate.first)} (the spreads of their vocabularies are {spreads})"
        yield Problem("note", what, "--learning_rate")


def schedule_of(rate: Rate, optim: OptimSettings, total: int, source: ModelSource) -> Schedule | None:
    """Return the learning rate at each of `total` steps; None if the optimizer has a schedule of its own.

    Raises ConfigError if the schedule does not accept its settings.
    """
    if record_of(optim.optimizer_type).has_own_schedule(optim.optimizer_arguments):
        return None
    return make_schedule(optim, rate, total, source.defaults.lr_warmup_steps.value)


def optimizer_warnings(optim: OptimSettings, total: int) -> Iterator[Problem]:
    """Yield a warning for each setting that the optimizer ignores, and for a schedule longer than the training."""
    name, record = optimizer_name(optim.optimizer_type), record_of(optim.optimizer_type)
    if record.has_own_schedule(optim.optimizer_arguments):
        yield from unused_schedule(optim, name)
    else:
        yield from schedule_too_long(optim, total)
    if optim.ema_decay is not None and record.averages:
        what = f"has no effect, because {name} already saves an average"
        yield Problem("warning", what, "--ema_decay", "Leave it out, or choose another optimizer")


def unused_schedule(optim: OptimSettings, name: str) -> Iterator[Problem]:
    """Yield a warning for each setting that an optimizer with a schedule of its own ignores."""
    same = optim.schedule in ("constant", "adafactor") and not optim.lr_scheduler_type
    if {"lr_scheduler", "lr_scheduler_type"} & optim.model_fields_set and not same:
        what = f"{name} has a schedule of its own, so --lr_scheduler is not used"
        yield Problem("warning", what, "--optimizer_type")
    is_staged = optim.learning_rate is not None and optim.learning_rate.is_staged
    if is_staged or (optim.lr_warmup_steps is not None and optim.lr_warmup_steps.number > 0):
        what = f"{name} has a schedule of its own, so stages and warm-up are not used"
        yield Problem("warning", what, "--learning_rate, --lr_warmup_steps")


def schedule_too_long(optim: OptimSettings, total: int) -> Iterator[Problem]:
    """Yield a warning if the warm-up and the decay together are longer than the training."""
    falls = optim.lr_decay_steps if optim.schedule == "warmup_stable_decay" else None
    rising, falling = (steps.of(total) if steps else 0 for steps in (optim.lr_warmup_steps, falls))
    if rising + falling > total or rising == total:
        what = f"the learning rate rises for {rising} steps and falls for {falling}, but the training has only {total}"
        yield Problem("warning", what, "--lr_warmup_steps, --lr_decay_steps", "Shorten them, or train for more steps")


def rate_warnings(
    rate: Rate, schedule: Schedule | None, optim: OptimSettings, milestones: Milestones, source: ModelSource,
    factors: Mapping[str, float],
) -> Iterator[Problem]:  # fmt: skip
    """Yield a warning if the learning rate is too low for a word to be learned in the steps of the run.

    `factors` are those of the trained encoders; the warning is about the slowest of them.
    """
    name, record = optimizer_name(optim.optimizer_type), record_of(optim.optimizer_type)
    if record.finds_rate and rate.first <= 0.1:
        what = f"{name} finds the learning rate itself and multiplies it by this factor; {rate.first:g} stalls it"
        yield Problem("warning", what, "--learning_rate", "Use --learning_rate=1")
    longest = longest_step(record, optim.optimizer_arguments, optim.max_grad_norm, min(source.widths.values()))
    if longest == math.inf:
        return
    farthest = longest * reach(schedule or (lambda _: rate.first), milestones.first, milestones.total)
    slowest = min(factors, key=lambda encoder: factors[encoder] / source.spread_of(encoder))
    farthest, spread = farthest * factors[slowest], source.spread_of(slowest)
    if farthest < TOO_SHORT * spread:
        own = rate.first * factors[slowest]
        yield too_short(
            farthest, spread, own, milestones, source, is_as_long_as_gradients=record.longest_step != "rate"
        )


def too_short(
    farthest: float, spread: float, rate: float, milestones: Milestones, source: ModelSource,
    is_as_long_as_gradients: bool,
) -> Problem:  # fmt: skip
    """Return the warning about a run that can move a number of a word by no more than `farthest`."""
    share = 100 * farthest / spread
    steps = counted(milestones.total - milestones.first, "step")
    what = (
        f"{steps} at learning rate {rate:g} can move a number of the word by no more than {farthest:.2g}, which is "
        f"{share:.0f} % of the spread of this model's words ({spread:.2g}): "
        f"the word can hardly be learned"
    )
    if is_as_long_as_gradients:
        fix = "The steps of this optimizer are as long as gradients, which are small: use a much larger rate, or AdamW"
        return Problem("warning", what, "--optimizer_type, --learning_rate", fix)
    suitable, enough = suitable_rate(source), source.defaults.max_train_steps.value
    if rate >= suitable:
        return Problem("warning", what, "--max_train_steps", f"The default for this model is {enough} steps")
    return Problem(
        "warning", what, "--learning_rate", f"For this model, use values around {suitable:g} for {enough} steps"
    )
