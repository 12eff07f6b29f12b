"""Measure `refnet fetch` against odc.stac.load and writing, both from a server of byte ranges on this machine.

The catalogue has three dates of a tile with clouds of their own, each with four bands, and one pass of Sentinel-1 with
VV and VH, in the form of Planetary Computer. All files are Cloud Optimized GeoTIFFs with DEFLATE and blocks of 512. The
bands of a date have the same pixels, and so have VV and VH.

refnet: the whole program, from the search to Cloud Optimized GeoTIFFs with checksums, a file that says which date
filled each pixel, and a journal.

odc-stac: the same items in the same order, given to it, so that it neither searches nor ranks. ``odc.stac.load`` in
chunks of 2,048; in strips of as many rows the first date whose scene classification is clear, date by date; tiled
GeoTIFFs, converted to Cloud Optimized ones. Both are processes of their own, start-up included.

Bytes needed are those of all blocks of the bands' files out of which a pixel was taken; the scene classification, which
both need to choose, is counted apart.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from benchmarks.measure import Row, check_limit, in_child, memory, peak_of_refnet

SIZE = 2048
BANDS = ("B02", "B03", "B04", "B08")
POLARISATIONS = ("VV", "VH")
CLEAR_CLASS, CLOUD_CLASS = 4, 9
CLOUDY = (0, 1, 3, 8, 9, 10)
"""Classes that refnet does not take either."""
EPSG, WEST, NORTH = 32632, 600_000, 5_400_000
BLOCK, STRIP = 512, 2048
SHARES = {datetime(2021, 6, 15, 10, 20, 21): 0.12, datetime(2021, 7, 5, 10, 20, 21): 0.25,
          datetime(2021, 7, 20, 10, 20, 21): 0.35}  # fmt: skip
"""Dates, and their share of clouds."""


def write_file(path: Path, size: int, dtype: str, pixel: float, values: Any, nodata: float | None) -> Path:
    """Write a Cloud Optimized GeoTIFF of what a function returns for rows of it."""
    working = path.with_suffix(".working")
    profile = {
        "driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": dtype, "crs": f"EPSG:{EPSG}",
        "transform": Affine(pixel, 0, WEST, 0, -pixel, NORTH), "nodata": nodata, "tiled": True, "blockxsize": BLOCK,
        "blockysize": BLOCK, "compress": "lzw",
    }  # fmt: skip
    with rasterio.open(working, "w", **profile) as file:
        for row in range(0, size, BLOCK):
            rows = min(BLOCK, size - row)
            file.write(values(row, rows).astype(dtype), 1, window=RasterWindow(0, row, size, rows))
    rasterio.shutil.copy(working, path, driver="COG", BLOCKSIZE=str(BLOCK), COMPRESS="DEFLATE", LEVEL="1",
                         NUM_THREADS="ALL_CPUS", OVERVIEW_RESAMPLING="NEAREST")  # fmt: skip
    working.unlink()
    return path


def cloud_mask(size: int, share: float, seed: int, row: int, rows: int) -> NDArray[np.bool_]:
    """Return clouds of 5 to 20 km in rows of an image with pixels of 20 m: waves above the level of their share."""
    random = np.random.default_rng(seed)
    waves = [(*random.normal(0, 2 * np.pi / 500, 2), random.uniform(0, 2 * np.pi)) for _ in range(8)]

    def field(rows_: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
        total: NDArray[np.float64] = sum(np.sin(a * rows_ + b * columns + phase) for a, b, phase in waves)
        return total

    few = np.arange(0, size, 16.0)
    level = np.quantile(field(few[:, None], few), 1 - share)
    cloud: NDArray[np.bool_] = field(np.arange(float(row), row + rows)[:, None], np.arange(float(size))) > level
    return cloud


def write_files(folder: Path, size: int) -> tuple[list[dict[str, Path]], dict[str, Path]]:
    """Write the files of all dates by band, and those of SAR by polarisation."""
    random = np.random.default_rng(0)
    noise = random.normal(0, 12, (BLOCK, size)).astype(np.float32)
    waves = np.sin(np.arange(size, dtype=np.float32) / 90)

    def optical(row: int, rows: int) -> NDArray[Any]:
        ground = 800 + 300 * np.roll(waves, 3 * row)
        values: NDArray[Any] = np.rint((np.roll(noise, 37 * row, axis=1)[:rows] + ground) / 4) * 4
        return values

    def sar(row: int, rows: int) -> NDArray[Any]:
        ground = 0.1 + 0.05 * np.roll(waves, 3 * row)
        values = np.rint((np.roll(noise, 41 * row, axis=1)[:rows] / 600 + ground) * 2048)
        clipped: NDArray[Any] = values.clip(1) / 2048
        return clipped

    dates = []
    for number, share in enumerate(SHARES.values()):

        def scl(row: int, rows: int, number: int = number, share: float = share) -> NDArray[np.uint8]:
            cloud = cloud_mask(size // 2, share, number, row, rows)
            return np.where(cloud, CLOUD_CLASS, CLEAR_CLASS).astype(np.uint8)

        def band(row: int, rows: int, number: int = number) -> NDArray[Any]:
            return optical(row, rows) + 16 * number

        file = write_file(folder / f"{number}.tif", size, "uint16", 10, band, 0)
        classes = write_file(folder / f"{number}-scl.tif", size // 2, "uint8", 20, scl, None)
        dates.append({**dict.fromkeys(BANDS, file), "SCL": classes})
    radar = write_file(folder / "sar.tif", size, "float32", 10, sar, -32768)
    return dates, dict.fromkeys(POLARISATIONS, radar)


def make_world(folder: Path, url: str, size: int) -> Any:
    """Write all files and items."""
    from tests.helpers.stac_items import World
    from tests.helpers.stac_scenes import OpticalFiles, SarFiles

    made = folder / "made"
    made.mkdir(parents=True)
    dates, radar = write_files(made, size)
    world = World(folder, url)
    bounds = (WEST, NORTH - 10 * size, WEST + 10 * size, NORTH)
    common: dict[str, Any] = {"bounds": bounds, "epsg": EPSG, "folder": folder, "url": url}
    for number, ((day, share), files) in enumerate(zip(SHARES.items(), dates, strict=True)):
        world.add(OpticalFiles(**common, number=number, time=day, files=files, cloud_cover=100 * share))
    world.add(SarFiles(**common, number=0, files=radar))
    return world


def peak_of_odc(items: str, plan: str, folder: str) -> float:
    """Load and write with odc-stac, and return the peak MB; call it in a child process."""
    import odc.stac
    import pystac
    from odc.geo.geobox import GeoBox

    odc.stac.configure_rio(cloud_defaults=True)
    (scene,) = json.loads(Path(plan).read_text())["scenes"]
    grid = GeoBox((scene["grid"]["height"], scene["grid"]["width"]), Affine(*scene["grid"]["transform"]),
                  f"EPSG:{scene['grid']['epsg']}")  # fmt: skip
    known = {one["id"]: pystac.Item.from_dict(one) for one in json.loads(Path(items).read_text())}
    chunks: dict[str, Any] = {"x": STRIP, "y": STRIP}
    dates = [
        odc.stac.load([known[one["id"]] for one in date["items"]], bands=[*BANDS, "SCL"], geobox=grid, chunks=chunks,
                      dtype="uint16", nodata=0, groupby="solar_day").isel(time=0)
        for date in scene["optical"]
    ]  # fmt: skip
    sar = odc.stac.load([known[one["id"]] for one in scene["sar"]], bands=["vv", "vh"], geobox=grid, chunks=chunks,
                        dtype="float32", nodata=-32768, groupby="solar_day").isel(time=0)  # fmt: skip

    def optical_rows(start: int, stop: int) -> NDArray[Any]:
        out = np.zeros((len(BANDS), stop - start, grid.shape[1]), np.uint16)
        for date in dates:
            strip = date.isel(y=slice(start, stop)).compute()
            clear = ~np.isin(strip["SCL"].values, CLOUDY) & (out[0] == 0)
            for target, band in zip(out, BANDS, strict=True):
                np.copyto(target, strip[band].values, where=clear)
        return out

    def sar_rows(start: int, stop: int) -> NDArray[Any]:
        strip = sar.isel(y=slice(start, stop)).compute()
        return np.stack([strip["vv"].values, strip["vh"].values])

    for name, rows, dtype, nodata in (("s2", optical_rows, "uint16", 0), ("s1", sar_rows, "float32", -32768)):
        _write_rows(Path(folder) / f"{name}.tif", grid, rows, dtype, nodata)
    return memory("VmHWM")


def _write_rows(path: Path, grid: Any, rows: Any, dtype: str, nodata: float) -> None:
    working = path.with_suffix(".working")
    height, width = grid.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "dtype": dtype, "nodata": nodata, "tiled": True,
               "crs": str(grid.crs), "transform": grid.affine, "compress": "deflate", "zlevel": 1}  # fmt: skip
    with rasterio.open(working, "w", count=4 if dtype == "uint16" else 2, blockxsize=BLOCK, blockysize=BLOCK,
                       **profile) as file:  # fmt: skip
        for start in range(0, height, STRIP):
            values = rows(start, min(start + STRIP, height))
            file.write(values, window=RasterWindow(0, start, width, values.shape[1]))
    rasterio.shutil.copy(working, path, driver="COG", BLOCKSIZE=str(BLOCK), COMPRESS="DEFLATE", PREDICTOR="YES",
                         NUM_THREADS="ALL_CPUS")  # fmt: skip
    working.unlink()


def needed_bytes(source: Path, plan: Path, files: Path) -> int:
    """Return the bytes of all blocks of bands and SAR out of which a pixel was taken."""
    (scene,) = json.loads(plan.read_text())["scenes"]
    with rasterio.open(source) as file:
        taken = file.read(1)
    total = 0
    for number, date in enumerate(scene["optical"], 1):
        for one in date["items"]:
            total += sum(_bytes_where(files / _path(one["hrefs"][band]), taken == number) for band in BANDS)
    everywhere = np.ones_like(taken, bool)
    for one in scene["sar"]:
        total += sum(_bytes_where(files / _path(one["hrefs"][band]), everywhere) for band in POLARISATIONS)
    return total


def _path(href: str) -> str:
    return href.split("/", 3)[3]


def _bytes_where(path: Path, taken: NDArray[np.bool_]) -> int:
    """Return the bytes of the blocks of a file, which lies on the grid, in which a pixel is marked."""
    total = 0
    with rasterio.open(path) as file:
        for (row, column), window in file.block_windows(1):
            if taken[window.toslices()].any():
                total += int(file.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1) or 0)
    return total


def run(size: int = SIZE) -> list[Row]:
    """Measure one fetch and one load of the same area.

    Parameters
    ----------
    size : int
        Pixels of 10 m along a side, a multiple of 6; 10,980 is a whole tile and takes minutes and 6 GB of disk.
    """
    from tests.helpers.stac_items import lonlat
    from tests.helpers.stac_servers import catalogue, store, write_source

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = stack.enter_context(store(folder / "files"))
        world = make_world(folder / "files", files.url, size)
        front = stack.enter_context(catalogue(world.items, folder / "catalogue"))
        source = write_source(folder / "local.toml", front.url, [files.host], silent_seconds=60)
        area = folder / "area.geojson"
        bounds = (WEST, NORTH - 10 * size, WEST + 10 * size, NORTH)
        area.write_text(json.dumps(lonlat(bounds, EPSG, 2.0, 64).__geo_interface__))
        out = folder / "place"
        words = ["fetch", "--area", area, "--dates", "2021-06-01/2021-07-31", "--source", source, "--labels", "none",
                 "--allow-host", files.host, "--allow-host", front.host, "-q", "-o", out]  # fmt: skip
        refnet = _timed(peak_of_refnet, [str(word) for word in words], files)
        needed = needed_bytes(out / "source.tif", out / "items.json", folder / "files")
        (folder / "items").write_text(json.dumps(world.items))
        kept = {name: _checksum(out / name) for name in ("s2.tif", "s1.tif")}
        for name in kept:
            (out / name).unlink()
        other = _timed(peak_of_odc, [str(folder / "items"), str(out / "items.json"), str(folder)], files)
        same = all(_checksum(folder / name) == found for name, found in kept.items())
    return _rows(f"{size} x {size}, 4 bands and SAR", needed / 1e6, refnet, other, same)


def _timed(function: Callable[..., float], arguments: list[str], files: Any) -> dict[str, float]:
    """Return seconds, peak memory and MB served of a function in a child process."""
    files.reset()
    started = time.perf_counter()
    peak = in_child(function, *arguments)
    seconds = time.perf_counter() - started
    bands, classes = (sum(files.served(match).values()) / 1e6 for match in ("_B0|iw-", "_SCL_"))
    print(f"{function.__name__}: {seconds:.1f} s, {peak:.0f} MB, {bands:.1f} MB read", file=sys.stderr)
    return {"seconds": seconds, "peak": peak, "bands": bands, "scl": classes}


def _checksum(path: Path) -> int:
    """Return a checksum of the pixels of a file."""
    total = 0
    with rasterio.open(path) as file:
        for row in range(0, file.height, BLOCK):
            rows = min(BLOCK, file.height - row)
            total = zlib.crc32(file.read(window=RasterWindow(0, row, file.width, rows)).tobytes(), total)
    return total


def _rows(name: str, needed: float, refnet: dict[str, float], other: dict[str, float], same: bool) -> list[Row]:
    seconds = {"what": f"refnet fetch, {name}", "seconds": refnet["seconds"], "over": "odc.stac.load and writing",
               "other_seconds": other["seconds"], "ratio": refnet["seconds"] / other["seconds"],
               "same_pixels": same}  # fmt: skip
    peak = {"what": f"peak memory of refnet fetch, {name}", "megabytes": refnet["peak"],
            "over": "odc.stac.load and writing", "other_megabytes": other["peak"],
            "ratio": refnet["peak"] / other["peak"]}  # fmt: skip
    read = [
        {"what": f"bytes read by {who}, {name}", "megabytes": found["bands"], "over": "bytes needed",
         "other_megabytes": needed, "ratio": found["bands"] / needed, "scl_megabytes": found["scl"]}
        for who, found in (("refnet fetch", refnet), ("odc.stac.load", other))
    ]  # fmt: skip
    return [
        seconds, check_limit(peak, "megabytes", at_most=2000), check_limit(read[0], "ratio", at_most=1.1), read[1],
    ]  # fmt: skip
