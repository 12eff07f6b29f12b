"""Compare a map's share of low-confidence pixels with that of held-out scenes, and warn if it is much larger."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refnet_cli.errors import WeightsError
from refnet_cli.model.card import Card
from refnet_cli.outputs.rows import LOW

LOW_CONFIDENCE = "low_confidence"
"""Key in a card's ``scores["calibration"]``, see `describe_shares`."""
LARGEST_SHARE = 0.5
"""Upper bound of the limit, and the limit if the card has no entry."""
LEAST_LIMIT = 0.1
FACTOR = 1.5  # ratio of the limit to the 95th percentile of the held-out scenes
ADVICE = (
    "Look at the confidence (-o confidence). If you have labels, score the map (refnet evaluate) or train on them "
    "(refnet train --init WEIGHTS)."
)
"""Last sentences of warnings that a map may be wrong."""


def describe_shares(shares: Sequence[float]) -> dict[str, float]:
    """Return median and 95th percentile of the held-out scenes' shares of low-confidence pixels, for the card."""
    median, high = (float(f"{value:.6g}") for value in np.quantile(shares, (0.5, 0.95)))
    return {"probability": LOW, "median": median, "p95": high, "scenes": len(shares)}


def limit_of(card: Card) -> float:
    """Return the share of low-confidence pixels above which a map gets a warning.

    It is 1.5 times the 95th percentile of the held-out scenes, at least 0.1 and at most 0.5. Without an entry in the
    card it is 0.5.

    Raises
    ------
    WeightsError
        If the card's entry is invalid.
    """
    calibration = card.scores.get("calibration") or {}
    known = calibration.get(LOW_CONFIDENCE) if isinstance(calibration, dict) else None
    if known is None:
        return LARGEST_SHARE
    high = known.get("p95") if isinstance(known, dict) else None
    if not isinstance(high, int | float) or not 0 <= high <= 1:
        raise WeightsError(
            f"The card's entry scores.calibration.{LOW_CONFIDENCE} is {known!r}; its p95 must be from 0 to 1."
        )
    return min(max(FACTOR * high, LEAST_LIMIT), LARGEST_SHARE)


def warn_of_low_confidence(share: float, limit: float, weights: str) -> list[str]:
    """Warn if the share of low-confidence pixels exceeds the limit; return no line otherwise."""
    if share <= limit:
        return []
    return [
        f"in {share:.0%} of the mapped pixels no class reaches a probability of {LOW:g} (limit {limit:.0%}). The "
        f"weights {weights} may not know this land cover or season. {ADVICE}"
    ]
