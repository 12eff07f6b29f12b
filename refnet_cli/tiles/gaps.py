"""Pixels without data filled by the nearest ones, so that the network does not see an edge that the ground lacks.

Pure arithmetic on arrays: no files, no network.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt

from refnet_cli.types import Float32


def fill_gaps(images: Float32) -> Float32:
    """Fill the pixels without data of each image of one sensor from the nearest pixel of the same image.

    A pixel that lacks any band has no data, and gets all bands of the nearest pixel (by Euclidean distance) that has
    all of them. Which of two that are equally near, `scipy.ndimage.distance_transform_edt` says.

    Parameters
    ----------
    images : float32 array, shape (N, B, H, W)
        Of one sensor, NaN where it has no data.

    Returns
    -------
    float32 array, shape (N, B, H, W)
        ``images`` itself where nothing is missing. An image without any complete pixel is not changed: its NaN mean
        that the network shall do without the sensor.

    Examples
    --------
    >>> fill_gaps(np.array([[[[1, np.nan, np.nan, 4]]]], np.float32)).tolist()
    [[[[1.0, 1.0, 4.0, 4.0]]]]
    """
    filled = images
    for number, image in enumerate(images):
        if not np.isnan(image.min()):  # min passes NaN on, in one pass
            continue
        gaps = np.isnan(image).any(axis=0)
        if gaps.all():
            continue
        if filled is images:
            filled = images.copy()
        rows, columns = distance_transform_edt(gaps, return_distances=False, return_indices=True)
        filled[number] = image[:, rows, columns]
    return filled
