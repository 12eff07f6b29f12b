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
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError
from scipy import sparse

from refnet_cli.errors import InputError
from refnet_cli.tiles.window import Window
from refnet_cli.types import Int64

NEITHER, TRAIN, VALIDATION = 0, 1, 2
METRES_PER_DEGREE = 111_320.0
LOSS_COUNTS = 0.1
"""What pixels lost to buffers count next to validation shares that miss their mark."""

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


def _runs(values: Int64) -> Iterable[tuple[int, int, int]]:
    """Yield value, start and length of each run of equal values."""
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, end in pairwise(starts):
        yield int(values[start]), start, end - start


def choose_squares(
    counts: Mapping[Square, Int64], rings: Mapping[Lattice, int], share: float, seed: int
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
    near = _find_neighbours(squares, rings)
    tie = np.random.default_rng(seed).random(len(squares)) * 1e-9
    taken, lost = np.zeros((2, len(squares)), bool)
    around = near @ shares  # of each square, what would be taken from training with it
    cost = math.inf
    while not taken.all():
        validated = shares[taken].sum(0) + shares
        buffered = np.maximum(shares[lost].sum(0) + around - shares, 0)
        costs = ((validated - share) ** 2 + LOSS_COUNTS * buffered**2 + (validated + buffered > 1 - 1e-9)).sum(1) + tie
        costs[taken] = math.inf
        best = int(np.argmin(costs))
        if costs[best] >= cost:
            break
        cost = costs[best]
        gone = np.setdiff1d(near[[best]].indices, np.flatnonzero(taken | lost))
        around -= near[:, gone] @ shares[gone]
        lost[gone] = True
        lost[best], taken[best] = False, True
    if (taken | lost).all():
        raise InputError(
            "The labelled area is too small to hold out blocks with a buffer around them: nothing would be left to "
            'learn from. Give more regions, or a smaller block or tile, or choose split = "none" (no score) or '
            'split = "random" (a score that flatters).'
        )
    return {squares[index] for index in np.flatnonzero(taken)}


def draw_squares(counts: Mapping[Square, Int64], share: float, seed: int) -> set[Square]:
    """Draw squares at random until about ``share`` of all labelled pixels are in them.

    Parameters are those of `choose_squares`.
    """
    squares = sorted(square for square, found in counts.items() if found.any())
    order = np.random.default_rng(seed).permutation(len(squares))
    pixels = np.cumsum([counts[squares[index]].sum() for index in order])
    return {squares[index] for index in order[: int(np.searchsorted(pixels, share * pixels[-1])) + 1]}


def _find_neighbours(squares: Sequence[Square], rings: Mapping[Lattice, int]) -> Any:
    """Sparse matrix (n, n) of 1 where a square lies in another's ring, itself among them, on any lattice."""
    at = {square: index for index, square in enumerate(squares)}
    pairs = set()
    for index, (lattice, row, column) in enumerate(squares):
        steps = range(-rings[lattice], rings[lattice] + 1)
        found = (at.get(Square(lattice, row + down, column + right)) for down in steps for right in steps)
        pairs |= {(index, other) for other in found if other is not None}
    if len(rings) > 1:
        reach, plain = (_on_earth(squares, wide) for wide in (rings, dict.fromkeys(rings, 0)))
        one, other = shapely.STRtree(plain).query(reach, predicate="intersects")
        across = list(zip(one.tolist(), other.tolist(), strict=True))
        pairs |= {*across, *((second, first) for first, second in across)}
    rows, columns = np.array(sorted(pairs), np.intp).reshape(-1, 2).T
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(squares),) * 2)


def _on_earth(squares: Sequence[Square], rings: Mapping[Lattice, int]) -> NDArray[Any]:
    """Boxes in degrees around squares and their rings; an empty one where there is none."""
    by_crs: dict[str, list[int]] = defaultdict(list)
    boxes = []
    for index, (lattice, row, column) in enumerate(squares):
        ring = rings[lattice]
        left, right = (column - ring) * lattice.across, (column + 1 + ring) * lattice.across
        boxes.append((left, (row - ring) * lattice.down, right, (row + 1 + ring) * lattice.down))
        by_crs[lattice.crs].append(index)
    made = np.full(len(squares), shapely.Point(), object)
    for crs, indexes in by_crs.items():
        moved = _transform([boxes[index] for index in indexes], crs, "EPSG:4326")
        for index, box in zip(indexes, moved, strict=True):
            if np.isfinite(box).all():
                made[index] = shapely.box(*box)
    return made


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
        boxes = np.clip(np.stack([*starts, *ends], axis=1), 0, [height, width] * 2).astype(np.int64)
        self._kept_off = boxes[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]

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


def _fill(roles: NDArray[np.uint8], window: Window, boxes: Int64, role: int) -> None:
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
    """Bounding boxes in another reference system, of infinities where they have no place in it."""
    way = Transformer.from_crs(source, target, always_xy=True)
    for box in boxes:
        try:
            left, bottom, right, top = way.transform_bounds(*box)
        except ProjError:
            left = bottom = right = top = math.inf
        # Across 180 degrees of longitude.
        yield (left, bottom, right, top) if left <= right else (-180.0, bottom, 180.0, top)
