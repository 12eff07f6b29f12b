"""The quality of a pixel: its bits, and the masks that tell where clouds are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUALITY = ("no data", "optical only", "SAR only", "optical and SAR")
"""What the numbers of a quality say of the sensors that saw a pixel."""
SENSOR_BITS, CLOUD, UNREADABLE = 3, 4, 8
"""Bits of a quality: of those numbers; for what is left out as a cloud; for what lies in a damaged part of a file."""


def usable(quality: NDArray[np.uint8], either: bool) -> NDArray[np.bool_]:
    """Tell which pixels are worth anything: those that both sensors saw, or either of them."""
    seen = quality & SENSOR_BITS
    return np.asarray(seen > 0 if either else seen == SENSOR_BITS)


CloudMask = Callable[[NDArray[Any]], NDArray[np.bool_]]
CLOUD_MASKS: dict[str, CloudMask] = {
    # ESA's scene classification: no data, defective, cloud shadow, clouds of medium and high probability, thin cirrus.
    "SCL": lambda stored: np.isin(stored, (0, 1, 3, 8, 9, 10)),
    # ESA's classification of L1C and later: opaque clouds and cirrus, a band each; snow is no cloud.
    "MSK_CLASSI": lambda stored: stored == 1,
    # Earth Engine: bit 10 opaque clouds, bit 11 cirrus.
    "QA60": lambda stored: stored.astype(np.int64) & 0b1100_0000_0000 != 0,
    # HLS: bit 1 cloud, bit 2 next to one, bit 3 cloud shadow; 255 is no data.
    "FMASK": lambda stored: stored.astype(np.int64) & 0b1110 != 0,
    # Sentinel Hub: 1 cloud, 255 no data.
    "CLM": lambda stored: (stored == 1) | (stored == 255),
    # Probabilities in percent: Earth Engine's and ESA's, and Sentinel Hub's from 0 to 255.
    "MSK_CLDPRB": lambda stored: stored >= 50,
    "CLP": lambda stored: stored >= 128,
}
"""From a mask's name to what is to be left out, given the stored numbers."""


def canonical_mask(text: str | None) -> str | None:
    """Recognise a layer that tells where clouds are, by its description or its file's name.

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
