"""A pool of open scenes for the sampler's threads, limited by open files and memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from refnet_cli.system.memory import GB, MB, free_memory
from refnet_cli.system.process import raise_open_file_limit

OTHER_FILES = 256
"""Open files that are reserved for the rest of the process: libraries, checkpoints, tables."""
SHARE = 4
"""Open scenes may use 1/SHARE of the free memory."""
UNKNOWN_MEMORY = 4 * GB
"""Assumed free memory if the system does not report it."""
HANDLES = 3 * MB // 2
"""Memory of an open scene without its cached blocks, measured on places of 120 x 120 pixels."""
KEPT_BLOCKS = 8
"""Maximum number of blocks that a scene caches."""


class Closable(Protocol):
    """An object with a close method."""

    def close(self) -> None:
        """Close the object."""
        ...


Opened = TypeVar("Opened", bound=Closable)


class ScenePool(Generic[Opened]):
    """Keeps scenes open between reads.

    Two threads never share an instance: a scene that is in use is opened a second time.

    Parameters
    ----------
    open_scene : callable
        Opens the scene with this index.
    most : int
        Maximum number of open scenes. Every thread may borrow a scene even if that exceeds the maximum.
    """

    def __init__(self, open_scene: Callable[[int], Opened], most: int) -> None:
        self._open_scene, self._most = open_scene, most
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, list[Opened]] = OrderedDict()
        """Idle instances by scene index, least recently used first."""
        self._count = 0
        self._closed = False

    @property
    def count(self) -> int:
        """Number of open scenes, in use or idle."""
        return self._count

    @contextmanager
    def borrow(self, number: int) -> Iterator[Opened]:
        """Lend a scene to the caller; open it if no idle instance exists."""
        scene = self._take(number)
        try:
            yield scene
        finally:
            self._give_back(number, scene)

    def close(self) -> None:
        """Close idle scenes now, and scenes in use when they are returned."""
        with self._lock:
            self._closed = True
            idle = [scene for scenes in self._idle.values() for scene in scenes]
            self._idle.clear()
            self._count -= len(idle)
        for scene in idle:
            scene.close()

    def _take(self, number: int) -> Opened:
        with self._lock:
            if number in self._idle:
                return self._pop(number)
            oldest = self._pop(next(iter(self._idle))) if self._idle and self._count >= self._most else None
            self._count += oldest is None
        if oldest is not None:
            oldest.close()
        try:
            return self._open_scene(number)
        except BaseException:
            with self._lock:
                self._count -= 1
            raise

    def _pop(self, number: int) -> Opened:
        scenes = self._idle[number]
        scene = scenes.pop()
        if not scenes:
            del self._idle[number]
        return scene

    def _give_back(self, number: int, scene: Opened) -> None:
        with self._lock:
            kept = not self._closed and self._count <= self._most
            if kept:
                self._idle.setdefault(number, []).append(scene)
                self._idle.move_to_end(number)
            else:
                self._count -= 1
        if not kept:
            scene.close()


def choose_pool_size(
    count: int, files: int, block: int, processes: int = 1, *, free: int | None = None
) -> tuple[int, int]:
    """Choose the number of open scenes, and the number of blocks that each caches.

    Parameters
    ----------
    count : int
        Wanted number of open scenes, including second instances.
    files : int
        Maximum number of open files per scene.
    block : int
        Size of a block in bytes.
    processes : int
        Number of training processes that share the memory.
    free : int, optional
        Free memory in bytes; by default what the system reports.

    Returns
    -------
    scenes, blocks : int
        At least 1 each.
    """
    by_files = max((raise_open_file_limit(count * files + OTHER_FILES) - OTHER_FILES) // files, 1)
    free = free_memory() if free is None else free
    memory = (UNKNOWN_MEMORY if free is None else free) // (SHARE * processes)
    by_memory = max(memory // (HANDLES + block), 1)
    scenes = min(count, by_files, by_memory)
    blocks = (memory // scenes - HANDLES) // max(block, 1)
    return scenes, min(max(blocks, 1), KEPT_BLOCKS)
