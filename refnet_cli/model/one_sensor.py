"""Prediction from one sensor: check that the weights support it, and describe the absent sensor."""

from __future__ import annotations

from refnet_cli.errors import WeightsError
from refnet_cli.model.card import Card
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import MODALITIES, Modality, other_of


def check_sensors(card: Card, absent: Modality | None, what: str = "") -> None:
    """Refuse to predict from one sensor with weights that need both; see `explain_missing_sensor` for the parameters.

    Raises
    ------
    WeightsError
        If the weights need the absent sensor, or the card is invalid.
    """
    if reason := explain_missing_sensor(card, absent, what):
        raise WeightsError(reason)


def explain_missing_sensor(card: Card, absent: Modality | None, what: str = "") -> str | None:
    """Return why the weights cannot predict without a sensor, and the remedy; None if they can.

    Parameters
    ----------
    card : Card
        Card of the weights.
    absent : {"optical", "sar"} or None
        The sensor without files.
    what : str
        Name of the scene, if there are several.

    Raises
    ------
    WeightsError
        If the card is invalid.
    """
    if absent is None or (present := other_of(absent)) in card.sensors_alone:
        return None
    name, satellite = SENSORS[absent].name, SENSORS[absent].satellite
    found = f"{what} has no {name} files" if what else f"No {name} files are given"
    remedy = f"Add its {name} files" if what else f"Give --{absent} too"
    return (
        f"{found}, and the weights {card.name} were not trained to predict without {satellite}. {remedy}, or choose "
        "other weights: `refnet weights info` says whether one sensor is enough. To train such "
        "weights, set modality_dropout above 0, or include scenes with only "
        f"{SENSORS[present].name} files."
    )


def warn_of_use_other(card: Card) -> list[str]:
    """Warn if ``missing="use-other"`` maps pixels that the weights were not trained for."""
    needed = [SENSORS[sensor].satellite for sensor in MODALITIES if other_of(sensor) not in card.sensors_alone]
    if not needed:
        return []
    return [
        "--missing use-other also maps pixels with data from only one sensor, but the weights "
        f"{card.name} were not trained to predict without {' or '.join(needed)}. Do not rely on these pixels; the "
        "quality output marks them."
    ]


def describe_absent_sensor(absent: Modality) -> str:
    """Return the text that replaces the file names of an absent sensor in a map's tags.

    Examples
    --------
    >>> describe_absent_sensor("sar")
    'none given; the map is from Sentinel-2 alone'
    """
    return f"none given; the map is from {SENSORS[other_of(absent)].satellite} alone"
