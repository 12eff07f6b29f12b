"""Gradient features of an image, by which optical and SAR images are compared.

Channel features of oriented gradients, regardless of sign (Ye et al. 2019, "Fast and robust matching for multimodal
remote sensing image registration", IEEE TGRS 57(11), doi:10.1109/TGRS.2019.2924684).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from refnet_cli.types import Bool, Float32

_DIRECTIONS = 9
_SURROUNDINGS = 25  # pixels along each axis, for the local mean


class EdgeScale(NamedTuple):
    """Gradient parameters of a sensor: sigma in pixels, and the minimum mean gradient of an image with edges."""

    sigma: float
    floor: float


OPTICAL = EdgeScale(1.0, 10.0)  # reflectance x 10,000 per pixel: calm water 2 to 5, land 30 and more
SAR = EdgeScale(2.0, 0.1)  # dB per pixel: speckle alone 0.3


class Features(NamedTuple):
    """Nine channels per layer of an image (P, 9, H, W), its valid pixels, and its mean gradient."""

    layers: Float32
    known: Bool
    gradient: Float32


def _smooth(values: Float32, known: Bool, sigma: float) -> Float32:
    """Smooth the last two axes with a Gaussian over the valid pixels. Invalid values must be 0."""
    sigmas = (0,) * (values.ndim - 2) + (sigma, sigma)
    blurred: Float32 = ndimage.gaussian_filter(values, sigmas, mode="constant", truncate=3)
    weight = ndimage.gaussian_filter(known.astype(np.float32), sigma, mode="constant", truncate=3)
    blurred /= np.maximum(weight, 1e-3)
    return blurred


def _subtract_surroundings(values: Float32, known: Bool) -> None:
    """Subtract the mean of the valid pixels around each pixel. Invalid values must be 0, and stay 0.

    Otherwise, differences in edge density, as between land and water, would dominate the correlation.
    """
    size = (1,) * (values.ndim - 2) + (_SURROUNDINGS, _SURROUNDINGS)
    mean = ndimage.uniform_filter(values, size, mode="constant")
    mean /= np.maximum(ndimage.uniform_filter(known.astype(np.float32), _SURROUNDINGS, mode="constant"), 1e-6)
    values -= mean
    values *= known


def describe_edges(bands: Float32, sensor: EdgeScale, *, per_band: bool) -> Features:
    """Compute the gradient features of an image, with one layer per band or one layer in all.

    Each layer is normalised separately. The sum of the layers describes the full image.
    """
    known: Bool = np.asarray(np.isfinite(bands).all(axis=0))
    count = max(int(known.sum()), 1)
    angles = np.arange(_DIRECTIONS, dtype=np.float32)[:, None, None] * np.float32(np.pi / _DIRECTIONS)
    cosines, sines = np.cos(angles), np.sin(angles)
    layers = np.zeros((len(bands) if per_band else 1, _DIRECTIONS, *known.shape), np.float32)
    gradient = np.zeros(known.shape, np.float32)
    for number, band in enumerate(bands):
        # Subtract the mean, because float32 would lose small gradients on top of it.
        values = np.where(known, band - band.sum(where=known, dtype=np.float64) / count, 0).astype(np.float32)
        down, right = (slope * known for slope in np.gradient(_smooth(values, known, sensor.sigma)))
        strength = np.hypot(down, right)
        scale = max(float(strength.sum()) / count, sensor.floor)
        layers[number if per_band else 0] += np.abs(right * (cosines / scale) + down * (sines / scale))
        gradient += strength / len(bands)
    layers = _smooth(layers, known, 1.0)
    norm = np.sqrt(np.square(layers).sum(axis=1, keepdims=True)) * known
    # Strong and weak edges get about the same weight, except edges far below the mean strength.
    layers *= known / np.maximum(norm + norm.sum(axis=(2, 3), keepdims=True) / count, 1e-6)
    _subtract_surroundings(layers, known)
    return Features(layers, known, gradient)
