"""Effects on SAR crops: sub-pixel shift, linear trend of the calibration, and speckle. Works on arrays in dB."""

from __future__ import annotations

import math

import numpy as np

from refnet_cli.types import Float32

NEPER = np.float32(math.log(10) / 10)
"""Natural logarithm of the power ratio of one decibel."""
LEAST_SPECKLE = np.float32(1e-6)


def shift_image(sar: Float32, down: float, right: float) -> Float32:
    """Shift an image; for fractions of a pixel, interpolate power bilinearly.

    Parameters
    ----------
    sar : float32 array, shape (B, H, W)
        Decibels, NaN where there is no data.
    down, right : float
        Shift in pixels.

    Returns
    -------
    float32 array, shape (B, H, W)
        Edge pixels are repeated beyond the image. Where a neighbour has no data, the nearest pixel is used.

    Examples
    --------
    >>> shift_image(np.array([[[0, 3, 6]]], np.float32), 0, 1).tolist()
    [[[0.0, 0.0, 3.0]]]
    """
    nearest = _shift_by_whole(sar, round(down), round(right))
    if down == round(down) and right == round(right):
        return nearest
    power = np.exp(sar * NEPER)
    top, left = math.floor(down), math.floor(right)
    lower, more = np.float32(down - top), np.float32(right - left)
    for axis_weight, step in ((lower, (1, 0)), (more, (0, 1))):
        power = (1 - axis_weight) * power + axis_weight * _shift_by_whole(power, *step)
    blended = np.log(_shift_by_whole(power, top, left)) / NEPER
    return np.where(np.isnan(blended), nearest, blended)


def _shift_by_whole(image: Float32, down: int, right: int) -> Float32:
    rows, columns = (np.arange(size) - by for size, by in zip(image.shape[1:], (down, right), strict=True))
    return image.take(rows, axis=1, mode="clip").take(columns, axis=2, mode="clip")


def slope(height: int, width: int, difference: float, direction: float) -> Float32:
    """Return a plane with mean 0, like a calibration error that depends on the incidence angle.

    Parameters
    ----------
    height, width : int
        Size in pixels.
    difference : float
        Difference in dB between opposite edges of a square, along the direction.
    direction : float
        Direction of the rise, in radians from right to down.

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
    """Draw fully developed speckle: factors on power that follow a gamma distribution with mean 1.

    Parameters
    ----------
    shape : tuple of int
    looks : float
        Equivalent number of looks, the inverse of the factors' variance; at least 1.
    random : numpy.random.Generator

    Returns
    -------
    float32 array of that shape
        Decibels to add.
    """
    factors = random.standard_gamma(looks, shape, np.float32) / np.float32(looks)
    decibels: Float32 = np.log(np.maximum(factors, LEAST_SPECKLE)) / NEPER
    return decibels
