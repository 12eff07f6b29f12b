"""Temperature scaling: one temperature for all logits, so that probabilities match the observed accuracy.

Guo et al. 2017, "On calibration of modern neural networks", arXiv 1706.04599. The classes of a tile do not change.
Where overlapping tiles are blended, some classes may change.
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
ROWS = 2**16  # pixels per batch, in double precision
NEAR_BOUND = 1.01


@dataclass(frozen=True)
class Calibration:
    """A temperature, and the calibration with and without it on the pixels it was fitted to."""

    temperature: float
    pixels: int
    nll_before: float
    """Mean negative log likelihood of the labels, in nats, with a temperature of 1."""
    nll_after: float
    ece_before: float
    """Expected calibration error, from 0 to 1, with a temperature of 1: the difference between the probability of the
    mapped class and the share of correct pixels, in 15 bins of the probability."""
    ece_after: float

    def to_dict(self) -> dict[str, float]:
        """Return the numbers as a plain dict, ready for JSON."""
        return asdict(self)


def fit_temperature(logits: Float32, labels: UInt8) -> Calibration | None:
    """Find the temperature with the lowest negative log likelihood of the labels.

    Parameters
    ----------
    logits : float32 array, shape (n, K)
        Logits of labelled held-out pixels.
    labels : uint8 array, shape (n,)
        Class indexes from 1 to K - 1.

    Returns
    -------
    Calibration or None
        The temperature is 1 if no other value is better, or if the optimum is at a bound, for example because all
        pixels are correct. None for fewer than 1000 pixels.
    """
    if len(labels) < FEWEST_PIXELS:
        return None
    before = measure_calibration(logits, labels, 1.0)
    low, high = map(math.log, TEMPERATURES)
    # The mean is convex in 1 / T, so it has a single minimum in log T too.
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
    """Return the mean negative log likelihood and the expected calibration error for a temperature.

    Parameters
    ----------
    logits : float32 array, shape (n, K)
        Logits of labelled pixels, or log probabilities: a constant per pixel has no effect.
    labels : uint8 array, shape (n,)
        Class indexes from 1 to K - 1.
    temperature : float
        Divisor of the logits.
    """
    nll = 0.0
    bins = torch.zeros(BINS, dtype=torch.float64)  # sum of confidence minus correctness, per bin
    for start in range(0, len(labels), ROWS):
        part, expected = (torch.from_numpy(array[start : start + ROWS]) for array in (logits, labels))
        logs, expected = torch.log_softmax(part.double() / temperature, dim=1), expected.long()
        nll -= float(logs.gather(1, expected[:, None]).sum())
        best, index = logs[:, 1:].max(dim=1)  # no pixel is mapped as class 0, "no data"
        confidence = best.exp()
        number = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        bins += torch.bincount(number, confidence - (index + 1 == expected).double(), minlength=BINS)
    return nll / len(labels), float(bins.abs().sum()) / len(labels)
