"""Damage to bytes as disks, networks and foreign programs do it: flipped, cut off, zeroed, tags that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Random = np.random.Generator
EXTREMES = (0, 1, 2, 255, 65_535, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
OFFSETS, SIZES = (273, 324), (279, 325)


class Entry(NamedTuple):
    """An entry of a directory of a little-endian classic TIFF, twelve bytes at a place."""

    place: int
    tag: int
    kind: int
    count: int
    value: int


def entries(data: bytes) -> list[Entry]:
    """Read all directories of a TIFF that is intact."""
    assert data[:4] == b"II*\0"
    found = []
    (directory,) = struct.unpack_from("<I", data, 4)
    while directory:
        (count,) = struct.unpack_from("<H", data, directory)
        places = range(directory + 2, directory + 2 + 12 * count, 12)
        found += [Entry(place, *struct.unpack_from("<HHII", data, place)) for place in places]
        (directory,) = struct.unpack_from("<I", data, directory + 2 + 12 * count)
    return found


def blocks(data: bytes) -> list[tuple[int, int]]:
    """Return where the blocks of a TIFF are, and how long."""
    by_tag: dict[str, list[int]] = {"offsets": [], "sizes": []}
    width = {3: ("H", 2), 4: ("I", 4)}
    for entry in entries(data):
        for name, tags in (("offsets", OFFSETS), ("sizes", SIZES)):
            if entry.tag in tags:
                letter, size = width[entry.kind]
                start = entry.place + 8 if entry.count * size <= 4 else entry.value
                by_tag[name] += struct.unpack_from(f"<{entry.count}{letter}", data, start)
    return list(zip(by_tag["offsets"], by_tag["sizes"], strict=True))


def flip(data: bytes, random: Random) -> bytes:
    """Change some bytes anywhere."""
    return _flip_between(data, random, 0, len(data))


def flip_head(data: bytes, random: Random) -> bytes:
    """Change some of the first bytes, where what a file says of itself mostly stands."""
    return _flip_between(data, random, 0, min(1500, len(data)))


def _flip_between(data: bytes, random: Random, low: int, high: int) -> bytes:
    changed = bytearray(data)
    for place in random.integers(low, high, random.integers(1, 12)):
        changed[place] ^= int(random.integers(1, 256))
    return bytes(changed)


def cut(data: bytes, random: Random) -> bytes:
    """Cut the end off, often just a bit of it."""
    return data[: int(random.integers(0, len(data)))] if random.random() < 0.5 else data[: -random.integers(1, 300)]


def change_tag(data: bytes, random: Random) -> bytes:
    """Have an entry of a directory lie."""
    changed, found = bytearray(data), entries(data)
    entry = found[random.integers(len(found))]
    field = random.integers(4)
    value = int(random.choice(EXTREMES)) if random.random() < 0.7 else int(random.integers(2**32))
    if field < 2:
        struct.pack_into("<H", changed, entry.place + 2 * field, value & 0xFFFF if field == 0 else value % 20)
    else:
        struct.pack_into("<I", changed, entry.place + 4 * (field - 1), value)
    return bytes(changed)


def swap_tags(data: bytes, random: Random) -> bytes:
    """Swap what two entries say."""
    changed, found = bytearray(data), entries(data)
    one, other = (found[index].place + 2 for index in random.choice(len(found), 2, replace=False))
    changed[one : one + 10], changed[other : other + 10] = changed[other : other + 10], changed[one : one + 10]
    return bytes(changed)


def zero_block(data: bytes, random: Random) -> bytes:
    """Replace part of a block by zeros, as a disk does that lost a page."""
    found = blocks(data)
    start, size = found[random.integers(len(found))]
    begin = int(random.integers(size))
    length = int(random.integers(1, size - begin + 1))
    changed = bytearray(data)
    changed[start + begin : start + begin + length] = bytes(length)
    return bytes(changed)


def lengthen(data: bytes, random: Random) -> bytes:
    """Add something behind the end."""
    return data + random.bytes(int(random.integers(1, 500)))


def flip_length(data: bytes, random: Random) -> bytes:
    """Change the number with which safetensors begin."""
    return _flip_between(data, random, 0, 8)


OF_TIFF: tuple[Callable[[bytes, Random], bytes], ...] = (flip, flip_head, cut, change_tag, swap_tags, zero_block)
OF_WEIGHTS: tuple[Callable[[bytes, Random], bytes], ...] = (flip, flip_head, cut, lengthen, flip_length)


def mutate(data: bytes, seed: int, kinds: tuple[Callable[[bytes, Random], bytes], ...]) -> tuple[bytes, str]:
    """Damage a file in one of the ways; what was done by name. The result differs from the file."""
    random = np.random.default_rng(seed)
    while True:
        kind = kinds[random.integers(len(kinds))]
        changed = kind(data, random)
        if changed != data:
            return changed, kind.__name__
