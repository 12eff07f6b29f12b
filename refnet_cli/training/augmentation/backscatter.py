"""What makes two radar scenes of the same ground differ: position, slope of the calibration, speckle.

Pure arithmetic on arrays of decibels.
"""

from __future__ import annotations

import math

import numpy as np

from refnet_cli.types import Float32

NEPER = np.float32(math.log(10) / 10)
"""Natural logarithm of the power that one decibel stands for."""
LEAST_SPECKLE = np.float32(1e-6)


def moved(sar: Float32, down: float, right: float) -> Float32:
    """Move an image; parts of a pixel by bilinear interpolation of power.

    Parameters
    ----------
    sar : float32 array, shape (B, H, W)
        Decibels, NaN where there is no data.
    down, right : float
        By how many pixels.

    Returns
    -------
    float32 array, shape (B, H, W)
        Beyond the image its outermost pixels are repeated. Where a neighbour has no data, the nearest pixel counts.

    Examples
    --------
    >>> moved(np.array([[[0, 3, 6]]], np.float32), 0, 1).tolist()
    [[[0.0, 0.0, 3.0]]]
    """
    nearest = _moved_by_whole(sar, round(down), round(right))
    if down == round(down) and right == round(right):
        return nearest
    power = np.exp(sar * NEPER)
    top, left = math.floor(down), math.floor(right)
    lower, more = np.float32(down - top), np.float32(right - left)
    for axis_weight, step in ((lower, (1, 0)), (more, (0, 1))):
        power = (1 - axis_weight) * power + axis_weight * _moved_by_whole(power, *step)
    blended = np.log(_moved_by_whole(power, top, left)) / NEPER
    return np.where(np.isnan(blended), nearest, blended)


def _moved_by_whole(image: Float32, down: int, right: int) -> Float32:
    rows, columns = (np.arange(size) - by for size, by in zip(image.shape[1:], (down, right), strict=True))
    return image.take(rows, axis=1, mode="clip").take(columns, axis=2, mode="clip")


def slope(height: int, width: int, difference: float, direction: float) -> Float32:
    """Return a plane with mean 0, as the angle of incidence tilts calibration.

    Parameters
    ----------
    height, width : int
        In pixels.
    difference : float
        Decibels, from one edge of a square to the opposite one along the direction.
    direction : float
        Where it rises to, in radians from right to down.

    Returns
    -------
    float32 array, shape (H, W)

    Examples
    --------
    >>> slope(1, 3, 2.0, 0.0).tolist()
    [[-1.0, 0.0, 1.0]]
    """
    rows, columns = (np.linspace(-0.5, 0.5, size) if size > 1 else np.zeros(1) for size in (height, width))
    plane = difference * (math.sin(direction) * rows[:, None] + math.cos(direction) * columns)
    return plane.astype(np.float32)


def speckle(shape: tuple[int, ...], looks: float, random: np.random.Generator) -> Float32:
    """Draw fully developed speckle: factors on power with gamma distribution and mean 1.

    Parameters
    ----------
    shape : tuple of int
    looks : float
        Equivalent number of looks, the inverse of the factors' variance; at least 1.
    random : numpy.random.Generator

    Returns
    -------
    float32 array of that shape
        Decibels to be added.
    """
    factors = random.standard_gamma(looks, shape, np.float32) / np.float32(looks)
    decibels: Float32 = np.log(np.maximum(factors, LEAST_SPECKLE)) / NEPER
    return decibels
