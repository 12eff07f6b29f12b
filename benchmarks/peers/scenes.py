"""Scenes that the peers take: one GeoTIFF with the bands of both sensors on one grid."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.windows import Window

from benchmarks.scene import BLOCK, TILED
from refnet_cli.tiles.gaps import fill_gaps

Float32 = NDArray[np.float32]
SAMPLE = Path(__file__).resolve().parents[2] / "sample_data"
BANDS = ("B02", "B03", "B04", "B08", "VV", "VH")


def stack_files(optical: Path, sar: Path, output: Path) -> Path:
    """Warp SAR images (power) to the optical grid, and write both as one float32 file, backscatter in dB.

    This is what a peer's user does by gdalwarp and gdal_calc: bilinear, NaN where there are no data.
    """
    with rasterio.open(optical) as image, rasterio.open(sar) as radar:
        warped = np.full((2, image.height, image.width), np.nan, np.float32)
        reproject(
            rasterio.band(radar, [1, 2]), warped, dst_transform=image.transform, dst_crs=image.crs,
            src_nodata=np.nan, dst_nodata=np.nan, resampling=Resampling.bilinear, num_threads=2,
        )  # fmt: skip
        with rasterio.open(output, "w", **_profile(image)) as file:
            for row in range(0, image.height, BLOCK):
                window = Window(0, row, image.width, min(BLOCK, image.height - row))
                values = image.read(window=window, masked=True).astype(np.float32).filled(np.nan)
                power = warped[:, row : row + window.height]
                with np.errstate(invalid="ignore", divide="ignore"):
                    file.write(np.concatenate([values, 10 * np.log10(power)]), window=window)
            file.descriptions = BANDS
    return output


def _profile(image: Any) -> dict[str, Any]:
    return TILED | {
        "width": image.width, "height": image.height, "crs": image.crs, "transform": image.transform,
        "count": len(BANDS), "dtype": "float32", "nodata": np.nan, "bigtiff": "if_safer",
    }  # fmt: skip


def make_stack(output: Path, size: int, *, wedge: bool = False, declared: bool = True) -> Path:
    """Write the sample scene, mirrored until it is ``size`` x ``size`` pixels, as a stacked file.

    Parameters
    ----------
    output : Path
    size : int
        Width and height in pixels.
    wedge : bool
        Whether all bands have no data, NaN, left of a slanted line, as at the edge of a swath.
    declared : bool
        Whether the file says that NaN is nodata.
    """
    sample = stack_files(SAMPLE / "s2.tif", SAMPLE / "s1.tif", output.with_name("sample.tif"))
    with rasterio.open(sample) as file:
        scene, profile = fill_gaps(file.read()[None])[0], file.profile
    period = scene.shape[1]
    mirror = np.concatenate([np.arange(period), np.arange(period)[::-1]])
    columns = mirror[np.arange(size) % len(mirror)]
    profile |= {"width": size, "height": size, "nodata": np.nan if declared else None}
    with rasterio.open(output, "w", **profile) as target:
        for row in range(0, size, BLOCK):
            rows = np.arange(row, min(row + BLOCK, size))
            values = scene[:, mirror[rows % len(mirror)]][:, :, columns]
            if wedge:
                values[:, in_wedge(rows, size)] = np.nan
            target.write(values, window=Window(0, row, size, len(rows)))
        target.descriptions = BANDS
    return output


def in_wedge(rows: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Return whether the pixels of some rows of a scene lie in the wedge, shape (rows, size)."""
    return np.asarray(np.arange(size)[None] < 0.3 * size - 0.2 * rows[:, None])


if __name__ == "__main__":
    stack_files(*map(Path, sys.argv[1:]))
