"""The folder of a training store: entries that appear whole or not at all, shared by processes, of bounded size.

An entry is a folder named by its key with the file of tiles and a description. Every process that uses an entry has a
shared lock on its tiles as long as they are mapped, and an entry with a lock is never removed. An unfinished entry is
locked by the process that writes it: one without a lock was left by a process that was killed. What changes the folder
is done under the lock of the file ``lock``, which nobody holds for long.

    lock  KEY/tiles.npy  KEY/about.json  .unfinished-KEY/  .discarded-KEY-PID/
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.system.atomic import create_folder, remove_empty
from refnet_cli.system.disk import UNSUPPORTED, sync
from refnet_cli.system.file_locks import lock_exclusive, lock_shared
from refnet_cli.system.memory import GB
from refnet_cli.training.store.tiles import Layout, map_tiles, write_header

LOG = logging.getLogger(__name__)
LOCK, TILES, ABOUT = "lock", "tiles.npy", "about.json"
UNFINISHED, DISCARDED = ".unfinished-", ".discarded-"
KEPT_FREE = 2 * GB
"""Free space of the disk that is left to checkpoints, results and others."""
_POLL = 0.2  # seconds between looks at an entry that another process writes
_PIECE = 1 << 24  # bytes that are read at once to check a file


class Entry(NamedTuple):
    """An entry in use: it is not removed as long as the array exists."""

    path: Path
    about: dict[str, Any]
    """What was stored with it."""
    tiles: NDArray[np.void]


class New(NamedTuple):
    """An entry to make."""

    layout: Layout
    dtype: np.dtype[np.void]
    tiles: Callable[[], Iterable[NDArray[np.void]]]
    """Yields the tiles in the order of `Layout.windows`, each as an array of one element."""
    about: Callable[[], dict[str, Any]]
    """Returns what to store with it, after the tiles; JSON."""

    @property
    def size(self) -> int:
        """Size of the tiles in bytes."""
        rows, columns = self.layout.shape
        return rows * columns * self.dtype.itemsize


class NoRoomError(Exception):
    """An entry exceeds the limit, or the free space of the disk."""


class Entries:
    """Entries in a folder, which is created if missing.

    Parameters
    ----------
    folder : Path
    limit : int, optional
        Most bytes of all entries; by default what the disk has.

    Raises
    ------
    OSError
        If the folder cannot be created, or its file system has no locks.

    Attributes
    ----------
    read_only : str
        Why nothing can be stored in the folder; "" if it can.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self.limit, self.read_only = folder, limit, ""
        self.created = create_folder(folder)
        try:
            with self._alone():
                self._sweep()
        except OSError as error:
            remove_empty(self.created)
            if self.created or not os.access(folder, os.R_OK | os.X_OK):
                raise
            self.read_only = error.strerror or str(error)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock the folder for a short time."""
        descriptor = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            lock_exclusive(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)

    def get(self, key: str, valid: Callable[[dict[str, Any]], bool]) -> Entry | None:
        """Open an entry; None if it is missing, damaged, or ``valid`` refuses what was stored with it.

        Raises
        ------
        OSError
            If it cannot be read for another reason, such as too many open files.
        """
        path = self.folder / key
        try:
            with (path / TILES).open("rb") as file:
                if not lock_shared(file.fileno()):
                    return None
                if not os.path.samestat(os.fstat(file.fileno()), os.stat(path / TILES)):  # just removed
                    return None
                about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
                stored = about["stored"]
                if about["sha256"] != _digest(stored) or stored["key"] != key or not valid(stored["about"]):
                    return None
                tiles = map_tiles(file, Layout(*stored["layout"]))
                if not _is_whole(file, stored):
                    return None
        except (FileNotFoundError, ValueError, TypeError, KeyError, SyntaxError):
            return None
        with suppress(OSError):  # the time of the last use, by which the oldest is found
            os.utime(path / ABOUT)
        return Entry(path, stored["about"], tiles)

    def obtain(self, key: str, valid: Callable[[dict[str, Any]], bool], new: New) -> Entry:
        """Open an entry, or make it; wait while another process makes the same one.

        Raises
        ------
        NoRoomError
            If the limit or the disk has no room for it.
        OSError
            If it cannot be written.
        Exception
            What ``new`` raises.
        """
        told = False
        while True:
            with self._alone():
                if entry := self.get(key, valid):
                    return entry
                file = self._claim(key, new)
            if file:
                with file:
                    return self._write(key, file, new)
            if not told:
                LOG.info(f"store: another training brings the same scene into {self.folder}; waiting for it")
                told = True
            time.sleep(_POLL)

    def _claim(self, key: str, new: New) -> BinaryIO | None:
        """Begin an entry, and lock its file; None if another process is writing it."""
        unfinished = self.folder / (UNFINISHED + key)
        if unfinished.exists():
            if self._in_use(unfinished):
                return None
            shutil.rmtree(unfinished)
        self._discard(self.folder / key)
        self._make_room(new.size)
        unfinished.mkdir()
        try:
            file = (unfinished / TILES).open("w+b")
            try:
                lock_exclusive(file.fileno())
                write_header(file, new.layout, new.dtype)
                _reserve(file, file.tell() + new.size)
            except BaseException:
                file.close()
                raise
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return file

    def _write(self, key: str, file: BinaryIO, new: New) -> Entry:
        """Write the tiles and the description of a claimed entry, and give it its name."""
        unfinished, path = self.folder / (UNFINISHED + key), self.folder / key
        try:
            start, checksum = file.tell(), 0
            for tile in new.tiles():
                data = tile.view(np.uint8).data
                checksum = zlib.crc32(data, checksum)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            stat = os.fstat(file.fileno())
            stored = {
                "key": key, "layout": list(new.layout),
                "start": start, "size": stat.st_size, "changed": stat.st_mtime_ns, "crc32": checksum,
                "about": json.loads(json.dumps(new.about())),
            }  # fmt: skip
            (unfinished / ABOUT).write_text(json.dumps({"stored": stored, "sha256": _digest(stored)}), encoding="utf-8")
            sync(unfinished / ABOUT)
            with self._alone():  # others take an unfinished entry without a lock for one that was left behind
                file.close()  # Windows cannot rename the folder of an open file
                os.rename(unfinished, path)
                entry = self.get(key, lambda about: True)
            sync(self.folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        if entry is None:
            raise OSError(f"{path} cannot be read after it was written")
        return entry

    def _make_room(self, size: int) -> None:
        """Remove the entries that were not used for longest until one of this size fits."""
        known = [path for path in self.folder.iterdir() if (path / TILES).is_file()]
        sizes = {path: (path / TILES).stat().st_size for path in known}
        # Where space cannot be reserved, unfinished entries still need the rest of theirs.
        pending = sum(_unwritten(path / TILES) for path in known if path.name.startswith(UNFINISHED))
        short = size + KEPT_FREE + pending - shutil.disk_usage(self.folder).free
        why = f"{self.folder} would leave less than {KEPT_FREE / GB:g} GB of the disk free"
        if self.limit is not None and (over := sum(sizes.values()) + size - self.limit) > short:
            short, why = over, f"{self.folder} would exceed {self.limit / GB:g} GB (--cache-size)"
        if short <= 0:
            return
        entries = [path for path in known if not path.name.startswith(".")]
        chosen = []
        for path in sorted(entries, key=_last_use):
            if short <= 0:
                break
            if not self._in_use(path):
                chosen.append(path)
                short -= sizes[path]
        if short > 0:
            raise NoRoomError(why)
        for path in chosen:
            LOG.info(f"store: {path} is removed to make room; it was not used for longest")
            self._discard(path)

    def _in_use(self, path: Path) -> bool:
        """Return whether a process has a lock on an entry; so does one that cannot be locked."""
        try:
            with (path / TILES).open("r+b") as file:
                return not lock_exclusive(file.fileno())
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _discard(self, path: Path) -> None:
        """Remove an entry, if it exists; its name is free at once."""
        discarded = self.folder / f"{DISCARDED}{path.name}-{os.getpid()}-{time.monotonic_ns()}"
        with suppress(FileNotFoundError):
            os.rename(path, discarded)
            shutil.rmtree(discarded, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what processes left that were killed."""
        for path in list(self.folder.iterdir()):
            left = path.name.startswith(UNFINISHED) and not self._in_use(path)
            if left or path.name.startswith(DISCARDED):
                shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        """Remove all entries, and the folder if nothing else is in it; arrays in use stay readable."""
        with suppress(OSError):
            with self._alone():
                for path in list(self.folder.iterdir()):
                    if (path / TILES).is_file() and not path.name.startswith("."):
                        self._discard(path)
                self._sweep()
            if [path.name for path in self.folder.iterdir()] == [LOCK]:
                (self.folder / LOCK).unlink()
                self.folder.rmdir()


def _reserve(file: BinaryIO, size: int) -> None:
    """Reserve disk space for a file, so that a full disk is known before anything is read."""
    file.flush()
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise


def _unwritten(path: Path) -> int:
    """Return how many bytes of a file have no space on the disk yet."""
    stat = path.stat()
    return max(stat.st_size - 512 * getattr(stat, "st_blocks", stat.st_size // 512 + 1), 0)


def _last_use(path: Path) -> int:
    try:
        return (path / ABOUT).stat().st_mtime_ns
    except OSError:
        return 0


def _digest(stored: Any) -> str:
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()


def _is_whole(file: BinaryIO, stored: dict[str, Any]) -> bool:
    """Return whether a file has its size and, if it was written to or copied since, its content."""
    stat = os.fstat(file.fileno())
    if stat.st_size != stored["size"]:
        return False
    if stat.st_mtime_ns == stored["changed"]:
        return True
    file.seek(stored["start"])
    checksum = 0
    while piece := file.read(_PIECE):
        checksum = zlib.crc32(piece, checksum)
    return bool(checksum == stored["crc32"])
