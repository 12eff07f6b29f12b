"""Reading a scene in blocks of its grid.

Pixels are read in blocks anchored at the grid's origin, and windows are cut from these, so that a pixel's value never
depends on the window. Threads may prepare blocks in advance.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.raster.raster import BLOCK
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.quality import usable
from refnet_cli.sensors.sensor import Modality
from refnet_cli.system.closing import Closing
from refnet_cli.tiles.window import Window
from refnet_cli.types import Bool, Float32, UInt8, UInt16


class Patch(NamedTuple):
    """Pixels of both sensors in the same window of the grid.

    Parameters
    ----------
    optical : float32 array, shape (Bo, H, W)
        Reflectance x 10,000; NaN where invalid.
    sar : float32 array, shape (Bs, H, W)
        Backscatter in dB; NaN where invalid.
    """

    optical: Float32
    sar: Float32

    @property
    def optical_valid(self) -> NDArray[np.bool_]:
        """Where all optical bands are valid, shape (H, W)."""
        return np.asarray(np.isfinite(self.optical).all(axis=0))

    @property
    def sar_valid(self) -> NDArray[np.bool_]:
        """Where all SAR bands are valid, shape (H, W)."""
        return np.asarray(np.isfinite(self.sar).all(axis=0))

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where all bands of both sensors are valid, shape (H, W)."""
        return self.optical_valid & self.sar_valid


class OneSensorPatch(Patch):
    """Pixels of a single-sensor scene. Those of the absent sensor are NaN."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Where all bands of the present sensor are valid, shape (H, W)."""
        return self.optical_valid | self.sar_valid


class Block(NamedTuple):
    """A block of the grid: its pixels, its quality bits, and the counts of rejected values."""

    patch: Patch
    seen: UInt8 | UInt16
    counts: Counter[str]


class Scene(Closing):
    """What a prediction reads: pixels of both sensors on one grid. Only one thread at a time may read.

    Attributes
    ----------
    grid : GeoBox
        The grid of the result.
    absent : {"optical", "sar"} or None
        The sensor without files.
    decisions : list of Decision
        The detected properties of the files, with evidence.
    counts : Counter of str
        Numbers of values rejected so far: ``optical_non_finite``, ``optical_impossible``, ``sar_non_finite`` and
        ``sar_impossible`` in file pixels, where neighbouring blocks count shared pixels twice; ``optical_cloudy`` and
        ``sar_clamped`` in grid pixels.
    files : list of Path
        The local files that are read.
    remote : list of str
        The URLs that are read, without secrets.
    warnings : list of str
        Possible reasons for a poor result.
    levels : dict
        Mean of each needed band over sampled pixels, as reflectance x 10,000 or in dB.
    """

    grid: GeoBox
    absent: Modality | None
    decisions: list[Decision]
    counts: Counter[str]
    files: list[Path]
    remote: list[str]
    warnings: list[str]
    levels: dict[str, float]
    either: bool
    """Whether one sensor is enough where the other has no data."""
    patches_per_tile = 1
    """Number of patches that `read_tiles` yields at most."""

    @abstractmethod
    def read(self, window: Window) -> Patch:
        """Read a window of the grid.

        Parameters
        ----------
        window : Window
            Any rectangle inside the grid.

        Returns
        -------
        Patch
            A pixel has the same values in every window. A `OneSensorPatch` if a sensor is absent.

        Raises
        ------
        ValueError
            If the window is empty or extends beyond the grid.
        InputError
            If a file is unreadable there.
        """

    @abstractmethod
    def read_seen(self, window: Window) -> UInt8 | UInt16:
        """Read which sensors are valid in all bands, shape (H, W): 1 optical, 2 SAR, 3 both, 0 neither.

        `CLOUD` and `UNREADABLE` are added where they are the reason for an invalid pixel. Scenes of several dates have
        16 bits: the upper ones count the dates that saw the pixel. For errors, see `read`.
        """

    @abstractmethod
    def counts_in(self, area: Window) -> dict[str, int]:
        """Return those of `counts` that apply to an area of complete blocks, sorted by name."""

    @abstractmethod
    def take_counts(self) -> dict[str, dict[str, int]]:
        """Return the counts of each block that was counted since the last call, by a name of the block."""

    @abstractmethod
    def restore_counts(self, counted: Mapping[str, Mapping[str, int]]) -> None:
        """Count blocks that an interrupted run has read, as `take_counts` returned them; each block counts once."""

    @abstractmethod
    def prefetch(self, windows: Iterable[Window]) -> None:
        """Announce the next windows, in reading order, so that threads prepare them.

        Parameters
        ----------
        windows : iterable of Window
            Consumed one by one. Parts beyond the grid are ignored. Other windows may be read as well, at the speed of
            reading without threads.
        """

    @abstractmethod
    def use_threads(self, count: int) -> None:
        """Reduce the number of threads to ``count``; a larger number has no effect."""

    def usable(self, seen: UInt8 | UInt16) -> Bool:
        """Return which pixels can be classified, given the result of `read_seen`."""
        return usable(seen, self.either or self.absent is not None)

    def read_valid(self, window: Window) -> Bool:
        """Read which pixels can be classified, shape (H, W). For errors, see `read`."""
        return self.usable(self.read_seen(window))

    def read_tiles(self, window: Window) -> Iterator[tuple[Patch, Bool | None]]:
        """Yield what the network classifies for a tile, which may extend beyond the grid.

        Yields
        ------
        patch : Patch
            NaN beyond the grid.
        valid : bool array, shape (H, W), or None
            The pixels in which the patch counts, if there are several patches.
        """
        yield read_tile(self, window), None


class BlockReader(Scene):
    """A scene that is read in blocks, which are kept for a while.

    A subclass makes the blocks in `make_block`, sets the attributes, and calls `start_reading` when that may be called.
    """

    tally = False
    """Whether `counts` has the number of usable pixels too, as ``seen``."""

    def start_reading(self, bands: tuple[int, int], either: bool, kept_blocks: int | None, threads: int) -> None:
        """Start the threads.

        Parameters
        ----------
        bands : tuple of int
            Number of optical and of SAR bands.
        either : bool
            Whether one sensor is enough where the other has no data.
        kept_blocks : int or None
            Number of blocks in memory, by default two rows of the grid's width.
        threads : int
            Number of threads that prepare blocks.
        """
        self._bands, self.either = bands, either
        self._kept = kept_blocks or 2 * -(-self.grid.shape[1] // BLOCK) + 2
        self.counts = Counter()
        self._blocks: OrderedDict[tuple[int, int], Block] = OrderedDict()
        self._counted: dict[tuple[int, int], Counter[str]] = {}
        self._newly_counted: list[tuple[int, int]] = []
        self._threads = ThreadPoolExecutor(threads, "refnet-read")
        self._most_ahead = 2 * threads
        self._ahead: dict[tuple[int, int], Future[Block]] = {}
        self._expected: Iterator[tuple[int, int]] = iter(())

    def keep_blocks(self, most: int) -> None:
        """Keep no more blocks in memory than these."""
        self._kept = min(self._kept, most)

    @abstractmethod
    def make_block(self, key: tuple[int, int]) -> Block:
        """Read the block of this row and column of blocks. Any thread may call this."""

    def use_threads(self, count: int) -> None:
        """See `Scene.use_threads`."""
        self._most_ahead = min(self._most_ahead, 2 * count)

    def close(self) -> None:
        """Stop the threads and drop the blocks."""
        self._threads.shutdown(cancel_futures=True)
        self._ahead.clear()
        self._blocks.clear()

    def read(self, window: Window) -> Patch:
        """See `Scene.read`."""
        optical, sar = (np.empty((bands, window.height, window.width), np.float32) for bands in self._bands)
        for block, there, here in self._parts(window):
            optical[:, *here] = block.patch.optical[:, *there]
            sar[:, *here] = block.patch.sar[:, *there]
        return OneSensorPatch(optical, sar) if self.absent else Patch(optical, sar)

    def read_seen(self, window: Window) -> UInt8 | UInt16:
        """See `Scene.read_seen`."""
        seen: UInt8 | UInt16 | None = None
        for block, there, here in self._parts(window):
            seen = np.empty((window.height, window.width), block.seen.dtype) if seen is None else seen
            seen[here] = block.seen[there]
        assert seen is not None  # no window is empty
        return seen

    def counts_in(self, area: Window) -> dict[str, int]:
        """See `Scene.counts_in`."""
        found = sum((self._counted[key] for key in _keys(area) if key in self._counted), Counter())
        return dict(sorted(found.items()))

    def take_counts(self) -> dict[str, dict[str, int]]:
        """See `Scene.take_counts`."""
        taken, self._newly_counted = self._newly_counted, []
        return {f"{row},{column}": dict(self._counted[row, column]) for row, column in taken}

    def restore_counts(self, counted: Mapping[str, Mapping[str, int]]) -> None:
        """See `Scene.restore_counts`."""
        for name, counts in counted.items():
            row, column = map(int, name.split(","))
            if (row, column) not in self._counted:
                self._counted[row, column] = Counter(counts)
                self.counts += self._counted[row, column]

    def prefetch(self, windows: Iterable[Window]) -> None:
        """See `Scene.prefetch`."""
        for future in self._ahead.values():
            future.cancel()
        self._ahead.clear()
        self._expected = (key for window in windows for key in _keys(window.clip(*self.grid.shape)))
        self._look_ahead()

    def _look_ahead(self) -> None:
        while len(self._ahead) < self._most_ahead and (key := next(self._expected, None)):
            if key not in self._blocks and key not in self._ahead:
                self._ahead[key] = self._threads.submit(self.make_block, key)

    def _parts(self, window: Window) -> Iterator[tuple[Block, tuple[slice, slice], tuple[slice, slice]]]:
        """Yield each block that a window needs, the slices to copy from it, and the slices of the window to fill."""
        if window != window.clip(*self.grid.shape) or window.height < 1 or window.width < 1:
            raise ValueError("{} is not inside the grid of {} x {} pixels.".format(window, *self.grid.shape))
        row, column = window.row, window.column
        for key in _keys(window):
            top, left = key[0] * BLOCK, key[1] * BLOCK
            low, high = max(row, top), min(row + window.height, top + BLOCK)
            west, east = max(column, left), min(column + window.width, left + BLOCK)
            there = slice(low - top, high - top), slice(west - left, east - left)
            here = slice(low - row, high - row), slice(west - column, east - column)
            yield self._block(key), there, here

    def _block(self, key: tuple[int, int]) -> Block:
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        ahead = self._ahead.pop(key, None)
        # Make room first, so that the number of blocks stays within its limit.
        while len(self._blocks) >= self._kept:
            self._blocks.popitem(last=False)
        block = ahead.result() if ahead else self.make_block(key)
        if key not in self._counted:
            if self.tally:
                block.counts["seen"] = int(np.count_nonzero(self.usable(block.seen)))
            self._counted[key] = block.counts
            self._newly_counted.append(key)
            self.counts += block.counts
        self._blocks[key] = block
        self._look_ahead()
        return block


def _keys(window: Window) -> Iterator[tuple[int, int]]:
    """Yield the row and column of the blocks that a window needs."""
    rows = range(window.row // BLOCK, -(-(window.row + window.height) // BLOCK))
    columns = range(window.column // BLOCK, -(-(window.column + window.width) // BLOCK))
    return product(rows, columns)


def read_tile(pair: Scene, window: Window) -> Patch:
    """Read a window that may extend beyond the grid, with NaN there."""
    inside = window.clip(*pair.grid.shape)
    patch = pair.read(inside)
    if inside == window:
        return patch
    top, left = inside.row - window.row, inside.column - window.column
    here = np.s_[:, top : top + inside.height, left : left + inside.width]
    optical, sar = (np.full((len(image), window.height, window.width), np.nan, np.float32) for image in patch)
    optical[here], sar[here] = patch
    return patch._replace(optical=optical, sar=sar)
