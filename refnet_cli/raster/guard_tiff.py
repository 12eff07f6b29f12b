"""Checks of TIFF directories before libtiff allocates memory for what they claim.

GDAL reports the block size of bands, but not of masks and overviews, which it reads without a limit.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

from refnet_cli.errors import InputError

MAX_BYTES = 256 << 20  # per block
MAX_DIRECTORIES, _MAX_ENTRIES = 256, 4096
_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ROWS, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _MORE = (
    256, 257, 258, 277, 278, 284, 322, 323, 330,
)  # fmt: skip
_NEEDED = {_WIDTH, _HEIGHT, _BITS, _SAMPLES, _ROWS, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _MORE}
_LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # integers, by type

_DAMAGE = (struct.error, ValueError, OverflowError, OSError)


class _Layout(NamedTuple):
    """The binary layout of a file."""

    order: str
    number: str
    address: str
    inline: int
    """Maximum size in bytes of a value that is stored in its entry."""

    def read(self, file: BinaryIO, letters: str) -> tuple[int, ...]:
        """Read numbers at the current position."""
        return struct.unpack(self.order + letters, file.read(struct.calcsize(self.order + letters)))


def check_directories(file: BinaryIO) -> None:
    """Refuse a TIFF file with too many masks and overviews, or with too large blocks in them.

    The first directory is that of the bands, whose block size GDAL reports. Damage is left to libtiff, which stops
    where this function stops.

    Parameters
    ----------
    file : binary file
        Only the directories are read.

    Raises
    ------
    InputError
        If a block of a mask or overview needs more than 256 MB, or there are more than 256 directories.
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
        position = found.pop()
        if position in seen:
            continue
        seen.add(position)
        if len(seen) - 1 > MAX_DIRECTORIES:
            raise InputError(
                f"The file contains more than {MAX_DIRECTORIES} images, the limit. Extract a single image, for "
                "instance with gdal_translate."
            )
        try:
            tags, more = _directory(file, position, layout)
        except _DAMAGE:
            continue
        found += more
        if _block_bytes(tags) > MAX_BYTES:
            raise InputError(
                f"The file has a mask or overview in blocks of over {MAX_BYTES >> 20} MB, the limit. Rewrite it with "
                "tiles, for instance with gdal_translate -co TILED=YES."
            )


def _directory(file: BinaryIO, position: int, layout: _Layout) -> tuple[dict[int, int], list[int]]:
    """Return the maximum first value of each needed tag of a directory, and the positions of further directories."""
    file.seek(position)
    (count,) = layout.read(file, layout.number)
    if count > _MAX_ENTRIES:
        raise InputError(f"The file has a directory of {count} entries (limit {_MAX_ENTRIES}). Re-download the file.")
    size = 4 + struct.calcsize(layout.order + layout.address) + layout.inline
    raw = file.read(count * size)
    tags: dict[int, int] = {}
    more = [*layout.read(file, layout.address)]
    for start in range(0, len(raw), size):
        tag, kind = struct.unpack_from(layout.order + "HH", raw, start)
        if tag in _NEEDED and kind in _LETTERS:
            values = _values(file, raw[start : start + size], layout, _LETTERS[kind])
            tags[tag] = max(tags.get(tag, 0), *values[:1], 0)
            more += values if tag == _MORE else ()
    return tags, more


def _values(file: BinaryIO, entry: bytes, layout: _Layout, letter: str) -> tuple[int, ...]:
    (count,) = struct.unpack_from(layout.order + layout.address, entry, 4)
    letters = f"{min(count, MAX_DIRECTORIES + 1)}{letter}"
    if count * struct.calcsize(layout.order + letter) <= layout.inline:
        return struct.unpack_from(layout.order + letters, entry, len(entry) - layout.inline)
    (position,) = struct.unpack_from(layout.order + layout.address, entry, len(entry) - layout.inline)
    file.seek(position)
    return layout.read(file, letters)


def _block_bytes(tags: dict[int, int]) -> int:
    """Return the memory that a block needs. GDAL stores each pixel in at least one byte."""
    width, height = tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0)
    if _TILE_WIDTH in tags or _TILE_HEIGHT in tags:
        width, height = tags.get(_TILE_WIDTH, width), tags.get(_TILE_HEIGHT, height)
    else:
        height = min(height, tags.get(_ROWS, height))
    samples = tags.get(_SAMPLES, 1) if tags.get(_PLANAR, 1) == 1 else 1
    return width * height * samples * -(-max(tags.get(_BITS, 1), 1) // 8)
