"""What `refnet verify` says of maps: intact, damaged, or rewritten by another program."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from refnet_cli.errors import InputError
from refnet_cli.outputs.base import sha256_of, write_sidecar
from refnet_cli.outputs.verify import verify_map
from tests.helpers.quick import each_once
from tests.outputs.test_outputs import random_codes, utm_grid, write_map


def copied(**options: Any) -> Callable[[Path, Path], None]:
    return lambda source, target: rasterio.shutil.copy(source, target, **options)


def tagged(source: Path, target: Path) -> None:
    shutil.copy(source, target)
    with rasterio.open(target, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.update_tags(NOTE="mine")


def painted(source: Path, target: Path) -> None:
    shutil.copy(source, target)
    with rasterio.open(target, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as raster:
        raster.write(np.ones((5, 5), np.uint8), 1, window=((0, 5), (0, 5)))


def cropped(source: Path, target: Path) -> None:
    with rasterio.open(source) as raster:
        profile, tags = raster.profile, raster.tags()
        pixels = raster.read(window=((0, 600), (0, 600)))
    with rasterio.open(target, "w", **profile | {"height": 600, "width": 600}) as raster:
        raster.write(pixels)
        raster.update_tags(**tags)


REWRITTEN: dict[str, Callable[[Path, Path], None]] = {
    "strips": copied(driver="GTiff"),
    "tiles": copied(driver="GTiff", TILED="YES", BLOCKXSIZE="512", BLOCKYSIZE="512", COMPRESS="DEFLATE"),
    "other tiles": copied(driver="GTiff", TILED="YES", BLOCKXSIZE="256", BLOCKYSIZE="256"),
    "COG of another compression": copied(driver="COG", COMPRESS="LZW"),
    "another tag": tagged,
    "cropped": cropped,
}


@pytest.fixture
def map(tmp_path: Path) -> Path:
    return write_map(tmp_path / "map.tif", utm_grid(700, 1100), random_codes(700, 1100))


@pytest.mark.parametrize(("how", "beside"), each_once(REWRITTEN, ["alone", "with a checksum"]))
def test_a_map_that_another_program_wrote_again_is_not_called_damaged(how: str, beside: str, map: Path) -> None:
    copy = map.with_name("copy.tif")
    REWRITTEN[how](map, copy)
    if beside != "alone":
        write_sidecar(copy, sha256_of(map))
    with pytest.raises(InputError, match="rewritten by another program") as refused:
        verify_map(copy)
    assert "damaged" not in str(refused.value)
    assert verify_map(map)  # as the message advises


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_damaged_map_is_called_damaged(place: float, map: Path) -> None:
    content = bytearray(map.read_bytes())
    content[int(place * len(content))] ^= 255
    map.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        verify_map(map)
    map.write_bytes(content[: int(place * len(content))])
    with pytest.raises(InputError, match="is damaged"):
        verify_map(map)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with a checksum"])
def test_a_map_that_was_painted_on_is_told(beside: bool, map: Path) -> None:
    """GDAL says nothing in the file where a changed block still has room in its place."""
    copy = map.with_name("copy.tif")
    painted(map, copy)
    if beside:
        write_sidecar(copy, sha256_of(map))
    with pytest.raises(InputError, match="Another program changed it, or it is damaged"):
        verify_map(copy)


def test_a_checksum_of_another_file_is_told(map: Path) -> None:
    write_sidecar(map, "0" * 64)
    with pytest.raises(InputError, match="its SHA-256 differs from the one in map"):
        verify_map(map)


def test_pixels_that_are_whole_but_others_are_told(map: Path) -> None:
    """A Cloud Optimized GeoTIFF of other pixels, with the tags of the map, is consistent in itself."""
    with rasterio.open(map) as raster:
        profile, tags, pixels, colours = raster.profile, raster.tags(), raster.read(), raster.colormap(1)
    plain = map.with_name("plain.tif")
    with rasterio.open(plain, "w", **profile | {"driver": "GTiff"}) as raster:
        raster.write(np.roll(pixels, 1, axis=2))
        raster.update_tags(**tags)
        raster.write_colormap(1, colours)
    rasterio.shutil.copy(plain, map, driver="COG", COMPRESS="DEFLATE", BLOCKSIZE="512", OVERVIEW_RESAMPLING="MODE")
    with pytest.raises(InputError, match="not as refnet wrote it: its pixels, georeference"):
        verify_map(map)
