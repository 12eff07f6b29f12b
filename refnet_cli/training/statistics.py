"""What the pixels learned from look like: means, deviations and ranges, for the card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.model.card import Modality
from refnet_cli.prediction.seen import describe_seen
from refnet_cli.sensors import SENSORS
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.survey import sensors_learned

STATISTICS_CROPS, LEAST_STATISTICS_CROPS, MOST_STATISTICS_CROPS = 128, 32, 2048
"""Crops that are measured: of all, at least of each sensor, and at most."""
MEASURED = 2**31
"""In place of a step's number, for crops that are measured."""


def measure(
    sampler: Sampler, config: TrainConfig, known: Mapping[str, Mapping[str, tuple[float, float]]]
) -> tuple[Modality, Modality]:
    """Means and standard deviations of the bands, from crops of what is learned from.

    There are 128 crops, and more where scenes lack a sensor that would else be in fewer than 32. A sensor that the
    config leaves out and no scene has gets a mean of 0 and a deviation of 1.

    Parameters
    ----------
    sampler : Sampler
    config : TrainConfig
    known : mapping
        Means and deviations to be kept instead, by ``optical`` or ``sar`` and band.

    Returns
    -------
    optical, sar : Modality

    Raises
    ------
    OptionsError
        If a sensor that is not left out is in no scene that is learned from.
    InputError
        If crops hold no values of a sensor.
    """
    bands = {"optical": config.optical_bands, "sar": config.sar_bands}
    sums = {name: np.zeros((3, len(of_sensor))) for name, of_sensor in bands.items()}
    there = sensors_learned(sampler.scenes)
    for name in bands.keys() - there - {config.without}:
        raise OptionsError(
            f'No scene that is learned from has {name} files. Write without = "{name}" to train for the other sensor '
            "alone, or add scenes of both sensors."
        )
    crops_with = dict.fromkeys(there, 0)
    for number in range(MOST_STATISTICS_CROPS):
        if number >= STATISTICS_CROPS and min(crops_with.values()) >= LEAST_STATISTICS_CROPS:
            break
        crop = sampler.draw(MEASURED, number, augmented=False)
        for name, totals in sums.items():
            values = getattr(crop, name).astype(np.float64)
            parts = np.isfinite(values), np.nan_to_num(values), np.nan_to_num(values) ** 2
            totals += [part.sum((1, 2)) for part in parts]
            if name in there:
                crops_with[name] += bool(parts[0].any())
    for name in there:
        if not sums[name][0].all():
            raise InputError(f"{MOST_STATISTICS_CROPS} crops of what is learned from hold no {name} values to measure.")
    made = []
    for name, of_sensor in bands.items():
        found = [_statistics(*totals) for totals in sums[name].T]
        kept = [known.get(name, {}).get(band, own) for band, own in zip(of_sensor, found, strict=True)]
        made.append(Modality(of_sensor, SENSORS[name].card_unit, *map(tuple, zip(*kept, strict=True))))
    return made[0], made[1]


def see(sampler: Sampler, config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Describe what the network sees of each sensor, see `describe_seen`; of none whose input is its mean."""
    crops = (sampler.draw(MEASURED, number) for number in range(STATISTICS_CROPS))
    bands = {"optical": config.optical_bands, "sar": config.sar_bands}
    found = describe_seen(((crop.optical, crop.sar) for crop in crops), bands)
    return {name: seen for name, seen in found.items() if name != config.without}


def _statistics(count: float, total: float, squares: float) -> tuple[float, float]:
    """Mean and standard deviation, to seven digits; 0 and 1 of nothing."""
    if not count:
        return 0.0, 1.0
    mean = total / count
    deviation = max(squares / count - mean**2, 1e-6) ** 0.5
    return float(f"{mean:.7g}"), float(f"{deviation:.7g}")
