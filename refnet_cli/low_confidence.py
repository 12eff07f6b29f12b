"""How many pixels of a map have no likely class, next to how many that is on ground that was held out of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refnet_cli.card import Card
from refnet_cli.errors import WeightsError
from refnet_cli.outputs import LOW

ENTRY = "low_confidence"
"""Entry of a card's ``scores["calibration"]``, see `describe_shares`."""
LARGEST_SHARE = 0.5
"""Share that a map may have where the card says nothing, or much."""
LEAST_LIMIT = 0.1
FACTOR = 1.5  # by which a map may exceed what nineteen of twenty held-out scenes stayed below
WHAT_TO_DO = (
    "Look at the confidence (-o confidence). If you have labels, score the map (refnet evaluate) or train on them "
    "(refnet train --init WEIGHTS)."
)
"""Last sentences of warnings that a map may be wrong."""


def describe_shares(shares: Sequence[float]) -> dict[str, float]:
    """Return what a card keeps of the shares of low-confidence pixels in held-out scenes, at least one."""
    median, high = (float(f"{value:.6g}") for value in np.quantile(shares, (0.5, 0.95)))
    return {"probability": LOW, "median": median, "p95": high, "scenes": len(shares)}


def limit_of(card: Card) -> float:
    """Return the share of low-confidence pixels above which a map is suspicious.

    One and a half times the share that nineteen of twenty held-out scenes stay below, but at least 0.1 and at most 0.5;
    0.5 where the card does not say.

    Raises
    ------
    WeightsError
        If the card's entry cannot be understood.
    """
    calibration = card.scores.get("calibration") or {}
    known = calibration.get(ENTRY) if isinstance(calibration, dict) else None
    if known is None:
        return LARGEST_SHARE
    high = known.get("p95") if isinstance(known, dict) else None
    if not isinstance(high, int | float) or not 0 <= high <= 1:
        raise WeightsError(f"The card's entry scores.calibration.{ENTRY} is {known!r}; its p95 must be from 0 to 1.")
    return min(max(FACTOR * high, LEAST_LIMIT), LARGEST_SHARE)


def warn_of_low_confidence(share: float, limit: float, weights: str) -> list[str]:
    """Say that too many pixels of a map made with weights of a name have no likely class, and what to do."""
    if share <= limit:
        return []
    return [
        f"in {share:.0%} of the mapped pixels no class has a probability of {LOW:g} (limit {limit:.0%}): the weights "
        f"{weights} may not know this kind of ground or season. {WHAT_TO_DO}"
    ]
