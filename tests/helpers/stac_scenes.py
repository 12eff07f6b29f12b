"""Items in the shape of the real collections with given files, such as dates of the sample scene under clouds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject
from scipy.ndimage import gaussian_filter

from tests.helpers.programs import ROOT
from tests.helpers.stac_items import (
    CLEAR,
    CLOUD,
    SHADOW,
    Bounds,
    Labels,
    Optical,
    Sar,
    World,
    corner,
    lonlat,
    write_cog,
)  # fmt: skip
from tests.helpers.stac_servers import catalogue, store, write_source

SAMPLE = ROOT / "sample_data"
BANDS = ("B02", "B03", "B04", "B08")
EPSG = 32633
TILE = "33UUU"
NORTH_WEST = 376_980, 5_829_660
"""Corner of the scenes, in Berlin."""
DATES = "2021-05-01/2021-09-30"
SEEN = {datetime(2021, 6, 15, 10, 15, 59): 0.1, datetime(2021, 7, 5, 10, 16, 1): 0.2, datetime(2021, 8, 4, 10, 16): 0.6}
"""Dates, and their share of clouds."""
SEEDS = (2, 3, 8)
"""Of clouds that leave nothing out on all dates."""
RADAR = datetime(2021, 6, 16, 5, 25, 2)


@dataclass(frozen=True)
class OpticalFiles(Optical):
    """An acquisition whose files are given; those of other bands do not exist."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """By band, and that of SCL."""

    def write_band(self, path: str, band: str, nodata: float | None) -> str:
        """Link the file of a band, and return its URL."""
        return link(self.files.get(band), self.folder, path, self.url)


@dataclass(frozen=True)
class SarFiles(Sar):
    """A scene whose files are given."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """By polarisation."""

    def write_band(self, path: str, name: str) -> str:
        """Link the file of a polarisation, and return its URL."""
        return link(self.files.get(name), self.folder, path, self.url)


def link(file: Path | None, folder: Path, path: str, url: str) -> str:
    """Link a file to where a server has it, and return its URL."""
    if file is not None:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, target)
    return f"{url}/{path}"


def clouds_of(share: float, side: int, seed: int) -> NDArray[np.uint8]:
    """Draw a scene classification in pixels of 20 m with a share of clouds, and their shadows."""
    field_ = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 25, mode="wrap")
    cloud = field_ > np.quantile(field_, 1 - share)
    shadow = np.roll(cloud, (-6, -9), (0, 1)) & ~cloud
    return np.where(cloud, CLOUD, np.where(shadow, SHADOW, CLEAR)).astype(np.uint8)


def simulated(folder: Path, url: str, side: int = 768) -> World:
    """Three dates of the sample scene with clouds, one pass of SAR, and labels of IO/Esri and of WorldCover.

    The swath of the clearest date leaves a wedge out, which the other dates see. A scene of more than 768 pixels
    repeats the sample by reflection.

    Parameters
    ----------
    folder : Path
        That of the server.
    url : str
        Of the server.
    side : int
        Pixels of 10 m, a multiple of 6.
    """
    west, north = NORTH_WEST
    bounds: Bounds = (west, north - 10 * side, west + 10 * side, north)
    common: dict[str, Any] = {"bounds": bounds, "epsg": EPSG, "folder": folder, "url": url}
    world, made = World(folder, url), folder / "made"
    optical, sar, labels = _sample(side)
    for number, (time, share) in enumerate(SEEN.items()):
        scl = clouds_of(share, side // 2, SEEDS[number])
        stored = optical if number == 0 else np.where(optical == 0, optical[:, :, ::-1], optical) * (1 - 0.05 * number)
        scl[stored[0, ::2, ::2] == 0] = 0
        cover = scl.repeat(2, 0).repeat(2, 1)
        stored = np.where(cover == CLOUD, 6000 + stored, np.where(cover == SHADOW, stored // 3, stored))
        stored = np.where(cover == 0, 0, stored + 1000 * (number == 1)).astype(np.uint16)
        files = {"SCL": write_cog(made / f"{number}-SCL.tif", scl, corner(west, north, 20), EPSG, None)}
        for band, values in zip(BANDS, stored, strict=True):
            files[band] = write_cog(made / f"{number}-{band}.tif", values, corner(west, north, 10), EPSG, 0)
        baseline = "05.00" if number == 1 else "03.00"
        world.add(OpticalFiles(**common, number=number, time=time, tile=TILE, baseline=baseline, files=files,
                               cloud_cover=round(100 * share, 1)))  # fmt: skip
    files = {
        name: write_cog(made / f"{name}.tif", values, corner(west, north, 10), EPSG, -32768)
        for name, values in zip(("VV", "VH"), sar, strict=True)
    }
    world.add(SarFiles(**common, number=0, time=RADAR, files=files))
    world.add(Labels(bounds, EPSG, 2021, folder, url, "33U", lambda column, row: labels[row, column]), "io_lulc")
    add_worldcover(world, bounds, EPSG, labels, "N51E012")
    return world


@contextmanager
def serving(folder: Path, side: int = 768) -> Iterator[World]:
    """Serve what `simulated` makes, and write ``local.toml`` into the folder, which describes the catalogue."""
    with store(folder / "files") as files:
        world = simulated(folder / "files", files.url, side)
        with catalogue(world.items, folder / "items") as front:
            source = write_source(folder / "local.toml", front.url, [files.host])
            source.write_text('title = "Simulated scenes"\n' + source.read_text())
            yield world


def _sample(side: int) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.uint8]]:
    """Return the optical bands, SAR on their grid, and the labels, as large as is asked for."""
    with rasterio.open(SAMPLE / "s2.tif") as file:
        optical, place, crs = file.read(), file.transform, file.crs
    sar = np.full((2, *optical.shape[1:]), np.nan, np.float32)
    with rasterio.open(SAMPLE / "s1.tif") as file:
        reproject(rasterio.band(file, [1, 2]), sar, dst_transform=place, dst_crs=crs, dst_nodata=np.nan,
                  resampling=Resampling.bilinear)  # fmt: skip
    sar = np.where(np.isfinite(sar), sar, np.where(np.isfinite(flipped := sar[:, ::-1, ::-1]), flipped, 0.05))
    with rasterio.open(SAMPLE / "labels.tif") as file:
        labels = file.read(1)
    more = (0, max(side - 768, 0))
    wide = [np.pad(values, ((0, 0), more, more), mode="reflect")[:, :side, :side] for values in (optical, sar)]
    return wide[0], wide[1], np.pad(labels, (more, more), mode="reflect")[:side, :side]


def sample_pieces(side: int) -> list[tuple[NDArray[Any], NDArray[np.float32], NDArray[np.uint8]]]:
    """Cut the sample scene into squares: optical bands, SAR and labels of each."""
    optical, sar, labels = _sample(768)
    corners = [(row, column) for row in range(0, 769 - side, side) for column in range(0, 769 - side, side)]
    squares = [np.s_[row : row + side, column : column + side] for row, column in corners]
    return [(optical[:, *square], sar[:, *square], labels[square]) for square in squares]


def add_worldcover(world: World, bounds: Bounds, epsg: int, labels: NDArray[np.uint8], tile: str) -> None:
    """Add labels on pixels of 10 m on the grid of WorldCover."""
    to_worldcover = {0: 0, 1: 80, 2: 10, 4: 90, 5: 40, 7: 50, 8: 60, 9: 70, 11: 30}
    table = np.zeros(256, np.uint8)
    table[list(to_worldcover)] = list(to_worldcover.values())
    west, south, east, north = (round(value * 12_000) for value in lonlat(bounds, epsg).bounds)
    codes = np.zeros((north - south + 18, east - west + 18), np.uint8)
    place = Affine(1 / 12_000, 0, (west - 9) / 12_000, 0, -1 / 12_000, (north + 9) / 12_000)
    reproject(table[labels], codes, src_transform=corner(bounds[0], bounds[3], 10), src_crs=f"EPSG:{epsg}",
              dst_transform=place, dst_crs="EPSG:4326", resampling=Resampling.nearest)  # fmt: skip
    around = ((west - 9) / 12_000, (south - 9) / 12_000, (east + 9) / 12_000, (north + 9) / 12_000)
    world.add(Labels(around, 4326, 2021, world.folder, world.url, tile, lambda column, row: codes[row, column]),
              "worldcover")  # fmt: skip
