"""Finished rows of a prediction, and what outputs and the journal take from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.classes.crosswalk import Crosswalk
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.sensors.quality import SENSOR_BITS
from refnet_cli.types import Float32, UInt8

UNSURE = 16
"""Bit of quality for what is less probable than the threshold; `refnet_cli.sensors.quality` has the others."""
STEPS = 250
"""Probabilities of 8 bits count in steps of 1/250, so that GDAL's scale is short; 255 stands for no data."""
NO_SHARE = 255
LOW = 0.5
"""Probability that no class reaches in a pixel of low confidence."""
CONFIDENCE = ("probability", "entropy", "margin")
"""Layers of `Rows.confidence`."""


class Layer(NamedTuple):
    """What outputs may need of rows and an interrupted run has to keep for them."""

    dtype: type[Any]
    bands: int | None = 1
    """None for one a class; a single one has no axis."""


LAYERS: dict[str, Layer] = {
    "codes": Layer(np.uint8),
    "quality": Layer(np.uint8),
    "max_probability": Layer(np.uint8),
    "confidence": Layer(np.uint8, len(CONFIDENCE)),
    "probabilities": Layer(np.uint8, None),
}


def shape_of(layer: str, scheme: ClassScheme, rows: int, width: int) -> tuple[int, ...]:
    """Return the shape of a layer of rows, (rows, width) or (B, rows, width)."""
    bands = LAYERS[layer].bands
    if bands is None:
        return len(scheme.codes), rows, width
    return (rows, width) if bands == 1 else (bands, rows, width)


@dataclass(frozen=True)
class Rows:
    """Finished rows of a map, over its whole width.

    Raises
    ------
    ValueError
        If the translation is one of another scheme, the quality has another shape than the rows, or neither
        probabilities nor codes are there.
    """

    row: int
    """First of the rows."""
    probabilities: Float32 | None
    """Shape (K, rows, width); layer 0 is "no data", layer i belongs to ``scheme.codes[i - 1]``. None where an earlier
    run found the layers."""
    valid: NDArray[np.bool_]
    """False where there is nothing to say, shape (rows, width)."""
    scheme: ClassScheme
    """The network's."""
    crosswalk: Crosswalk | None = None
    """From the network's scheme to that of `codes`, if that is another."""
    quality: UInt8 | None = None
    """Which sensors saw each pixel, as numbered in `QUALITY`, and the bits of what was set aside, shape
    (rows, width)."""
    found: Mapping[str, NDArray[Any]] | None = None
    """Layers by the names in `LAYERS`, in ``code_scheme``, that an earlier run found."""
    threshold: float = 0.0
    """Probability below which a pixel gets no class."""

    def __post_init__(self) -> None:
        if self.crosswalk is not None and self.crosswalk.source != self.scheme:
            raise ValueError(
                f"A translation of class scheme {self.crosswalk.source.name!r} is none of {self.scheme.name!r}."
            )
        if self.probabilities is None and "codes" not in (self.found or {}):
            raise ValueError("Rows need either probabilities or codes that were found before.")
        if self.quality is not None and self.quality.shape != self.valid.shape:
            raise ValueError(f"The quality has the shape {self.quality.shape}; {self.valid.shape} was expected.")

    def check(self) -> None:
        """Raise a ValueError if probabilities or found layers have another shape than the rows."""
        height, width = self.valid.shape
        needed: tuple[int, ...] = (self.scheme.classes, height, width)
        if self.probabilities is not None and self.probabilities.shape != needed:
            raise ValueError(f"Probabilities have the shape {self.probabilities.shape}; {needed} was expected.")
        for name, layer in (self.found or {}).items():
            needed = shape_of(name, self.code_scheme, height, width)
            if layer.shape != needed:
                raise ValueError(f"{name.capitalize()} have the shape {layer.shape}; {needed} was expected.")

    @property
    def code_scheme(self) -> ClassScheme:
        """Class scheme of `codes`."""
        return self.scheme if self.crosswalk is None else self.crosswalk.target

    def layer(self, name: str) -> NDArray[Any]:
        """Return a layer by its name in `LAYERS`.

        Raises
        ------
        ValueError
            If an earlier run found these rows without it.
        """
        if self.found is not None and name in self.found:
            return self.found[name]
        if self.probabilities is None:
            raise ValueError(f"These rows were found without {name}.")
        made: NDArray[Any] = getattr(self, f"_{name}")
        return made

    @property
    def codes(self) -> UInt8:
        """Code of each pixel's most probable class in `code_scheme`, 0 where there is none, shape (rows, width)."""
        return self.layer("codes")

    @property
    def confidence(self) -> UInt8:
        """How sure the map is, shape (3, rows, width), in steps of 1/`STEPS`; `NO_SHARE` where there is no class.

        The layers of `CONFIDENCE`: the probability of the pixel's class, the entropy of all classes' probabilities over
        its greatest, and by how much the class is more probable than the next.
        """
        return self.layer("confidence")

    @property
    def sensors(self) -> UInt8:
        """Which sensors saw each pixel, as numbered in `QUALITY`, shape (rows, width).

        Raises
        ------
        ValueError
            If that is not known.
        """
        if self.quality is None:
            raise ValueError("These rows have no quality.")
        return self.quality & np.uint8(SENSOR_BITS)

    @cached_property
    def shares(self) -> Float32:
        """Probability of each class of `code_scheme`, given that there is one, shape (K - 1, rows, width).

        Classes that become the same one are added up; what becomes none is missing from the sum of 1.
        """
        if self.probabilities is None:
            raise ValueError("These rows were found without probabilities.")
        classes = self.probabilities[1:]
        total = np.maximum(_sum(classes), np.finfo(np.float32).tiny)
        if self.crosswalk is None:
            return np.asarray(classes / total, np.float32)
        shares = np.zeros((len(self.code_scheme.codes), *self.valid.shape), np.float32)
        for code, layer in zip(self.scheme.codes, classes, strict=True):
            target = int(self.crosswalk.table[code])
            if target:
                shares[self.code_scheme.codes.index(target)] += layer / total
        return shares

    @cached_property
    def _best(self) -> UInt8:
        """Codes without regard to the threshold."""
        assert self.probabilities is not None  # the caller has looked
        codes = class_codes(self.probabilities, self.valid, self.scheme)
        return codes if self.crosswalk is None else self.crosswalk.table[codes]

    @cached_property
    def _probability(self) -> Float32:
        """Share of each pixel's class; 0 where there is none."""
        number = np.zeros(256, np.intp)
        number[list(self.code_scheme.codes)] = np.arange(len(self.code_scheme.codes))
        chosen = np.take_along_axis(self.shares, number[self._best][None], axis=0)[0]
        return np.where(self._best > 0, chosen, np.float32(0))

    @cached_property
    def _unsure(self) -> NDArray[np.bool_]:
        return np.asarray((self._best > 0) & (self._probability < np.float32(self.threshold)))

    @cached_property
    def _codes(self) -> UInt8:
        return np.where(self._unsure, np.uint8(0), self._best) if self.threshold else self._best

    @property
    def _quality(self) -> UInt8:
        quality = self.sensors | np.asarray(self.quality, np.uint8)
        return quality | np.uint8(UNSURE) * self._unsure if self.threshold else quality

    @cached_property
    def _max_probability(self) -> UInt8:
        """Probability of the network's most probable class, given that there is one, rounded down to 1/`STEPS`.

        `NO_SHARE` where the sensors saw nothing.
        """
        assert self.probabilities is not None  # the caller has looked
        classes = self.probabilities[1:]
        total = np.maximum(_sum(classes), np.finfo(np.float32).tiny)
        stored: UInt8 = np.floor(np.fmax.reduce(classes) / total * np.float32(STEPS)).astype(np.uint8)
        stored[~self.valid] = NO_SHARE
        return stored

    @cached_property
    def _confidence(self) -> UInt8:
        shares, probability = self.shares, self._probability
        others = np.partition(shares, -2, axis=0)[-2] if len(shares) > 1 else np.zeros_like(probability)
        greatest = np.log(np.float32(max(len(shares), 2)))
        entropy = -_sum(shares * np.log(np.maximum(shares, np.finfo(np.float32).tiny))) / greatest
        layers = np.stack([_steps(layer) for layer in (probability, entropy, probability - others)])
        layers[:, self._codes == 0] = NO_SHARE
        return layers

    @cached_property
    def _probabilities(self) -> UInt8:
        stored = _steps(self.shares)
        stored[:, self._best == 0] = NO_SHARE
        return stored


def _sum(layers: Float32) -> Float32:
    """Add layers up one by one: numpy's order, and so the last bit, would depend on the number of rows."""
    total: Float32 = layers[0].copy()
    for layer in layers[1:]:
        total += layer
    return total


def _steps(shares: Float32) -> UInt8:
    return np.asarray(np.rint(np.clip(shares, 0, 1) * np.float32(STEPS)).astype(np.uint8))


def class_codes(probabilities: NDArray[np.float32], valid: NDArray[np.bool_], scheme: ClassScheme) -> UInt8:
    """Return the code of each pixel's most probable class.

    Parameters
    ----------
    probabilities : float32 array, shape (K, rows, width)
        Layer 0, "no data", is never chosen.
    valid : bool array, shape (rows, width)
    scheme : ClassScheme
        Gives the code of each layer; ``scheme.classes`` is K.

    Returns
    -------
    uint8 array, shape (rows, width)
        0 where the pixel is not valid or no class has a probability above zero.
    """
    best = probabilities[1].copy()
    chosen = np.zeros(best.shape, np.uint8)
    better = np.empty(best.shape, bool)
    for number, layer in enumerate(probabilities[2:], start=1):
        np.greater(layer, best, out=better)
        np.fmax(best, layer, out=best)
        # Numbers rise, so that the greatest is the latest: much quicker than to put them where they belong.
        np.maximum(chosen, better.view(np.uint8) * np.uint8(number), out=chosen)
    codes = np.asarray(scheme.codes, np.uint8)[chosen]
    codes[~(valid & (best > 0))] = 0
    return codes
