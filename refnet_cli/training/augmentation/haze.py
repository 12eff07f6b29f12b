"""Haze over an optical scene: light that the air adds, and light of the ground that it takes away.

Pure arithmetic on arrays. The numbers are measured offsets of L1C (top of atmosphere) against L2A (surface
reflectance): of each band of five real places, 224 x 224 pixels with both levels, L1C was fitted as ``transmittance x
L2A + path radiance`` by Huber's robust regression, after the 1000 of processing baseline 04.00 was taken off where dark
pixels show it. The table holds the medians of four places (water and forest, rangeland, towns, fields). A snowfield,
with nearly three times the path radiance, was left out.
Single places differ: path radiance in blue was 0.074 to 0.109, transmittance 0.60 to 0.67. With the numbers of the
others, L1C of each of the four is met to 56 to 104 (reflectance x 10,000, median error, mean of the bands), where L2A
itself is 205 to 302 away.

The offsets of the data folder of real places (reflectance x (0.82 0.86 0.90 0.92 0.94 0.95 0.95 0.97 0.97) + (650 380
220 170 110 90 70 10 5) for B02 to B08, B11 and B12, without B8A) are rougher and leave 68 to 145: they have less path
radiance from red to near infrared, and take less light away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refnet_cli.types import Float32

STANDARD = 0.077
"""Reflectance of the path radiance in blue that the table is for: about what lies between L2A and L1C."""
HAZE: dict[str, tuple[float, float]] = {
    "B01": (0.59, 1.46), "B02": (0.64, 1.00), "B03": (0.70, 0.65), "B04": (0.79, 0.42), "B05": (0.76, 0.39),
    "B06": (0.81, 0.41), "B07": (0.86, 0.38), "B08": (0.81, 0.30), "B8A": (0.90, 0.30), "B09": (0.90, 0.25),
    "B10": (1.00, 0.00), "B11": (0.90, 0.05), "B12": (0.84, 0.02),
}  # fmt: skip
"""Transmittance at the standard haze and path radiance relative to blue, by band. B09 is interpolated from B8A and B11,
for what was measured there is water vapour; B10 sees no ground and stays unchanged."""
SHARE, STEP = 0.01, 4  # of the pixels that count as darkest, and one in how many rows and columns is looked at


def add_haze(optical: Float32, bands: Sequence[str], path: float) -> Float32:
    """Add haze, or remove it.

    Parameters
    ----------
    optical : float32 array, shape (B, H, W)
        Reflectance x 10,000, NaN where there is no data.
    bands : sequence of str
        Names of the bands, each in `HAZE`.
    path : float
        Reflectance of the path radiance in blue. A negative one removes exactly what a positive one adds.

    Returns
    -------
    float32 array, shape (B, H, W)
        At least 1, so that pixels with data stay such; NaN stays NaN.

    Examples
    --------
    >>> add_haze(np.full((1, 1, 1), 1000, np.float32), ["B02"], 0.077).tolist()
    [[[1410.0]]]
    """
    table = np.array([HAZE[band] for band in bands], np.float32)[..., None, None]
    left = table[:, 0] ** np.float32(abs(path) / STANDARD)
    added = table[:, 1] * np.float32(10_000 * abs(path))
    changed = optical * left + added if path >= 0 else (optical - added) / left
    kept: Float32 = np.maximum(changed, np.float32(1))
    return kept


def most_haze(optical: Float32, bands: Sequence[str]) -> float:
    """Return the most path radiance that there can be over a scene, as reflectance in blue.

    No pixel is darker than the path radiance alone. The darkest hundredth of the pixels decides, in the band that haze
    brightens most.

    Parameters
    ----------
    optical : float32 array, shape (B, H, W)
        Reflectance x 10,000, NaN where there is no data.
    bands : sequence of str
        Names of the bands, each in `HAZE`.

    Returns
    -------
    float
        From 0; NaN where there is too little data.
    """
    band = max(range(len(bands)), key=lambda number: HAZE[bands[number]][1])
    values = optical[band, ::STEP, ::STEP].ravel()
    rank = int(SHARE * values.size)
    dark = float(np.partition(values, rank)[rank])
    return float(np.maximum(dark, 0.0)) / max(10_000 * HAZE[bands[band]][1], 1.0)
