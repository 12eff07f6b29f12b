"""Simulate a landscape and what Sentinel-1 and Sentinel-2 would see of it.

``python sample_data/simulate.py OUTDIR`` writes ``s2.tif``, ``s1.tif`` and ``labels.tif``; with the default seed these
are the files of this folder. With ``--count M`` it writes M scenes of other places and a ``regions.toml`` that lists
them for training; ``--varied`` makes them the harder scenes of `vary.py`. Arrays are float32 unless said otherwise; n
is the width of the landscape, size + 2 * MARGIN.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from rasterio.warp import transform_bounds
from scipy import fft, ndimage
from scipy.interpolate import RectBivariateSpline

Array = NDArray[Any]
Rng = np.random.Generator

DEFAULT_SEED = 2024
PIXEL = 10.0  # metres, optical grid and landscape
MARGIN = 48  # pixels of landscape around the optical scene, for SAR to see
LOOKS = 4.4  # equivalent number of looks of Sentinel-1 IW GRD
TABLE = 1 << 16  # entries of the tables that hold what is particular to a field or stand

WATER, TREES, FLOODED, CROPS, BUILT, BARE, RANGELAND = 1, 2, 4, 5, 7, 8, 11  # codes of Esri / Impact Observatory
SNOW, CLOUDS = 9, 10  # the first in varied scenes only, the second never
NAMES = {
    WATER: "water", TREES: "trees", FLOODED: "flooded vegetation", CROPS: "crops", BUILT: "built", BARE: "bare",
    RANGELAND: "rangeland",
}  # fmt: skip
COLOURS = {
    0: (0, 0, 0, 0), WATER: (65, 155, 223), TREES: (57, 125, 73), FLOODED: (122, 135, 198), CROPS: (228, 150, 53),
    BUILT: (196, 40, 27), BARE: (165, 155, 143), SNOW: (168, 235, 255), CLOUDS: (97, 97, 97),
    RANGELAND: (227, 226, 195),
}  # fmt: skip
CLASSES = {
    WATER: "Water", TREES: "Trees", FLOODED: "Flooded vegetation", CROPS: "Crops", BUILT: "Built area",
    BARE: "Bare ground", SNOW: "Snow/ice", CLOUDS: "Clouds", RANGELAND: "Rangeland",
}  # fmt: skip
OPTICAL_BANDS = ("B02", "B03", "B04", "B08")
SAR_BANDS = ("VV", "VH")
SEASONS = ("djf", "mam", "jja", "son")
BETWEEN = 0.25  # of the measured spread between places is kept, and
INSIDE = 0.5  # of that inside one scene, so that a small network can learn the classes
STAGE = 0.58  # half the difference between green and ripe or tilled crops, in the logarithm of reflectance
DRY = np.array([0.05, 0.05, 0.2, -0.12])  # logarithm of reflectance: rangeland is drier than measured
DOUBLE_BOUNCE = np.array([5.5, 2.0])  # dB that VV and VH of flooded vegetation are above dry rangeland
BARE_SMOOTHNESS = np.array([4.5, 4.0])  # dB that bare ground is below the measured median, which is of stony places
SPECKLE_BIAS = 0.5  # dB by which the median of speckled power is below its mean
SMALLEST_SHARE, LARGEST_SHARE = 0.03, 0.35


class Landscape(NamedTuple):
    """Where everything is: each array is (n, n)."""

    cover: Array  # uint8, Esri/IO codes
    patch: Array  # int64, key of the field, block or stand in tables of length TABLE
    rows: Array  # sowing rows, -1 to 1
    relief: Array  # smooth height, mean 0, variance 1


class Place(NamedTuple):
    """Where the scene is and what its classes look like there and then."""

    crs: CRS
    transform: Affine  # of the optical grid
    sar_crs: CRS
    sar_transform: Affine
    sar_shape: tuple[int, int]
    season: str
    means: dict[int, Array]  # code -> float64 (6,): natural logarithm of reflectance x 10000 (4 bands), dB (2)


def field(rng: Rng, n: int, scale: float, slope: float = 1.5) -> Array:
    """Random field (n, n), mean 0 and variance 1, correlated up to `scale` pixels; larger `slope`, smoother."""
    spectrum = fft.rfft2(rng.standard_normal((n, n), dtype=np.float32))
    squared = fft.fftfreq(n)[:, None] ** 2 + fft.rfftfreq(n)[None, :] ** 2
    spectrum *= (squared + 1 / (2 * np.pi * scale) ** 2).astype(np.float32) ** np.float32(-slope / 2 - 0.5)
    values = fft.irfft2(spectrum, s=(n, n))
    return np.asarray((values - values.mean()) / values.std(), np.float32)


def mix(*keys: Array | int) -> Array:
    """Hash integers, element by element, into 0 .. TABLE - 1 (int64)."""
    value = np.zeros((), np.int64)
    for key in keys:
        value = ((value ^ key) * np.int64(2654435761)) & np.int64(0xFFFFFFFF)
        value = value ^ (value >> np.int64(15))
    return np.asarray(value % TABLE)


def bricks(u: Array, v: Array, height: Array | float, length: Array | float, salt: Array | int, table: Array) -> Array:
    """Keys (int64) of parcels laid like bricks along u, in rows of uneven height; each row has a length of its own."""
    row = np.floor(v / height + 0.5 * np.sin(1.7 * v / height)).astype(np.int64)
    chance = table[mix(salt, row, 11)]
    column = np.floor(u / (length * (0.6 + chance)) + 7 * chance).astype(np.int64)
    return mix(salt, row, column)


def nearest(rng: Rng, x: Array, y: Array, n: int, spacing: float) -> Array:
    """Index of the nearest seed of a shaken grid with `spacing` pixels: Voronoi cells (of warped x and y)."""
    count = int(n / spacing) + 8  # the warp may lead a few cells outside the canvas
    shift = rng.uniform(0, 1, (2, count, count)).astype(np.float32)
    row, column = (np.floor(axis / spacing).astype(np.int64) + 3 for axis in (y, x))
    best, index = np.full((n, n), np.inf, np.float32), np.zeros((n, n), np.int64)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            i, j = np.clip(row + down, 0, count - 1), np.clip(column + right, 0, count - 1)
            key = i * count + j
            away = np.hypot(y / spacing + 3 - i - shift[0].ravel()[key], x / spacing + 3 - j - shift[1].ravel()[key])
            closer = away < best
            best, index = np.where(closer, away, best), np.where(closer, key, index)
    return index


def turn(x: Array, y: Array, angle: Any) -> tuple[Array, Array]:
    """Coordinates along and across a direction (radians, one or one per pixel)."""
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cosine + y * sine, y * cosine - x * sine


def top(values: Array, share: float) -> Array:
    """Mask of the largest `share` of the values."""
    return np.asarray(values > np.quantile(values[::4, ::4], 1 - share))


def distance_to_line(values: Array) -> Array:
    """Distance in pixels, about, to where a smooth field is zero."""
    along, across = np.gradient(values)
    return np.asarray(np.abs(values) / np.maximum(np.hypot(along, across), 0.25))


def lay_countryside(rng: Rng, x: Array, y: Array, n: int, table: Array) -> tuple[Array, Array, Array]:
    """Farmland of oriented parcels, and forest and rangeland where it is wild: cover, patch keys and rows."""
    estate = nearest(rng, x, y, n, 190)
    angle, height = rng.uniform(0, np.pi, TABLE)[estate], rng.uniform(15, 28, TABLE)[estate]
    u, v = turn(x, y, angle)
    parcel = bricks(u, v, height, height * rng.uniform(1.3, 2.8, TABLE)[estate], estate, table)
    rows = np.sin(u * 2 * np.pi / 3.7 if rng.random() < 0.5 else v * 2 * np.pi / 3.3).astype(np.float32)
    limits = np.cumsum(rng.dirichlet(np.array([0.60, 0.13, 0.12, 0.06]) * 60) * 0.92)
    kinds = np.array([CROPS, RANGELAND, BARE, BUILT, TREES], np.uint8)
    farmland = kinds[np.searchsorted(limits, table[mix(parcel, 3)])]

    stand = nearest(rng, x, y, n, 30) + 5000
    forest = field(rng, n, 70) + 0.35 * field(rng, n, 8)
    wild = np.where(top(forest, rng.uniform(0.4, 0.6)), TREES, RANGELAND).astype(np.uint8)
    wild[top(field(rng, n, 35) + 0.8 * table[mix(stand, 4)], rng.uniform(0.12, 0.2))] = BARE
    is_wild = top(field(rng, n, 110) + 0.3 * field(rng, n, 15) + 0.6 * table[mix(parcel, 5)], rng.uniform(0.38, 0.5))
    return np.where(is_wild, wild, farmland), np.where(is_wild, mix(stand), parcel), np.where(is_wild, 0, rows)


def add_towns(rng: Rng, x: Array, y: Array, cover: Array, patch: Array, table: Array) -> Array:
    """Set blocks of towns into cover and patch; return the distance in pixels to the roads between towns."""
    n = len(cover)
    ragged = field(rng, n, 25)
    far = np.full((n, n), np.inf, np.float32)
    count = max(1, round(rng.uniform(4, 7) * (n / 864) ** 2))
    for town, (column, row) in enumerate(rng.uniform(0.06 * n, 0.94 * n, (count, 2))):
        radius = rng.uniform(32, 75) if town else 70
        inside = np.hypot(x - column, y - row) + 10 * ragged < radius
        u, v = turn(x - column, y - row, rng.uniform(0, np.pi))
        pitch = rng.uniform(13, 19)
        block = bricks(u, v, pitch, 1.2 * pitch, 9000 + town, table)
        kinds = np.array([BUILT, BARE, RANGELAND, TREES], np.uint8)
        blocks = kinds[np.searchsorted([0.66, 0.85, 0.93], table[mix(block, 6)])]
        street = (np.abs(v) % (4 * pitch) < 2) | (np.abs(u) % (5 * pitch) < 2)
        cover[inside] = np.where(street, BUILT, blocks)[inside]
        patch[inside] = np.where(street, 77, block)[inside]
        if town < 4:
            along = turn(x - column, y - row, rng.uniform(0, np.pi))[1]
            far = np.minimum(far, distance_to_line(along + 12 * (field(rng, n, 90, 3) - ragged.mean())))
    return far


def add_water(rng: Rng, x: Array, y: Array, cover: Array, patch: Array, relief: Array, table: Array) -> Array:
    """Set a meandering river, lakes and flooded vegetation along them into cover and patch; return where lakes are."""
    n = len(cover)
    _, across = turn(x - n / 2, y - n / 2, rng.uniform(0, np.pi))
    river = distance_to_line(across + rng.uniform(35, 60) * field(rng, n, 70, 3) + rng.uniform(-0.25, 0.25) * n)
    width = 5 + 1.5 * field(rng, n, 60, 2.5)
    lake = top(-relief + 0.12 * field(rng, n, 20), rng.uniform(0.035, 0.06))
    water = (river < width) | lake
    distance = ndimage.distance_transform_edt(~water).astype(np.float32)
    plain = distance < 22 + 14 * field(rng, n, 50)
    stand = nearest(rng, x, y, n, 26) + 20000
    kinds = np.array([FLOODED, RANGELAND, TREES], np.uint8)
    cover[plain] = kinds[np.searchsorted([0.58, 0.8], table[mix(stand, 8)])][plain]
    patch[plain] = mix(stand)[plain]
    cover[water], patch[water] = WATER, 78
    return lake


def lay_out(rng: Rng, n: int) -> Landscape:
    """Draw one landscape of n x n pixels."""
    table = rng.random(TABLE, dtype=np.float32)
    y, x = np.mgrid[:n, :n].astype(np.float32)
    warped_x, warped_y = (axis + 4 * field(rng, n, 40, 3) + 0.5 * field(rng, n, 5, 2.5) for axis in (x, y))
    relief = field(rng, n, 110, 2.2)
    cover, patch, rows = lay_countryside(rng, warped_x, warped_y, n, table)
    far = add_towns(rng, warped_x, warped_y, cover, patch, table)
    lake = add_water(rng, warped_x, warped_y, cover, patch, relief, table)
    road = (far < 1.2) & ~lake  # the river is bridged
    cover[road], patch[road] = BUILT, 79
    return Landscape(cover, patch, np.where(cover == CROPS, rows, 0).astype(np.float32), relief)


def shares(labels: Array) -> dict[int, float]:
    """Share of the pixels of each class."""
    return {code: float((labels == code).mean()) for code in NAMES}


def balanced_landscape(rng: Rng, size: int) -> Landscape:
    """Draw landscapes until no class is rarer or commoner than asked for; after 12, take the one that comes nearest."""
    drawn: list[tuple[float, Landscape]] = []
    while not drawn or (drawn[-1][0] > 0 and len(drawn) < 12):
        landscape = lay_out(rng, size + 2 * MARGIN)
        share = shares(landscape.cover[MARGIN:-MARGIN, MARGIN:-MARGIN]).values()
        drawn.append((max(0.0, SMALLEST_SHARE - min(share), max(share) - LARGEST_SHARE), landscape))
    return min(drawn, key=lambda pair: pair[0])[1]


def draw_place(rng: Rng, size: int, signatures: dict[str, Any]) -> Place:
    """Draw where and when the scene is, both grids, and the class means of the place."""
    zone, south = int(rng.integers(11, 58)), bool(rng.random() < 0.35)
    crs = CRS.from_epsg((32700 if south else 32600) + zone)
    latitude = rng.uniform(25, 55)
    northing = latitude * 110_700.0
    northing = 10_000_000 - northing if south else northing
    eastward = 1 if rng.random() < 0.5 else -1  # towards the neighbouring zone
    easting = 500_000 + eastward * rng.uniform(0.6, 0.95) * 333_000 * np.cos(np.radians(latitude))
    transform = Affine(PIXEL, 0, round(easting / 60) * 60, 0, -PIXEL, round(northing / 60) * 60)
    sar_crs = CRS.from_epsg(4326 if rng.random() < 0.4 else crs.to_epsg() + eastward)
    pixel = rng.uniform(11, 14)
    bounds = (transform.c, transform.f - size * PIXEL, transform.c + size * PIXEL, transform.f)
    west, low, east, high = transform_bounds(crs, sar_crs, *bounds)
    across = up = pixel
    if sar_crs.is_geographic:
        across, up = pixel / 111_320 / np.cos(np.radians(latitude)), pixel / 110_900
    room = rng.uniform(8, 25, 4)  # SAR pixels seen beyond the optical scene; on one side too few by a strip
    room[rng.integers(4)] = -rng.uniform(0.02, 0.04) * size
    west, low, east, high = west - room[0] * across, low - room[1] * up, east + room[2] * across, high + room[3] * up
    sar_shape = round((high - low) / up), round((east - west) / across)
    season = SEASONS[rng.integers(4)]
    means = draw_means(rng, season, signatures)
    return Place(crs, transform, sar_crs, Affine(across, 0, west, 0, -up, high), sar_shape, season, means)


def draw_means(rng: Rng, season: str, signatures: dict[str, Any]) -> dict[int, Array]:
    """Draw the class means of one place from the spread between places; what all classes share makes most of it."""
    shared_optical, shared_sar = rng.normal(0, 0.8, 2)
    means: dict[int, Array] = {}
    for code, name in NAMES.items():
        if code == FLOODED:
            continue
        own = rng.normal(0, 0.6, 3)
        entry = signatures["between_places"][name][season]
        median, spread = np.array(entry["median"]), np.array(entry["spread"])
        moved = np.repeat([shared_optical + own[0], shared_optical + own[1], shared_sar + own[2]], (3, 1, 2))
        middle = np.concatenate([np.log(median[:4]), median[4:] + SPECKLE_BIAS])
        means[code] = middle + BETWEEN * np.minimum(spread, [0.4, 0.4, 0.4, 0.4, 2, 2]) * moved
    means[BARE][4:] -= BARE_SMOOTHNESS
    means[RANGELAND][:4] += DRY
    means[BUILT][:4] = (means[BUILT] + 3 * means[BARE])[:4] / 4  # roofs and roads are of the same stone
    means[FLOODED] = means[RANGELAND].copy()
    means[FLOODED][4:] += DOUBLE_BOUNCE
    return means


def vary(patches: Array, texture: list[Array], entry: dict[str, Any]) -> Array:
    """How k pixels of a class differ from its mean, by field or stand (k, 6) and by texture: (k, 6)."""
    coarse, fine = texture[:3], texture[3:]
    fields = np.stack(
        [coarse[0], coarse[0] + 0.3 * fine[0], coarse[1], coarse[1], coarse[2], coarse[2] + 0.3 * fine[1]], -1
    )
    values, vectors = np.linalg.eigh(np.array(entry["correlation"]))
    root = (
        vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T
    )  # turns independent fields into correlated ones
    spread = np.array(entry["spread"])
    without_speckle = np.sqrt(np.maximum(spread[4:] ** 2 - 2.2**2, 1))
    scale = INSIDE * np.concatenate([np.minimum(spread[:4], 0.4), without_speckle])
    return np.asarray((0.75 * patches + 0.6 * fields) @ root * scale)


def look(rng: Rng, landscape: Landscape, place: Place, signatures: dict[str, Any]) -> Array:
    """Reflectance x 10000 (4 bands) and backscatter as linear power (2), (6, n, n), before either sensor blurs it."""
    n = len(landscape.cover)
    table = rng.standard_normal((TABLE, 6), dtype=np.float32)
    stage = np.where(rng.random(TABLE) < rng.uniform(0.5, 0.7), 1.0, -1.0)  # crops are green, or ripe or tilled
    stage, wooded = stage * rng.uniform(0.85, 1.15, TABLE), rng.random(TABLE)
    texture = [0.8 * field(rng, n, 12) + 0.6 * field(rng, n, 2) for _ in range(3)]
    texture += list(rng.standard_normal((2, n, n), dtype=np.float32))
    seen = np.empty((6, n, n), np.float32)
    for code, name in NAMES.items():
        inside = landscape.cover == code
        patch = landscape.patch[inside]
        local = [each[inside] for each in texture]
        offset = vary(table[patch], local, signatures["inside_scene"][name])
        if code == CROPS:
            rows = landscape.rows[inside, None] * np.array([-0.04, -0.04, -0.04, 0.04])
            offset *= 0.5
            offset[:, :4] += rows + stage[patch, None] * STAGE * np.array([-0.6, -0.55, -0.9, 0.6])
        if code == FLOODED:  # from above, anything from a marsh like grassland to a forest that stands in water
            offset[:, :4] += wooded[patch, None] * (place.means[TREES] - place.means[RANGELAND])[:4]
        if code == TREES:  # clumps of crowns and their shadows
            offset[:, :4] += 0.1 * (local[1] + local[3])[:, None]
        seen[:, inside] = (place.means[code] + offset).T
    down, right = np.gradient(landscape.relief)
    seen[:4] = np.exp(seen[:4] + np.clip(1.2 * (down - right), -0.12, 0.12))  # lit from the north west
    seen[4:] = 10 ** (seen[4:] / 10)
    return seen


def observe_optical(rng: Rng, seen: Array, size: int) -> Array:
    """Sentinel-2 of the middle of the landscape: (4, size, size), 0 beyond the slanted edge of the swath."""
    blurred = np.stack([ndimage.gaussian_filter(band, 0.6) for band in seen[:4]])[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    noisy = blurred * (1 + 0.01 * rng.standard_normal(blurred.shape)) + 6 * rng.standard_normal(blurred.shape)
    optical = np.clip(np.rint(noisy), 1, 20_000).astype(np.uint16)
    row, column = np.mgrid[:size, :size]
    edge = size * rng.uniform(0.015, 0.03) + rng.uniform(0.03, 0.05) * row
    if rng.random() < 0.5:
        column = size - 1 - column
    optical[:, column < edge] = 0
    return optical


def sample_sar(seen: Array, place: Place, resolution: float = 0.7, shift: tuple[float, float] = (0, 0)) -> Array:
    """Backscatter at the pixels of the SAR grid without speckle, NaN where nothing is known: (2, height, width).

    The resolution cell is about 29 m times `resolution`; `shift` is a registration error in rows and columns of 10 m.
    """
    height, width = place.sar_shape
    # Every eighth pixel's place is computed, the others interpolated: the map projections are smooth.
    nodes = [np.append(np.arange(0, length - 1, 8.0), length - 1) for length in (height, width)]
    column, row = np.meshgrid(nodes[1] + 0.5, nodes[0] + 0.5)
    grid = place.sar_transform
    to_optical = Transformer.from_crs(place.sar_crs, place.crs, always_xy=True)
    x, y = to_optical.transform(grid.c + grid.a * column, grid.f + grid.e * row)
    rows = (place.transform.f - y) / PIXEL + MARGIN - 0.5 + shift[0]
    columns = (x - place.transform.c) / PIXEL + MARGIN - 0.5 + shift[1]
    index = [RectBivariateSpline(*nodes, each)(np.arange(height), np.arange(width)) for each in (rows, columns)]
    sar = np.empty((2, height, width), np.float32)
    for band, power in zip(sar, seen[4:], strict=True):
        ndimage.map_coordinates(ndimage.gaussian_filter(power, resolution), index, output=band, order=1, cval=np.nan)
    return sar


def few_digits(values: Array) -> Array:
    """Round to 3 digits, which compresses."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(np.ldexp(np.rint(mantissa * 512) / 512, exponent), np.float32)


def observe_sar(rng: Rng, seen: Array, place: Place) -> Array:
    """Sentinel-1 on its own grid: (2, height, width) linear power with speckle, NaN where nothing is known."""
    sar = sample_sar(seen, place)  # the resolution cell is about 20 m
    sar *= rng.gamma(LOOKS, 1 / LOOKS, sar.shape).astype(np.float32)
    return few_digits(sar)


def save(path: Path, data: Array, crs: CRS, transform: Affine, bands: tuple[str, ...], **profile: Any) -> None:
    """Write (bands, height, width) as a tiled, compressed GeoTIFF with described bands."""
    count, height, width = data.shape
    shape = {"count": count, "height": height, "width": width, "dtype": data.dtype.name}
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, **shape, **layout, **profile) as file:
        file.write(data)
        file.descriptions = bands
        if bands == ("labels",):
            file.write_colormap(1, COLOURS)
            file.update_tags(1, CLASS_SCHEME="esri-io", **{f"CLASS_{code}": name for code, name in CLASSES.items()})
        else:
            file.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (count - 1)


def read_signatures() -> dict[str, Any]:
    """Read the measurements that the simulation draws from."""
    signatures: dict[str, Any] = json.loads((Path(__file__).parent / "signatures.json").read_text())
    return signatures


def save_scene(folder: Path, place: Place, optical: Array, sar: Array, labels: Array) -> None:
    """Write ``s2.tif``, ``s1.tif`` and ``labels.tif`` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "s2.tif", optical, place.crs, place.transform, OPTICAL_BANDS, nodata=0, predictor=2)
    save(folder / "s1.tif", sar, place.sar_crs, place.sar_transform, SAR_BANDS, nodata=np.nan, predictor=3)
    save(folder / "labels.tif", labels[None], place.crs, place.transform, ("labels",), nodata=0)


def simulate(rng: Rng, folder: Path, size: int = 768) -> Place:
    """Simulate one scene and write it into the folder."""
    signatures = read_signatures()
    place = draw_place(rng, size, signatures)
    landscape = balanced_landscape(rng, size)
    seen = look(rng, landscape, place, signatures)
    optical = observe_optical(rng, seen, size)
    sar = observe_sar(rng, seen, place)
    save_scene(folder, place, optical, sar, landscape.cover[MARGIN:-MARGIN, MARGIN:-MARGIN])
    return place


def simulate_many(
    seed: int,
    count: int,
    folder: Path,
    size: int = 768,
    make: Callable[[Rng, Path, int], Place] = simulate,
    told: tuple[str, ...] = (),
) -> None:
    """Make scenes of different places, none that of `main` without a count, and list them in ``regions.toml``.

    `told` are lines of each scene there, on what the files do not tell by themselves.
    """
    entries = ['scheme = "esri-io"\n']
    for index in range(count):
        name = f"scene-{index:03d}"
        make(np.random.default_rng([seed, index]), folder / name, size)
        files = {"optical": "s2.tif", "sar": "s1.tif", "labels": "labels.tif"}
        lines = [f'{key} = "{name}/{file}"' for key, file in files.items()]
        entries.append("\n".join(["[[scenes]]", f'name = "{name}"', *lines, *told]) + "\n")
    (folder / "regions.toml").write_text("\n".join(entries))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Simulate a landscape and what Sentinel-1 and -2 would see of it.")
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="default %(default)s: the files of sample_data")
    parser.add_argument("--size", type=int, default=768, help="pixels along an edge of the optical scene, at least 128")
    parser.add_argument("--count", type=int, help="write this many scenes of other places and a regions.toml")
    parser.add_argument("--varied", action="store_true", help="make harder scenes, of many kinds of places")
    options = parser.parse_args()
    if options.size < 128:
        parser.error(f"--size is {options.size}; a landscape needs at least 128 pixels.")
    make: Callable[[Rng, Path, int], Place] = simulate
    told: tuple[str, ...] = ()
    if options.varied:  # haze hides the offset, and many looks the unit
        from vary import simulate_varied as make  # it imports this module

        told = ("optical_offset = 0", 'sar_scale = "power"')
    if options.count is None:
        make(np.random.default_rng(options.seed), options.outdir, options.size)
    else:
        simulate_many(options.seed, options.count, options.outdir, options.size, make, told)


if __name__ == "__main__":
    main()
