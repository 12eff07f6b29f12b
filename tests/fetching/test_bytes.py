"""Of the files no more is read than the blocks out of which pixels are taken, by an oracle that reads their headers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from tests.fetching.harness import FEW, TENS, Fetched, Site
from tests.helpers.stac_items import EPSG, Bounds, Optical, Sar, World
from tests.helpers.stac_servers import catalogue, store, write_source

TILE: Bounds = (600_000, 5_392_800, 607_200, 5_400_000)
AREA: Bounds = (600_330, 5_393_310, 605_790, 5_399_560)
"""546 x 625 pixels, whose corner is that of no block."""
HEAD = 1 << 14
"""Bytes of a file's beginning that are read at once, with its directories."""


class FewBands(Optical):
    """An acquisition without the files of bands that are not fetched here."""

    def write_band(self, path: str, band: str, nodata: float | None) -> str:
        """Write the file of a band, and return its URL."""
        return super().write_band(path, band, nodata) if band in (*TENS, "SCL") else f"{self.url}/{path}"


def clouds(*squares: tuple[int, int, int]) -> tuple[Bounds, ...]:
    """Clouds by their west, north and side in metres from the corner of the tile."""
    west, _, _, north = TILE
    return tuple((west + x, north - y - side, west + x + side, north - y) for x, y, side in squares)


@pytest.fixture(scope="module")
def holes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three dates with clouds in some blocks, and two frames of SAR that overlap."""
    folder = tmp_path_factory.mktemp("holes")
    with store(folder / "files") as files:
        world = World(folder / "files", files.url)
        common: dict[str, Any] = {"epsg": EPSG, "folder": folder / "files", "url": files.url}
        seen = (
            clouds((700, 900, 300), (2_500, 1_000, 1_000), (1_240, 3_500, 60), (5_000, 5_000, 400)),
            clouds((2_900, 1_300, 1_500), (300, 4_500, 1_500)),
            clouds((0, 0, 2_000), (4_500, 4_500, 2_000)),
        )
        for number, squares in enumerate(seen):
            day = datetime(2021, 6, 15 + 5 * number, 10, 20, 21)
            world.add(FewBands(**common, bounds=TILE, number=number, time=day, clouds=squares))
        west, south, east, north = TILE
        for number, bounds in enumerate(((west, north - 4_200, east, north), (west, south, east, north - 3_600))):
            time = datetime(2021, 6, 15, 5, 25, 2 + 25 * number)
            world.add(Sar(**common, bounds=bounds, number=number, time=time))
        with catalogue(world.items, folder / "items") as front:
            source = write_source(folder / "s.toml", front.url, [files.host])
            yield Site(world, files, front, source, folder)


def blocks_of(path: Path) -> tuple[tuple[float, float], int, NDArray[np.int64]]:
    """Corner, side of the blocks in pixels, and bytes of each block, read out of a classic little-endian TIFF."""
    data = path.read_bytes()
    assert data[:4] == b"II*\0"
    (start,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[start : start + 2])
    found = {}
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length, inline = struct.unpack("<HHII", data[entry : entry + 12])
        letter, size = {3: ("H", 2), 4: ("I", 4), 12: ("d", 8)}.get(kind, ("", 0))
        if letter:
            place = entry + 8 if length * size <= 4 else inline
            found[tag] = struct.unpack(f"<{length}{letter}", data[place : place + length * size])
    width, height, side = found[256][0], found[257][0], found[322][0]
    assert found[323][0] == side
    shape = -(-height // side), -(-width // side)
    return (found[33922][3], found[33922][4]), side, np.array(found[325]).reshape(shape)


def needed(path: Path, taken: NDArray[np.bool_], west: float, north: float) -> int:
    """Bytes of the blocks of a file of 10 m pixels that hold a pixel that was taken from it."""
    (left, top), side, sizes = blocks_of(path)
    rows, columns = np.nonzero(taken)
    blocks = ((rows + round((top - north) / 10)) // side, (columns + round((west - left) / 10)) // side)
    used = np.zeros(sizes.shape, bool)
    used[blocks] = True
    return int(sizes[used].sum())


@pytest.fixture(scope="module")
def read_once(holes: Site, tmp_path_factory: pytest.TempPathFactory) -> tuple[Fetched, dict[str, int]]:
    """A fetch, and the bytes that were served of each file."""
    out = tmp_path_factory.mktemp("read") / "place"
    holes.fetch(out, *FEW, "--labels", "none", area=AREA)
    return Fetched(out), holes.files.served()


def test_only_blocks_are_read_out_of_which_pixels_are_taken(
    read_once: tuple[Fetched, dict[str, int]], holes: Site
) -> None:
    fetched, served = read_once
    (scene,) = json.loads((fetched.folder / "items.json").read_text())["scenes"]
    taken = fetched.read("source.tif")[0]
    _, (_, _, west, _, _, north), _ = fetched.grid
    assert [len(date["items"]) for date in scene["optical"]] == [1, 1, 1]
    checked, all_needed, all_served = 0, 0, 0
    for number, date in enumerate(scene["optical"], 1):
        assert (taken == number).any()
        for band in TENS:
            path = date["items"][0]["hrefs"][band].removeprefix(holes.files.url)
            file = holes.world.folder / path.lstrip("/")
            wanted = needed(file, taken == number, west, north)
            assert wanted < 0.9 * file.stat().st_size, "all of it is needed: that shows nothing"
            assert served[path] <= 1.01 * wanted + HEAD, (path, served[path], wanted)
            all_needed, all_served, checked = all_needed + wanted, all_served + served[path], checked + 1
    assert checked == 12
    assert all_served <= 1.1 * all_needed + checked * HEAD
    fetched.match(holes.world.optical.values())


def test_of_frames_that_overlap_only_what_is_missing_is_read(
    read_once: tuple[Fetched, dict[str, int]], holes: Site
) -> None:
    fetched, served = read_once
    first, second = holes.world.sar.values()
    _, (_, _, west, _, _, north), _ = fetched.grid
    x, y = fetched.places
    for name in ("VV", "VH"):
        from_first = ~np.isnan(first.power(name, x, y))
        np.testing.assert_array_equal(
            fetched.sar[name], np.where(from_first, first.power(name, x, y), second.power(name, x, y))
        )
        for one, taken in ((first, from_first), (second, ~from_first)):
            (path,) = (path for path in served if f"iw-{name.lower()}" in path and one.id[:-4] in path)
            assert served[path] <= 1.01 * needed(holes.world.folder / path[1:], taken, west, north) + HEAD


def test_no_byte_is_read_twice(read_once: tuple[Fetched, dict[str, int]], holes: Site) -> None:
    """Not of the scene classification either, which both ranking and filling need."""
    for path in read_once[1]:
        if path.endswith((".tif", ".tiff")):
            ranges = sorted((one.first, one.first + one.sent) for one in holes.files.requests
                            if one.path == path and one.first is not None)  # fmt: skip
            again = sum(max(before[1] - after[0], 0) for before, after in pairwise(ranges))
            assert again <= HEAD, (path, again, ranges)


def test_the_oracle_agrees_with_gdal(holes: Site) -> None:
    path = next(holes.world.folder.rglob("*_B02_10m.tif"))
    _, side, sizes = blocks_of(path)
    with rasterio.open(path) as file:
        assert file.block_shapes == [(side, side)]
        for row, column in np.ndindex(sizes.shape):
            assert int(file.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1)) == sizes[row, column]
