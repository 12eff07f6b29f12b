"""Journal of a map's finished rows, from which a killed run resumes.

Own format: records of compressed rows, each with a checksum and synced to the disk. After a kill at any moment the file
is valid up to its last complete record.
"""

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
"""Data type and number of bands of each layer by its name; a single band has no axis."""
_VERSION = 3
_OLD_HEAD = re.compile(rb"[0-9a-f]{64}\n")  # written by refnet 0.1, without a version
_HEAD = struct.Struct("<4sIIIII")  # mark, row, rows, width, bytes, checksum
_MARK = b"rows"
_COUNTS_MARK = b"cnts"
Counts = Mapping[str, Mapping[str, int]]
"""Counts of each block of the input that was read, by the block's name."""


class FinishedRows(NamedTuple):
    """Finished rows over the map's full width."""

    row: int
    layers: dict[str, NDArray[Any]]
    """Layers by their names, shape (rows, width), or (B, rows, width) with several bands."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(next(iter(self.layers.values())).shape[-2])


def is_journal(path: Path, identity: Mapping[str, Any]) -> bool:
    """Return whether a file is the journal of a run with that identity."""
    head = _head(identity)
    try:
        with path.open("rb") as file:
            return file.read(len(head)) == head
    except OSError:
        return False


def journal_version(path: Path) -> str | None:
    """Return the version of refnet that wrote a journal, or None if there is no journal or it is damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(128)
    except OSError:
        return None
    if _OLD_HEAD.match(head):
        return "0.1"
    found = re.match(re.escape(JOURNAL_MARK) + rb"([\w.+-]+)\n", head)
    return found[1].decode() if found else None


def read_journal(path: Path, identity: Mapping[str, Any], planes: Planes) -> Iterator[FinishedRows]:
    """Yield the complete records of a journal, without changing it; nothing if its identity is another."""
    head = _head(identity)
    with path.open("rb") as file:
        if file.read(len(head)) == head:
            for finished, _ in _records(file, planes):
                yield finished


class _Record(NamedTuple):
    """A complete record, and the file offset behind it."""

    mark: bytes
    row: int
    rows: int
    width: int
    packed: bytes
    end: int


def _all_records(file: IO[bytes]) -> Iterator[_Record]:
    """Yield records up to the first incomplete one."""
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        mark, row, rows, width, size, checksum = _HEAD.unpack(head)
        packed = file.read(size)
        known = mark in (_MARK, _COUNTS_MARK)
        if not known or len(packed) != size or zlib.crc32(head[:-4] + packed) != checksum:
            return
        place = file.tell()
        yield _Record(mark, row, rows, width, packed, place)
        file.seek(place)


def _records(file: IO[bytes], planes: Planes) -> Iterator[tuple[FinishedRows, int]]:
    """Yield the rows of records, and the file offset behind each, up to the first incomplete one."""
    for found in _all_records(file):
        if found.mark == _MARK:
            most = sum(np.dtype(kind).itemsize * bands for kind, bands in planes.values()) * found.rows * found.width
            unpacked = zlib.decompressobj().decompress(found.packed, most)
            yield FinishedRows(found.row, _split(unpacked, planes, found.rows, found.width)), found.end


def _split(unpacked: bytes, planes: Planes, rows: int, width: int) -> dict[str, NDArray[Any]]:
    layers, start = {}, 0
    for name, (kind, bands) in planes.items():
        values = np.frombuffer(unpacked, kind, bands * rows * width, start)
        layers[name] = values.reshape((rows, width) if bands == 1 else (bands, rows, width))
        start += values.nbytes
    return layers


def _pack(mark: bytes, place: tuple[int, int, int], packed: bytes) -> bytes:
    """Return a record: its mark, row, rows and width, size, checksum and content."""
    head = _HEAD.pack(mark, *place, len(packed), 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head + packed)) + packed


def _head(identity: Mapping[str, Any]) -> bytes:
    text = json.dumps({"version": _VERSION, **identity}, sort_keys=True).encode()
    return JOURNAL_MARK + __version__.encode() + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"


class Journal:
    """A file of finished rows, from north to south, in records with a checksum.

    Parameters
    ----------
    path : Path
        Continued after its last complete record if its ``identity`` is the same, else started again.
    identity : mapping
        Everything that the map's pixels depend on; must be valid JSON.
    planes : mapping
        The layers; see `Planes`.

    Attributes
    ----------
    next_row : int
        First unfinished row.
    renewed : bool
        Whether a journal of another identity was discarded.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], planes: Planes) -> None:
        self._head = _head(identity)
        self._planes = planes
        # Unbuffered, so that nothing remains to be flushed after a failed write.
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
        """Read all records and return the offset behind the last complete one, or 0 if the identity is another."""
        self._file.seek(0)
        if self._file.read(len(self._head)) != self._head:
            return 0
        end = self._file.tell()
        for finished, place in _records(self._file, self._planes):
            if finished.row != self.next_row:
                break
            self.next_row, end = finished.row + finished.rows, place
        return end

    def replay(self) -> Iterator[FinishedRows]:
        """Yield the finished rows; do not add rows meanwhile."""
        self._file.seek(len(self._head))
        for finished, _ in _records(self._file, self._planes):
            yield finished

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the counts that were added with the finished rows; do not add rows meanwhile."""
        self._file.seek(len(self._head))
        found: dict[str, dict[str, int]] = {}
        for record in _all_records(self._file):
            if record.mark == _COUNTS_MARK:
                found |= json.loads(zlib.decompress(record.packed))
        return found

    def add(self, finished: FinishedRows, counts: Counts | None = None) -> None:
        """Append finished rows and sync them to the disk.

        Parameters
        ----------
        finished : FinishedRows
        counts : mapping, optional
            Counts of the blocks that were read for these rows, and for none before. They come first, so that no rows
            are there without them.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        rows, width = finished.rows, next(iter(finished.layers.values())).shape[-1]
        packed = zlib.compress(b"".join(finished.layers[name].tobytes() for name in self._planes), 1)
        record = _pack(_MARK, (finished.row, rows, width), packed)
        if counts:
            record = _pack(_COUNTS_MARK, (finished.row, 0, 0), zlib.compress(json.dumps(counts).encode())) + record
        self._file.seek(0, os.SEEK_END)
        self._write(record)
        sync_descriptor(self._file.fileno())
        self.next_row = finished.row + rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()
