"""Measure the time and memory of a full scene, relative to the network alone and to GDAL alone.

Scene pairs are simulated: optical uint16 in one UTM zone, SAR float32 power in the neighbouring zone, so that every
pixel has to be warped. Times are medians. Only ratios of times measured in turn are meaningful, because other load on
the machine then affects both sides equally.

Network-only: the same batches of tiles as in `predict`, fed to the same engine from memory.

GDAL-only: the work without refnet before and after the network, in one process with GDAL's defaults.
``gdalwarp -r bilinear`` of the SAR file to the optical grid, into an uncompressed GeoTIFF; reading both files block by
block; writing a uint8 raster of class codes and converting it to a Cloud Optimized GeoTIFF with DEFLATE and overviews.
`predict` also does checks, conversion to dB, overlapping tiles, blending and areas.

Start-up: a full ``refnet predict`` on a scene of one tile, from the second call on, with the compiled kernels in
numba's cache.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject, transform_bounds
from rasterio.windows import Window as RasterWindow

from benchmarks.measure import ROOT, Row, check_limit, compare, in_child, medians, memory
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.scene.blocks import read_tile
from refnet_cli.scene.pair import ScenePair
from refnet_cli.tiles.tiling import Tiling

Float32 = NDArray[np.float32]

BLOCK = 512
SIZES = {"small": 2048, "middle": 4096, "large": 10_980}
TILED = {"driver": "GTiff", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}


class FreeEngine:
    """An engine that returns constant probabilities at no cost."""

    batch = 4

    def __init__(self) -> None:
        self.card = read_card(default_weights())
        self.about = {"device": "none"}
        classes = self.card.network.classes
        self._shares = np.full((1, classes, 1, 1), 1 / classes, np.float32)

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Return equal probabilities, shape (N, K, H, W), as a broadcast array without memory."""
        shape = (len(optical), self._shares.shape[1], *optical.shape[2:])
        return np.broadcast_to(self._shares, shape)

    def close(self) -> None:
        """Do nothing."""


def make_pair(folder: Path, size: int, rows: int | None = None) -> tuple[Path, Path]:
    """Write an optical file of ``rows`` (by default ``size``) x ``size`` pixels, and a SAR file that covers it.

    The SAR file lies in the neighbouring UTM zone.
    """
    rows = rows or size
    random = np.random.default_rng(size)
    optical, sar = folder / f"s2-{size}.tif", folder / f"s1-{size}.tif"
    west, north = 700_000.0, 5_300_000.0
    extent = (west, north - 10 * rows, west + 10 * size, north)
    with rasterio.open(
        optical, "w", width=size, height=rows, count=4, dtype="uint16", crs="EPSG:32632", nodata=0, compress="deflate",
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
    """Fill a file with a repeated strip of noise, shifted and added to waves."""
    waves = 1 + 0.3 * np.sin(np.arange(file.width, dtype=np.float32) / 90)
    for row in range(0, file.height, BLOCK):
        count = min(BLOCK, file.height - row)
        values = np.roll(noise, 37 * row, axis=2)[:, :count] + level[:, None, None] * np.roll(waves, row)
        file.write(values.astype(file.dtypes[0]), window=RasterWindow(0, row, file.width, count))


def gdal_only(optical: Path, sar: Path, folder: Path) -> None:
    """Warp, read and write with GDAL's defaults; see the module's docstring."""
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
    """Return a function that feeds a scene's tiles, read beforehand, to the bundled network."""
    from refnet_cli.engines.load import load_engine

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


def peak_of_predicting(optical: str, sar: str, output: str) -> float:
    """Return the peak MB of a prediction with a free engine; call it in a child process."""
    predict(PredictOptions(Path(optical), Path(sar), Path(output)), FreeEngine())
    return memory("VmHWM")


def measure_network(folder: Path, size: int, repeats: int) -> Row:
    """Measure a prediction with the bundled weights relative to the network alone."""
    optical, sar = make_pair(folder, size)
    options = PredictOptions(optical, sar, folder / "map.tif")
    network = network_only(optical, sar)
    network()  # warm-up: compiles kernels
    taken = medians({"predict": lambda: predict(options), "network": network}, repeats)
    row = compare(f"default weights, {size} x {size}", taken["predict"], "network only", taken["network"])
    return check_limit(row, "ratio", at_most=1.15)


def measure_free(folder: Path, size: int, repeats: int) -> list[Row]:
    """Measure a prediction with a free engine: time relative to GDAL alone, and memory."""
    optical, sar = make_pair(folder, size)
    options = PredictOptions(optical, sar, folder / "map.tif")
    taken = medians(
        {"predict": lambda: predict(options, FreeEngine()), "gdal": lambda: gdal_only(optical, sar, folder)}, repeats
    )
    name = f"free engine, {size} x {size}"
    row = compare(name, taken["predict"], "GDAL only", taken["gdal"])
    peak = in_child(peak_of_predicting, str(optical), str(sar), str(options.output))
    return [
        check_limit(row, "ratio", at_most=2.0),
        check_limit({"what": f"peak memory, {name}", "megabytes": peak}, "megabytes", at_most=2000),
    ]


def measure_start(folder: Path, repeats: int) -> Row:
    """Measure repeated calls of ``refnet predict`` on a small scene; the first call is excluded."""
    optical, sar = make_pair(folder, 256)
    command = [sys.executable, "-m", "refnet_cli", "predict", "--quiet"]
    files = ["--optical", str(optical), "--sar", str(sar), "--output", str(folder / "map.tif")]

    def call() -> None:
        subprocess.run([*command, *files], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)

    started = time.perf_counter()
    call()
    first = time.perf_counter() - started
    taken = medians({"call": call}, repeats)
    row = compare("start-up, 256 x 256, later calls", taken["call"], "first call", first)
    return check_limit(row, "seconds", at_most=6.0)


def run(repeats: int = 3, sizes: Sequence[str] = tuple(SIZES)) -> list[Row]:
    """Measure start-up, the bundled weights on a small scene, and a free engine on scenes of the given sizes.

    Parameters
    ----------
    repeats : int
        Runs per time measurement; medians are reported.
    sizes : sequence of str
        From ``SIZES``; ``large`` is a full Sentinel-2 tile and takes minutes and 3 GB of disk.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        rows.append(measure_start(Path(name), repeats))
    with tempfile.TemporaryDirectory() as name:
        rows.append(measure_network(Path(name), SIZES["small"], repeats))
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            rows += measure_free(Path(name), SIZES[size], repeats)
    return rows
