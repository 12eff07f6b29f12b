"""Which pixels are learned from and which are only scored, so that the score can be believed.

Neighbouring pixels look alike: scores on pixels next to those that were learned from flatter. Validation is therefore
cut out in blocks on the ground, the same for all scenes that see it, and a buffer around each is neither.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError

from refnet_cli.errors import InputError
from refnet_cli.tiling import Window

NEITHER, TRAIN, VALIDATION = 0, 1, 2
METRES_PER_DEGREE = 111_320.0
LOSS_COUNTS = 0.1
"""What pixels lost to buffers count beside validation shares that miss their mark."""

Counts = NDArray[np.int64]
Box = tuple[float, float, float, float]
"""Left, bottom, right and top in the units of a reference system."""


class Lattice(NamedTuple):
    """Squares on the ground: those of a reference system, from its origin on."""

    crs: str
    across: float
    """Width of a square in the units of the reference system."""
    down: float
    """Height of a square."""


class Square(NamedTuple):
    """A square of a lattice, whichever scene sees it."""

    lattice: Lattice
    row: int
    """Counted to the north."""
    column: int
    """Counted to the east."""


def make_lattice(grid: GeoBox, metres: float) -> Lattice:
    """Lay squares of about ``metres`` side over a grid's reference system; scenes of one UTM zone share theirs."""
    crs = grid.crs
    if crs is None:
        raise InputError("A scene without a reference system cannot be divided into blocks.")
    if not crs.geographic:
        side = metres / crs.proj.axis_info[0].unit_conversion_factor
        return Lattice(str(crs), side, side)
    bounds = grid.boundingbox
    parallel = math.cos(math.radians(min(abs(bounds.bottom + bounds.top) / 2, 89)))
    return Lattice(str(crs), metres / METRES_PER_DEGREE / parallel, metres / METRES_PER_DEGREE)


def cut(grid: GeoBox, lattice: Lattice) -> dict[Square, Window]:
    """Cut a north-up grid along a lattice; every pixel is in the square of its centre.

    Examples
    --------
    >>> from affine import Affine
    >>> grid = GeoBox((3, 5), Affine(10, 0, 0, 0, -10, 30), "EPSG:32633")
    >>> list(cut(grid, make_lattice(grid, 30)).values())
    [Window(row=0, column=0, height=3, width=3), Window(row=0, column=3, height=3, width=2)]
    """
    height, width = grid.shape
    transform = grid.transform
    columns = np.floor((transform.c + (np.arange(width) + 0.5) * transform.a) / lattice.across).astype(np.int64)
    rows = np.floor((transform.f + (np.arange(height) + 0.5) * transform.e) / lattice.down).astype(np.int64)
    return {
        Square(lattice, row, column): Window(top, left, tall, wide)
        for row, top, tall in _runs(rows)
        for column, left, wide in _runs(columns)
    }


def _runs(values: Counts) -> Iterable[tuple[int, int, int]]:
    """Yield value, start and length of each run of equal values."""
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, end in pairwise(starts):
        yield int(values[start]), start, end - start


def choose_squares(
    counts: Mapping[Square, Counts], rings: Mapping[Lattice, int], share: float, seed: int
) -> set[Square]:
    """Choose squares for validation, so that each class has about its share there and buffers cost little.

    Square after square is taken that brings the classes' shares nearest to ``share`` while losing the fewest pixels
    to buffers, as long as one does. Taking all of a class from training counts as the worst of losses.

    Parameters
    ----------
    counts : mapping
        Labelled pixels of each class by square, each of shape (classes,).
    rings : mapping
        How many squares around a validation square are buffer, by lattice.
    share : float
        Of the labelled pixels, to be validated.
    seed : int
        Decides among squares that are as good.

    Raises
    ------
    InputError
        If no square can be held out without leaving nothing to learn from.
    """
    squares = sorted(square for square, found in counts.items() if found.any())
    pixels = np.array([counts[square] for square in squares], float).reshape(len(squares), -1 if squares else 0)
    shares = pixels[:, pixels.any(0)] / pixels.sum(0)[pixels.any(0)]
    near = _neighbours(squares, rings)
    tie = np.random.default_rng(seed).random(len(squares)) * 1e-9
    taken, lost = np.zeros((2, len(squares)), bool)
    cost = math.inf
    while True:
        # A last row of nothing stands for neighbours without labels.
        free = np.vstack([np.where((taken | lost)[:, None], 0, shares), np.zeros(shares.shape[1])])
        validated = shares[taken].sum(0) + shares
        buffered = np.maximum(shares[lost].sum(0) + free[near].sum(1) - shares, 0)
        costs = ((validated - share) ** 2 + LOSS_COUNTS * buffered**2 + (validated + buffered > 1 - 1e-9)).sum(1) + tie
        costs[taken] = math.inf
        best = int(np.argmin(costs)) if len(costs) else 0
        if not len(costs) or costs[best] >= cost:
            break
        cost = costs[best]
        lost[near[best][near[best] < len(squares)]] = True
        taken[best] = True
        lost &= ~taken
    if (taken | lost).all():
        raise InputError(
            "The labelled area is too small to hold out blocks with a buffer around them: nothing would be left to "
            'learn from. Give more regions, or a smaller block or tile, or choose split = "none" (no score) or '
            'split = "random" (a score that flatters).'
        )
    return {squares[index] for index in np.flatnonzero(taken)}


def _neighbours(squares: Sequence[Square], rings: Mapping[Lattice, int]) -> NDArray[np.intp]:
    """Indexes of the squares within each one's ring, itself among them; of those that are not there, their number."""
    at = {square: index for index, square in enumerate(squares)}
    widest = max((rings[square.lattice] for square in squares), default=0)
    near = np.full((len(squares), (2 * widest + 1) ** 2), len(squares), np.intp)
    for index, (lattice, row, column) in enumerate(squares):
        steps = range(-rings[lattice], rings[lattice] + 1)
        found = [at.get(Square(lattice, row + down, column + right)) for down in steps for right in steps]
        known = [other for other in found if other is not None]
        near[index, : len(known)] = known
    return near


@dataclass(frozen=True)
class Footprint:
    """A rectangle on the ground."""

    crs: str
    box: Box


def footprint(grid: GeoBox, window: Window) -> Footprint:
    """Return the ground that a window of a north-up grid shows."""
    transform = grid.transform
    left, top = transform.c + window.column * transform.a, transform.f + window.row * transform.e
    bottom, right = top + window.height * transform.e, left + window.width * transform.a
    return Footprint(str(grid.crs), (left, bottom, right, top))


class Roles:
    """What each pixel of a scene is for.

    Parameters
    ----------
    grid : GeoBox
    trains : bool
        Whether pixels outside the buffers are learned from.
    validation : sequence of Window
        Pixels to score, as windows of the grid.
    held_out : sequence of Footprint
        All ground that any scene validates, this one among them.
    buffer : int
        Pixels between what is validated and what is learned from.
    """

    def __init__(
        self, grid: GeoBox, trains: bool, validation: Sequence[Window], held_out: Sequence[Footprint], buffer: int
    ) -> None:
        self._trains = trains
        self._validation = np.array(validation, np.int64).reshape(-1, 4)
        top, left, bottom, right = _in_pixels(grid, held_out).T
        # A pixel is where its centre is.
        starts = [np.ceil(edge - buffer - 0.5) for edge in (top, left)]
        ends = [np.floor(edge + buffer - 0.5) + 1 for edge in (bottom, right)]
        height, width = grid.shape
        self._kept_off = np.clip(np.stack([*starts, *ends], axis=1), 0, [height, width] * 2).astype(np.int64)

    @property
    def validation(self) -> list[Window]:
        """The windows to score."""
        return [Window(*window) for window in self._validation.tolist()]

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Return what the pixels of a window are for: ``NEITHER``, ``TRAIN`` or ``VALIDATION``, shape (H, W)."""
        roles = np.full((window.height, window.width), TRAIN if self._trains else NEITHER, np.uint8)
        if self._trains:
            _fill(roles, window, self._kept_off, NEITHER)
        top, left, height, width = self._validation.T
        _fill(roles, window, np.stack([top, left, top + height, left + width], axis=1), VALIDATION)
        return roles


def _fill(roles: NDArray[np.uint8], window: Window, boxes: Counts, role: int) -> None:
    """Set the role inside boxes (top, left, bottom, right), in pixels of the grid."""
    moved = boxes - np.array([window.row, window.column] * 2)
    near = (moved[:, 0] < window.height) & (moved[:, 1] < window.width) & (moved[:, 2] > 0) & (moved[:, 3] > 0)
    for top, left, bottom, right in np.maximum(moved[near], 0).tolist():
        roles[top:bottom, left:right] = role


def _in_pixels(grid: GeoBox, held_out: Sequence[Footprint]) -> NDArray[np.float64]:
    """Bounding boxes (top, left, bottom, right) of ground in pixels of a grid; of what lies far away, none."""
    own = str(grid.crs)
    by_crs: dict[str, list[Box]] = defaultdict(list)
    for place in held_out:
        by_crs[place.crs].append(place.box)
    boxes = []
    for crs, found in by_crs.items():
        moved = found if crs == own else list(_transform(found, crs, own))
        boxes += [box for box in moved if np.isfinite(box).all()]
    left, bottom, right, top = np.array(boxes, np.float64).reshape(-1, 4).T
    transform = grid.transform
    return np.stack([
        (top - transform.f) / transform.e, (left - transform.c) / transform.a,
        (bottom - transform.f) / transform.e, (right - transform.c) / transform.a,
    ], axis=1)  # fmt: skip


def _transform(boxes: Sequence[Box], source: str, target: str) -> Iterable[Box]:
    way = Transformer.from_crs(source, target, always_xy=True)
    for box in boxes:
        try:
            left, bottom, right, top = way.transform_bounds(*box)
        except ProjError:
            continue  # it has no place in the scene's reference system, and so none in the scene
        # Across 180 degrees of longitude.
        yield (left, bottom, right, top) if left <= right else (-180.0, bottom, 180.0, top)
