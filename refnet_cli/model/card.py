"""The card of weights: network settings, bands, statistics, classes, origin and scores.

The card is stored as JSON in the header of a safetensors file, or in the metadata of an ONNX model. It is read and
checked without torch, so that a call with the wrong weights fails at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from refnet_cli.classes.schemes import ClassScheme, rename_old
from refnet_cli.errors import WeightsError
from refnet_cli.model.config import REFNetConfig, check_range
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.config import read
from refnet_cli.system.html import table

FORMAT_VERSION = 1
TEMPERATURES = 0.05, 20.0  # minimum and maximum of a card's temperature
LARGEST_DRIFT = 2.0  # limit for the drift of a band's mean, in standard deviations of the training data
SENSORS_ALONE = "sensors_alone"
"""Key in a card's ``training``: a list of the sensors that work alone."""


@dataclass(frozen=True)
class Modality:
    """The bands of one sensor, in the network's order, and their statistics in ``unit``.

    Raises
    ------
    WeightsError
        If the numbers do not fit the bands.
    """

    bands: tuple[str, ...]
    unit: str
    mean: tuple[int | float, ...]  # whole numbers stay so: a card is written as it was read
    std: tuple[int | float, ...]

    def __post_init__(self) -> None:
        if not self.bands or not all(self.bands):
            raise WeightsError(f"bands are {self.bands!r}; they must be names.")
        if len(set(self.bands)) != len(self.bands):
            raise WeightsError(f"bands {', '.join(self.bands)} are not all different.")
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise WeightsError(
                f"{len(self.bands)} bands, {len(self.mean)} means and {len(self.std)} deviations differ."
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise WeightsError("means must be finite numbers and standard deviations positive ones.")
        known = [SENSORS[sensor].card_unit for sensor in MODALITIES]
        if self.unit not in known:
            raise WeightsError(f"unit is {self.unit!r}; known are {', '.join(map(repr, known))}.")


@dataclass(frozen=True)
class Card:
    """Everything about weights that prediction needs, and information for their users.

    Raises
    ------
    WeightsError
        If entries contradict each other.
    """

    name: str
    network: REFNetConfig
    optical: Modality
    sar: Modality
    scheme: ClassScheme
    tile: int = 256
    """Side in pixels of the tiles to predict."""
    licence: str = "unknown"
    training: dict[str, Any] = field(default_factory=dict)
    """How the weights were made."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Scores of the weights, and the data they were computed on."""
    notice: str = ""
    """Notice to all users of the weights."""
    temperature: float = 1.0
    """Divisor of the logits before the softmax, for calibrated probabilities (Guo et al. 2017, arXiv 1706.04599). ONNX
    models include the division."""
    format_version: int = FORMAT_VERSION
    sha256: str = ""
    """Checksum of the tensors and of all other entries of the card; empty until saved."""

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise WeightsError(f"The card has format {self.format_version!r}; this refnet reads {FORMAT_VERSION}.")
        check_range("tile", self.tile, 64, 4096)
        if self.tile % 32:
            raise WeightsError(f"tile is {self.tile}; it must be a multiple of 32.")
        check_range("temperature", self.temperature, *TEMPERATURES)
        for name, modality, needed in (
            ("optical", self.optical, self.network.optical_bands),
            ("sar", self.sar, self.network.sar_bands),
        ):
            if len(modality.bands) != needed:
                raise WeightsError(f"The card names {len(modality.bands)} {name} bands; its network takes {needed}.")
            if modality.unit != (unit := SENSORS[name].card_unit):
                raise WeightsError(f"{name}.unit is {modality.unit!r}; it must be {unit!r}.")
        if self.scheme.classes != self.network.classes:
            raise WeightsError(
                f"Scheme {self.scheme.name!r} has {self.scheme.classes} classes with 0; "
                f"the network has {self.network.classes}."
            )

    @property
    def sensors_alone(self) -> tuple[str, ...]:
        """Sensors that work alone: "optical", "sar" or both.

        They are listed in the card. Without the list, both work alone if the weights were trained with modality
        dropout. Weights that were trained ``without`` one sensor only need the other one.

        Raises
        ------
        WeightsError
            If the card's list is invalid.
        """
        known = MODALITIES
        if (left_out := self.training.get("without")) in known:
            return tuple(sensor for sensor in known if sensor != left_out)
        listed = self.training.get(SENSORS_ALONE)
        if listed is None:
            dropout = self.training.get("modality_dropout")
            return known if isinstance(dropout, int | float) and dropout > 0 else ()
        if not isinstance(listed, list | tuple) or not all(sensor in known for sensor in listed):
            raise WeightsError(
                f"The card's entry training.{SENSORS_ALONE} is {listed!r}; it must be a list of {', '.join(known)}."
            )
        return tuple(sensor for sensor in known if sensor in listed)

    def drift(self, levels: Mapping[str, float]) -> dict[str, float]:
        """Return the difference of each band's mean from the training mean, in training standard deviations.

        Parameters
        ----------
        levels : mapping of str to float
            Mean of each band, in the card's units; missing bands are skipped.
        """
        return {
            band: (levels[band] - mean) / std
            for modality in (self.optical, self.sar)
            for band, mean, std in zip(modality.bands, modality.mean, modality.std, strict=True)
            if band in levels
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the card as a plain dict, ready for JSON; without the temperature if it is 1.

        Early cards have no temperature, and their checksums cover this dict.
        """
        entries = asdict(self) | {"scheme": self.scheme.to_dict()}
        if self.temperature == 1:
            del entries["temperature"]
        return entries

    def _repr_html_(self) -> str:
        """Show what the weights need and map in a notebook."""
        rows: list[tuple[object, ...]] = [
            (SENSORS[sensor].satellite, f"{' '.join(bands.bands)} ({bands.unit})")
            for sensor, bands in (("optical", self.optical), ("sar", self.sar))
        ]
        alone = " or ".join(SENSORS[sensor].satellite for sensor in MODALITIES if sensor in self.sensors_alone)
        rows += [
            ("One sensor", f"{alone} is enough" if alone else "both are needed"),
            ("Classes", f"{self.scheme.name}: {', '.join(self.scheme.names)}"),
            ("Tile", f"{self.tile} x {self.tile} pixels"),
            ("Licence", self.licence),
            *([("Notice", self.notice)] if self.notice else []),
        ]
        return table(rows, title=f"Weights {self.name}")

    @classmethod
    def from_dict(cls, entries: Any, name: object = "The weights' card") -> Card:
        """Build a card from a plain dict, which errors call by a name.

        Raises
        ------
        WeightsError
            If entries are missing, unknown or invalid.
        """
        card = read(cls, entries, f"{name} cannot be used", error=WeightsError)
        return replace(card, scheme=rename_old(card.scheme))


def warn_of_drift(drift: Mapping[str, float]) -> list[str]:
    """Warn of bands whose mean differs from the training mean by more than the limit; see `Card.drift`."""
    far = [f"{band} by {value:+.1f}" for band, value in drift.items() if abs(value) > LARGEST_DRIFT]
    if not far:
        return []
    return [
        f"the scene looks unlike those that the weights learned from: the means of {', '.join(far)} standard "
        "deviations are off; its units, offset or bands may be other ones than decided, or its season or place is new."
    ]
