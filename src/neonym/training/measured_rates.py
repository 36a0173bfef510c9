"""The learning rates that depend on vocabularies which no check measures: weights of a hub ID, and pickled ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from neonym.config.run import RunConfig
from neonym.config.values import Rate
from neonym.models.model import Model
from neonym.models.source import ModelSource
from neonym.optim.encoder_rates import encoder_factors, rates_in_words
from neonym.preflight.defaults import with_settings
from neonym.preflight.learning import has_one_rate, schedule_of
from neonym.preflight.plan import PlannedConcept, TrainingPlan


def with_measured_rates(plan: TrainingPlan, model: Model) -> tuple[TrainingPlan, list[str]]:
    """Return the plan with the spreads of the loaded model and the default rates that follow, and notes about them.

    A default rate is scaled only if the spread of its encoder's vocabulary was unknown: a published one stays in use.
    """
    before = plan.source
    if before.defines_spread or set(plan.concept.encoders) <= set(before.spreads):
        return plan, []
    measured = {encoder: model.text.spread(encoder) for encoder in before.encoders}
    known = {name: spread for name, spread in measured.items() if spread}
    source = replace(before, spreads={**known, **before.spreads})
    concept = with_default_rate(plan.concept, plan, source)
    settled = replace(plan, run=with_rate_of(concept, plan.run), source=source, concept=concept)
    return settled, list(rate_notes(plan.concept, concept, settled, model))


def with_default_rate(planned: PlannedConcept, plan: TrainingPlan, source: ModelSource) -> PlannedConcept:
    """Return a word with its default rate for the measured `source`, if the rate is a default that was open until now."""
    first, optim = planned.encoders[0], plan.run.optim
    if not planned.has_default_rate or plan.source.knows_spread(first) or has_one_rate(source, optim):
        return planned
    rate = float(source.defaults_for(first).learning_rate.value)
    schedule = schedule_of(Rate.constant(rate), optim, plan.milestones.total, source)
    return replace(planned, learning_rate=rate, schedule=schedule)


def with_rate_of(planned: PlannedConcept, run: RunConfig) -> RunConfig:
    """Return the run with the default rate of its word, if it has that rate."""
    rate = Rate.constant(planned.learning_rate)
    return with_settings(run, {"learning_rate": rate}) if planned.has_default_rate else run


def rate_factors(model: Model, plan: TrainingPlan, planned: PlannedConcept) -> dict[str, float]:
    """Return the factor of the learning rate of each encoder that is trained."""
    spreads: dict[str, float | None] = {}
    if not has_one_rate(plan.source, plan.run.optim):
        spreads = {
            encoder: plan.source.spreads.get(encoder) or model.text.spread(encoder) for encoder in planned.encoders
        }
    return encoder_factors(planned.encoders, spreads, planned.own_rates, planned.learning_rate)


def rate_notes(old: PlannedConcept, new: PlannedConcept, plan: TrainingPlan, model: Model) -> Iterator[str]:
    """Yield a note with the learning rates of a word's encoders and the spreads that decided them, if any did."""
    factors = rate_factors(model, plan, new)
    if set(factors.values()) != {1.0} or new.learning_rate != old.learning_rate:
        spreads = ", ".join(f"{plan.source.spread_of(encoder):.2g}" for encoder in factors)
        yield (
            f"note: --learning_rate: {rates_in_words(factors, new.learning_rate)} (the spreads of their vocabularies, "
            f"measured when the weights were read, are {spreads})"
        )
