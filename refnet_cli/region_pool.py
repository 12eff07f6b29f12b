"""Opened regions that threads borrow one at a time, as many as open files and memory allow."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from refnet_cli.memory import GB, MB, free_memory
from refnet_cli.process import allow_open_files

OTHER_FILES = 256
"""Files that the rest of the process may have open: libraries, checkpoints, tables."""
SHARE = 4
"""One part in so many of the free memory is for open regions."""
UNKNOWN_MEMORY = 4 * GB
"""What counts as free where nothing tells."""
HANDLES = 3 * MB // 2
"""Memory of an open region apart from its blocks of pixels, measured on places of 120 x 120 pixels."""
KEPT_BLOCKS = 8
"""Blocks of pixels that a region keeps at most."""


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Close it."""
        ...


Opened = TypeVar("Opened", bound=Closable)


class RegionPool(Generic[Opened]):
    """Keeps regions open between the times that threads read from them.

    Two threads never have the same one: where a region is lent already, it is opened once more.

    Parameters
    ----------
    open_region : callable
        Opens the region of a number.
    most : int
        Regions that are open at once; each thread may borrow one all the same.
    """

    def __init__(self, open_region: Callable[[int], Opened], most: int) -> None:
        self._open_region, self._most = open_region, most
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, list[Opened]] = OrderedDict()
        """By number, the longest unused first."""
        self._count = 0
        self._closed = False

    @property
    def count(self) -> int:
        """How many regions are open, lent or not."""
        return self._count

    @contextmanager
    def borrow(self, number: int) -> Iterator[Opened]:
        """Lend a region, opened if it is not."""
        region = self._take(number)
        try:
            yield region
        finally:
            self._give_back(number, region)

    def close(self) -> None:
        """Close all, and those that are lent when they come back."""
        with self._lock:
            self._closed = True
            idle = [region for regions in self._idle.values() for region in regions]
            self._idle.clear()
            self._count -= len(idle)
        for region in idle:
            region.close()

    def _take(self, number: int) -> Opened:
        with self._lock:
            if number in self._idle:
                return self._pop(number)
            oldest = self._pop(next(iter(self._idle))) if self._idle and self._count >= self._most else None
            self._count += oldest is None
        if oldest is not None:
            oldest.close()
        try:
            return self._open_region(number)
        except BaseException:
            with self._lock:
                self._count -= 1
            raise

    def _pop(self, number: int) -> Opened:
        regions = self._idle[number]
        region = regions.pop()
        if not regions:
            del self._idle[number]
        return region

    def _give_back(self, number: int, region: Opened) -> None:
        with self._lock:
            kept = not self._closed and self._count <= self._most
            if kept:
                self._idle.setdefault(number, []).append(region)
                self._idle.move_to_end(number)
            else:
                self._count -= 1
        if not kept:
            region.close()


def choose_most(
    count: int, files: int, block: int, processes: int = 1, *, free: int | None = None
) -> tuple[int, int]:
    """Choose how many regions are open at once, and how many blocks of pixels each keeps.

    Parameters
    ----------
    count : int
        Regions that there are to be open, lent ones that are opened once more among them.
    files : int
        Open files of each, at most.
    block : int
        Bytes of a block of pixels.
    processes : int
        Processes of this kind, which share the memory.
    free : int, optional
        Bytes of free memory; by default what the system says.

    Returns
    -------
    regions, blocks : int
        At least 1 each.
    """
    by_files = max((allow_open_files(count * files + OTHER_FILES) - OTHER_FILES) // files, 1)
    free = free_memory() if free is None else free
    memory = (UNKNOWN_MEMORY if free is None else free) // (SHARE * processes)
    by_memory = max(memory // (HANDLES + block), 1)
    regions = min(count, by_files, by_memory)
    blocks = (memory // regions - HANDLES) // max(block, 1)
    return regions, min(max(blocks, 1), KEPT_BLOCKS)
