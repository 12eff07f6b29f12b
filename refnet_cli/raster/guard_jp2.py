"""The headers of a JPEG 2000 file, read before OpenJPEG takes memory for what they claim.

OpenJPEG lays out all code-blocks of a tile before it decodes one, some hundred bytes each.
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
MOST_BLOCKS = 1 << 20  # code-blocks of a tile
MOST_TILES = 1 << 18  # tiles, times bands
_MOST_PARTS = 1 << 18  # of tiles, and boxes before the codestream
_MOST_HEADER = 1 << 20  # bytes
_SIZ, _COD, _COC, _TLM, _SOT, _SOD, _EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF55, 0xFF90, 0xFF93, 0xFFD9
_LONG = {_SIZ, _COD, _COC, _TLM, 0xFF50, 0xFF57, 0xFF58, 0xFF59, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF5F, 0xFF60, 0xFF61, 0xFF63,
         0xFF64, 0xFF74, 0xFF75, 0xFF77, 0xFF78, 0xFF91}  # fmt: skip
"""Markers with a length behind them that OpenJPEG knows. Of others it passes over no more than the marker."""

_DAMAGE = (struct.error, ValueError, IndexError, OverflowError, OSError)


@dataclass
class _Claims:
    """What headers say."""

    width: int = 0
    height: int = 0
    """Of the largest tile."""
    bands: int = 0
    tiles: int = 0
    blocks: int = 0
    """Most code-blocks of a tile."""
    lengths: list[int] = field(default_factory=list)
    """Of the parts of tiles, where the main header tells them."""


def check_codestream(file: BinaryIO) -> None:
    """Refuse a JPEG 2000 file that takes much memory next to its pixels. Damage is left to OpenJPEG.

    Parameters
    ----------
    file : binary file
        Of which only the headers are read.

    Raises
    ------
    InputError
        If a tile has more than 2^20 code-blocks, there are very many tiles, or headers are over 1 MB.
    """
    claims = _Claims()
    with suppress(*_DAMAGE):
        parts = _walk(file, _codestream(file) + 2, claims)
        # Each tile may be coded otherwise than the main header says.
        for header in _tile_parts(file, parts, claims.lengths):
            with suppress(*_DAMAGE):
                _walk(file, header, claims)
    if claims.tiles * claims.bands > MOST_TILES:
        raise InputError(
            f"The JPEG 2000 file claims {claims.tiles} tiles of {claims.bands} bands: rewrite it with larger ones, for "
            "instance as GeoTIFF with gdal_translate -co TILED=YES."
        )
    if claims.blocks > MOST_BLOCKS:
        raise InputError(
            f"The JPEG 2000 file claims a tile of {claims.width} x {claims.height} pixels in {claims.blocks} "
            f"code-blocks, which take too much memory: at most {MOST_BLOCKS} can be read. Rewrite it as GeoTIFF, for "
            "instance with gdal_translate -co TILED=YES."
        )


def _read(file: BinaryIO, place: int, letters: str) -> tuple[int, ...]:
    file.seek(place)
    return struct.unpack(f">{letters}", file.read(struct.calcsize(f">{letters}")))


def _codestream(file: BinaryIO) -> int:
    """Return where the codestream begins: in the first box of its kind, or at once."""
    if file.read(4) == CODESTREAM:
        return 0
    place = 0
    for _ in range(_MOST_PARTS):
        length, kind = _read(file, place, "II")
        header = 8
        if length == 1:
            (length,), header = _read(file, place + 8, "Q"), 16
        if kind == int.from_bytes(b"jp2c"):
            return place + header
        if length < header:
            raise ValueError
        place += length
    raise InputError("The JPEG 2000 file has too many boxes: give an intact one.")


def _walk(file: BinaryIO, place: int, claims: _Claims) -> int:
    """Note what a header says, and return where it ends."""
    last = place + _MOST_HEADER
    while place < last:
        marker, length = _read(file, place, "HH")
        if marker in (_SOT, _SOD, _EOC):
            return place
        if marker == _TLM:
            claims.lengths += _lengths(file.read(max(length - 2, 0)))
        elif marker in (_SIZ, _COD, _COC):
            _note(marker, file.read(min(max(length - 2, 0), 256)), claims)
        place += 2 + (length if marker in _LONG else 0)
    raise InputError("The JPEG 2000 file has a header of over 1 MB: rewrite it, for instance with gdal_translate.")


def _note(marker: int, content: bytes, claims: _Claims) -> None:
    if marker == _SIZ:
        right, bottom, left, top, width, height, tiles_left, tiles_top, bands = struct.unpack_from(">8IH", content, 2)
        claims.width, claims.height, claims.bands = min(width, right - left), min(height, bottom - top), bands
        claims.tiles = -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height) if width * height else 0
        return
    # COC tells first which band it is for, in one byte or two, and has less between its style and the code-blocks.
    wide = claims.bands > 256
    style, content = (content[0], content[5:]) if marker == _COD else (content[1 + wide], content[2 + wide :])
    levels = min(content[0], 32)
    sides = content[1] % 16 + 2, content[2] % 16 + 2
    precincts = content[5 : 6 + levels] if style & 1 else b"\xff" * (levels + 1)
    claims.blocks = max(claims.blocks, _count(claims, sides, precincts))


def _count(claims: _Claims, sides: tuple[int, int], precincts: bytes) -> int:
    """Number of code-blocks in a tile, all resolutions together."""
    count = 0
    for level, precinct in enumerate(precincts):
        # All but the lowest resolution are three parts of half its size, and its precincts, where code-blocks end.
        upper = level > 0
        halvings = len(precincts) - 1 - level + upper
        column, row = (
            min(max(power - upper, 0), side) + halvings
            for power, side in zip((precinct & 15, precinct >> 4), sides, strict=True)
        )
        count += (3 if upper else 1) * -(-claims.width >> column) * -(-claims.height >> row)
    return count * claims.bands


def _lengths(content: bytes) -> list[int]:
    """Lengths of parts of tiles as the main header tells them, so that they are found without the others."""
    before = content[1] >> 4 & 3
    size = before + (4 if content[1] >> 6 & 1 else 2)
    return [int.from_bytes(content[at + before : at + size]) for at in range(2, len(content) - size + 1, size)]


def _tile_parts(file: BinaryIO, first: int, lengths: list[int]) -> Iterator[int]:
    """Yield where the headers of all parts of tiles begin, behind their markers.

    They are found in two ways, as OpenJPEG may: each by the one before it, and by the lengths in the main header.
    """
    place, known = first, set()
    for _ in range(_MOST_PARTS):
        length = _part_length(file, place)
        if length is None:
            break
        known.add(place)
        yield place + 12
        place += length
        if length < 12:
            break
    else:
        raise InputError("The JPEG 2000 file has too many parts of tiles: rewrite it, for instance as GeoTIFF.")
    for distance in itertools.accumulate(lengths, initial=0):
        if first + distance not in known and _part_length(file, first + distance) is not None:
            yield first + distance + 12


def _part_length(file: BinaryIO, place: int) -> int | None:
    with suppress(*_DAMAGE):
        marker, length = _read(file, place, "H4xIxx")
        if marker == _SOT:
            return length
    return None
