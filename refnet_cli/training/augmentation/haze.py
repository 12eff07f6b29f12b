"""Haze in optical scenes: path radiance that the atmosphere adds, and transmittance that attenuates the ground.

The coefficients were fitted to L1C (top of atmosphere) against L2A (surface reflectance) of five real places, 224 x
224 pixels each: ``L1C = transmittance x L2A + path radiance`` per band, by Huber regression. The offset of 1000 of
processing baseline 04.00 was subtracted where dark pixels show it. The table holds the medians of four places (water
and forest, rangeland, towns, fields). A snowfield with nearly three times the path radiance was excluded.

Individual places differ: path radiance in blue was 0.074 to 0.109, transmittance 0.60 to 0.67. In leave-one-out
validation the L1C of each place is predicted with a median error of 56 to 104 (reflectance x 10,000, mean over bands);
L2A without correction is 205 to 302 away.

The simpler coefficients of the data set (reflectance x (0.82 0.86 0.90 0.92 0.94 0.95 0.95 0.97 0.97) + (650 380 220
170 110 90 70 10 5) for B02 to B08, B11 and B12, without B8A) leave an error of 68 to 145: their path radiance is too
low from red to near infrared, and their transmittance is too high.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refnet_cli.types import Float32

STANDARD = 0.077
"""Path radiance in blue, as reflectance, at which the table holds: about the difference between L2A and L1C."""
HAZE: dict[str, tuple[float, float]] = {
    "B01": (0.59, 1.46), "B02": (0.64, 1.00), "B03": (0.70, 0.65), "B04": (0.79, 0.42), "B05": (0.76, 0.39),
    "B06": (0.81, 0.41), "B07": (0.86, 0.38), "B08": (0.81, 0.30), "B8A": (0.90, 0.30), "B09": (0.90, 0.25),
    "B10": (1.00, 0.00), "B11": (0.90, 0.05), "B12": (0.84, 0.02),
}  # fmt: skip
"""Transmittance at the standard haze, and path radiance relative to blue, by band. B09 is interpolated from B8A and B11
because it measures water vapour. B10 does not see the ground and is not changed."""
SHARE, STEP = 0.01, 4  # share of pixels that are the darkest; sampling step along rows and columns


def add_haze(optical: Float32, bands: Sequence[str], path: float) -> Float32:
    """Add or remove haze.

    Parameters
    ----------
    optical : float32 array, shape (B, H, W)
        Reflectance x 10,000, NaN where there is no data.
    bands : sequence of str
        Names of the bands, each in `HAZE`.
    path : float
        Path radiance in blue as reflectance. A negative value reverses the effect of the positive one.

    Returns
    -------
    float32 array, shape (B, H, W)
        At least 1, so that valid pixels stay valid; NaN stays NaN.

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


def max_haze(optical: Float32, bands: Sequence[str]) -> float:
    """Return the highest possible path radiance of a scene, as reflectance in blue.

    No pixel can be darker than the path radiance. The limit is the darkest 1% of the pixels in the band with the most
    path radiance.

    Parameters
    ----------
    optical : float32 array, shape (B, H, W)
        Reflectance x 10,000, NaN where there is no data.
    bands : sequence of str
        Names of the bands, each in `HAZE`.

    Returns
    -------
    float
        0 or more; NaN if there is too little data.
    """
    band = max(range(len(bands)), key=lambda number: HAZE[bands[number]][1])
    values = optical[band, ::STEP, ::STEP].ravel()
    rank = int(SHARE * values.size)
    dark = float(np.partition(values, rank)[rank])
    return float(np.maximum(dark, 0.0)) / max(10_000 * HAZE[bands[band]][1], 1.0)
