"""How sure a network may be: one temperature for all logits, so that probabilities are as often right as they say.

Guo et al. 2017, "On calibration of modern neural networks", arXiv 1706.04599. No
tile's classes change by it; where tiles overlap and are blended, some may.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from scipy.optimize import minimize_scalar

from refnet_cli.model.card import TEMPERATURES
from refnet_cli.types import Float32, UInt8

FEWEST_PIXELS = 1000
BINS = 15
ROWS = 2**16  # pixels at once, in double precision
NEAR_BOUND = 1.01


@dataclass(frozen=True)
class Calibration:
    """A temperature and what it is worth on the pixels that it was fitted to."""

    temperature: float
    pixels: int
    nll_before: float
    """Mean negative log likelihood of the labels, in nats, with a temperature of 1."""
    nll_after: float
    ece_before: float
    """Expected calibration error, from 0 to 1, with a temperature of 1: how far the probability of the class that is
    mapped is from the share that is right, in 15 bins of this probability."""
    ece_after: float

    def to_dict(self) -> dict[str, float]:
        """Return the numbers as a plain dict that JSON can hold."""
        return asdict(self)


def fit_temperature(logits: Float32, labels: UInt8) -> Calibration | None:
    """Find the temperature that makes labels the most likely.

    Parameters
    ----------
    logits : float32 array, shape (n, K)
        Of labelled pixels that the network never learned from.
    labels : uint8 array, shape (n,)
        Network indexes from 1 to K - 1.

    Returns
    -------
    Calibration or None
        With a temperature of 1 where no other one makes the labels more likely, or where they are the more likely the
        nearer it is to a bound, as they are if all of them are right. None for fewer than 1000 pixels.
    """
    if len(labels) < FEWEST_PIXELS:
        return None
    before = measure_calibration(logits, labels, 1.0)
    low, high = map(math.log, TEMPERATURES)
    # Convex in 1 / T, the mean has one minimum in log T too.
    found = minimize_scalar(
        lambda log: measure_calibration(logits, labels, math.exp(log))[0], bounds=(low, high), method="bounded",
        options={"xatol": 1e-6},
    )  # fmt: skip
    temperature = float(f"{math.exp(found.x):.5g}")
    after = measure_calibration(logits, labels, temperature)
    inside = TEMPERATURES[0] * NEAR_BOUND < temperature < TEMPERATURES[1] / NEAR_BOUND
    if not inside or after[0] >= before[0]:
        temperature, after = 1.0, before
    return Calibration(temperature, len(labels), before[0], after[0], before[1], after[1])


def measure_calibration(logits: Float32, labels: UInt8, temperature: float) -> tuple[float, float]:
    """Return the mean negative log likelihood and the expected calibration error with a temperature.

    Parameters
    ----------
    logits : float32 array, shape (n, K)
        Of labelled pixels; a constant may be added to all of a pixel's, so logarithms of probabilities will do.
    labels : uint8 array, shape (n,)
        Network indexes from 1 to K - 1.
    temperature : float
        The logits are divided by it.
    """
    surprise = 0.0
    bins = torch.zeros(BINS, dtype=torch.float64)  # of each, by how much more is promised than is right
    for start in range(0, len(labels), ROWS):
        part, expected = (torch.from_numpy(array[start : start + ROWS]) for array in (logits, labels))
        logs, expected = torch.log_softmax(part.double() / temperature, dim=1), expected.long()
        surprise -= float(logs.gather(1, expected[:, None]).sum())
        best, place = logs[:, 1:].max(dim=1)  # no pixel is mapped as class 0, "no data"
        confidence = best.exp()
        number = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        bins += torch.bincount(number, confidence - (place + 1 == expected).double(), minlength=BINS)
    return surprise / len(labels), float(bins.abs().sum()) / len(labels)
