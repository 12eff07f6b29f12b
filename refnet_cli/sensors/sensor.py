"""What a sensor, its products and its names of bands are. What is known of each one lies in a file of its own."""

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
"""Sampled values of each of some bands, 1-D or 2-D together; NaN where there is no measurement."""
Meaning = tuple[set[str], str]
"""The bands that a word can mean, and the one that it usually means; "" where no one is usual."""


def other_of(sensor: Modality) -> Modality:
    """Return the other sensor."""
    return "sar" if sensor == "optical" else "optical"


@dataclass(frozen=True)
class Product:
    """A product of a sensor: its usual name, and its bands in the order of the files."""

    name: str
    bands: tuple[str, ...]


def _no_words(text: str) -> Iterable[Meaning]:
    return ()


@dataclass(frozen=True)
class BandWords:
    """How texts name the bands of a sensor."""

    codes: Callable[[str], set[str]]
    """From a text in capitals to the bands that it names by their codes, such as B04 or VV."""
    file_code: str
    """Pattern of such a code between the separators of a file's name."""
    meanings: Callable[[str], Iterable[Meaning]] = _no_words
    """From a text without accents to what each of its colours and wavelengths can mean: all evidence must agree.

    A set without any band of the sensor says that the text means none of them; an empty set says nothing."""
    ends_name: Callable[[str], bool] = lambda text: False
    """Whether words at the end of a file's name, in small letters, name the band."""
    colours: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """From GDAL's colour interpretations to the bands that they can mean."""
    vague_colours: frozenset[str] = frozenset()
    """Colour interpretations of which no band is the usual one; of the others it is the first."""


@dataclass(frozen=True)
class Sensor:
    """What the rest of the program needs to know of a sensor."""

    name: str
    """As messages call it, such as "SAR"."""
    satellite: str
    unit: str
    """Of its physical values, as people read it."""
    card_unit: str
    """The same as weights' cards spell it."""
    bands: tuple[str, ...]
    """Canonical names of all its bands."""
    words: BandWords
    products: tuple[Product, ...]
    shown: tuple[tuple[str, ...], ...]
    """Bands of a quicklook: of these choices, the first one whose bands are there."""
    mission: str
    """How the names of its products begin, such as "S1"."""
    product_name: str
    """Pattern of the beginning of such a name."""
    dates: tuple[str, ...]
    """Patterns of names of files in capitals, with the acquisition's date or time as their first group."""
    statement: str
    """What `stated` returns, in words and the plural."""
    stated: Callable[[Mapping[str, str], str, Sequence[str | None], Sequence[str | None]], tuple[Any, str] | None]
    """From a file's tags, its path, and its bands' descriptions and units to what these say of all its values, and the
    evidence; None if they say nothing."""
    is_sure: Callable[[NDArray[np.floating[Any]], np.dtype[Any]], bool]
    """Whether sampled values, without NaN, of a file's data type can be no other sensor's."""
    levels: tuple[str, ...] = ()
    """Processing levels that are told apart."""
    named_by_number: bool = False
    """Whether bands without names are those of the product of as many bands, in its order."""
    zero_is_nodata: bool = False
    """Whether 0 in all bands is no measurement even where a file declares another number for that."""

    def choose_shown(self, names: Sequence[str]) -> list[int]:
        """Choose the bands of a quicklook by their indexes: one of `shown`, else as many as these are, else the first.

        Parameters
        ----------
        names : sequence of str
            The bands that are there, at least one.
        """
        for bands in self.shown:
            if set(bands) <= set(names):
                return [names.index(band) for band in bands]
        most = len(self.shown[0])
        return list(range(most if len(names) >= most else 1))
