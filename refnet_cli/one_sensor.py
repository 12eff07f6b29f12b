"""Maps from one sensor: whether weights can do without the other one, and how a map says so."""

from __future__ import annotations

from refnet_cli.card import Card
from refnet_cli.errors import WeightsError
from refnet_cli.products import SATELLITES, SENSOR_NAMES, Modality, other_of


def check_sensors(card: Card, absent: Modality | None, what: str = "") -> None:
    """Refuse to predict from one sensor with weights that did not learn to do without the other.

    Parameters and errors are those of `say_lacking`.

    Raises
    ------
    WeightsError
        Also if the weights do need the other sensor.
    """
    if lacking := say_lacking(card, absent, what):
        raise WeightsError(lacking)


def say_lacking(card: Card, absent: Modality | None, what: str = "") -> str | None:
    """Return why weights cannot predict from one sensor and what to do; None if they can.

    Parameters
    ----------
    card : Card
        Of the weights.
    absent : {"optical", "sar"} or None
        The sensor that there are no files of.
    what : str
        The scene, where there are several.

    Raises
    ------
    WeightsError
        If the card cannot be understood.
    """
    if absent is None or (present := other_of(absent)) in card.sensors_alone:
        return None
    name = SENSOR_NAMES[absent]
    found = f"{what} has no {name} files" if what else f"No {name} files are given"
    remedy = f"Add its {name} files" if what else f"Give --{absent} too"
    return (
        f"{found}, and the weights {card.name} were not trained to predict without {SATELLITES[absent]}. {remedy}, or "
        "choose other weights: `refnet weights info` lists under sensors_alone the sensors that are enough alone. "
        "`refnet train` makes such weights with modality_dropout above 0, or from scenes of which some have "
        f"{SENSOR_NAMES[present]} files alone."
    )


def warn_of_use_other(card: Card) -> list[str]:
    """Warn that ``missing="use-other"`` maps pixels that the weights did not learn to map."""
    needed = [satellite for sensor, satellite in SATELLITES.items() if other_of(sensor) not in card.sensors_alone]
    if not needed:
        return []
    return [
        f"--missing use-other also maps pixels that one sensor alone saw, but the weights {card.name} were not trained "
        f"to predict without {' or '.join(needed)}: do not rely on such pixels. The quality output marks them."
    ]


def say_absent(absent: Modality) -> str:
    """Return what a map says in place of the names of an absent sensor's files.

    Examples
    --------
    >>> say_absent("sar")
    'none given; the map is from Sentinel-2 alone'
    """
    return f"none given; the map is from {SATELLITES[other_of(absent)]} alone"
