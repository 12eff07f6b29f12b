"""Simulated twins of real scenes: folders, names, types and grids as public data sets have them.

They are laid out as ``../shared/data`` is, and cut out of the sample scene, so that a test can read either. `PLACES`,
`EARTHNET` and `SSL4EO` of `tests.helpers.real_data` name more than is made here; `MADE` says what is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine, array_bounds
from rasterio.warp import Resampling, reproject, transform_bounds

from refnet_cli.classes.schemes import SCHEMES
from tests.helpers.real_data import ALL, EARTHNET, PLACES, SHIFTED, SSL4EO
from tests.helpers.safe import at_resolution

Array = NDArray[np.float64]
Square = tuple[slice, ...]
SIDE = 240  # pixels; the scene holds nine
SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"
CLASSES = (
    "Water", "Trees", "Flooded vegetation", "Crops", "Built area", "Bare ground", "Snow/ice", "Clouds", "Rangeland",
)  # fmt: skip
"""In the order of the label files of ``terramind``, which count from 1."""
MADE = ("S2A_MSIL2A_20170617T113321_4_55",)
"""Pair of ``bigearthnet``."""
ZONES = ("EPSG:32722", "EPSG:32633", "EPSG:32718", "EPSG:32645", "EPSG:32755")
MIX = {
    "B01": (0.9, 0, 0, 0), "B02": (1, 0, 0, 0), "B03": (0, 1, 0, 0), "B04": (0, 0, 1, 0), "B05": (0, 0, 0.7, 0.3),
    "B06": (0, 0, 0.3, 0.7), "B07": (0, 0, 0.1, 0.9), "B08": (0, 0, 0, 1), "B8A": (0, 0, 0, 1.03),
    "B09": (0, 0, 0, 0.9), "B10": (0.02, 0, 0, 0), "B11": (0, 0, 0.5, 0.5), "B12": (0, 0, 0.7, 0.2),
}  # fmt: skip
"""Share of B02, B03, B04 and B08 in each band; cirrus sees next to nothing."""
COARSE = {"B01": 60, "B09": 60, "B10": 60} | dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 20)


class Ground:
    """The sample scene on one grid: four bands, SAR in dB, labels in codes of `CLASSES`."""

    def __init__(self) -> None:
        with rasterio.open(SAMPLE / "s2.tif") as file:
            self.optical, self.transform, self.crs = file.read().astype(float), file.transform, file.crs
        power = np.full((2, *self.optical.shape[1:]), np.nan)
        with rasterio.open(SAMPLE / "s1.tif") as file:
            for band in (1, 2):
                reproject(
                    rasterio.band(file, band), power[band - 1], dst_transform=self.transform, dst_crs=self.crs,
                    dst_nodata=np.nan, resampling=Resampling.bilinear,
                )  # fmt: skip
        self.sar = 10 * np.log10(power)
        with rasterio.open(SAMPLE / "labels.tif") as file:
            codes = file.read(1)
        scheme = SCHEMES["esri-io"]
        table = np.zeros(256, np.uint8)
        for code, name in zip(scheme.codes, scheme.names, strict=True):
            table[code] = CLASSES.index(name) + 1
        self.labels = table[codes]
        self.seen = (self.optical > 0).all(0) & np.isfinite(self.sar).all(0)

    def squares(self, *numbers: int, size: int) -> list[Square]:
        """Squares that both sensors saw whole, by their numbers; of different numbers, none share ground."""
        starts = range(0, self.seen.shape[0] - SIDE + 1, SIDE)
        corners = [(row, column) for row in starts for column in starts]
        found = [tuple(slice(start, start + size) for start in corners[number]) for number in numbers]
        assert all(self.seen[square].all() for square in found)
        return found

    def bands(self, square: Square, names: Sequence[str]) -> Array:
        """Bands by `MIX`, shape (B, H, W), as whole numbers."""
        return np.round(np.einsum("bc,chw->bhw", [MIX[name] for name in names], self.optical[:, *square]))


def write_bands(
    path: Path, values: NDArray[np.generic], transform: Affine, crs: object, nodata: float | None = None
) -> Path:
    """Write a GeoTIFF that says nothing of its bands."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2], dtype=values.dtype,
        crs=crs, transform=transform, nodata=nodata,
    ) as file:  # fmt: skip
        file.write(values)
    return path


def make_data(folder: Path) -> Path:
    """Make all of it in a folder, and return that."""
    ground = Ground()
    make_terramind(folder / "terramind", ground)
    make_bigearthnet(folder / "bigearthnet", ground)
    make_ssl4eo(folder / "ssl4eo", ground)
    make_cross_utm(folder / "cross_utm", ground)
    return folder


def make_terramind(folder: Path, ground: Ground) -> None:
    """Stacks of 12 and 13 bands without names, SAR in dB and labels on one grid; some have the offset of 1000."""
    for place, crs, square in zip(PLACES, ZONES, ground.squares(*range(5), size=224), strict=True):
        transform = Affine(10, 0, 500_000, 0, -10, 6_200_000)
        for product in ("S2L2A", "S2L1C"):
            names = [band for band in ALL if band != "B10" or product == "S2L1C"]
            values = ground.bands(square, names) + 1000 * (place in SHIFTED[product])
            write_bands(folder / product / f"{place}.tif", values.astype(np.int16), transform, crs)
        write_bands(folder / "S1RTC" / f"{place}.tif", ground.sar[:, *square], transform, crs)
        write_bands(folder / "LULC" / f"{place}.tif", ground.labels[square][None], transform, crs)


def make_bigearthnet(folder: Path, ground: Ground) -> None:
    """A folder a product with a file a band, at its own resolution, named by the product."""
    (square,) = ground.squares(7, size=120)
    for name in MADE:
        place = Affine(10, 0, 600_000, 0, -10, 5_900_040)
        for band in (band for band in ALL if band != "B10"):
            values, pixel = ground.bands(square, [band])[0], COARSE.get(band, 10)
            coarse = np.round(at_resolution(values, pixel)).astype(np.uint16)
            path = folder / "BigEarthNet-S2-Example" / name / f"{name}_{band}.tif"
            write_bands(path, coarse[None], place @ Affine.scale(pixel / 10), "EPSG:32629")
        for number, band in enumerate(("VV", "VH")):
            path = folder / "BigEarthNet-S1-Example" / EARTHNET[name] / f"{EARTHNET[name]}_{band}.tif"
            write_bands(path, ground.sar[number : number + 1, *square].astype(np.float32), place, "EPSG:32629")


def make_ssl4eo(folder: Path, ground: Ground) -> None:
    """Longitude and latitude, a file a band, SAR on another grid; two dates of two levels."""
    squares = ground.squares(5, 6, size=SIDE)
    dates = sorted(set(SSL4EO.values()))
    for (level, date), radar in SSL4EO.items():
        square = squares[dates.index(radar)]
        names = [band for band in ALL if band != "B10" or level == "s2c"]
        for band, values in zip(names, ground.bands(square, names), strict=True):
            side = COARSE.get(band, 10) // 10
            coarse = np.round(at_resolution(values, 10 * side)).astype(np.uint16)
            pixel = Affine(1.02e-4 * side, 0, 76.0, 0, -8.8e-5 * side, 22.0)
            name = band.replace("B0", "B")
            write_bands(folder / level / "0000200" / date / f"{name}.tif", coarse[None], pixel, "EPSG:4326")
        # three tenths of a pixel off, and a column less
        place = Affine(1.02e-4, 0, 76.0 + 3e-5, 0, -8.8e-5, 22.0 - 2.6e-5)
        moved = shifted(ground.sar[:, *square], 0.3)
        for number, band in enumerate(("VV", "VH")):
            path = folder / "s1" / "0000200" / f"{radar}_03CFBA_D457" / f"{band}.tif"
            write_bands(path, moved[number : number + 1, :, :-3].astype(np.float32), place, "EPSG:4326")


def shifted(level: Array, pixels: float) -> Array:
    """Return dB where they are that many pixels further right and down, in power by linear interpolation."""
    power = np.pad(10 ** (level / 10), ((0, 0), (0, 1), (0, 1)), mode="edge")
    down = power[:, :-1] * (1 - pixels) + power[:, 1:] * pixels
    return np.asarray(10 * np.log10(down[..., :-1] * (1 - pixels) + down[..., 1:] * pixels))


def make_cross_utm(folder: Path, ground: Ground) -> None:
    """Three optical bands in one UTM zone, VV in the next one, both in one folder."""
    crs, other = CRS.from_epsg(32722), CRS.from_epsg(32723)
    place = Affine(10, 0, 780_000, 0, -10, 9_800_000)
    for month, square in zip(("Aug", "Jun"), ground.squares(7, 8, size=104), strict=True):
        for band, values in zip(("B2", "B3", "B4"), ground.bands(square, ("B02", "B03", "B04")), strict=True):
            name = f"20190605T134219_20190605T134218_T22MHU.{band}.tif"
            write_bands(folder / month / name, values[None].astype(np.uint16), place, crs, 0)
        west, south, east, north = transform_bounds(crs, other, *array_bounds(*values.shape, place))
        power = np.zeros((1, round((north - south) / 10), round((east - west) / 10)))
        transform = Affine(10, 0, west, 0, -10, north)
        reproject(
            10 ** (ground.sar[:1, *square] / 10), power, src_transform=place, src_crs=crs, dst_transform=transform,
            dst_crs=other, resampling=Resampling.bilinear, src_nodata=0, dst_nodata=0,
        )  # fmt: skip
        level = np.where(power > 0, 10 * np.log10(np.maximum(power, 1e-9)), 0)
        name = "S1A_IW_GRDH_1SDV_20190624T085046_20190624T085111_027819_0323F8_9CC5.VV.tif"
        write_bands(folder / month / name, level, transform, other, 0)
