"""How long a whole scene takes, beside the network alone and beside GDAL alone, and how much memory.

The scene pairs are made for it: optical uint16 in one UTM zone, SAR float32 power in the neighbouring one, so that
every pixel has to be warped. Times are medians; only ratios of times measured in turn are worth anything, since both
sides then suffer alike from what else the machine does.

Network-only: the very batches of tiles that `predict` makes, fed to the same engine from memory.

GDAL-only: what one would do without refnet before and after the network, in one process and with GDAL's defaults:
``gdalwarp -r bilinear`` of the SAR file to the optical grid, into an uncompressed GeoTIFF; reading both files block by
block; writing a uint8 raster of class codes and turning it into a Cloud Optimized GeoTIFF with DEFLATE and overviews.
It lacks what `predict` does besides: checks, decibels, tiles that overlap, blending, areas.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject, transform_bounds
from rasterio.windows import Window as RasterWindow

from refnet_cli.card import default_weights, read_card
from refnet_cli.predict import PredictOptions, predict, read_tile
from refnet_cli.scene import ScenePair
from refnet_cli.tiling import Tiling

Float32 = NDArray[np.float32]

BLOCK = 512
SIZES = {"small": 2048, "middle": 4096, "large": 10_980}
TILED = {"driver": "GTiff", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}


class FreeEngine:
    """Answers the same at once, whatever it is shown."""

    batch = 4

    def __init__(self) -> None:
        self.card = read_card(default_weights())
        classes = self.card.network.classes
        self._shares = np.full((1, classes, 1, 1), 1 / classes, np.float32)

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Return equal shares, shape (N, K, H, W), that take no memory."""
        shape = (len(optical), self._shares.shape[1], *optical.shape[2:])
        return np.broadcast_to(self._shares, shape)


def make_pair(folder: Path, size: int) -> tuple[Path, Path]:
    """Write an optical file of ``size`` x ``size`` pixels and a SAR file of the neighbouring zone that covers it."""
    random = np.random.default_rng(size)
    optical, sar = folder / f"s2-{size}.tif", folder / f"s1-{size}.tif"
    west, north = 700_000.0, 5_300_000.0
    extent = (west, north - 10 * size, west + 10 * size, north)
    with rasterio.open(
        optical, "w", width=size, height=size, count=4, dtype="uint16", crs="EPSG:32632", nodata=0, compress="deflate",
        transform=Affine(10, 0, west, 0, -10, north), zlevel=1, num_threads="all_cpus", **TILED,
    ) as file:  # fmt: skip
        noise = random.normal(0, 60, (4, BLOCK, size)).astype(np.float32)
        _fill(file, noise, np.array([400, 600, 500, 2500], np.float32))
        file.descriptions = ("B02", "B03", "B04", "B08")
    left, bottom, right, top = transform_bounds("EPSG:32632", "EPSG:32633", *extent)
    width, height = (int(length // 10) + 64 for length in (right - left, top - bottom))
    with rasterio.open(
        sar, "w", width=width, height=height, count=2, dtype="float32", crs="EPSG:32633", nodata=np.nan,
        transform=Affine(10, 0, left - 320, 0, -10, top + 320), bigtiff="if_safer", **TILED,
    ) as file:  # fmt: skip
        noise = random.normal(0, 0.003, (2, BLOCK, width)).astype(np.float32)
        _fill(file, noise, np.array([0.08, 0.02], np.float32))
        file.descriptions = ("VV", "VH")
    return optical, sar


def _fill(file: rasterio.io.DatasetWriter, noise: Float32, level: Float32) -> None:
    """Write a strip of noise again and again, shifted and on a level that rises and falls."""
    waves = 1 + 0.3 * np.sin(np.arange(file.width, dtype=np.float32) / 90)
    for row in range(0, file.height, BLOCK):
        count = min(BLOCK, file.height - row)
        values = np.roll(noise, 37 * row, axis=2)[:, :count] + level[:, None, None] * np.roll(waves, row)
        file.write(values.astype(file.dtypes[0]), window=RasterWindow(0, row, file.width, count))


def gdal_only(optical: Path, sar: Path, folder: Path) -> None:
    """Warp, read and write with GDAL and its defaults; see the module."""
    warped, working, result = folder / "warped.tif", folder / "working.tif", folder / "gdal.tif"
    with rasterio.open(optical) as image, rasterio.open(sar) as radar:
        profile = {"width": image.width, "height": image.height, "crs": image.crs, "transform": image.transform}
        with rasterio.open(
            warped, "w", count=radar.count, dtype="float32", nodata=np.nan, bigtiff="if_safer", **profile, **TILED
        ) as target:
            bands = list(radar.indexes)
            reproject(rasterio.band(radar, bands), rasterio.band(target, bands), resampling=Resampling.bilinear)
        with (
            rasterio.open(warped) as aligned,
            rasterio.open(working, "w", count=1, dtype="uint8", nodata=0, **profile, **TILED) as out,
        ):
            for _, window in out.block_windows(1):
                brightest = image.read(window=window).argmax(axis=0)
                louder = aligned.read(window=window).argmax(axis=0)
                out.write((1 + 2 * brightest + louder).astype(np.uint8), 1, window=window)
    rasterio.shutil.copy(
        working, result, driver="COG", BLOCKSIZE=str(BLOCK), COMPRESS="DEFLATE", OVERVIEW_RESAMPLING="MODE"
    )
    for path in (warped, working, result):
        path.unlink()


def network_only(optical: Path, sar: Path) -> Callable[[], object]:
    """Return what feeds the tiles of a scene to the shipped network, read beforehand."""
    from refnet_cli.engine import load_engine

    engine = load_engine(default_weights())
    card = engine.card
    with ScenePair.open(optical, sar, card.optical.bands, card.sar.bands) as pair:
        height, width = pair.grid.shape
        windows = [window for row in Tiling(height, width, card.tile, card.tile // 4).rows() for window in row]
        tiles = [read_tile(pair, window) for window in windows]

    def feed() -> None:
        for start in range(0, len(tiles), engine.batch):
            batch = tiles[start : start + engine.batch]
            engine.predict(np.stack([tile.optical for tile in batch]), np.stack([tile.sar for tile in batch]))

    return feed


_PEAK = """
import sys
from pathlib import Path
from benchmarks.scene import FreeEngine
from refnet_cli.predict import PredictOptions, predict
predict(PredictOptions(*map(Path, sys.argv[1:])), FreeEngine())
print(Path("/proc/self/status").read_text())
"""


def peak_memory(optical: Path, sar: Path, output: Path) -> float:
    """MB that predicting with a free engine takes in a process of its own (Linux)."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(optical), str(sar), str(output)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    return int(peak.group(1)) / 1024 if peak else float("nan")


def _medians(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each action, taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def measure_network(folder: Path, size: int, repeats: int) -> dict[str, float | str]:
    """Predict with the shipped weights, over the network alone."""
    optical, sar = make_pair(folder, size)
    options = PredictOptions(optical, sar, folder / "map.tif")
    network = network_only(optical, sar)
    network()  # kernels are compiled at the first call
    taken = _medians({"predict": lambda: predict(options), "network": network}, repeats)
    return _row(f"shipped weights over network only, {size} x {size}", taken["predict"], taken["network"], 1.15)


def measure_free(folder: Path, size: int, repeats: int) -> dict[str, float | str]:
    """Predict with a free engine, over what GDAL alone takes."""
    optical, sar = make_pair(folder, size)
    options = PredictOptions(optical, sar, folder / "map.tif")
    taken = _medians(
        {"predict": lambda: predict(options, FreeEngine()), "gdal": lambda: gdal_only(optical, sar, folder)}, repeats
    )
    row = _row(f"free engine over GDAL only, {size} x {size}", taken["predict"], taken["gdal"], 2.0)
    return {**row, "peak_mb": peak_memory(optical, sar, options.output), "peak_mb_limit": 2000.0}


def _row(what: str, predict_seconds: float, other_seconds: float, limit: float) -> dict[str, float | str]:
    ratio = predict_seconds / other_seconds
    return {"what": what, "seconds": predict_seconds, "other_seconds": other_seconds, "ratio": ratio, "limit": limit}


def run(repeats: int = 3, large: bool = True) -> list[dict[str, float | str]]:
    """Measure everything.

    Parameters
    ----------
    repeats : int
        How often each time is taken; the medians count.
    large : bool
        Whether to take a whole Sentinel-2 tile too, which takes minutes and 3 GB of disk.

    Returns
    -------
    list of dict
        ``what``, ``seconds`` of refnet, ``other_seconds``, their ``ratio`` and the ``limit`` it should keep; for free
        engines ``peak_mb`` and its limit.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        rows.append(measure_network(Path(name), SIZES["small"], repeats))
    for size in list(SIZES.values())[: None if large else 2]:
        with tempfile.TemporaryDirectory() as name:
            rows.append(measure_free(Path(name), size, repeats))
    return rows
