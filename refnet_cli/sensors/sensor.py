"""Data classes for a sensor, its products and its band names. Each sensor has its own module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Modality = Literal["optical", "sar"]
"""The sensors that the network takes."""
MODALITIES: tuple[Modality, ...] = ("optical", "sar")
Values = Sequence[NDArray[np.floating[Any]]]
"""Sampled values, one array per band, 1-D or 2-D; NaN where there is no measurement."""
Candidates = tuple[set[str], str]
"""The bands that a term can mean, and the most common one; "" if no band is most common."""


def other_of(sensor: Modality) -> Modality:
    """Return the other sensor."""
    return "sar" if sensor == "optical" else "optical"


@dataclass(frozen=True)
class Product:
    """A product of a sensor: its name, and its bands in file order."""

    name: str
    bands: tuple[str, ...]


def _no_meanings(text: str) -> Iterable[Candidates]:
    return ()


@dataclass(frozen=True)
class BandNaming:
    """How band names of a sensor appear in text."""

    codes: Callable[[str], set[str]]
    """From an upper-case text to the bands whose codes it contains, such as B04 or VV."""
    file_code: str
    """Regular expression for such a code between the separators of a file name."""
    meanings: Callable[[str], Iterable[Candidates]] = _no_meanings
    """From a text without accents to the candidates for each colour and wavelength in it. All must agree.

    A set without any band of the sensor rules out all of them. An empty set says nothing."""
    is_filename_ending: Callable[[str], bool] = lambda text: False
    """Whether a lower-case term at the end of a file name identifies the band."""
    colours: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """From GDAL colour interpretations to the bands that they can mean."""
    ambiguous_colours: frozenset[str] = frozenset()
    """Colour interpretations without a most common band. For the others it is the first."""


@dataclass(frozen=True)
class Sensor:
    """The properties of a sensor."""

    name: str
    """Name in messages, such as "SAR"."""
    satellite: str
    unit: str
    """Unit of the physical values, in messages."""
    card_unit: str
    """The same unit, as spelt in weight cards."""
    bands: tuple[str, ...]
    """Canonical names of all bands."""
    naming: BandNaming
    products: tuple[Product, ...]
    quicklook_bands: tuple[tuple[str, ...], ...]
    """Choices of bands for a quicklook. The first one whose bands are all present is used."""
    mission: str
    """Prefix of product names, such as "S1"."""
    product_name: str
    """Regular expression for the start of a product name."""
    dates: tuple[str, ...]
    """Regular expressions for upper-case file names, with the acquisition date or time as the first group."""
    metadata_label: str
    """What `read_metadata` returns, as a plural noun for messages."""
    read_metadata: Callable[
        [Mapping[str, str], str, Sequence[str | None], Sequence[str | None]], tuple[Any, str] | None
    ]
    """From a file's tags, path, band descriptions and band units to the unit or offset that they declare, and the
    evidence; None if they declare nothing."""
    recognises_values: Callable[[NDArray[np.floating[Any]], np.dtype[Any]], bool]
    """Whether sampled values (without NaN) of this data type can only be this sensor's."""
    levels: tuple[str, ...] = ()
    """Processing levels."""
    named_by_number: bool = False
    """Whether unnamed bands are read in the order of the product with the same number of bands."""
    zero_is_nodata: bool = False
    """Whether 0 in all bands is nodata even if the file declares another nodata value."""

    def choose_quicklook_bands(self, names: Sequence[str]) -> list[int]:
        """Return the indexes of the bands for a quicklook: a choice of `quicklook_bands`, else the first bands.

        Parameters
        ----------
        names : sequence of str
            The available bands, at least one.
        """
        for bands in self.quicklook_bands:
            if set(bands) <= set(names):
                return [names.index(band) for band in bands]
        most = len(self.quicklook_bands[0])
        return list(range(most if len(names) >= most else 1))
