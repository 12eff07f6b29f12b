"""Band statistics and distributions of the training pixels, for the card."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from typing import Any

import numpy as np

from refnet_cli.errors import InputError, OptionsError
from refnet_cli.model.card import Modality
from refnet_cli.prediction.distribution import describe_distributions
from refnet_cli.sensors import SENSORS
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.sampler import Sampler
from refnet_cli.training.survey import training_sensors
from refnet_cli.types import Float32, Float64

STATISTICS_CROPS, LEAST_STATISTICS_CROPS, MOST_STATISTICS_CROPS = 128, 32, 2048
"""Number of crops to measure, minimum number with each sensor, and maximum number."""
STATISTICS_STEP = 2**31
"""Step number of the crops to measure; no training step has it."""


def measure_statistics(
    sampler: Sampler, config: TrainConfig, known: Mapping[str, Mapping[str, tuple[float, float]]]
) -> tuple[Modality, Modality]:
    """Measure means and standard deviations of the bands in training crops.

    Measure 128 crops, or more until each sensor is in at least 32. A sensor that the config leaves out and no scene has
    gets a mean of 0 and a standard deviation of 1.

    Parameters
    ----------
    sampler : Sampler
    config : TrainConfig
    known : mapping
        Means and standard deviations that replace the measured ones, by ``optical`` or ``sar`` and band.

    Returns
    -------
    optical, sar : Modality

    Raises
    ------
    OptionsError
        If no training scene has a sensor that the config does not leave out.
    InputError
        If the crops have no valid values of a sensor.
    """
    bands = {"optical": config.optical_bands, "sar": config.sar_bands}
    sums = {name: np.zeros((3, len(of_sensor))) for name, of_sensor in bands.items()}
    sensors = training_sensors(sampler.scenes)
    for name in bands.keys() - sensors - {config.without}:
        raise OptionsError(
            f'No training scene has {name} files. Set without = "{name}" to train for the other sensor alone, or add '
            "scenes with both sensors."
        )
    crops_with = dict.fromkeys(sensors, 0)

    def measure(number: int) -> dict[str, Float64]:
        crop = sampler.draw(STATISTICS_STEP, number, augmented=False)
        return {name: _sum_up(getattr(crop, name)) for name in sums}

    with ThreadPoolExecutor(config.workers, "refnet-statistics") as pool:
        measured = chain(pool.map(measure, range(STATISTICS_CROPS)), map(measure, count(STATISTICS_CROPS)))
        for number in range(MOST_STATISTICS_CROPS):
            if number >= STATISTICS_CROPS and min(crops_with.values()) >= LEAST_STATISTICS_CROPS:
                break
            for name, of_crop in next(measured).items():
                sums[name] += of_crop
                if name in sensors:
                    crops_with[name] += bool(of_crop[0].any())
    for name in sensors:
        if not sums[name][0].all():
            raise InputError(f"A {name} band has no valid value in {MOST_STATISTICS_CROPS} training crops.")
    made = []
    for name, of_sensor in bands.items():
        found = [_statistics(*totals) for totals in sums[name].T]
        kept = [known.get(name, {}).get(band, own) for band, own in zip(of_sensor, found, strict=True)]
        made.append(Modality(of_sensor, SENSORS[name].card_unit, *map(tuple, zip(*kept, strict=True))))
    return made[0], made[1]


def describe_inputs(sampler: Sampler, config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Return the distribution of the network's inputs by sensor, see `describe_distributions`.

    A sensor that the config leaves out has none.
    """
    crops = (sampler.draw(STATISTICS_STEP, number) for number in range(STATISTICS_CROPS))
    bands = {"optical": config.optical_bands, "sar": config.sar_bands}
    found = describe_distributions(((crop.optical, crop.sar) for crop in crops), bands)
    return {name: distribution for name, distribution in found.items() if name != config.without}


def _sum_up(image: Float32) -> Float64:
    """Return the number of values of each band, their sum and that of their squares, shape (3, B)."""
    values = image.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        values = np.nan_to_num(values)
    return np.stack([part.sum((1, 2)) for part in (finite, values, values**2)]).astype(np.float64)


def _statistics(pixels: float, total: float, squares: float) -> tuple[float, float]:
    """Return mean and standard deviation with seven digits; 0 and 1 without values."""
    if not pixels:
        return 0.0, 1.0
    mean = total / pixels
    deviation = max(squares / pixels - mean**2, 1e-6) ** 0.5
    return float(f"{mean:.7g}"), float(f"{deviation:.7g}")
