"""Lazy arrays, computed block by block into a temporary file.

A map needs its input several times: samples of it first, and then each pixel with those around it. Computing the blocks
of a lazy array each time would fetch them each time, and keeping them would take memory for all. So each block is
computed once, and its values wait in a file without a name, which the system deletes with the process.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate, product
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.errors import InputError, RefnetError, StorageError
from refnet_cli.system.disk import short_reason
from refnet_cli.system.memory import MB

_TOGETHER = 64 * MB  # blocks that are computed in one call, so that dask can use its threads


def is_lazy(array: Any) -> bool:
    """Return whether an array is dask's, without importing dask."""
    return hasattr(array, "__dask_graph__")


class _Record(NamedTuple):
    """A computed block: its place in the array, and in the file."""

    corner: tuple[int, int, int]
    shape: tuple[int, int, int]
    start: int


class SpooledArray:
    """A dask array (B, H, W) whose blocks are computed once, when the first pixel of their bands is read.

    Bands that are never read are not computed, unless they are in a block with others. Threads may read at the same
    time.

    Parameters
    ----------
    array : dask array, shape (B, H, W)
    label : str
        Name for messages.

    Raises
    ------
    InputError
        If the sizes of blocks are unknown.
    """

    def __init__(self, array: Any, label: str) -> None:
        if any(math.isnan(size) for sizes in array.chunks for size in sizes):
            raise InputError(f"{label} has dask blocks of unknown size. Call compute_chunk_sizes() on it first.")
        self._array, self._label = array, label
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype[Any] = array.dtype
        self._starts = [list(accumulate(sizes, initial=0)) for sizes in array.chunks]
        self._records: dict[int, list[_Record]] = {}  # by the number of their blocks along the bands
        self._lock = threading.Lock()
        self._opened = ExitStack()
        self._file: IO[bytes] | None = None

    def __getitem__(self, key: tuple[int, slice, slice]) -> NDArray[Any]:
        """Return the rows and columns of one band, as new array of shape (rows, columns)."""
        band, rows, columns = key
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start), self.dtype)
        for corner, shape, start in self._computed(band):
            top, bottom = max(rows.start, corner[1]), min(rows.stop, corner[1] + shape[1])
            left, right = max(columns.start, corner[2]), min(columns.stop, corner[2] + shape[2])
            if top < bottom and left < right:
                # Each read maps the file again: a mapping that stays open adds its pages to this process's memory.
                block = np.memmap(self._open(), self.dtype, "r", start, shape)
                here = np.s_[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start]
                out[here] = block[band - corner[0], top - corner[1] : bottom - corner[1],
                                  left - corner[2] : right - corner[2]]  # fmt: skip
        return out

    def close(self) -> None:
        """Delete the values."""
        with self._lock:
            self._records.clear()
            self._opened.close()
            self._file = None

    def _open(self) -> IO[bytes]:
        if self._file is None:
            with ExitStack() as stack:
                self._file = stack.enter_context(tempfile.TemporaryFile(prefix="refnet-"))
                self._opened = stack.pop_all()
        return self._file

    def _computed(self, band: int) -> list[_Record]:
        """Return the blocks that hold a band; compute them if this is the first time."""
        starts = self._starts[0]
        number = next(n for n in range(len(starts) - 1) if starts[n] <= band < starts[n + 1])
        with self._lock:
            if number not in self._records:
                try:
                    self._records[number] = list(self._compute(number))
                except OSError as cause:
                    size = math.prod(self.shape) * self.dtype.itemsize / MB
                    raise StorageError(
                        f"The computed blocks of {self._label} cannot be kept in {tempfile.gettempdir()} "
                        f"({short_reason(cause)}). They take {size:.0f} MB. "
                        "Free disk space, or set TMPDIR to another folder."
                    ) from cause
            return self._records[number]

    def _compute(self, number: int) -> Iterator[_Record]:
        """Compute the blocks of some bands, and write each to the file."""
        _, down, across = self._array.numblocks
        waiting: list[tuple[int, int]] = []
        largest = max(math.prod(sizes) for sizes in product(*map(set, self._array.chunks))) * self.dtype.itemsize
        together = max(_TOGETHER // max(largest, 1), 1)
        for place in product(range(down), range(across)):
            waiting.append(place)
            if len(waiting) >= together:
                yield from self._write(number, waiting)
                waiting = []
        if waiting:
            yield from self._write(number, waiting)

    def _write(self, number: int, places: list[tuple[int, int]]) -> Iterator[_Record]:
        file = self._open()
        for (row, column), block in zip(places, self._values(number, places), strict=True):
            corner = self._starts[0][number], self._starts[1][row], self._starts[2][column]
            start = file.seek(0, 2)
            file.write(np.ascontiguousarray(self._as_declared(block)).data)
            file.flush()
            yield _Record(corner, block.shape, start)

    def _as_declared(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return a block in the data type that the array declares, which its blocks need not have."""
        floats = self.dtype.kind == "f" and np.can_cast(block.dtype, self.dtype, "same_kind")
        if floats or np.can_cast(block.dtype, self.dtype, "safe"):
            return block.astype(self.dtype, copy=False)
        with np.errstate(invalid="ignore"):
            found = block.astype(self.dtype)
        if not np.array_equal(found, block):
            raise InputError(
                f"A block of {self._label} has the data type {block.dtype}, and values that the array's own type "
                f'{self.dtype} cannot hold, such as NaN. Convert the array first, with .astype("{block.dtype}").'
            )
        return found

    def _values(self, number: int, places: list[tuple[int, int]]) -> tuple[NDArray[Any], ...]:
        from dask.base import compute

        try:
            found = compute(*(self._array.blocks[number, row, column] for row, column in places))
        except RefnetError:
            raise
        except Exception as cause:  # computing a block runs the caller's code, which may raise anything
            raise InputError(
                f"A block of {self._label} cannot be computed ({type(cause).__name__}: {short_reason(cause)}). "
                "Check it with .compute(), or repair what it is read from."
            ) from cause
        return tuple(np.asarray(block) for block in found)
