"""The outermost layer of an ONNX file, without the onnx package: its metadata, and a checksum of all the rest.

An ONNX file is one protocol buffers message, ModelProto: a row of fields, each with a number and, mostly, a length. The
card must be read and checked before anything long begins and where only ONNX Runtime is installed, which tells metadata
only of a model that it has loaded whole. Format: https://protobuf.dev/programming-guides/encoding and onnx.proto.
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
_IR_VERSION = b"\x08"  # number and kind of the field that models begin with
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # kinds of fields


class Field(NamedTuple):
    """A field of a message: its number, where in the file it begins, where what it holds begins, and where it ends."""

    number: int
    start: int
    inside: int
    end: int


def is_onnx(path: Path) -> bool:
    """Tell whether a file is an ONNX model, by its first bytes; safetensors begin with a length of 8 bytes and a brace.

    A file that cannot be read is none: what reads it next tells why.
    """
    try:
        with path.open("rb") as file:
            first = file.read(9)
    except OSError:
        return False
    return first[:1] == _IR_VERSION and first[4:] != b"\0\0\0\0{"


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata that a model carries.

    Raises
    ------
    InputMissingError
        If there is no such file or it cannot be read.
    WeightsError
        If it is no ONNX model.
    """
    found = {}
    with _opened(path) as file:
        for field in _fields(file, 0, _size(file)):
            if field.number == _METADATA:
                key, value = _entry(file, field)
                if key in found:
                    raise ValueError(f"it has two entries of metadata named {key!r}")
                found[key] = value
    return found


def digest(path: Path, without: str) -> bytes:
    """SHA-256 over all of a model but the metadata entry named ``without``.

    Raises
    ------
    InputMissingError, WeightsError
        As `read_metadata`.
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
                    raise ValueError("it became shorter while it was read")
                total.update(block)
                left -= len(block)
    return total.digest()


class _opened:
    """A file opened to read, whose faults are told in our own words."""

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
            raise WeightsError(f"{self._path} is not an ONNX model, or a damaged one: {error}.") from error
        if isinstance(error, OSError):
            raise InputMissingError(f"Weights {self._path} cannot be read: {error.strerror}.") from error


def _size(file: BinaryIO) -> int:
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise ValueError("it is empty")
    return size


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number has no end")


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[Field]:
    """Fields of the message that lies between two places; what they hold is not read."""
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
            raise ValueError(f"it has a field of kind {kind}")
        if not number or after > end:
            raise ValueError("a field reaches beyond its end")
        yield Field(number, start, inside, after)
        start = after


def _entry(file: BinaryIO, field: Field) -> tuple[str, str]:
    """Key and value of a metadata entry."""
    parts = {_KEY: "", _VALUE: ""}
    for part in _fields(file, field.inside, field.end):
        if part.end - part.inside > LARGEST_ENTRY:
            raise ValueError(f"metadata of {part.end - part.inside} bytes")
        file.seek(part.inside)
        parts[part.number] = file.read(part.end - part.inside).decode()
    return parts[_KEY], parts[_VALUE]
