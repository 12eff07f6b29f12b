"""Spatial split of the labelled pixels into training, validation and buffer.

Neighbouring pixels are correlated, so validation next to training pixels gives scores that are too high. Validation is
therefore held out in blocks on the ground, the same for all scenes that cover them, and a buffer around each block is
not used at all.
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

UNUSED, TRAIN, VALIDATION = 0, 1, 2
METRES_PER_DEGREE = 111_320.0
LOSS_COUNTS = 0.1
"""Weight of pixels lost to buffers, relative to deviations from the validation share."""

Box = tuple[float, float, float, float]
"""Left, bottom, right and top in the units of a CRS."""


class SplitError(InputError):
    """The scenes cannot be split as configured."""

    pixels = 0
    """Pixels of all scenes, labelled or not."""


class BlockGrid(NamedTuple):
    """A grid of square blocks on the ground, aligned to the origin of a CRS."""

    crs: str
    across: float
    """Width of a block in the units of the CRS."""
    down: float
    """Height of a block in the units of the CRS."""


class Block(NamedTuple):
    """A block of a block grid, shared by all scenes that cover it."""

    grid: BlockGrid
    row: int
    """Increases to the north."""
    column: int
    """Increases to the east."""


def make_block_grid(grid: GeoBox, metres: float) -> BlockGrid:
    """Return the grid of blocks of about ``metres`` side in a raster grid's CRS; all scenes of a UTM zone share it."""
    crs = grid.crs
    if crs is None:
        raise InputError("A scene has no coordinate reference system, so it cannot be split into blocks.")
    if not crs.geographic:
        side = metres / crs.proj.axis_info[0].unit_conversion_factor
        return BlockGrid(str(crs), side, side)
    bounds = grid.boundingbox
    parallel = math.cos(math.radians(min(abs(bounds.bottom + bounds.top) / 2, 89)))
    return BlockGrid(str(crs), metres / METRES_PER_DEGREE / parallel, metres / METRES_PER_DEGREE)


def cut_into_blocks(grid: GeoBox, block_grid: BlockGrid) -> dict[Block, Window]:
    """Cut a north-up grid into blocks; a pixel belongs to the block of its centre.

    Examples
    --------
    >>> from affine import Affine
    >>> grid = GeoBox((3, 5), Affine(10, 0, 0, 0, -10, 30), "EPSG:32633")
    >>> list(cut_into_blocks(grid, make_block_grid(grid, 30)).values())
    [Window(row=0, column=0, height=3, width=3), Window(row=0, column=3, height=3, width=2)]
    """
    height, width = grid.shape
    transform = grid.transform
    columns = np.floor((transform.c + (np.arange(width) + 0.5) * transform.a) / block_grid.across).astype(np.int64)
    rows = np.floor((transform.f + (np.arange(height) + 0.5) * transform.e) / block_grid.down).astype(np.int64)
    return {
        Block(block_grid, row, column): Window(top, left, tall, wide)
        for row, top, tall in _runs(rows)
        for column, left, wide in _runs(columns)
    }


def _runs(values: Int64) -> Iterable[tuple[int, int, int]]:
    """Yield value, start and length of each run of equal values."""
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, end in pairwise(starts):
        yield int(values[start]), start, end - start


def choose_validation_blocks(
    counts: Mapping[Block, Int64], rings: Mapping[BlockGrid, int], share: float, seed: int
) -> set[Block]:
    """Choose blocks for validation so that each class has about its share there and buffers lose few pixels.

    The choice is greedy: add the block that brings the classes' shares closest to ``share`` and loses the fewest pixels
    to buffers, until no block improves the cost. Removing all pixels of a class from training has the highest cost.

    Parameters
    ----------
    counts : mapping
        Labelled pixels of each class by block, each of shape (classes,).
    rings : mapping
        Width of the buffer around a validation block in blocks, by block grid.
    share : float
        Share of the labelled pixels to hold out for validation.
    seed : int
        Breaks ties.

    Raises
    ------
    SplitError
        If holding out any block would leave no training pixels.
    """
    blocks = sorted(block for block, found in counts.items() if found.any())
    pixels = np.array([counts[block] for block in blocks], float).reshape(len(blocks), -1 if blocks else 0)
    shares = pixels[:, pixels.any(0)] / pixels.sum(0)[pixels.any(0)]
    near = _find_neighbours(blocks, rings)
    tie = np.random.default_rng(seed).random(len(blocks)) * 1e-9
    taken, lost = np.zeros((2, len(blocks)), bool)
    around = near @ shares  # pixels that each block and its buffer would remove from training
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
        raise SplitError(
            "The labelled area is too small to hold out blocks with a buffer around them: no training pixels would "
            "remain."
        )
    return {blocks[index] for index in np.flatnonzero(taken)}


def draw_validation_blocks(counts: Mapping[Block, Int64], share: float, seed: int) -> set[Block]:
    """Draw random blocks until they contain about ``share`` of all labelled pixels.

    See `choose_validation_blocks` for the parameters.
    """
    blocks = sorted(block for block, found in counts.items() if found.any())
    order = np.random.default_rng(seed).permutation(len(blocks))
    pixels = np.cumsum([counts[blocks[index]].sum() for index in order])
    return {blocks[index] for index in order[: int(np.searchsorted(pixels, share * pixels[-1])) + 1]}


def _find_neighbours(blocks: Sequence[Block], rings: Mapping[BlockGrid, int]) -> Any:
    """Return a sparse matrix (n, n): 1 where a block is another one, or lies in its buffer, on any block grid."""
    at = {block: index for index, block in enumerate(blocks)}
    pairs = set()
    for index, (block_grid, row, column) in enumerate(blocks):
        steps = range(-rings[block_grid], rings[block_grid] + 1)
        found = (at.get(Block(block_grid, row + down, column + right)) for down in steps for right in steps)
        pairs |= {(index, other) for other in found if other is not None}
    if len(rings) > 1:
        reach, plain = (_on_earth(blocks, wide) for wide in (rings, dict.fromkeys(rings, 0)))
        one, other = shapely.STRtree(plain).query(reach, predicate="intersects")
        across = list(zip(one.tolist(), other.tolist(), strict=True))
        pairs |= {*across, *((second, first) for first, second in across)}
    rows, columns = np.array(sorted(pairs), np.intp).reshape(-1, 2).T
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(blocks),) * 2)


def _on_earth(blocks: Sequence[Block], rings: Mapping[BlockGrid, int]) -> NDArray[Any]:
    """Return the bounding boxes of blocks and their buffers in degrees; empty if outside the CRS's domain."""
    by_crs: dict[str, list[int]] = defaultdict(list)
    boxes = []
    for index, (block_grid, row, column) in enumerate(blocks):
        ring = rings[block_grid]
        left, right = (column - ring) * block_grid.across, (column + 1 + ring) * block_grid.across
        boxes.append((left, (row - ring) * block_grid.down, right, (row + 1 + ring) * block_grid.down))
        by_crs[block_grid.crs].append(index)
    made = np.full(len(blocks), shapely.Point(), object)
    for crs, indexes in by_crs.items():
        moved = _transform([boxes[index] for index in indexes], crs, "EPSG:4326")
        for index, box in zip(indexes, moved, strict=True):
            if np.isfinite(box).all():
                made[index] = shapely.box(*box)
    return made


@dataclass(frozen=True)
class GroundBox:
    """A rectangle on the ground, in a CRS."""

    crs: str
    box: Box


def ground_box(grid: GeoBox, window: Window) -> GroundBox:
    """Return the ground that a window of a north-up grid covers."""
    transform = grid.transform
    left, top = transform.c + window.column * transform.a, transform.f + window.row * transform.e
    bottom, right = top + window.height * transform.e, left + window.width * transform.a
    return GroundBox(str(grid.crs), (left, bottom, right, top))


class Roles:
    """Role of each pixel of a scene: training, validation or unused.

    Parameters
    ----------
    grid : GeoBox
    trains : bool
        Whether pixels outside validation and buffers are for training.
    validation : sequence of Window
        Validation pixels, as windows of the grid.
    held_out : sequence of GroundBox
        Ground that is held out by any scene, including this one.
    buffer : int
        Distance in pixels between validation and training.
    """

    def __init__(
        self, grid: GeoBox, trains: bool, validation: Sequence[Window], held_out: Sequence[GroundBox], buffer: int
    ) -> None:
        self._trains = trains
        self._validation = np.array(validation, np.int64).reshape(-1, 4)
        top, left, bottom, right = _in_pixels(grid, held_out).T
        # The position of a pixel is its centre.
        starts = [np.ceil(edge - buffer - 0.5) for edge in (top, left)]
        ends = [np.floor(edge + buffer - 0.5) + 1 for edge in (bottom, right)]
        height, width = grid.shape
        boxes = np.clip(np.stack([*starts, *ends], axis=1), 0, [height, width] * 2).astype(np.int64)
        self._kept_off = boxes[(boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])]

    @property
    def validation(self) -> list[Window]:
        """Validation windows."""
        return [Window(*window) for window in self._validation.tolist()]

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Return the role of each pixel of a window: ``UNUSED``, ``TRAIN`` or ``VALIDATION``, shape (H, W)."""
        roles = np.full((window.height, window.width), TRAIN if self._trains else UNUSED, np.uint8)
        if self._trains:
            _fill(roles, window, self._kept_off, UNUSED)
        top, left, height, width = self._validation.T
        _fill(roles, window, np.stack([top, left, top + height, left + width], axis=1), VALIDATION)
        return roles


def _fill(roles: NDArray[np.uint8], window: Window, boxes: Int64, role: int) -> None:
    """Set the role inside boxes (top, left, bottom, right) in pixels of the grid."""
    moved = boxes - np.array([window.row, window.column] * 2)
    near = (moved[:, 0] < window.height) & (moved[:, 1] < window.width) & (moved[:, 2] > 0) & (moved[:, 3] > 0)
    for top, left, bottom, right in np.maximum(moved[near], 0).tolist():
        roles[top:bottom, left:right] = role


def _in_pixels(grid: GeoBox, held_out: Sequence[GroundBox]) -> NDArray[np.float64]:
    """Return bounding boxes (top, left, bottom, right) in pixels of a grid; skip those outside the CRS's domain."""
    own = str(grid.crs)
    by_crs: dict[str, list[Box]] = defaultdict(list)
    for ground in held_out:
        by_crs[ground.crs].append(ground.box)
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
    """Yield bounding boxes in another CRS; infinite if outside its domain."""
    transformer = Transformer.from_crs(source, target, always_xy=True)
    for box in boxes:
        try:
            left, bottom, right, top = transformer.transform_bounds(*box)
        except ProjError:
            left = bottom = right = top = math.inf
        # Boxes across the antimeridian have left > right.
        yield (left, bottom, right, top) if left <= right else (-180.0, bottom, 180.0, top)
