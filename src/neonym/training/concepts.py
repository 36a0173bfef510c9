"""Making the concept of a word: its rows beside the frozen tables, and their optimizer."""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from neonym.config.learning_settings import OptimSettings
from neonym.config.optimizers import OptimizerRecord
from neonym.models.encoders.rows import Rows
from neonym.models.model import Model
from neonym.optim.optimizers import make_optimizer, record_of
from neonym.preflight.plan import TrainingPlan
from neonym.training.after_step import AfterStep, MovingAverage
from neonym.training.concept import Concept, initial_rows
from neonym.training.measured_rates import rate_factors


def add_concept(model: Model, plan: TrainingPlan, scaler: GradScaler | None = None) -> Concept:
    """Add the word of a plan to the model's lexicon, and return its concept. Nothing else is trainable.

    Its gradients are scaled by a copy of the `scaler`.
    """
    optim, planned = plan.run.optim, plan.concept
    record = record_of(optim.optimizer_type)
    initial = initial_rows(model, planned.init_word, planned.vectors)
    start = {name: (planned.start or initial).get(name, initial[name]) for name in planned.with_rows}
    start = {name: values.to(model.device) for name, values in start.items()}
    rows = {name: Rows(values.clone(), requires_grad=name in planned.encoders) for name, values in start.items()}
    model.text.add_word(planned.token, dict(rows), model.text.lexicon.ids_of(planned.init_word))
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
        scaler=deepcopy(scaler),
        after_step=after_steps(optim, record, start),
    )


def after_steps(optim: OptimSettings, record: OptimizerRecord, start: dict[str, Tensor]) -> list[AfterStep]:
    """Return the hooks that run after each step: a moving average, unless the optimizer keeps one of its own."""
    if optim.ema_decay is None or record.averages:
        return []
    return [MovingAverage(optim.ema_decay, start)]
