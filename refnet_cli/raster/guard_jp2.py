"""Checks of JPEG 2000 headers before OpenJPEG allocates memory for what they claim.

OpenJPEG allocates all code-blocks of a tile, some hundred bytes each, before it decodes one.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from refnet_cli.errors import InputError

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"
MAX_BLOCKS = 1 << 20  # code-blocks of a tile
MAX_TILES = 1 << 18  # tiles times bands
_MAX_PARTS = 1 << 18  # tile-parts, and boxes before the codestream
_MAX_HEADER = 1 << 20  # bytes
_SIZ, _COD, _COC, _TLM, _SOT, _SOD, _EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF55, 0xFF90, 0xFF93, 0xFFD9
_LONG = {_SIZ, _COD, _COC, _TLM, 0xFF50, 0xFF57, 0xFF58, 0xFF59, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF5F, 0xFF60, 0xFF61, 0xFF63,
         0xFF64, 0xFF74, 0xFF75, 0xFF77, 0xFF78, 0xFF91}  # fmt: skip
"""Markers with a length field that OpenJPEG knows. It skips only the marker itself of others."""

_DAMAGE = (struct.error, ValueError, IndexError, OverflowError, OSError)


@dataclass
class _Claims:
    """Sizes according to the headers."""

    width: int = 0
    height: int = 0
    """Of the largest tile."""
    bands: int = 0
    tiles: int = 0
    blocks: int = 0
    """Maximum number of code-blocks of a tile."""
    lengths: list[int] = field(default_factory=list)
    """Lengths of the tile-parts, if the main header contains them."""


def check_codestream(file: BinaryIO) -> None:
    """Refuse a JPEG 2000 file that would need much memory beyond its pixels. OpenJPEG handles damaged files.

    Parameters
    ----------
    file : binary file
        Only the headers are read.

    Raises
    ------
    InputError
        If a tile has more than 2^20 code-blocks, there are too many tiles, or a header is over 1 MB.
    """
    claims = _Claims()
    with suppress(*_DAMAGE):
        parts = _walk(file, _codestream(file) + 2, claims)
        # The coding of each tile may differ from the main header.
        for header in _tile_parts(file, parts, claims.lengths):
            with suppress(*_DAMAGE):
                _walk(file, header, claims)
    if claims.tiles * claims.bands > MAX_TILES:
        raise InputError(
            f"The JPEG 2000 file claims {claims.tiles} tiles of {claims.bands} bands (limit {MAX_TILES} in all). "
            "Rewrite it with larger tiles, for instance as GeoTIFF with gdal_translate -co TILED=YES."
        )
    if claims.blocks > MAX_BLOCKS:
        raise InputError(
            f"The JPEG 2000 file claims a tile of {claims.width} x {claims.height} pixels in {claims.blocks} "
            f"code-blocks (limit {MAX_BLOCKS}). Rewrite it as GeoTIFF, for instance with gdal_translate -co TILED=YES."
        )


def _read(file: BinaryIO, position: int, letters: str) -> tuple[int, ...]:
    file.seek(position)
    return struct.unpack(f">{letters}", file.read(struct.calcsize(f">{letters}")))


def _codestream(file: BinaryIO) -> int:
    """Return the position of the codestream: in the first box of its kind, or at the start of the file."""
    if file.read(4) == CODESTREAM:
        return 0
    position = 0
    for _ in range(_MAX_PARTS):
        length, kind = _read(file, position, "II")
        header = 8
        if length == 1:
            (length,), header = _read(file, position + 8, "Q"), 16
        if kind == int.from_bytes(b"jp2c"):
            return position + header
        if length < header:
            raise ValueError
        position += length
    raise InputError("The JPEG 2000 file has too many boxes. Repair or re-download the file.")


def _walk(file: BinaryIO, position: int, claims: _Claims) -> int:
    """Record the sizes in a header, and return the position of its end."""
    last = position + _MAX_HEADER
    while position < last:
        marker, length = _read(file, position, "HH")
        if marker in (_SOT, _SOD, _EOC):
            return position
        if marker == _TLM:
            claims.lengths += _lengths(file.read(max(length - 2, 0)))
        elif marker in (_SIZ, _COD, _COC):
            _note(marker, file.read(min(max(length - 2, 0), 256)), claims)
        position += 2 + (length if marker in _LONG else 0)
    raise InputError("The JPEG 2000 file has a header of over 1 MB. Rewrite it, for instance with gdal_translate.")


def _note(marker: int, content: bytes, claims: _Claims) -> None:
    if marker == _SIZ:
        right, bottom, left, top, width, height, tiles_left, tiles_top, bands = struct.unpack_from(">8IH", content, 2)
        claims.width, claims.height, claims.bands = min(width, right - left), min(height, bottom - top), bands
        claims.tiles = -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height) if width * height else 0
        return
    # COC starts with its band in one or two bytes, and has fewer fields between style and code-blocks.
    wide = claims.bands > 256
    style, content = (content[0], content[5:]) if marker == _COD else (content[1 + wide], content[2 + wide :])
    levels = min(content[0], 32)
    sides = content[1] % 16 + 2, content[2] % 16 + 2
    precincts = content[5 : 6 + levels] if style & 1 else b"\xff" * (levels + 1)
    claims.blocks = max(claims.blocks, _count(claims, sides, precincts))


def _count(claims: _Claims, sides: tuple[int, int], precincts: bytes) -> int:
    """Return the number of code-blocks of a tile, over all resolutions."""
    count = 0
    for level, precinct in enumerate(precincts):
        # Each resolution but the lowest has three subbands of half its size. Precincts limit code-blocks.
        upper = level > 0
        halvings = len(precincts) - 1 - level + upper
        column, row = (
            min(max(power - upper, 0), side) + halvings
            for power, side in zip((precinct & 15, precinct >> 4), sides, strict=True)
        )
        count += (3 if upper else 1) * -(-claims.width >> column) * -(-claims.height >> row)
    return count * claims.bands


def _lengths(content: bytes) -> list[int]:
    """Return the lengths of tile-parts from the main header, which locate each one independently of the others."""
    before = content[1] >> 4 & 3
    size = before + (4 if content[1] >> 6 & 1 else 2)
    return [int.from_bytes(content[at + before : at + size]) for at in range(2, len(content) - size + 1, size)]


def _tile_parts(file: BinaryIO, first: int, lengths: list[int]) -> Iterator[int]:
    """Yield the positions of the headers of all tile-parts, after their markers.

    They are located in both ways that OpenJPEG may use: from the previous one, and from the lengths in the main header.
    """
    position, known = first, set()
    for _ in range(_MAX_PARTS):
        length = _part_length(file, position)
        if length is None:
            break
        known.add(position)
        yield position + 12
        position += length
        if length < 12:
            break
    else:
        raise InputError("The JPEG 2000 file has too many tile-parts. Rewrite it, for instance as GeoTIFF.")
    for distance in itertools.accumulate(lengths, initial=0):
        if first + distance not in known and _part_length(file, first + distance) is not None:
            yield first + distance + 12


def _part_length(file: BinaryIO, position: int) -> int | None:
    with suppress(*_DAMAGE):
        marker, length = _read(file, position, "H4xIxx")
        if marker == _SOT:
            return length
    return None
