"""Correlation of a window with a larger one, and the position of its peak.

Invalid pixels are ignored: every correlation is normalised by the overlap of valid pixels (Padfield 2012, "Masked
object registration in the Fourier domain", IEEE TIP 21(5)).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from refnet_cli.types import Bool, Float32


def correlate(template: Float32, seen: Bool, field: Float32, known: Bool) -> tuple[Float32, Float32]:
    """Correlate a template (9, h, w) with a larger field (P, 9, H, W), summed over the channels.

    Returns
    -------
    correlations : float32 array, shape (S, H - h + 1, W - w + 1)
        Normalised by the overlap: of the sum of the layers and, if there are several, of each layer.
    overlap : float32 array, shape (H - h + 1, W - w + 1)
        Number of pixels that are valid in both. Where it is below a quarter of the template, both results are 0.
    """
    size = tuple(fft.next_fast_len(length, real=True) for length in known.shape)
    lags = tuple(outer - inner + 1 for outer, inner in zip(known.shape, seen.shape, strict=True))

    def transform(values: NDArray[Any]) -> NDArray[np.complex64]:
        return np.asarray(fft.rfft2(values.astype(np.float32, copy=False), size))

    # For real arrays, products with conjugate spectra are correlations.
    pattern, mask, energy = (transform(values).conj() for values in (template, seen, np.square(template).sum(axis=0)))
    products = (pattern * transform(field)).sum(axis=1)
    whole = field.sum(axis=0, keepdims=True)
    streams = np.concatenate((whole, field)) if len(field) > 1 else whole
    products = np.concatenate((products.sum(axis=0, keepdims=True), products)) if len(field) > 1 else products
    powers = mask * transform(np.square(streams).sum(axis=1))
    outline = transform(known)
    found = fft.irfft2(np.concatenate((products, powers, [energy * outline, mask * outline])), size)
    found = found[:, : lags[0], : lags[1]]
    count = len(streams)
    product, power, own, overlap = found[:count], found[count : 2 * count], found[-2], np.rint(found[-1])
    overlap = np.where(overlap >= seen.size / 4, overlap, 0)
    norm = np.sqrt(np.maximum(power, 0) * np.maximum(own, 0))
    least = 1e-4 * seen.size  # far above rounding errors, far below any real image
    correlations = np.where((norm > least) & (overlap > 0), product / np.maximum(norm, least), 0)
    return np.asarray(correlations, np.float32), np.asarray(overlap, np.float32)


class Peak(NamedTuple):
    """Position of the maximum correlation, in rows and columns from the central lag, and its value."""

    row: float
    column: float
    height: float


def _fit_matrix() -> NDArray[np.float64]:
    """Return the least-squares fit of 1, x, y, x², xy, y² to 3 x 3 values, as a matrix of shape (6, 9)."""
    y, x = (axis.ravel().astype(np.float64) for axis in np.mgrid[-1:2, -1:2])
    return np.linalg.pinv(np.stack([np.ones(9), x, y, x * x, x * y, y * y], axis=1))


_FIT = _fit_matrix()


def find_peak(surface: NDArray[Any]) -> Peak:
    """Find the peak of a correlation with a quadratic surface through the 3 x 3 values around the maximum."""
    centre_row, centre_column = ((length - 1) / 2 for length in surface.shape)
    row, column = np.unravel_index(int(np.argmax(surface)), surface.shape)
    height = float(surface[row, column])
    around = surface[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    at = Peak(float(row - centre_row), float(column - centre_column), height)
    if around.shape != (3, 3):
        return at
    constant, x, y, xx, xy, yy = _FIT @ around.ravel().astype(np.float64)
    determinant = 4 * xx * yy - xy * xy
    if determinant <= 0 or xx >= 0:
        return at
    right = (xy * y - 2 * yy * x) / determinant
    down = (xy * x - 2 * xx * y) / determinant
    if max(abs(right), abs(down)) > 1:
        return at
    return Peak(at.row + down, at.column + right, float(constant + (x * right + y * down) / 2))
