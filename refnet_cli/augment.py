"""Crops to learn from, turned, mirrored and changed at random as other sensors and days would show the same ground."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.atmosphere import add_haze, most_haze
from refnet_cli.backscatter import moved, slope, speckle
from refnet_cli.regions import TrainConfig
from refnet_cli.shapes import next_to_the_seam, random_shape
from refnet_cli.torch_engine import leave_out

LOOKS_SPREAD = 20.0
"""How often the least looks of speckle the most are."""
WITHOUT_SPECKLE = 1 / 3
"""Share of the crops that get no extra speckle."""


class Crop(NamedTuple):
    """Inputs in physical units, (Bo, H, W) and (Bs, H, W), NaN where there is no data, and labels (H, W)."""

    optical: NDArray[np.float32]
    sar: NDArray[np.float32]
    labels: NDArray[np.uint8]
    weights: NDArray[np.float32] | None = None
    """What each label counts in the loss, (H, W); None where all count 1."""


Effect = Callable[[Crop, np.random.Generator, TrainConfig], Crop]


def augment(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Turn and mirror a crop at random, and change what the sensors saw by the effects that the config asks for.

    Parameters
    ----------
    crop : Crop
        NaN stays NaN, so that a sensor that is absent stays absent.
    random : numpy.random.Generator
        An effect that is off draws nothing from it.
    config : TrainConfig

    Returns
    -------
    Crop
        In one of the 8 symmetries, in memory of its own.
    """
    turns, mirror = int(random.integers(4)), bool(random.integers(2))
    changed = _combine(lambda array: _turn(array, turns, mirror), crop)
    for name, effect in EFFECTS.items():
        if getattr(config, name):
            changed = effect(changed, random, config)
    return changed


def _combine(change: Callable[..., Any], *crops: Crop) -> Crop:
    """Make a crop of what a function makes of each array of some crops; there are weights where these have some."""
    made: list[Any] = [None if arrays[0] is None else change(*arrays) for arrays in zip(*crops, strict=True)]
    return Crop(*made)


def _turn(array: NDArray[Any], turns: int, mirror: bool) -> NDArray[Any]:
    array = np.rot90(array, turns, axes=(-2, -1))
    # A copy: views that run backwards slow torch down.
    return np.array(array[..., ::-1] if mirror else array, order="C")


def _jitter(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Scale reflectance and add decibels; once for all bands of a sensor and, half as much, for each of them."""

    def draw(bands: int) -> NDArray[np.float64]:
        return random.normal(0, config.jitter) + random.normal(0, config.jitter / 2, (bands, 1, 1))

    factors = np.exp(draw(len(crop.optical))).astype(np.float32)
    decibels = (10 * draw(len(crop.sar))).astype(np.float32)
    return crop._replace(optical=crop.optical * factors, sar=crop.sar + decibels)


def _haze(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Add haze or remove it, but no more than there can be."""
    removable = min(config.haze, most_haze(crop.optical, config.optical_bands))
    path = random.uniform(-removable, config.haze)
    return crop._replace(optical=add_haze(crop.optical, config.optical_bands, path))


def _shift(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Move SAR against optical and labels, in half of the crops by whole pixels, which leaves speckle unchanged."""
    down, right = random.uniform(-config.shift, config.shift, 2).tolist()
    if random.random() < 0.5:
        down, right = round(down), round(right)
    return crop._replace(sar=moved(crop.sar, down, right))


def _sar_slope(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Tilt the calibration of SAR, all bands alike."""
    height, width = crop.labels.shape
    tilt = slope(height, width, random.normal(0, config.sar_slope), random.uniform(0, 2 * math.pi))
    return crop._replace(sar=crop.sar + tilt)


def _sar_gain(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Add decibels to SAR; once for all bands and, a third as much, for each of them."""
    gains = random.normal(0, config.sar_gain) + random.normal(0, config.sar_gain / 3, (len(crop.sar), 1, 1))
    return crop._replace(sar=crop.sar + gains.astype(np.float32))


def _sar_looks(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Add speckle to two thirds of the crops, of looks that are spread evenly on a logarithmic scale."""
    if random.random() < WITHOUT_SPECKLE:
        return crop
    looks = config.sar_looks * LOOKS_SPREAD ** random.random()
    return crop._replace(sar=crop.sar + speckle(crop.sar.shape, looks, random))


EFFECTS: dict[str, Effect] = {
    "jitter": _jitter,
    "haze": _haze,
    "shift": _shift,
    "sar_slope": _sar_slope,
    "sar_gain": _sar_gain,
    "sar_looks": _sar_looks,
}
"""In the order in which they are applied, by the setting that is above 0 where the effect is on."""


def mix(crop: Crop, other: Crop, random: np.random.Generator) -> Crop:
    """Replace a random shape of a crop by that part of another: CutMix (arXiv 1905.04899) for maps.

    Parameters
    ----------
    crop, other : Crop
        Of one size.
    random : numpy.random.Generator

    Returns
    -------
    Crop
        Without labels within a pixel of the seam. ``crop`` itself where one of the two lacks a sensor that the other
        has, or no label would be left.
    """
    if _present(crop) != _present(other):
        return crop
    height, width = crop.labels.shape
    inside = random_shape(height, width, random)
    mixed = _combine(lambda first, second: np.where(inside, second, first), crop, other)
    mixed.labels[next_to_the_seam(inside)] = 0
    return mixed if mixed.labels.any() else crop


def drop_sensor(crop: Crop, random: np.random.Generator, share: float) -> Crop:
    """Blank one of the sensors, either as often.

    Parameters
    ----------
    crop : Crop
    random : numpy.random.Generator
        Nothing is drawn from it where ``share`` is 0.
    share : float
        How likely that is. A crop that has one sensor only keeps it.
    """
    if not share or random.random() >= share:
        return crop
    sensor = "optical" if random.random() < 0.5 else "sar"
    if not all(_present(crop)):
        return crop
    optical, sar = leave_out(crop.optical, crop.sar, sensor)
    return crop._replace(optical=optical, sar=sar)


def _present(crop: Crop) -> tuple[bool, bool]:
    """Tell whether the crop has optical data, and SAR."""
    return not np.isnan(crop.optical).all(), not np.isnan(crop.sar).all()
