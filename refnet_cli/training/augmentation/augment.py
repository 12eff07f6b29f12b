"""Augmentation of training crops: rotation, reflection, and effects that imitate other sensors and other days."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.engines.torch_engine import blank_sensor
from refnet_cli.training.augmentation.backscatter import shift_image, slope, speckle
from refnet_cli.training.augmentation.haze import add_haze, max_haze
from refnet_cli.training.augmentation.shapes import near_seam, random_frame, random_shape
from refnet_cli.training.config import TrainConfig

LOOKS_SPREAD = 20.0
"""Ratio of the highest to the lowest number of looks of extra speckle."""
WITHOUT_SPECKLE = 1 / 3
"""Share of the crops without extra speckle."""


class Crop(NamedTuple):
    """Inputs in physical units, (Bo, H, W) and (Bs, H, W), NaN where there is no data, and labels (H, W)."""

    optical: NDArray[np.float32]
    sar: NDArray[np.float32]
    labels: NDArray[np.uint8]
    weights: NDArray[np.float32] | None = None
    """Weight of each label in the loss, (H, W); None if all are 1."""


Effect = Callable[[Crop, np.random.Generator, TrainConfig], Crop]


def augment(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Rotate and mirror a crop at random, and apply the effects that the config enables.

    Parameters
    ----------
    crop : Crop
        NaN stays NaN, so an absent sensor stays absent.
    random : numpy.random.Generator
        Disabled effects draw nothing from it.
    config : TrainConfig

    Returns
    -------
    Crop
        A copy, in one of the 8 symmetries.
    """
    turns, mirror = int(random.integers(4)), bool(random.integers(2))
    changed = _combine(lambda array: _turn(array, turns, mirror), crop)
    for name, effect in EFFECTS.items():
        if getattr(config, name):
            changed = effect(changed, random, config)
    return changed


def _combine(change: Callable[..., Any], *crops: Crop) -> Crop:
    """Apply a function to each array of some crops; the result has weights if the crops have them."""
    made: list[Any] = [None if arrays[0] is None else change(*arrays) for arrays in zip(*crops, strict=True)]
    return Crop(*made)


def _turn(array: NDArray[Any], turns: int, mirror: bool) -> NDArray[Any]:
    array = np.rot90(array, turns, axes=(-2, -1))
    # A copy: views with negative strides slow torch down.
    return np.array(array[..., ::-1] if mirror else array, order="C")


def _jitter(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Scale reflectance and add decibels: once for all bands of a sensor, and half as much for each band."""

    def draw(bands: int) -> NDArray[np.float64]:
        return random.normal(0, config.jitter) + random.normal(0, config.jitter / 2, (bands, 1, 1))

    factors = np.exp(draw(len(crop.optical))).astype(np.float32)
    decibels = (10 * draw(len(crop.sar))).astype(np.float32)
    return crop._replace(optical=crop.optical * factors, sar=crop.sar + decibels)


def _haze(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Add haze, or remove at most the haze that the darkest pixels allow."""
    removable = min(config.haze, max_haze(crop.optical, config.optical_bands))
    path = random.uniform(-removable, config.haze)
    return crop._replace(optical=add_haze(crop.optical, config.optical_bands, path))


def _shift(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Shift SAR against optical and labels; in half of the crops by whole pixels, which preserves the speckle."""
    down, right = random.uniform(-config.shift, config.shift, 2).tolist()
    if random.random() < 0.5:
        down, right = round(down), round(right)
    return crop._replace(sar=shift_image(crop.sar, down, right))


def _sar_slope(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Add a linear trend in dB to SAR, the same for all bands."""
    height, width = crop.labels.shape
    tilt = slope(height, width, random.normal(0, config.sar_slope), random.uniform(0, 2 * math.pi))
    return crop._replace(sar=crop.sar + tilt)


def _sar_gain(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Add decibels to SAR: once for all bands, and a third as much for each band."""
    gains = random.normal(0, config.sar_gain) + random.normal(0, config.sar_gain / 3, (len(crop.sar), 1, 1))
    return crop._replace(sar=crop.sar + gains.astype(np.float32))


def _sar_looks(crop: Crop, random: np.random.Generator, config: TrainConfig) -> Crop:
    """Add speckle to two thirds of the crops; the number of looks is log-uniform."""
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
"""Effects in the order of application, by the setting that enables them when it is above 0."""


def mix(crop: Crop, other: Crop, random: np.random.Generator) -> Crop:
    """Replace a random shape in a crop by the same part of another crop: CutMix (arXiv 1905.04899) for segmentation.

    Parameters
    ----------
    crop, other : Crop
        Crops of the same size.
    random : numpy.random.Generator

    Returns
    -------
    Crop
        Without labels next to the seam. ``crop`` is returned unchanged if the two have different sensors, or if no
        label would remain.
    """
    if _present(crop) != _present(other):
        return crop
    height, width = crop.labels.shape
    inside = random_shape(height, width, random)
    mixed = _combine(lambda first, second: np.where(inside, second, first), crop, other)
    mixed.labels[near_seam(inside)] = 0
    return mixed if mixed.labels.any() else crop


def add_gap(crop: Crop, random: np.random.Generator, share: float) -> Crop:
    """Remove a part of a crop, as at the edges of scenes and swaths; in half of the cases from both sensors.

    Parameters
    ----------
    crop : Crop
    random : numpy.random.Generator
        Not used if ``share`` is 0.
    share : float
        Probability of a gap.

    Returns
    -------
    Crop
        NaN in the gap, and without labels where no sensor has data. ``crop`` is returned unchanged if no label would
        remain.
    """
    if not share or random.random() >= share:
        return crop
    height, width = crop.labels.shape
    # Scene edges are parallel to the grid; edges of swaths and mosaics are not.
    seen = random_frame(height, width, random) if random.random() < 0.5 else random_shape(height, width, random)
    sensor = ("both", "both", "optical", "sar")[int(random.integers(4))]
    optical = crop.optical if sensor == "sar" else np.where(seen, crop.optical, np.float32(np.nan))
    sar = crop.sar if sensor == "optical" else np.where(seen, crop.sar, np.float32(np.nan))
    measured = ~(np.isnan(optical).all(0) & np.isnan(sar).all(0))
    labels = np.where(measured, crop.labels, np.uint8(0))
    return crop._replace(optical=optical, sar=sar, labels=labels) if labels.any() else crop


def drop_sensor(crop: Crop, random: np.random.Generator, share: float) -> Crop:
    """Remove one of the sensors, each with the same probability.

    Parameters
    ----------
    crop : Crop
        A crop with only one sensor is returned unchanged.
    random : numpy.random.Generator
        Not used if ``share`` is 0.
    share : float
        Probability of removing a sensor.
    """
    if not share or random.random() >= share:
        return crop
    sensor = "optical" if random.random() < 0.5 else "sar"
    if not all(_present(crop)):
        return crop
    optical, sar = blank_sensor(crop.optical, crop.sar, sensor)
    return crop._replace(optical=optical, sar=sar)


def _present(crop: Crop) -> tuple[bool, bool]:
    """Return whether the crop has optical data, and whether it has SAR data."""
    return not np.isnan(crop.optical).all(), not np.isnan(crop.sar).all()
