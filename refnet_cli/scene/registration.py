"""The shift that is left between a SAR and an optical image after georeferencing has aligned them.

Edges are what both sensors see, though not with the same sign. Images are therefore compared by how strong their
gradient is in each of nine directions, without its sign: channel features of oriented gradients (Ye et al. 2019, "Fast
and robust matching for multimodal remote sensing image registration", IEEE TGRS 57(11), doi:10.1109/TGRS.2019.2924684).
Windows of the optical image are correlated with larger windows of the SAR image, and the mean of the correlations has
its peak where both fit. A mean of many weak correlations is found much more safely, and more finely, than any of them.

What there is no value for takes no part: every correlation is normalised by what overlaps (Padfield 2012, "Masked
object registration in the Fourier domain", IEEE TIP 21(5)).

Arithmetic on numpy arrays: no files, no coordinate systems.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from refnet_cli.errors import InputError
from refnet_cli.types import Bool, Float32

WINDOW = 128
"""Side of the windows of the optical image, in pixels."""
REACH = 48
"""How far a SAR image is looked for at most, in pixels along each axis."""
BLOCK = 512
"""Pieces to read begin and end at multiples of it, as the blocks of files do."""
WHOLE = 768
"""A scene no longer and no wider than this is one piece."""

LEAST_PEAK = 0.12
LEAST_AGREEING = 0.4
LEAST_WINDOWS = 12
MOST_SPREAD = 0.35
TOLERANCE = 1.5
"""How far, in pixels, a window's own shift may lie from that of all, and VV's from VH's."""

_DIRECTIONS = 9
_STEP = 32  # pixels; windows that begin closer together would hardly tell anything new
_ACROSS = 4  # windows along each axis of a small piece, which overlap
_PIECES = 5  # along each axis of a large scene
_SIDES_PER_REACH = 10
_SURROUNDINGS = 25  # pixels along each axis
_RESAMPLES = 200


class _Sensor(NamedTuple):
    """How gradients of a sensor's images are taken: sigma in pixels, and the mean gradient of an image of nothing."""

    sigma: float
    floor: float


_OPTICAL = _Sensor(1.0, 10.0)  # calm water has 2 to 5 units of reflectance x 10,000 per pixel, land 30 and more
_SAR = _Sensor(2.0, 0.1)  # speckle alone has 0.3 dB per pixel


class Piece(NamedTuple):
    """A part of the grid that both images are given on. What is not finite has no value.

    Attributes
    ----------
    row, column : int
        Its first row and column on the grid.
    optical : float32 array, shape (Bo, H, W)
        Reflectance x 10,000: B03, B04 and B08, or some of them.
    sar : float32 array, shape (Bs, H, W)
        Backscatter in dB: VV and VH, or one of them.
    """

    row: int
    column: int
    optical: Float32
    sar: Float32


class Vector(NamedTuple):
    """What one window alone says: its centre on the grid, its shift (signs as in `Shift`), its correlation there."""

    row: float
    column: float
    columns: float
    rows: float
    peak: float


@dataclass(frozen=True)
class Shift:
    """How far a SAR image must move to fit an optical image, and whether to believe it.

    The shift is to be **added to where the SAR image lies**: with ``columns`` of +2 it must move two pixels to the
    right (east on a north-up grid), with ``rows`` of +1 one pixel down (south).

    Attributes
    ----------
    columns, rows : float
        The shift in pixels of the grid; NaN where nothing could be compared.
    accepted : bool
        Whether it may be applied.
    reason : str
        What speaks for it, or what does not suffice and which bound it misses.
    peak : float
        Mean correlation of the windows at the shift, at most 1.
    agreeing : float
        Share of the windows whose own shift lies within ``TOLERANCE``.
    spread : float
        Standard deviation in pixels, by drawing the windows again. Windows of small scenes overlap: there it is too
        small.
    polarisation_difference : float
        Distance in pixels between the shifts by VV and by VH alone; NaN with one polarisation.
    windows : int
        Number of windows that were compared.
    vectors : tuple of Vector
        What each window says.

    Examples
    --------
    A field that the SAR image shows two columns too far to the left and one row too far up must move +2, +1:

    >>> random = np.random.default_rng(0)
    >>> fields = np.kron(random.normal(0, 1, (32, 32)), np.ones((8, 8))).astype(np.float32)
    >>> optical, sar = 1000 + 300 * fields, np.roll(fields, (-1, -2), (0, 1))
    >>> found = estimate_shift([Piece(0, 0, optical[None], sar[None])])
    >>> found.accepted, round(found.columns), round(found.rows)
    (True, 2, 1)
    """

    columns: float
    rows: float
    accepted: bool
    reason: str
    peak: float
    agreeing: float
    spread: float
    polarisation_difference: float
    windows: int
    vectors: tuple[Vector, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain objects for JSON, which knows no NaN: ``None`` stands for it."""
        plain = {name: None if _is_nan(value) else value for name, value in asdict(self).items()}
        return plain | {"vectors": [vector._asdict() for vector in self.vectors]}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def spread_pieces(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Choose what to read of a scene: all of a small one, at most 25 blocks spread over a large one.

    Parameters
    ----------
    height, width : int
        Size of the scene in pixels.

    Returns
    -------
    list of tuple
        First row, first column, height and width of each piece.

    Examples
    --------
    >>> spread_pieces(224, 300)
    [(0, 0, 224, 300)]
    >>> len(spread_pieces(10_980, 10_980)), spread_pieces(10_980, 10_980)[1]
    (25, (1024, 3072, 512, 512))
    """
    if max(height, width) <= WHOLE:
        return [(0, 0, height, width)]
    rows, columns = _blocks(height), _blocks(width)
    along, across = (max(_PIECES, _PIECES**2 // len(others)) for others in (columns, rows))
    return [
        (row, column, tall, wide) for row, tall in _choose(rows, along) for column, wide in _choose(columns, across)
    ]


def _blocks(size: int) -> list[tuple[int, int]]:
    """Start and length of the blocks along an axis; the last one only if it is long enough for some windows."""
    blocks = [(start, min(BLOCK, size - start)) for start in range(0, size, BLOCK)]
    return blocks[:-1] if len(blocks) > 1 and blocks[-1][1] < BLOCK // 2 else blocks


def _choose(blocks: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    count = min(most, len(blocks))
    return [blocks[(2 * number + 1) * len(blocks) // (2 * count)] for number in range(count)]


class _Features(NamedTuple):
    """Nine channels for each part of an image (P, 9, H, W), where they are known, and the mean gradient there."""

    parts: Float32
    known: Bool
    gradient: Float32


def _smooth(values: Float32, known: Bool, sigma: float) -> Float32:
    """Smooth the last two axes by a Gaussian of what is known; values must be 0 where nothing is."""
    sigmas = (0,) * (values.ndim - 2) + (sigma, sigma)
    blurred: Float32 = ndimage.gaussian_filter(values, sigmas, mode="constant", truncate=3)
    weight = ndimage.gaussian_filter(known.astype(np.float32), sigma, mode="constant", truncate=3)
    blurred /= np.maximum(weight, 1e-3)
    return blurred


def _subtract_surroundings(values: Float32, known: Bool) -> None:
    """Subtract the mean of what is known around each pixel; values must be 0 where nothing is, and stay so.

    That land has more edges than water would correlate over long distances, and say little.
    """
    size = (1,) * (values.ndim - 2) + (_SURROUNDINGS, _SURROUNDINGS)
    mean = ndimage.uniform_filter(values, size, mode="constant")
    mean /= np.maximum(ndimage.uniform_filter(known.astype(np.float32), _SURROUNDINGS, mode="constant"), 1e-6)
    values -= mean
    values *= known


def _describe(bands: Float32, sensor: _Sensor, *, apart: bool) -> _Features:
    """Describe an image by its gradients; its bands are parts of their own or, unless ``apart``, one part.

    Each part is normalised by itself; their sum describes the image as a whole.
    """
    known: Bool = np.asarray(np.isfinite(bands).all(axis=0))
    count = max(int(known.sum()), 1)
    angles = np.arange(_DIRECTIONS, dtype=np.float32)[:, None, None] * np.float32(np.pi / _DIRECTIONS)
    cosines, sines = np.cos(angles), np.sin(angles)
    parts = np.zeros((len(bands) if apart else 1, _DIRECTIONS, *known.shape), np.float32)
    gradient = np.zeros(known.shape, np.float32)
    for number, band in enumerate(bands):
        # Far from zero, float32 would round the gradients.
        values = np.where(known, band - band.sum(where=known, dtype=np.float64) / count, 0).astype(np.float32)
        down, right = (slope * known for slope in np.gradient(_smooth(values, known, sensor.sigma)))
        strength = np.hypot(down, right)
        scale = max(float(strength.sum()) / count, sensor.floor)
        parts[number if apart else 0] += np.abs(right * (cosines / scale) + down * (sines / scale))
        gradient += strength / len(bands)
    parts = _smooth(parts, known, 1.0)
    norm = np.sqrt(np.square(parts).sum(axis=1, keepdims=True)) * known
    # An edge counts as much as another twice as strong, but what lies far below the mean hardly counts.
    parts *= known / np.maximum(norm + norm.sum(axis=(2, 3), keepdims=True) / count, 1e-6)
    _subtract_surroundings(parts, known)
    return _Features(parts, known, gradient)


def _window_starts(size: int) -> list[int]:
    """Where windows begin along an axis: side by side in a large piece, overlapping in a small one."""
    count = max(size // WINDOW, min(_ACROSS, 1 + (size - WINDOW) // _STEP))
    return [number * (size - WINDOW) // max(count - 1, 1) for number in range(count)]


class _Comparison(NamedTuple):
    """Correlations of one window at every lag of the SAR image, -REACH .. REACH down and to the right.

    By all polarisations together and, if there are two, by each, shape (S, lags, lags); and the number of pixels that
    overlap, shape (lags, lags).
    """

    row: float
    column: float
    correlations: Float32
    overlap: Float32


def _compare(piece: Piece) -> Iterator[_Comparison]:
    """Compare the windows of a piece that hold enough values and edges."""
    if min(piece.optical.shape[1:]) < WINDOW:
        return
    optical = _describe(piece.optical, _OPTICAL, apart=False)
    sar = _describe(piece.sar, _SAR, apart=True)
    around = ((REACH, REACH), (REACH, REACH))
    parts = np.pad(sar.parts, ((0, 0), (0, 0), *around))
    known = np.pad(sar.known, around)
    both = optical.known & sar.known
    height, width = both.shape
    for row in _window_starts(height):
        for column in _window_starts(width):
            inner = np.s_[..., row : row + WINDOW, column : column + WINDOW]
            outer = np.s_[..., row : row + WINDOW + 2 * REACH, column : column + WINDOW + 2 * REACH]
            seen = optical.known[inner]
            bare = optical.gradient[inner].sum() < _OPTICAL.floor * seen.sum()
            if both[inner].mean() >= 0.5 and not bare:
                compared = _correlate(optical.parts[inner][0], seen, parts[outer], known[outer])
                if compared[0].any():  # unless the SAR image is constant
                    yield _Comparison(piece.row + row + WINDOW / 2, piece.column + column + WINDOW / 2, *compared)


def _correlate(template: Float32, seen: Bool, field: Float32, known: Bool) -> tuple[Float32, Float32]:
    """Correlate a template (9, h, w) with a larger field (P, 9, H, W), summed over the channels.

    Returns
    -------
    correlations : float32 array, shape (S, H - h + 1, W - w + 1)
        Normalised by what overlaps: of the sum of the parts and, if there are several, of each part.
    overlap : float32 array, shape (H - h + 1, W - w + 1)
        Number of pixels with a value in both; where it is below a quarter of the template, both are 0.
    """
    size = tuple(fft.next_fast_len(length, real=True) for length in known.shape)
    lags = tuple(outer - inner + 1 for outer, inner in zip(known.shape, seen.shape, strict=True))

    def transform(values: NDArray[Any]) -> NDArray[np.complex64]:
        return np.asarray(fft.rfft2(values.astype(np.float32, copy=False), size))

    # Of real arrays, conjugate spectra make correlations of products.
    pattern, place, energy = (transform(values).conj() for values in (template, seen, np.square(template).sum(axis=0)))
    products = (pattern * transform(field)).sum(axis=1)
    whole = field.sum(axis=0, keepdims=True)
    streams = np.concatenate((whole, field)) if len(field) > 1 else whole
    products = np.concatenate((products.sum(axis=0, keepdims=True), products)) if len(field) > 1 else products
    powers = place * transform(np.square(streams).sum(axis=1))
    outline = transform(known)
    found = fft.irfft2(np.concatenate((products, powers, [energy * outline, place * outline])), size)
    found = found[:, : lags[0], : lags[1]]
    count = len(streams)
    product, power, own, overlap = found[:count], found[count : 2 * count], found[-2], np.rint(found[-1])
    overlap = np.where(overlap >= seen.size / 4, overlap, 0)
    norm = np.sqrt(np.maximum(power, 0) * np.maximum(own, 0))
    least = 1e-4 * seen.size  # rounding is far below this, any real image far above
    correlations = np.where((norm > least) & (overlap > 0), product / np.maximum(norm, least), 0)
    return np.asarray(correlations, np.float32), np.asarray(overlap, np.float32)


class _Peak(NamedTuple):
    """Where a correlation is greatest, in rows and columns from the centre of its lags, and how great it is."""

    row: float
    column: float
    height: float


def _fit_matrix() -> NDArray[np.float64]:
    """Least squares of 1, x, y, x², xy, y² to 3 x 3 values, as a matrix of shape (6, 9)."""
    y, x = (axis.ravel().astype(np.float64) for axis in np.mgrid[-1:2, -1:2])
    return np.linalg.pinv(np.stack([np.ones(9), x, y, x * x, x * y, y * y], axis=1))


_FIT = _fit_matrix()


def _find_peak(surface: NDArray[Any]) -> _Peak:
    """Find the peak of a correlation by a quadratic surface through the 3 x 3 values around the greatest."""
    centre_row, centre_column = ((length - 1) / 2 for length in surface.shape)
    row, column = np.unravel_index(int(np.argmax(surface)), surface.shape)
    height = float(surface[row, column])
    around = surface[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    at = _Peak(float(row - centre_row), float(column - centre_column), height)
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
    return _Peak(at.row + down, at.column + right, float(constant + (x * right + y * down) / 2))


def _mean(correlations: Float32, overlaps: Float32) -> NDArray[np.float64]:
    """Mean over the first axis, each weighted by the pixels that it is of."""
    total = (correlations * overlaps).sum(axis=0, dtype=np.float64)
    return np.asarray(total / np.maximum(overlaps.sum(axis=0, dtype=np.float64), 1))


def _spread(correlations: Float32, overlaps: Float32) -> float:
    """Standard deviation of the peak, in pixels, when the windows are drawn again, with replacement.

    The whole search is repeated: where two shifts fit about equally well, as where two scenes were joined, it jumps.
    """
    count, side = len(correlations), correlations.shape[-1]
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _RESAMPLES).astype(np.float32)
    totals = drawn @ (correlations * overlaps).reshape(count, -1)
    means = totals / np.maximum(drawn @ overlaps.reshape(count, -1), 1)
    peaks = [_find_peak(surface)[:2] for surface in means.reshape(-1, side, side)]
    return float(np.hypot(*np.std(peaks, axis=0)))


def estimate_shift(pieces: Iterable[Piece]) -> Shift:
    """Find how far a SAR image must move to fit an optical image that it is said to be aligned with.

    A shift of up to 48 pixels along each axis is found where much is seen, of up to a tenth of the side of a
    smaller scene: among more places there would be more chance resemblances. There is no coarser level before: with
    Fourier transforms, to look everywhere at once takes little longer.

    It is accepted if at least 12 windows were compared, the peak is at least 0.12 and not where the search ends, at
    least 40 % of the windows agree within 1.5 pixels, the spread is at most 0.35 pixels and VV and VH differ by at most
    1.5 pixels. On seven real pairs of 224 to 264 pixels a side, true shifts had peaks from 0.17 on, 40 wrong pairs up
    to 0.06, and pairs of which one image was turned or mirrored up to 0.12, but then elsewhere amiss. VV and VH see
    edges in different places (tree lines, crops): in true pairs they differ by up to 1.2 pixels, and the shift is no
    surer than half of that, however well it repeats: a known shift is found to 0.012 pixels (median of 84).

    Parameters
    ----------
    pieces : iterable of Piece
        Parts of the scene, such as those of `spread_pieces`; only one is held at a time. Each is described on its own.

    Returns
    -------
    Shift

    Raises
    ------
    InputError
        If the images of a piece differ in size, or the pieces in their number of SAR bands.
    """
    comparisons: list[_Comparison] = []
    pixels = 0
    bands: set[int] = set()
    for piece in pieces:
        bands.add(len(piece.sar))
        if piece.optical.shape[1:] != piece.sar.shape[1:] or len(bands) > 1:
            raise InputError(
                f"The piece at row {piece.row}, column {piece.column} has {piece.optical.shape} optical and "
                f"{piece.sar.shape} SAR values: the images must be of one size, with the same bands in every piece."
            )
        comparisons += _compare(piece)
        pixels += int((np.isfinite(piece.optical).all(axis=0) & np.isfinite(piece.sar).all(axis=0)).sum())
    reach = min(REACH, max(math.isqrt(pixels) // _SIDES_PER_REACH, 4))
    found = _summarise(comparisons, reach) if comparisons else _NOTHING
    accepted, reason = _judge(found, reach)
    return replace(found, accepted=accepted, reason=reason)


_NOTHING = Shift(math.nan, math.nan, False, "", math.nan, math.nan, math.nan, math.nan, 0, ())


def _summarise(comparisons: Sequence[_Comparison], reach: int) -> Shift:
    """Make the shift, without a judgement, of the windows' correlations at lags up to ``reach``."""
    inside = slice(REACH - reach, REACH + reach + 1)
    correlations = np.stack([compared.correlations[:, inside, inside] for compared in comparisons])
    overlaps = np.stack([compared.overlap[inside, inside] for compared in comparisons])
    together, *each = (_find_peak(_mean(correlations[:, number], overlaps)) for number in range(correlations.shape[1]))
    peaks = [_find_peak(surface) for surface in correlations[:, 0]]
    agreeing = [math.dist(peak[:2], together[:2]) <= TOLERANCE for peak in peaks]
    return Shift(
        columns=-together.column,
        rows=-together.row,
        accepted=False,
        reason="",
        peak=together.height,
        agreeing=sum(agreeing) / len(peaks),
        spread=_spread(correlations[:, 0], overlaps),
        polarisation_difference=math.dist(each[0][:2], each[1][:2]) if each else math.nan,
        windows=len(comparisons),
        vectors=tuple(
            Vector(compared.row, compared.column, -peak.column, -peak.row, peak.height)
            for compared, peak in zip(comparisons, peaks, strict=True)
        ),
    )


def _judge(found: Shift, reach: int) -> tuple[bool, str]:
    """Return whether a shift may be applied, and the first objection to it or what speaks for it."""
    farthest, apart = max(abs(found.columns), abs(found.rows)), found.polarisation_difference
    objections = (
        (
            found.windows < LEAST_WINDOWS,
            f"{found.windows} windows of {WINDOW} x {WINDOW} pixels could be compared, and {LEAST_WINDOWS} are needed: "
            "the scene is too small, or has too few values or edges.",
        ),
        (
            found.peak < LEAST_PEAK,
            f"The correlation of the edges is {found.peak:.3f} at most, and {LEAST_PEAK:g} is needed: "
            "the images do not show the same ground, or nothing that both sensors see.",
        ),
        (
            farthest > reach - 1,
            f"The shift is {farthest:.1f} pixels along an axis, where the search ends ({reach} pixels): "
            "the images differ by more, or do not match.",
        ),
        (
            found.agreeing < LEAST_AGREEING,
            f"{found.agreeing:.0%} of the windows agree within {TOLERANCE:g} pixels, and {LEAST_AGREEING:.0%} are "
            "needed: the images do not differ by one shift.",
        ),
        (
            found.spread > MOST_SPREAD,
            f"The shift varies by {found.spread:.2f} pixels with the windows it is estimated from, "
            f"and {MOST_SPREAD:g} may be.",
        ),
        (
            apart > TOLERANCE,
            f"The shifts by VV and by VH alone lie {apart:.2f} pixels apart, and {TOLERANCE:g} may be.",
        ),
    )
    objection = next((text for holds, text in objections if holds), None)
    if objection:
        return False, objection
    return True, (
        f"{found.agreeing:.0%} of {found.windows} windows agree within {TOLERANCE:g} pixels; the correlation of the "
        f"edges is {found.peak:.3f} (at least {LEAST_PEAK:g}), the spread {found.spread:.2f} pixels "
        f"(at most {MOST_SPREAD:g})."
    )
