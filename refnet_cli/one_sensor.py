"""Scenes of one sensor: which sensors are given, whether weights can do with them, and how a map says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refnet_cli.card import UNITS, Card
from refnet_cli.errors import WeightsError

SATELLITES = {"optical": "Sentinel-2", "sar": "Sentinel-1"}
NAMES = {"optical": "optical", "sar": "SAR"}


def given_sensors(optical: Any, sar: Any) -> tuple[str, ...]:
    """Return which sensors have files: "optical", "sar" or both.

    Examples
    --------
    >>> given_sensors("s2.tif", None), given_sensors("s2.tif", "s1.tif")
    (('optical',), ('optical', 'sar'))
    """
    return tuple(sensor for sensor, files in zip(UNITS, (optical, sar), strict=True) if files is not None)


def absent_sensor(sensors: Sequence[str]) -> str | None:
    """Return the sensor that has no files, or None if both have some."""
    return next((sensor for sensor in UNITS if sensor not in sensors), None)


def check_sensors(card: Card, sensors: Sequence[str], what: str = "") -> None:
    """Refuse to predict from one sensor with weights that did not learn to do without the other.

    Parameters
    ----------
    card : Card
        Of the weights.
    sensors : sequence of str
        Those that have files.
    what : str
        The scene, where there are several.

    Raises
    ------
    WeightsError
    """
    absent = absent_sensor(sensors)
    if absent is None or set(sensors) <= set(card.sensors_alone):
        return
    found = f"{what} has no {NAMES[absent]} files" if what else f"No {NAMES[absent]} files are given"
    remedy = f"Add its {NAMES[absent]} files" if what else f"Give --{absent} too"
    raise WeightsError(
        f"{found}, and the weights {card.name} were not trained to predict without {SATELLITES[absent]}. {remedy}, or "
        "choose other weights: `refnet weights info` lists under sensors_alone the sensors that are enough alone. "
        "`refnet train` makes such weights with modality_dropout above 0."
    )


def say_absent(absent: str) -> str:
    """Return what a map says in place of the names of an absent sensor's files.

    Examples
    --------
    >>> say_absent("sar")
    'none given; the map is from Sentinel-2 alone'
    """
    (present,) = (satellite for sensor, satellite in SATELLITES.items() if sensor != absent)
    return f"none given; the map is from {present} alone"
