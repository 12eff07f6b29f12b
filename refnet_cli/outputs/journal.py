"""Finished rows of a map, kept so that a run that was killed goes on after them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet_cli.system.disk import sync_descriptor
from refnet_cli.system.marks import JOURNAL_MARK
from refnet_cli.version import __version__

Planes = Mapping[str, tuple[type[Any], int]]
"""For each layer of rows by its name: type of its numbers, and bands; a single band has no axis."""
_VERSION = 3
_OLD_HEAD = re.compile(rb"[0-9a-f]{64}\n")  # of refnet 0.1, which named no version
_RECORD = struct.Struct("<4sIIIII")  # mark, row, rows, width, bytes, checksum
_MARK = b"rows"


class Finished(NamedTuple):
    """Finished rows over the map's whole width."""

    row: int
    layers: dict[str, NDArray[Any]]
    """By their names, shape (rows, width), or (B, rows, width) where there are several bands."""

    @property
    def rows(self) -> int:
        """How many they are."""
        return int(next(iter(self.layers.values())).shape[-2])


def is_journal(path: Path, identity: Mapping[str, Any]) -> bool:
    """Tell whether a file is the journal of a run for that identity."""
    head = _head(identity)
    try:
        with path.open("rb") as file:
            return file.read(len(head)) == head
    except OSError:
        return False


def version_of(path: Path) -> str | None:
    """Return the version of refnet that wrote a journal, None where there is none or it is damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(128)
    except OSError:
        return None
    if _OLD_HEAD.match(head):
        return "0.1"
    found = re.match(re.escape(JOURNAL_MARK) + rb"([\w.+-]+)\n", head)
    return found[1].decode() if found else None


def read_journal(path: Path, identity: Mapping[str, Any], planes: Planes) -> Iterator[Finished]:
    """Yield the whole records of a journal, without changing it; none if it is that of a run for something else."""
    head = _head(identity)
    with path.open("rb") as file:
        if file.read(len(head)) == head:
            for finished, _ in _records(file, planes):
                yield finished


def _records(file: IO[bytes], planes: Planes) -> Iterator[tuple[Finished, int]]:
    """Yield records, and the place behind each, until one is not whole."""
    while len(head := file.read(_RECORD.size)) == _RECORD.size:
        mark, row, rows, width, size, checksum = _RECORD.unpack(head)
        packed = file.read(size)
        if mark != _MARK or len(packed) != size or zlib.crc32(head[:-4] + packed) != checksum:
            return
        most = sum(np.dtype(kind).itemsize * bands for kind, bands in planes.values()) * rows * width
        unpacked = zlib.decompressobj().decompress(packed, most)
        place = file.tell()
        yield Finished(row, _split(unpacked, planes, rows, width)), place
        file.seek(place)


def _split(unpacked: bytes, planes: Planes, rows: int, width: int) -> dict[str, NDArray[Any]]:
    layers, start = {}, 0
    for name, (kind, bands) in planes.items():
        values = np.frombuffer(unpacked, kind, bands * rows * width, start)
        layers[name] = values.reshape((rows, width) if bands == 1 else (bands, rows, width))
        start += values.nbytes
    return layers


def _head(identity: Mapping[str, Any]) -> bytes:
    text = json.dumps({"version": _VERSION, **identity}, sort_keys=True).encode()
    return JOURNAL_MARK + __version__.encode() + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"


class Journal:
    """A file of finished rows, from north to south, each with a checksum.

    Parameters
    ----------
    path : Path
        Is continued if it was begun for the same ``identity``, up to its last whole record, else started again.
    identity : mapping
        Everything that the map's pixels depend on; JSON holds it.
    planes : mapping
        What rows are made of; see `Planes`.

    Attributes
    ----------
    next_row : int
        First row that is not finished.
    renewed : bool
        Whether there was one for something else.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], planes: Planes) -> None:
        self._head = _head(identity)
        self._planes = planes
        # Unbuffered, so that nothing is left to be written where writing fails.
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        self.next_row = 0
        self.renewed = False
        try:
            end = self._check()
            self.renewed = not end and self._file.tell() > 0
            self._file.truncate(end)
            if not end:
                self._write(self._head)
        except OSError:
            self.close()
            raise

    def _write(self, content: bytes) -> None:
        while content:
            content = content[self._file.write(content) :]

    def _check(self) -> int:
        """Read all records; the place behind the last whole one, 0 if the file is another map's."""
        self._file.seek(0)
        if self._file.read(len(self._head)) != self._head:
            return 0
        end = self._file.tell()
        for finished, place in _records(self._file, self._planes):
            if finished.row != self.next_row:
                break
            self.next_row, end = finished.row + finished.rows, place
        return end

    def replay(self) -> Iterator[Finished]:
        """Yield what is finished; nothing may be added meanwhile."""
        self._file.seek(len(self._head))
        for finished, _ in _records(self._file, self._planes):
            yield finished

    def add(self, finished: Finished) -> None:
        """Write finished rows down, onto the disk.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        rows, width = finished.rows, next(iter(finished.layers.values())).shape[-1]
        packed = zlib.compress(b"".join(finished.layers[name].tobytes() for name in self._planes), 1)
        head = _RECORD.pack(_MARK, finished.row, rows, width, len(packed), 0)[:-4]
        checksum = zlib.crc32(head + packed)
        self._file.seek(0, os.SEEK_END)
        self._write(head + struct.pack("<I", checksum) + packed)
        sync_descriptor(self._file.fileno())
        self.next_row = finished.row + rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()
