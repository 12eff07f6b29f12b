"""Quality bits of a pixel, and cloud masks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import OptionsError

QUALITY = ("no data", "optical only", "SAR only", "optical and SAR")
"""Names of the sensor codes 0 to 3: which sensors saw a pixel."""
SENSOR_BITS, CLOUD, UNREADABLE = 3, 4, 8
"""Bits of a quality value: the sensor code; masked as cloud; in a damaged part of a file."""

UNCOVERED, CLEAR, UNKNOWN, CLOUDY = range(4)
"""Values of cloud masks on the grid. Of several for one pixel, the largest holds."""


def usable(quality: NDArray[np.uint8] | NDArray[np.uint16], either: bool) -> NDArray[np.bool_]:
    """Return which pixels can be classified: those seen by both sensors or, if ``either``, by at least one."""
    seen = quality & SENSOR_BITS
    return np.asarray(seen > 0 if either else seen == SENSOR_BITS)


CloudMask = Callable[[NDArray[Any]], NDArray[np.bool_]]
CLOUD_MASKS: dict[str, CloudMask] = {
    # ESA scene classification: no data, defective, cloud shadow, medium and high cloud probability, thin cirrus.
    "SCL": lambda stored: np.isin(stored, (0, 1, 3, 8, 9, 10)),
    # ESA's L1C classification since baseline 04.00: a band each for opaque clouds and cirrus. Snow is not cloud.
    "MSK_CLASSI": lambda stored: stored == 1,
    # Earth Engine: bit 10 opaque clouds, bit 11 cirrus.
    "QA60": lambda stored: stored.astype(np.int64) & 0b1100_0000_0000 != 0,
    # HLS: bit 1 cloud, bit 2 adjacent to cloud, bit 3 cloud shadow; 255 is no data.
    "FMASK": lambda stored: stored.astype(np.int64) & 0b1110 != 0,
    # Sentinel Hub: 1 cloud, 255 no data.
    "CLM": lambda stored: (stored == 1) | (stored == 255),
    # Probabilities: 0 to 100 from Earth Engine and ESA, 0 to 255 from Sentinel Hub.
    "MSK_CLDPRB": lambda stored: stored >= 50,
    "CLP": lambda stored: stored >= 128,
}
"""From a mask's name to the function that returns which stored values are masked."""

UNKNOWN_CODES = {"SCL": (0, 1), "FMASK": (255,), "CLM": (255,)}
"""Stored values that are masked because nothing is known there. Clouds grow by ``--cloud-buffer``, these do not."""
SCL_CLASSES = (
    "nodata", "saturated", "dark", "shadow", "vegetation", "bare", "water", "unclassified", "cloud-medium",
    "cloud-high", "cirrus", "snow",
)  # fmt: skip
"""Names of the codes 0 to 11 of ESA's scene classification."""


def parse_scl_classes(given: Sequence[str]) -> tuple[int, ...]:
    """Return the codes of classes of the scene classification.

    Parameters
    ----------
    given : sequence of str
        Names in `SCL_CLASSES`, or codes.

    Raises
    ------
    OptionsError
        If one is unknown.

    Examples
    --------
    >>> parse_scl_classes(("shadow", "9"))
    (3, 9)
    """
    known = {name: code for code, name in enumerate(SCL_CLASSES)} | {str(code): code for code in range(12)}
    names = [str(name).strip().lower() for name in given]
    if unknown := [name for name in names if name not in known]:
        listed = ", ".join(f"{name} ({code})" for code, name in enumerate(SCL_CLASSES))
        raise OptionsError(f"{', '.join(unknown)} is no class of the scene classification (SCL). Choose from {listed}.")
    return tuple(known[name] for name in names)


def canonical_mask(text: str | None) -> str | None:
    """Recognise a cloud mask by its description or file name.

    Returns
    -------
    str or None
        A key of `CLOUD_MASKS`.

    Examples
    --------
    >>> [canonical_mask(text) for text in ("SCL, Scene Classification Map", "T22MGU.QA60", "Fmask", "B02")]
    ['SCL', 'QA60', 'FMASK', None]
    """
    tokens = re.split(r"[^A-Z0-9_]+|_(?!CLDPRB|CLASSI)", (text or "").upper())
    if "SNOW" in tokens:
        return None
    return next((token for token in tokens if token in CLOUD_MASKS), None)
