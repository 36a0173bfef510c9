"""The learning rates of a word's vectors in the text encoders of one model, as factors of the run's rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def encoder_factors(
    encoders: Sequence[str], spreads: Mapping[str, float | None], own: Mapping[str, float], rate: float
) -> dict[str, float]:
    """Return the factor of each encoder that is trained, by which the `rate` of the run is multiplied.

    A step of Adam changes a number by about the rate, whatever the number's size. So every encoder has the rate in
    proportion to the spread of its vocabulary, and the first of them has the rate itself. Factors are rounded to two
    digits: a vocabulary is the same in every precision. `own` are rates that the user gives for single encoders.
    """
    first = spreads.get(encoders[0])
    factors = {}
    for encoder in encoders:
        spread = spreads.get(encoder)
        factors[encoder] = float(f"{spread / first:.1e}") if spread and first else 1.0
        if encoder in own:
            factors[encoder] = own[encoder] / rate
    return factors


def rates_in_words(factors: Mapping[str, float], rate: float) -> str:
    """Return the learning rate of each encoder for a message."""
    return ", ".join(f"{rate * factor:.2g} for {encoder}" for encoder, factor in factors.items())
