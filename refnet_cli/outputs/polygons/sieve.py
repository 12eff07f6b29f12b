"""Sieve: merge small components of a class map into their neighbours, on the graph of components.

Own code instead of rasterio.features.sieve, whose threshold counts pixels and which needs the complete raster. Here the
threshold is a true area, and only the components and their borders are held.

The rule is applied in rounds until nothing changes. Components are sorted by weight; ties by their scrambled first
pixels, so that many equal components need not wait for each other. A component below the minimum weight takes the code
of its last neighbour in this order, if it comes before all its neighbours that are below the minimum weight too. Then
touching components with equal codes are joined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet_cli.outputs.polygons.polygonize import Runs, join
from refnet_cli.types import Int64, UInt8

SCRAMBLE = 0x9E3779B97F4A7C15
"""Factor that scrambles the number of a first pixel, modulo 2**64."""


class Sieve:
    """Collect the components of a map strip by strip, and solve for their new codes.

    Parameters
    ----------
    width : int
        Width of the map in pixels.
    least : int
        Components with a lower weight are merged into a neighbour.

    Attributes
    ----------
    count : int
        Number of pieces so far: a component has at least one piece in each strip that it reaches.
    """

    def __init__(self, width: int, least: int) -> None:
        self._least = least
        self._row = 0
        self._above = np.zeros(width, np.uint8)
        self._above_pieces = np.array([-1])  # the piece of each run in the row above; -1 for no data
        self.count = 0
        self._pieces: list[tuple[UInt8, Int64, Int64]] = []  # code, weight, first pixel
        self._joined: list[NDArray[np.int32]] = []
        self._borders: list[NDArray[np.int32]] = []

    def add(self, codes: UInt8, weights: Int64) -> None:
        """Add the next strip of rows, as in `Tracer.add`."""
        width = len(self._above)
        runs = Runs(self._above, codes)
        count, own = _pieces(runs)
        pieces = np.concatenate([self._above_pieces, np.where(own < 0, -1, own + self.count)])
        rows, begin, end = (part[runs.first :] for part in runs.spans())
        valid = own >= 0
        of, rows, begin, end = own[valid], rows[valid] - 1, begin[valid], end[valid]
        weight, first, code = np.zeros(count, np.int64), np.empty(count, np.int64), np.empty(count, np.uint8)
        np.add.at(weight, of, weights[rows, end] - weights[rows, begin])
        first[of[::-1]] = ((self._row + rows) * width + begin)[::-1]
        code[of] = runs.codes[runs.first :][valid]
        self._pieces.append((code, weight, first))
        upper, lower = runs.touching()
        across = upper < runs.first
        self._joined.append(_pairs(pieces[upper[across]], pieces[lower[across]]))
        one, other = runs.bordering()
        self._borders.append(_pairs(pieces[one], pieces[other]))
        self.count += count
        self._row += len(codes)
        self._above, self._above_pieces = codes[-1].copy(), pieces[int(runs.number[-1, 0]) :]

    def solve(self) -> UInt8:
        """Return the new codes of all pieces, strip by strip, for `apply_sieve`, and release the components."""
        code, weight, first = (np.concatenate(part) for part in zip(*self._pieces, strict=True))
        joined, borders = np.concatenate(self._joined, axis=1), np.concatenate(self._borders, axis=1)
        self._pieces, self._joined, self._borders = [], [], []
        count, component = join(len(code), *joined)
        del joined
        code, weight, first = _merge(count, component, code, weight, first)
        self._close(code, weight, first, _pairs(component[borders[0]], component[borders[1]]))
        return code[component]

    def _close(self, code: UInt8, weight: Int64, first: Int64, borders: NDArray[np.int32]) -> None:
        """Apply the rule in rounds; changes ``code`` in place."""
        successor = np.arange(len(code), dtype=np.int32)
        ids = successor
        while True:
            small = weight < self._least
            # A component that is large enough, with large neighbours only, never changes again.
            borders = borders[:, small[borders].any(axis=0)]
            if not borders.size:
                break
            involved = np.zeros(len(ids), bool)
            involved[borders] = True
            active, borders = np.flatnonzero(involved), (np.cumsum(involved, dtype=np.int32) - 1)[borders]
            ids, part = ids[active], (weight[active], first[active])
            chosen = _recode(code[ids], *part, borders, small[active])
            alike = chosen[borders[0]] == chosen[borders[1]]
            count, component = join(len(ids), *borders[:, alike])
            # The first of all small components takes a neighbour's code, so that two are joined and the rounds end.
            assert count < len(ids)
            chosen, weight, first = _merge(count, component, chosen, *part)
            place = np.empty(count, np.int32)
            place[component] = ids
            successor[ids] = place[component]
            ids = place
            code[ids] = chosen
            borders = _pairs(component[borders[0]], component[borders[1]])
        while (successor[successor] != successor).any():
            successor = successor[successor]
        code[:] = code[successor]


def apply_sieve(codes: UInt8, table: UInt8, start: int) -> tuple[UInt8, int]:
    """Return a strip with its new codes.

    Parameters
    ----------
    codes : uint8 array, shape (rows, width)
        A strip as it was added.
    table : uint8 array
        The result of `Sieve.solve`.
    start : int
        The strip's first piece.

    Returns
    -------
    codes : uint8 array, shape (rows, width)
        The new codes.
    start : int
        The next strip's first piece.
    """
    runs = Runs(np.zeros(codes.shape[1], np.uint8), codes)
    count, own = _pieces(runs)
    of_run = np.concatenate([np.zeros(runs.first, np.uint8), np.append(table[start : start + count], 0)[own]])
    return of_run.astype(np.uint8)[runs.number[1:, 1:-1]], start + count


def _pieces(runs: Runs) -> tuple[int, Int64]:
    """Return the number of components within the strip, and the component of each of its runs, -1 for no data."""
    upper, lower = runs.touching()
    inside = upper >= runs.first
    count, label = join(len(runs) - runs.first, upper[inside] - runs.first, lower[inside] - runs.first)
    valid = np.zeros(count, bool)
    valid[label[runs.codes[runs.first :] > 0]] = True
    return int(valid.sum()), np.where(valid, np.cumsum(valid) - 1, -1)[label]


def _pairs(one: Int64, other: Int64) -> NDArray[np.int32]:
    """Return unique pairs, shape (2, N), without pairs of equal numbers."""
    low, high = np.minimum(one, other).astype(np.int64), np.maximum(one, other).astype(np.int64)
    keys = np.sort((low << 32 | high)[low != high])
    # Sorting is many times faster here than np.unique, which hashes.
    keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
    return np.stack([keys >> 32, keys & 0xFFFFFFFF]).astype(np.int32)


def _merge(count: int, component: Int64, code: UInt8, weight: Int64, first: Int64) -> tuple[UInt8, Int64, Int64]:
    """Return the code, total weight and first pixel of each joined component."""
    merged = np.empty(count, np.uint8), np.zeros(count, np.int64), np.full(count, np.iinfo(np.int64).max)
    merged[0][component] = code
    np.add.at(merged[1], component, weight)
    np.minimum.at(merged[2], component, first)
    return merged


def _recode(code: UInt8, weight: Int64, first: Int64, borders: NDArray[Any], small: NDArray[np.bool_]) -> UInt8:
    """Return the codes after one round."""
    order = np.lexsort((first.astype(np.uint64) * np.uint64(SCRAMBLE), weight))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    here, there = np.concatenate([borders, borders[::-1]], axis=1)
    earliest, latest = np.full(len(code), len(code)), np.full(len(code), -1)
    np.minimum.at(earliest, here, np.where(small[there], rank[there], len(code)))
    np.maximum.at(latest, here, rank[there])
    turns = small & (rank < earliest)
    changed = code.copy()
    changed[turns] = code[order[latest[turns]]]
    return changed
