"""Measure the accuracy of SAR-to-optical registration, against phase correlation, and the rejection of wrong pairs.

Seven real pairs are moved by known shifts. Their true initial shift is unknown. The error is therefore the difference
between the estimate for the moved image minus the known shift, and the estimate for the original image. Systematic
errors, such as tree lines at other positions in radar images, cancel out.

    python -m benchmarks.registration --data FOLDER > registration.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.warp import Resampling, reproject
from scipy import ndimage

from benchmarks.measure import Row, check_limit, medians
from benchmarks.report import to_json
from refnet_cli.scene.registration import Piece, Shift, estimate_shift

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

COLUMNS = ("what", "measured", "bar", "kept")
NEAR, FAR = 3.0, 15.0
"""Largest shifts along each axis, in pixels."""


class Pair(NamedTuple):
    """Images of one place from both sensors on one grid: reflectance x 10,000 (3, H, W) and dB (2, H, W)."""

    place: str
    optical: Float32
    sar: Float32


def read_pairs(data: Path) -> dict[str, Pair]:
    """Read the five places of ``terramind`` and the two dates of ``ssl4eo``; the latter's SAR images are warped."""
    pairs = {}
    for path in sorted((data / "terramind" / "S2L2A").glob("*.tif")):
        with rasterio.open(path) as optical, rasterio.open(data / "terramind" / "S1RTC" / path.name) as sar:
            bands = optical.read([3, 4, 8], out_dtype="float32")  # B03, B04 and B08 of twelve
            pairs[path.stem] = Pair(path.stem, bands, sar.read(out_dtype="float32"))
    folders = (sorted((data / "ssl4eo" / sensor / "0000200").iterdir()) for sensor in ("s1", "s2a"))
    for sar_folder, optical_folder in zip(*folders, strict=True):
        pairs[f"ssl4eo {optical_folder.name[:8]}"] = _read_band_files(optical_folder, sar_folder)
    return pairs


def _read_band_files(optical_folder: Path, sar_folder: Path) -> Pair:
    with rasterio.open(optical_folder / "B4.tif") as file:
        grid = {"dst_transform": file.transform, "dst_crs": file.crs}
        shape = file.shape
    optical = []
    for band in ("B3", "B4", "B8"):
        with rasterio.open(optical_folder / f"{band}.tif") as file:
            optical.append(file.read(1, out_dtype="float32"))
    sar = np.full((2, *shape), np.nan, np.float32)
    for target, band in zip(sar, ("VV", "VH"), strict=True):
        with rasterio.open(sar_folder / f"{band}.tif") as file:
            power = 10 ** (file.read(1) / 10)
            place = {"src_transform": file.transform, "src_crs": file.crs}
        missing = {"src_nodata": np.nan, "dst_nodata": np.nan}
        reproject(power, target, **place, **grid, **missing, resampling=Resampling.bilinear)
    return Pair("ssl4eo", np.stack(optical), 10 * np.log10(sar))


def move(sar: Float32, columns: float, rows: float) -> Float32:
    """Move a SAR image (P, H, W) in dB to the right and down, in linear power, by cubic splines.

    Pixels that depend on values outside the image or on missing values become NaN.
    """
    known = np.isfinite(sar).all(axis=0)
    power = np.where(known, 10 ** (np.where(known, sar, 0) / 10), 0)
    moved = np.stack([ndimage.shift(band, (rows, columns), order=3, mode="nearest") for band in power])
    sure = ndimage.shift(known.astype(np.float64), (rows, columns), order=1, mode="constant") > 0.999
    return np.where(sure, 10 * np.log10(np.maximum(moved, 1e-6)), np.nan).astype(np.float32)


def known_shifts(count: int, most: float, seed: int = 1) -> Float64:
    """Return random shifts (count, 2) in columns and rows, of at most ``most`` pixels along each axis."""
    return np.random.default_rng(seed).uniform(-most, most, (count, 2))


def estimate(optical: Float32, sar: Float32) -> Shift:
    """Return the estimated shift of a scene that consists of one piece."""
    return estimate_shift([Piece(0, 0, optical, sar)])


def wrong_pairs(pairs: dict[str, Pair]) -> list[tuple[Float32, Float32]]:
    """Return every optical image with the SAR image of every other place, cropped to a common size."""
    wrong = []
    for first, second in permutations(pairs.values(), 2):
        if first.place != second.place:
            height, width = np.minimum(first.optical.shape[1:], second.sar.shape[1:])
            wrong.append((first.optical[:, :height, :width], second.sar[:, :height, :width]))
    return wrong


def turned_pairs(pairs: dict[str, Pair]) -> list[tuple[Float32, Float32]]:
    """Return every optical image with its own place's SAR image, rotated by 180 degrees or mirrored."""
    turned = (np.s_[:, ::-1, ::-1], np.s_[:, ::-1], np.s_[:, :, ::-1])
    return [(pair.optical, np.ascontiguousarray(pair.sar[view])) for pair in pairs.values() for view in turned]


Method = Callable[[Float32, Float32], tuple[float, float]]


def by_refnet(optical: Float32, sar: Float32) -> tuple[float, float]:
    """Return refnet's shift in columns and rows."""
    found = estimate(optical, sar)
    return found.columns, found.rows


def by_correlation(
    optical: Float32, sar: Float32, *, normalization: str | None, sigmas: tuple[float, float], tapered: bool
) -> tuple[float, float]:
    """Return scikit-image's shift in columns and rows, between gradient magnitudes summed over the bands."""
    correlate = importlib.import_module("skimage.registration").phase_cross_correlation
    images = [_edges(image, sigma) for image, sigma in zip((optical, sar), sigmas, strict=True)]
    if tapered:
        images = [image * np.outer(*map(np.hanning, image.shape)) for image in images]
    rows, columns = correlate(*images, upsample_factor=100, normalization=normalization)[0]
    return float(columns), float(rows)


def _edges(image: Float32, sigma: float) -> Float64:
    known = np.isfinite(image).all(axis=0)
    total = np.zeros(known.shape)
    for band in image:
        filled = np.where(known, band, band[known].mean())
        total += ndimage.gaussian_gradient_magnitude(filled.astype(np.float64), sigma) / filled.std()
    inside = ndimage.binary_erosion(known, iterations=8, border_value=1)  # excludes edges that filling creates
    return np.asarray((total - total.mean()) * inside)


# The settings of scikit-image with the lowest median error over 28 shifts: of three pairs of sigmas for each
# normalisation, with or without a Hann window. With the window, phase correlation fails completely more often.
METHODS: dict[str, Method] = {
    "refnet": by_refnet,
    "skimage, phase": partial(by_correlation, normalization="phase", sigmas=(1.0, 1.5), tapered=False),
    "skimage, cross": partial(by_correlation, normalization=None, sigmas=(1.5, 2.0), tapered=True),
}


def errors(method: Method, pairs: dict[str, Pair], shifts: Float64) -> Float64:
    """Return the errors in pixels for all pairs, each moved by an equal share of the shifts."""
    found = []
    for pair, own in zip(pairs.values(), np.split(shifts, len(pairs)), strict=True):
        start = np.array(method(pair.optical, pair.sar))
        found += [np.hypot(*(np.array(method(pair.optical, move(pair.sar, *known))) - start + known)) for known in own]
    return np.array(found)


def measure_errors(pairs: dict[str, Pair], each: int) -> list[Row]:
    """Measure the errors of every method, for near and far shifts."""
    rows = []
    for most in (NEAR, FAR):
        shifts = known_shifts(each * len(pairs), most)
        for name, method in METHODS.items():
            found = errors(method, pairs, shifts)
            what = f"{name}, {len(shifts)} shifts up to {most:g} px:"
            bars = (("median", 0.5, 0.05), ("90 %", 0.9, 0.15))
            made = [{"what": f"{what} {part}", "pixels": float(np.quantile(found, at))} for part, at, _ in bars]
            if method is by_refnet:
                made = [check_limit(row, "pixels", at_most=bar) for row, (_, _, bar) in zip(made, bars, strict=True)]
            rows += [*made, {"what": f"{what} greatest", "pixels": float(found.max())}]
    return rows


def measure_rejection(pairs: dict[str, Pair]) -> list[Row]:
    """Measure how many true, wrong and turned pairs are accepted, and their correlation peaks."""
    rows = []
    true = [estimate(pair.optical, pair.sar) for pair in pairs.values()]
    rows.append({"what": "true pairs: least peak", "correlation": min(found.peak for found in true)})
    accepted = {"what": "true pairs: accepted", "pairs": sum(found.accepted for found in true)}
    rows.append(check_limit(accepted, "pairs", at_least=len(pairs)))
    for name, made in (("wrong", wrong_pairs(pairs)), ("turned", turned_pairs(pairs))):
        found = [estimate(*pair) for pair in made]
        rows.append({"what": f"{len(made)} {name} pairs: greatest peak", "correlation": max(one.peak for one in found)})
        accepted = {"what": f"{len(made)} {name} pairs: accepted", "pairs": sum(one.accepted for one in found)}
        rows.append(check_limit(accepted, "pairs", at_most=0))
    return rows


def measure_time(pairs: dict[str, Pair], repeats: int) -> list[Row]:
    """Measure the seconds for a small scene by every method, and for 400 windows of a large scene."""
    small = next(iter(pairs.values()))
    taken = medians({name: partial(method, *small[1:]) for name, method in METHODS.items()}, repeats)
    rows: list[Row] = [{"what": f"{name}, 224 x 224", "seconds": seconds} for name, seconds in taken.items()]
    tile = [np.tile(image, (1, 3, 3))[:, :512, :512] for image in small[1:]]
    pieces = [Piece(512 * number, 0, *tile) for number in range(25)]
    large = medians({"": lambda: estimate_shift(pieces)}, 1)[""]
    kept = [check_limit(rows[0], "seconds", at_most=2)]
    return [*kept, *rows[1:], check_limit({"what": "refnet, 400 windows", "seconds": large}, "seconds", at_most=10)]


def run(data: Path, each: int = 12, repeats: int = 5) -> list[Row]:
    """Measure errors, rejection and time.

    Parameters
    ----------
    data : Path
        Folder with ``terramind`` and ``ssl4eo``; see ``README.md``.
    each : int
        Known shifts per pair.
    repeats : int
        Runs per time measurement.
    """
    pairs = read_pairs(data)
    return [*measure_errors(pairs, each), *measure_rejection(pairs), *measure_time(pairs, repeats)]


def to_table(rows: Sequence[Row]) -> str:
    """Return the rows as a plain-text table."""
    lines = [COLUMNS, *((row["what"], _measured(row), row.get("bar", ""), _kept(row)) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _measured(row: Row) -> str:
    unit = next(unit for unit in ("pixels", "correlation", "pairs", "seconds") if unit in row)
    return f"{row[unit]:.3g} {unit}"


def _kept(row: Row) -> str:
    return {True: "yes", False: "NO", None: ""}[row.get("kept")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark from the command line: a table on stderr, JSON on stdout."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registration", description="See benchmarks/README.md.")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder with terramind and ssl4eo")
    parser.add_argument("--each", type=int, default=12, help="known shifts per pair (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs per time measurement (default: %(default)s)")
    settings = vars(parser.parse_args(arguments))
    if importlib.util.find_spec("skimage") is None:
        parser.exit(1, "scikit-image, the reference method, is not installed: pip install scikit-image\n")
    rows = run(**settings)
    document: dict[str, Any] = json.loads(to_json("registration", settings, rows))
    document["versions"] |= {name: version(name) for name in ("scipy", "scikit-image")}
    print(to_table(rows), file=sys.stderr)
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
