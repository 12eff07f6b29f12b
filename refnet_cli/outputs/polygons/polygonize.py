"""Polygonize a class map row by row: trace the outlines of its connected components.

Own code instead of rasterio.features.shapes, which needs the complete raster, and whose polygons are invalid where a
component touches itself at a vertex. This code holds only the components that reach the last row so far, and sums
pixels, areas and probabilities per component.

Coordinates are in pixels: vertex (x, y) is the upper left corner of the pixel in column x and row y. An outline is
stored as corners, each with the number of the next corner, with the component on the right-hand side. The four pixels
around a vertex determine whether it is a corner, and of which kind. Corners on a grid line are paired in their order
along the line.

Two pixels of one code may touch at a vertex only. They may belong to two components, so the outlines first go around
each of them. If they turn out to belong to one complete component, the two paths through the vertex are swapped. Then
no ring passes a vertex twice: a component that touches itself is a shell with a hole, as OGC Simple Features requires.

Functions import scipy's graphs when they run, so that predictions without polygons start sooner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.types import Bool, Int64, UInt8

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Kinds of corners, by the vertex's four pixels (a b above, c d below). 0 to 3, convex: only pixel d, c, a or b belongs
# to the component. 4 to 7, concave: only pixel d, c, b or a does not.
_OWNERS = ((1, 1), (1, 0), (0, 0), (0, 1), (0, 0), (0, 1), (1, 0), (1, 1))
"""Row and column offset of a pixel of the component, from the vertex's upper left pixel."""
_EASTWARD = (0, 6), (1, 7)
"""Kinds of corners at the west and east end of edges along the top of pixels, which run east."""
_WESTWARD = (2, 5), (3, 4)
"""Kinds of corners at the start and end of edges along the bottom of pixels, which run west."""
_SOUTHWARD = (1, 4), (2, 6)
"""Kinds of corners at the upper and lower end of edges along the right side of pixels, which run south."""
_NORTHWARD = (0, 5), (3, 7)
"""Kinds of corners at the upper and lower end of edges along the left side of pixels, which run north."""


class Runs:
    """Runs of equal codes in the rows of a strip, and their neighbours.

    Parameters
    ----------
    above : uint8 array, shape (width,)
        Codes of the row above the strip; zeros at the map's top.
    codes : uint8 array, shape (rows, width)
        Codes, 0 where there is no data.

    Attributes
    ----------
    padded : uint8 array, shape (rows + 1, width + 2)
        ``above`` and ``codes``, with a column of zeros on both sides.
    sideways, below : bool arrays
        Whether a pixel of ``padded`` has the same code as the next pixel in its row, and as the pixel below.
    starts : int array, shape (N,)
        Index of each run's first pixel in the flattened ``padded``.
    number : int32 array, of the shape of ``padded``
        Each pixel's run.
    codes : uint8 array, shape (N,)
        Each run's code.
    first : int
        The first run below the row above.
    """

    def __init__(self, above: UInt8, codes: UInt8) -> None:
        rows, width = codes.shape
        self.padded = np.zeros((rows + 1, width + 2), np.uint8)
        self.padded[0, 1:-1] = above
        self.padded[1:, 1:-1] = codes
        self.sideways: Bool = self.padded[:, :-1] == self.padded[:, 1:]
        self.below: Bool = self.padded[:-1] == self.padded[1:]
        self._begin = np.ones(self.padded.shape, bool)
        np.logical_not(self.sideways, out=self._begin[:, 1:])
        self.starts = np.flatnonzero(self._begin)
        self.number = (np.cumsum(self._begin, dtype=np.int32) - 1).reshape(self.padded.shape)
        self.codes = self.padded.ravel()[self.starts]
        self.first = int(self.number[1, 0])

    def __len__(self) -> int:
        return len(self.starts)

    def touching(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return pairs of runs with equal codes that touch vertically (upper, lower), without no data."""
        found = self.below & (self._begin[:-1] | self._begin[1:]) & (self.padded[1:] > 0)
        return self.number[:-1][found], self.number[1:][found]

    def bordering(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return pairs of runs with different codes that share an edge, without no data; pairs may repeat."""
        upon = ~self.below & (self._begin[:-1] | self._begin[1:]) & (self.padded[:-1] > 0) & (self.padded[1:] > 0)
        side = ~self.sideways & (self.padded[:, :-1] > 0) & (self.padded[:, 1:] > 0)
        side[0] = False  # already in the strip above
        return (
            np.concatenate([self.number[:-1][upon], self.number[:, :-1][side]]),
            np.concatenate([self.number[1:][upon], self.number[:, 1:][side]]),
        )

    def sums(self, values: UInt8) -> Int64:
        """Return the sum over each run of the strip's values, shape (rows, width); 0 in the row above."""
        padded = np.zeros(self.padded.shape, np.uint8)
        padded[1:, 1:-1] = values
        return np.asarray(np.add.reduceat(padded.ravel(), self.starts, dtype=np.int64))

    def spans(self) -> tuple[Int64, Int64, Int64]:
        """Return each run's row (0 is the row above), its first column, and the column behind its last."""
        width = self.padded.shape[1]
        rows, begin = np.divmod(self.starts, width)
        end = np.append(self.starts[1:], self.padded.size) - rows * width
        # Excludes the padding on both sides.
        return rows, np.maximum(begin - 1, 0), np.minimum(end - 1, width - 2)


def join(count: int, one: NDArray[Any], other: NDArray[Any]) -> tuple[int, Int64]:
    """Return the number of connected components of a graph of ``count`` nodes, and each node's component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    return connected_components(graph, directed=False)  # type: ignore[no-any-return]


class Sums(NamedTuple):
    """Totals of components, as arrays of equal length."""

    codes: UInt8
    last: Int64
    """Last row."""
    pixels: Int64
    weights: Int64
    """Sum of the pixels' weights."""
    values: Int64
    """Sum of the pixels' values."""

    def take(self, which: NDArray[Any]) -> Sums:
        """Return a selection, by numbers or by a mask."""
        return Sums(*(part[which] for part in self))


class TracedComponents(NamedTuple):
    """Complete components, sorted by their last row and then by their first pixel."""

    sums: Sums
    x: Int64
    """Columns of the rings' corners. A ring starts at its uppermost, then leftmost corner, and is not closed."""
    y: Int64
    ring: Int64
    """Ring of each corner, counted from 0. A component's first ring is its shell; the others are holes."""
    component: Int64
    """Component of each ring."""


class _Corners(NamedTuple):
    """Corners, sorted from north to south and, in a row, from west to east."""

    x: NDArray[np.int32]
    y: NDArray[np.int32]
    component: NDArray[np.int32]
    following: Int64
    """Number of the next corner of the ring; -1 while unknown."""
    crossing: Bool
    """Whether another pixel of the same code touches only at this vertex."""

    def take(self, which: Bool) -> _Corners:
        """Return the corners where a mask is true; it must not split a ring."""
        number = np.cumsum(which) - 1
        following = self.following[which]
        following = np.where(following < 0, -1, number[following])
        return _Corners(self.x[which], self.y[which], self.component[which], following, self.crossing[which])


def _empty_corners() -> _Corners:
    numbers = np.empty(0, np.int32)
    return _Corners(numbers, numbers, numbers, np.empty(0, np.int64), np.empty(0, bool))


class Tracer:
    """Trace the outlines of 4-connected components of equal code.

    Parameters
    ----------
    width : int
        Width of the map in pixels.
    clockwise : bool
        Whether shells run clockwise in the array, with row 0 on top; holes run the other way.
    """

    def __init__(self, width: int, clockwise: bool = True) -> None:
        self._clockwise = clockwise
        self._row = 0
        self._above = np.zeros(width, np.uint8)
        self._above_components = np.array([-1])  # the component of each run in the row above; -1 for no data
        none = np.empty(0, np.int64)
        self._open = Sums(np.empty(0, np.uint8), none, none, none, none)
        self._corners = _empty_corners()
        self._downward: tuple[Int64, Int64] = none, none  # upper ends of unfinished edges, southward and northward

    @property
    def count(self) -> int:
        """Number of incomplete components."""
        return len(self._open.codes)

    def add(self, codes: UInt8, values: UInt8, weights: Int64) -> TracedComponents:
        """Add the next rows.

        Parameters
        ----------
        codes : uint8 array, shape (rows, width)
            At least one row; 0 for no data.
        values : uint8 array, shape (rows, width)
            Values to sum over each component.
        weights : int64 array, shape (rows, width + 1)
            Cumulative weights of a row's pixels left of each column.

        Returns
        -------
        TracedComponents
            The components that end above the last of these rows.
        """
        runs = Runs(self._above, codes)
        labels, sums = self._label(runs, values, weights)
        last = labels[int(runs.number[-1, 0]) : len(runs)]
        open_ = np.zeros(len(sums.codes), bool)
        open_[last] = True
        open_ &= sums.codes > 0
        corners = self._outline(runs, labels)
        gone = ~open_ & (sums.codes > 0)
        leaving = gone[corners.component]
        done = _trace(corners.take(leaving), sums, self._clockwise)
        self._keep(corners, leaving, open_)
        self._open = sums.take(open_)
        number = np.where(open_, np.cumsum(open_) - 1, -1)
        self._above, self._above_components = codes[-1].copy(), number[last]
        self._row += len(codes)
        return done

    def finish(self) -> TracedComponents:
        """Return the components that end at the map's last row."""
        width = len(self._above)
        nothing = np.zeros((1, width), np.uint8)
        return self.add(nothing, nothing, np.zeros((1, width + 1), np.int64))

    def _label(self, runs: Runs, values: UInt8, weights: Int64) -> tuple[Int64, Sums]:
        """Return the component of each run, then of each formerly open component, and all components' totals."""
        upper, lower = runs.touching()
        seen = np.flatnonzero(self._above_components >= 0)
        before = self.count
        count, labels = join(
            len(runs) + before,
            np.concatenate([upper, seen]),
            np.concatenate([lower, len(runs) + self._above_components[seen]]),
        )
        rows, begin, end = runs.spans()
        new, old = labels[runs.first : len(runs)], labels[len(runs) :]
        rows, begin, end = (part[runs.first :] for part in (rows, begin, end))
        codes, last = np.zeros(count, np.uint8), np.full(count, self._row - 1)
        codes[labels[: len(runs)]] = runs.codes
        last[new] = self._row + rows - 1  # rows are sorted, so the last row remains
        pixels, weighed, added = (np.zeros(count, np.int64) for _ in range(3))
        for total, here, earlier in (
            (pixels, end - begin, self._open.pixels),
            (weighed, weights[rows - 1, end] - weights[rows - 1, begin], self._open.weights),
            (added, runs.sums(values)[runs.first :], self._open.values),
        ):
            np.add.at(total, new, here)
            np.add.at(total, old, earlier)
        return labels, Sums(codes, last, pixels, weighed, added)

    def _outline(self, runs: Runs, labels: Int64) -> _Corners:
        """Return the open corners and those of the new rows, linked as far as possible."""
        place, kinds, crossing = _find_corners(runs)
        row, column = np.divmod(place, runs.padded.shape[1])
        owner = place + np.array([down * runs.padded.shape[1] + right for down, right in _OWNERS])[kinds]
        old = self._corners
        known = len(old.x)
        x = np.concatenate([old.x, column.astype(np.int32)])
        following = np.concatenate([old.following, np.full(len(place), -1, np.int64)])
        for starts, ends in (_EASTWARD, _WESTWARD):
            following[known + _where(kinds, starts)] = known + _where(kinds, ends)
        downward = []
        for (upper, lower), leads_down, carried in zip(
            (_SOUTHWARD, _NORTHWARD), (True, False), self._downward, strict=True
        ):
            tops, bottoms = np.concatenate([carried, known + _where(kinds, upper)]), known + _where(kinds, lower)
            tops, bottoms, left = _pair_columns(tops, bottoms, x, len(self._above))
            following[tops if leads_down else bottoms] = bottoms if leads_down else tops
            downward.append(left)
        self._downward = downward[0], downward[1]
        return _Corners(
            x,
            np.concatenate([old.y, (row + self._row).astype(np.int32)]),
            np.concatenate([labels[len(runs) :][old.component], labels[runs.number.ravel()[owner]]]).astype(np.int32),
            following,
            np.concatenate([old.crossing, crossing]),
        )

    def _keep(self, corners: _Corners, leaving: Bool, open_: Bool) -> None:
        """Keep the corners of open components."""
        number = np.cumsum(~leaving) - 1
        self._downward = number[self._downward[0]], number[self._downward[1]]
        kept = corners.take(~leaving)
        self._corners = kept._replace(component=(np.cumsum(open_) - 1).astype(np.int32)[kept.component])


def _find_corners(runs: Runs) -> tuple[Int64, NDArray[np.uint8], Bool]:
    """Find the corners of outlines.

    Returns
    -------
    place : int array
        Index of the pixel above and left of each corner, in the flattened ``runs.padded``.
    kinds : uint8 array
    crossing : bool array
        Whether the diagonally opposite pixel has the same code and both others differ.
    """
    width = runs.padded.shape[1]
    turning = np.zeros((len(runs.below), width), bool)
    # No outline turns where both pairs of pixels across a grid line through the vertex have equal codes.
    np.logical_or(
        runs.sideways[:-1] & runs.sideways[1:], runs.below[:, :-1] & runs.below[:, 1:], out=turning[:, :-1]
    )
    np.logical_not(turning[:, :-1], out=turning[:, :-1])
    place = np.flatnonzero(turning)
    codes = runs.padded.ravel()
    a, b, c, d = codes[place], codes[place + 1], codes[place + width], codes[place + width + 1]
    top, bottom, left, right = a == b, c == d, a == c, b == d
    table = np.stack([
        ~bottom & ~right & (d > 0), ~bottom & ~left & (c > 0), ~top & ~left & (a > 0), ~top & ~right & (b > 0),
        top & left & ~right & (a > 0), top & right & ~left & (b > 0), left & bottom & ~top & (c > 0),
        right & bottom & ~top & (d > 0),
    ], axis=1)  # fmt: skip
    found = np.flatnonzero(table)
    vertex, kinds = found >> 3, (found & 7).astype(np.uint8)
    falling, rising = (a == d)[vertex], (b == c)[vertex]
    crossing = (kinds < 4) & np.where(kinds % 2 == 0, falling, rising)
    return place[vertex], kinds, crossing


def _where(kinds: NDArray[np.uint8], needed: tuple[int, int]) -> Int64:
    return np.flatnonzero((kinds == needed[0]) | (kinds == needed[1]))


def _pair_columns(tops: Int64, bottoms: Int64, x: NDArray[np.int32], width: int) -> tuple[Int64, Int64, Int64]:
    """Pair the upper ends of vertical edges with the lower ends in the same column, both in the order of rows.

    Returns
    -------
    tops, bottoms : int arrays
        The pairs.
    left : int array
        Upper ends of edges that continue below: at most the last one of each column.
    """
    # numpy sorts small integer types by radix, many times faster.
    small = np.min_scalar_type(width)
    tops = tops[np.argsort(x[tops].astype(small), kind="stable")]
    bottoms = bottoms[np.argsort(x[bottoms].astype(small), kind="stable")]
    counts = np.bincount(x[tops], minlength=width + 1)
    leads_on = counts > np.bincount(x[bottoms], minlength=width + 1)
    last = np.cumsum(counts)[leads_on] - 1
    return np.delete(tops, last), bottoms, tops[last]


def _trace(corners: _Corners, sums: Sums, clockwise: bool) -> TracedComponents:
    """Return complete components, with their corners sorted along the rings."""
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    count = len(corners.x)
    if not count:
        none = np.empty(0, np.int64)
        return TracedComponents(sums.take(none), none, none, none, none)
    following = corners.following.copy()
    one, other = _crossings(corners)
    following[one], following[other] = following[other], following[one]
    preceding = np.empty_like(following)
    preceding[following] = np.arange(count)
    if not clockwise:
        following, preceding = preceding, following

    rings, ring = connected_components(_steps(following), connection="strong")
    first = _firsts(ring, rings)
    component_first = _firsts(corners.component, len(sums.codes))
    # Sorted by the component's last row, its first pixel, and the ring's first corner: independent of the strips.
    of_ring = corners.component[first]
    order = np.lexsort((first, component_first[of_ring], sums.last[of_ring]))
    first, of_ring = first[order], of_ring[order]
    # Links all rings into one path.
    following[preceding[first]] = np.roll(first, -1)
    path = breadth_first_order(_steps(following), first[0], return_predecessors=False)
    components = of_ring[np.append(True, of_ring[1:] != of_ring[:-1])]
    place = np.empty(len(sums.codes), np.int64)
    place[components] = np.arange(len(components))
    number = np.empty(rings, np.int64)
    number[order] = np.arange(rings)
    return TracedComponents(
        sums.take(components),
        corners.x[path].astype(np.int64),
        corners.y[path].astype(np.int64),
        number[ring[path]],
        place[of_ring],
    )


def _crossings(corners: _Corners) -> tuple[Int64, Int64]:
    """Return the pairs of corners where a component touches itself at a vertex."""
    candidates = np.flatnonzero(corners.crossing)
    x, y, component = (part[candidates] for part in (corners.x, corners.y, corners.component))
    candidates = candidates[np.lexsort((component, x, y))]
    x, y, component = (part[candidates] for part in (corners.x, corners.y, corners.component))
    same = (x[1:] == x[:-1]) & (y[1:] == y[:-1]) & (component[1:] == component[:-1])
    return candidates[:-1][same], candidates[1:][same]


def _steps(following: Int64) -> csr_array:
    from scipy.sparse import csr_array

    count = len(following)
    return csr_array((np.ones(count), following, np.arange(count + 1)), shape=(count, count))


def _firsts(labels: NDArray[Any], count: int) -> Int64:
    """Return the index of each label's first occurrence."""
    first = np.zeros(count, np.int64)
    first[labels[::-1]] = np.arange(len(labels))[::-1]
    return first
