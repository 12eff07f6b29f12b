"""The directories of a TIFF file, read before libtiff takes memory for what they claim.

GDAL tells how large the blocks of a file's bands are, but not those of its masks and overviews, which it reads whole.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

from refnet_cli.errors import InputError

MOST_BYTES = 256 << 20  # that a block may take
MOST_DIRECTORIES, _MOST_ENTRIES = 256, 4096
_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ROWS, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _MORE = (
    256, 257, 258, 277, 278, 284, 322, 323, 330,
)  # fmt: skip
_WANTED = {_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ROWS, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _MORE}
_LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # of numbers, by type

_DAMAGE = (struct.error, ValueError, OverflowError, OSError)


class _Layout(NamedTuple):
    """How numbers are stored in a file."""

    order: str
    number: str
    address: str
    inline: int
    """Bytes of a value that is stored in its entry."""

    def read(self, file: BinaryIO, letters: str) -> tuple[int, ...]:
        """Read numbers where the file stands."""
        return struct.unpack(self.order + letters, file.read(struct.calcsize(self.order + letters)))


def check_directories(file: BinaryIO) -> None:
    """Refuse a TIFF file with masks or overviews in blocks that are too large, or with very many of them.

    The first directory is that of the bands, whose blocks GDAL tells. Damage is left to libtiff, which stops where this
    stops.

    Parameters
    ----------
    file : binary file
        Of which only the directories are read.

    Raises
    ------
    InputError
        If a block of a mask or overview would take more than 256 MB, or there are more than 256 directories.
    """
    try:
        order = {b"II": "<", b"MM": ">"}[file.read(2)]
        (version,) = struct.unpack(order + "H", file.read(2))
        layout = _Layout(order, "Q", "Q", 8) if version == 43 else _Layout(order, "H", "I", 4)
        file.seek(8 if version == 43 else 4)
        first, *found = layout.read(file, layout.address)
        _, found = _directory(file, first, layout)
    except (KeyError, *_DAMAGE):
        return
    seen = {first, 0}
    while found:
        place = found.pop()
        if place in seen:
            continue
        seen.add(place)
        if len(seen) - 1 > MOST_DIRECTORIES:
            raise InputError(
                f"The file holds more than {MOST_DIRECTORIES} images: give one with a single image, for instance from "
                "gdal_translate."
            )
        try:
            tags, more = _directory(file, place, layout)
        except _DAMAGE:
            continue
        found += more
        if _block_bytes(tags) > MOST_BYTES:
            raise InputError(
                f"The file has a mask or an overview in blocks of over {MOST_BYTES >> 20} MB each: rewrite it with "
                "tiles, for instance with gdal_translate -co TILED=YES."
            )


def _directory(file: BinaryIO, place: int, layout: _Layout) -> tuple[dict[int, int], list[int]]:
    """Read a directory: of each tag asked for the largest first value, and the places of further directories."""
    file.seek(place)
    (count,) = layout.read(file, layout.number)
    if count > _MOST_ENTRIES:
        raise InputError(f"The file has a directory of {count} entries: give an intact one.")
    size = 4 + struct.calcsize(layout.order + layout.address) + layout.inline
    raw = file.read(count * size)
    tags: dict[int, int] = {}
    more = [*layout.read(file, layout.address)]
    for start in range(0, len(raw), size):
        tag, kind = struct.unpack_from(layout.order + "HH", raw, start)
        if tag in _WANTED and kind in _LETTERS:
            values = _values(file, raw[start : start + size], layout, _LETTERS[kind])
            tags[tag] = max(tags.get(tag, 0), *values[:1], 0)
            more += values if tag == _MORE else ()
    return tags, more


def _values(file: BinaryIO, entry: bytes, layout: _Layout, letter: str) -> tuple[int, ...]:
    (count,) = struct.unpack_from(layout.order + layout.address, entry, 4)
    letters = f"{min(count, MOST_DIRECTORIES + 1)}{letter}"
    if count * struct.calcsize(layout.order + letter) <= layout.inline:
        return struct.unpack_from(layout.order + letters, entry, len(entry) - layout.inline)
    (place,) = struct.unpack_from(layout.order + layout.address, entry, len(entry) - layout.inline)
    file.seek(place)
    return layout.read(file, letters)


def _block_bytes(tags: dict[int, int]) -> int:
    """Memory that a block takes, where GDAL gives each pixel a byte at least."""
    width, height = tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
    if _TILE_WIDTH in tags or _TILE_HEIGHT in tags:
        width, height = tags.get(_TILE_WIDTH, width), tags.get(_TILE_HEIGHT, height)
    else:
        height = min(height, tags.get(_ROWS, height))
    samples = tags.get(_SAMPLES, 1) if tags.get(_PLANAR, 1) == 1 else 1
    return width * height * samples * -(-max(tags.get(_BITS, 1), 1) // 8)
