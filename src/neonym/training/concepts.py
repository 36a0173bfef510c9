"""The words of a run as things that learn: first rows, optimizer, learning rate."""

from __future__ import annotations

from neonym.config.dataset import DEFAULT_INIT_WORD
from neonym.models.encoders.rows import Rows
from neonym.models.model import Model
from neonym.optim.optimizers import averages, make_optimizer, sets_own_rate
from neonym.optim.rates import arguments, base_rate, rate_of
from neonym.preflight.prepare import Prepared
from neonym.seeds import concept_seed
from neonym.training.concept import Concept, first_rows


def add_concepts(model: Model, ready: Prepared) -> list[Concept]:
    """Put the new words beside the frozen table, each with its own optimizer: the only trainable numbers."""
    assert ready.config is not None
    assert ready.rhythm is not None
    optim, concepts, warmup = ready.run.optim, [], model.source.defaults.lr_warmup_steps.value
    for spec in ready.config.concepts:
        init_word = spec.init_word or DEFAULT_INIT_WORD
        start = ready.weights.get(spec.token_string)
        if start is None:
            start = first_rows(model, init_word, spec.vectors)
        start = {name: values.to(model.device) for name, values in start.items()}
        learns = ready.run.concept.train_encoders or tuple(start)
        rows = {name: Rows(values.clone(), requires_grad=name in learns) for name, values in start.items()}
        model.text.add_word(spec.token_string, dict(rows))
        optimizer = make_optimizer(
            [r for r in rows.values() if r.requires_grad],
            optim.optimizer_type,
            base_rate(optim, spec),
            arguments(optim),
        )
        own_rate = sets_own_rate(optim.optimizer_type, arguments(optim))
        concepts.append(
            Concept(
                token=spec.token_string,
                init_word=init_word,
                seed=concept_seed(optim.seed, spec.token_string),
                rows=rows,
                start=start,
                optimizer=optimizer,
                learning_rate=None if own_rate else rate_of(optim, spec, ready.rhythm.total, warmup),
                max_grad_norm=optim.max_grad_norm,
                ema_decay=None if averages(optim.optimizer_type) else optim.ema_decay,
            )
        )
    return concepts
