"""Finished rows of a map, kept so that a run that was killed goes on after them."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]

_VERSION = 1
_RECORD = struct.Struct("<4sIIIII")  # mark, row, rows, width, bytes, checksum
_MARK = b"rows"


class Finished(NamedTuple):
    """Finished rows over the map's whole width."""

    row: int
    codes: UInt8
    """Class codes as they are in the map, shape (rows, width)."""
    seen: UInt8
    """Which sensors saw each pixel, shape (rows, width)."""


def is_journal(path: Path, identity: Mapping[str, Any]) -> bool:
    """Tell whether a file is the journal of a run for that identity."""
    head = _head(identity)
    try:
        with path.open("rb") as file:
            return file.read(len(head)) == head
    except OSError:
        return False


def _head(identity: Mapping[str, Any]) -> bytes:
    text = json.dumps({"version": _VERSION, **identity}, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest().encode() + b"\n"


class Journal:
    """A file of finished rows, from north to south, each with a checksum.

    Parameters
    ----------
    path : Path
        Is continued if it was begun for the same ``identity``, up to its last whole record, else begun anew.
    identity : mapping
        Everything that the map's pixels depend on; JSON holds it.

    Attributes
    ----------
    next_row : int
        First row that is not finished.
    renewed : bool
        Whether there was one for something else.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._head = _head(identity)
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
        for finished, place in self._records():
            if finished.row != self.next_row:
                break
            self.next_row, end = finished.row + len(finished.codes), place
        return end

    def _records(self) -> Iterator[tuple[Finished, int]]:
        """Yield records, and the place behind each, until one is not whole."""
        self._file.seek(len(self._head))
        while len(head := self._file.read(_RECORD.size)) == _RECORD.size:
            mark, row, rows, width, size, checksum = _RECORD.unpack(head)
            packed = self._file.read(size)
            if mark != _MARK or len(packed) != size or zlib.crc32(head[:-4] + packed) != checksum:
                return
            unpacked = zlib.decompressobj().decompress(packed, 2 * rows * width)
            layers = np.frombuffer(unpacked, np.uint8).reshape(2, rows, width)
            yield Finished(row, layers[0], layers[1]), self._file.tell()

    def replay(self) -> Iterator[Finished]:
        """Yield what is finished; nothing may be added meanwhile."""
        for finished, _ in self._records():
            yield finished

    def add(self, finished: Finished) -> None:
        """Write finished rows down, onto the disk.

        Raises
        ------
        OSError
            If they cannot be written.
        """
        rows, width = finished.codes.shape
        packed = zlib.compress(np.stack([finished.codes, finished.seen]).tobytes(), 1)
        head = _RECORD.pack(_MARK, finished.row, rows, width, len(packed), 0)[:-4]
        checksum = zlib.crc32(head + packed)
        self._file.seek(0, os.SEEK_END)
        self._write(head + struct.pack("<I", checksum) + packed)
        os.fsync(self._file.fileno())
        self.next_row = finished.row + rows

    def close(self) -> None:
        """Close the file."""
        self._file.close()
