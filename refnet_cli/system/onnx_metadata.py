"""Top-level fields of an ONNX file: its metadata, and a checksum of everything else.

Own code instead of the onnx package, because the card must be read and checked before long work begins, also where only
ONNX Runtime is installed. ONNX Runtime returns metadata only after it has loaded the full model.

An ONNX file is one protocol buffers message, ModelProto: a sequence of fields, each with a number and, mostly, a
length. Format: https://protobuf.dev/programming-guides/encoding and onnx.proto.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from refnet_cli.errors import InputMissingError, WeightsError

SUFFIX = ".onnx"
LARGEST_ENTRY = 16 * 2**20
_METADATA, _KEY, _VALUE = 14, 1, 2  # field numbers of ModelProto and StringStringEntryProto
_IR_VERSION = b"\x08"  # number and wire type of the field that models begin with
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types


class Field(NamedTuple):
    """A field of a message: its number, and the file offsets of its start, its content and its end."""

    number: int
    start: int
    inside: int
    end: int


def is_onnx(path: Path) -> bool:
    """Return whether a file is an ONNX model, by its first bytes; safetensors begin with 8 bytes of length and a brace.

    False for an unreadable file: the code that reads it next reports the error.
    """
    try:
        with path.open("rb") as file:
            first = file.read(9)
    except OSError:
        return False
    return first[:1] == _IR_VERSION and first[4:] != b"\0\0\0\0{"


def read_metadata(path: Path) -> dict[str, str]:
    """Return a model's metadata.

    Raises
    ------
    InputMissingError
        If the file is missing or unreadable.
    WeightsError
        If the file is not an ONNX model.
    """
    found = {}
    with _opened(path) as file:
        for field in _fields(file, 0, _size(file)):
            if field.number == _METADATA:
                key, value = _entry(file, field)
                if key in found:
                    raise ValueError(f"it has two metadata entries named {key!r}")
                found[key] = value
    return found


def digest(path: Path, without: str) -> bytes:
    """Return the SHA-256 of a model without its metadata entry named ``without``.

    Raises
    ------
    InputMissingError, WeightsError
        See `read_metadata`.
    """
    total = hashlib.sha256()
    with _opened(path) as file:
        for field in _fields(file, 0, _size(file)):
            if field.number == _METADATA and _entry(file, field)[0] == without:
                continue
            file.seek(field.start)
            left = field.end - field.start
            while left:
                block = file.read(min(left, 2**20))
                if not block:
                    raise ValueError("it was truncated while it was read")
                total.update(block)
                left -= len(block)
    return total.digest()


class _opened:
    """Open a file for reading, and raise refnet's errors for damaged or unreadable content."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> BinaryIO:
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError as error:
            raise InputMissingError(f"Weights {self._path} do not exist.") from error
        except OSError as error:
            raise InputMissingError(f"Weights {self._path} cannot be read: {error.strerror}.") from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if isinstance(error, ValueError):
            raise WeightsError(f"{self._path} is not an ONNX model, or is damaged: {error}.") from error
        if isinstance(error, OSError):
            raise InputMissingError(f"Weights {self._path} cannot be read: {error.strerror}.") from error


def _size(file: BinaryIO) -> int:
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise ValueError("the file is empty")
    return size


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("the file ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is too long")


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two offsets, without reading their content."""
    while start < end:
        file.seek(start)
        number, kind = divmod(_varint(file), 8)
        if kind == _VARINT:
            inside = file.tell()
            _varint(file)
            after = file.tell()
        elif kind == _LENGTH:
            length = _varint(file)
            inside = file.tell()
            after = inside + length
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            inside = file.tell()
            after = inside + (8 if kind == _EIGHT_BYTES else 4)
        else:
            raise ValueError(f"a field has the unknown wire type {kind}")
        if not number or after > end:
            raise ValueError("a field exceeds its message")
        yield Field(number, start, inside, after)
        start = after


def _entry(file: BinaryIO, field: Field) -> tuple[str, str]:
    """Return the key and value of a metadata entry."""
    parts = {_KEY: "", _VALUE: ""}
    for part in _fields(file, field.inside, field.end):
        if part.end - part.inside > LARGEST_ENTRY:
            raise ValueError(f"a metadata entry has {part.end - part.inside} bytes (limit {LARGEST_ENTRY})")
        file.seek(part.inside)
        parts[part.number] = file.read(part.end - part.inside).decode()
    return parts[_KEY], parts[_VALUE]
