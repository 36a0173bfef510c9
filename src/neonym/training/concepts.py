"""Adding the words of a run to the model: their rows beside the frozen tables, and their optimizers."""

from __future__ import annotations

from torch import Tensor

from neonym.config.learning_settings import OptimSettings
from neonym.config.optimizers import OptimizerRecord
from neonym.models.encoders.rows import Rows
from neonym.models.model import Model
from neonym.optim.optimizers import make_optimizer, record_of
from neonym.preflight.plan import PlannedConcept, TrainingPlan
from neonym.training.after_step import AfterStep, MovingAverage
from neonym.training.concept import Concept, initial_rows
from neonym.training.measured_rates import rate_factors


def add_concepts(model: Model, plan: TrainingPlan) -> list[Concept]:
    """Add every word of the plan to the model, each with its own optimizer. Nothing else is trainable."""
    return [add_concept(model, plan, concept) for concept in plan.concepts]


def add_concept(model: Model, plan: TrainingPlan, planned: PlannedConcept) -> Concept:
    """Add one word to the model, and return its concept."""
    optim, record = plan.run.optim, record_of(plan.run.optim.optimizer_type)
    initial = initial_rows(model, planned.init_word, planned.vectors)
    start = {name: (planned.start or initial).get(name, initial[name]) for name in planned.with_rows}
    start = {name: values.to(model.device) for name, values in start.items()}
    rows = {name: Rows(values.clone(), requires_grad=name in planned.encoders) for name, values in start.items()}
    model.text.add_word(planned.token, dict(rows), model.text.ids_of(planned.init_word))
    factors = rate_factors(model, plan, planned)
    trainable = [rows[encoder] for encoder in factors]
    return Concept(
        token=planned.token,
        init_word=planned.init_word,
        seed=planned.seed,
        rows=rows,
        start=start,
        optimizer=make_optimizer(
            trainable, optim.optimizer_type, planned.learning_rate, optim.optimizer_arguments, list(factors.values())
        ),
        record=record,
        learning_rate=planned.schedule,
        max_grad_norm=optim.max_grad_norm,
        after_step=after_steps(optim, record, start),
    )


def after_steps(optim: OptimSettings, record: OptimizerRecord, start: dict[str, Tensor]) -> list[AfterStep]:
    """Return the hooks that run after each step: a moving average, unless the optimizer keeps one of its own."""
    if optim.ema_decay is None or record.averages:
        return []
    return [MovingAverage(optim.ema_decay, start)]
