"""Crops to learn from, turned, mirrored and changed at random as other sensors and days would show the same ground."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.torch_engine import leave_out


class Crop(NamedTuple):
    """Inputs in physical units, (Bo, H, W) and (Bs, H, W), NaN where there is no data, and labels (H, W)."""

    optical: NDArray[np.float32]
    sar: NDArray[np.float32]
    labels: NDArray[np.uint8]
    weights: NDArray[np.float32] | None = None
    """What each label counts in the loss, (H, W); None where all count 1."""


def augment(crop: Crop, random: np.random.Generator, jitter: float = 0.0, modality_dropout: float = 0.0) -> Crop:
    """Turn and mirror a crop at random, and change what the sensors saw.

    Parameters
    ----------
    crop : Crop
    random : numpy.random.Generator
    jitter : float
        Standard deviation of factors on reflectance, and a tenth of that of decibels added to SAR; each is drawn once
        for all bands of a sensor and, half as large, for each of them.
    modality_dropout : float
        How likely one of the sensors, either as often, is blanked.

    Returns
    -------
    Crop
        In one of the 8 symmetries, laid out anew.
    """
    turns, mirror = int(random.integers(4)), bool(random.integers(2))
    optical, sar, labels = (_turn(array, turns, mirror) for array in crop[:3])
    weights = None if crop.weights is None else _turn(crop.weights, turns, mirror)
    if jitter:
        for bands, apply in ((optical, np.multiply), (sar, np.add)):
            common, each = random.normal(0, jitter), random.normal(0, jitter / 2, (len(bands), 1, 1))
            change = np.exp(common + each) if apply is np.multiply else 10 * (common + each)
            apply(bands, change.astype(np.float32), out=bands)
    if modality_dropout and random.random() < modality_dropout:
        optical, sar = leave_out(optical, sar, "optical" if random.random() < 0.5 else "sar")
    return Crop(optical, sar, labels, weights)


def _turn(array: NDArray[Any], turns: int, mirror: bool) -> NDArray[Any]:
    array = np.rot90(array, turns, axes=(-2, -1))
    # Laid out anew: views that run backwards slow torch down.
    return np.array(array[..., ::-1] if mirror else array, order="C")
