"""Simulate training landscapes whose classes have signatures measured around the world.

``python weights/landscapes.py OUTDIR --pixels pixels.npz --count M`` writes them. Layouts, labels and both sensors are
those of ``sample_data/simulate.py --varied``; the signatures of the classes differ. In half of the scenes, trees,
crops, built area, bare ground and rangeland have means and spreads of measured pixels from one cell of one degree in
one season, so that they match each other. A class that the cell lacks comes from another cell of that latitude and
season. In the other half, signatures are drawn from the measurements in ``signatures.json``, from narrow to as wide as
measured. Only statistics of the pixels are used. ``inside_scene`` of the signatures is never used, so that its places
can be held out for scores.
"""

from __future__ import annotations

import argparse
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sample_data"))
from simulate import (
    BARE,
    BUILT,
    CROPS,
    FLOODED,
    MARGIN,
    RANGELAND,
    SEASONS,
    SNOW,
    TABLE,
    TREES,
    WATER,
    Array,
    Place,
    Rng,
    draw_place,
    field,
    observe_optical,
    read_signatures,
    save_scene,
    simulate_many,
)
from vary import (
    MEADOW,
    SCATTERERS,
    STAGE,
    Land,
    draw_classes,
    draw_recipe,
    generalise,
    lay_out,
    lean,
    log_uniform,
    measured,
    observe_sar_varied,
    root,
)

DEFAULT_SEED = 300_000
REAL = (TREES, CROPS, BUILT, BARE, RANGELAND)
"""Classes with enough measured pixels."""
LATITUDES, MONTHS = 10, 1
"""Degrees and months within which pixels of another cell may substitute missing ones."""
PRIOR = 6
"""Weight, in pixels, of the spread common to all cells relative to a cell's own pixels."""
KEPT_SAR = 0.8  # kept share of the variance: pixels contain the speckle of monthly composites, and scenes add their own
MOST_SPREAD = np.array([0.6, 0.6, 0.6, 0.6, 4, 4])
# Components of a class's spread: per field or stand, smooth texture, per pixel.
STEPS = {TREES: (0.6, 0.4, 0.35), CROPS: (0.95, 0.25, 0.2), RANGELAND: (0.8, 0.45, 0.3), BUILT: (0.5, 0.4, 0.7),
         WATER: (0.3, 0.9, 0.15), SNOW: (0.2, 0.9, 0.3)}  # fmt: skip
USUAL_STEPS = (0.7, 0.5, 0.4)
RADAR = {TREES: (0.0, 1.0), CROPS: (-2.0, 1.5), RANGELAND: (-1.0, 1.5), BUILT: (0.0, 1.5), BARE: (0.0, 2.0)}
"""Mean and spread between scenes, in dB, of an offset of each class's backscatter. The measured pixels are monthly
composites with two calibrations; fields and grass of real scenes are 1 to 2 dB darker."""

WATER_VV, WATER_VH_BELOW = (-29, -10), (6, 15)
"""VV of a scene's water in dB, from calm to rough, and the difference of VH below it."""

Look = tuple[Array, Array, Array]
"""Signature of a class: mean, spread and root of the correlation of log(reflectance x 10,000) (4 bands) and dB (2)."""


class Pixels(NamedTuple):
    """Measured pixels, as arrays of equal length."""

    values: Array
    """Logarithm of reflectance x 10,000 of B02, B03, B04 and B08, then VV and VH in dB, shape (n, 6)."""
    code: Array
    cell: Array
    month: Array
    latitude: Array


@lru_cache(maxsize=1)
def read_pixels(path: Path) -> Pixels:
    """Read ``pixels.npz`` (see the README next to it)."""
    with np.load(path) as arrays:
        values = np.concatenate([np.log(np.maximum(arrays["s2"][:, :4].astype(float), 30)), arrays["s1"]], axis=1)
        month = arrays["month"].astype(int)
        return Pixels(values, arrays["label"], arrays["cell"], month, arrays["lat"].astype(float))


@lru_cache(maxsize=16)
def spread_within(path: Path, code: int) -> Array:
    """Return the covariance of a class's pixels around the mean of their cell and month, (6, 6)."""
    pixels = read_pixels(path)
    values = pixels.values[pixels.code == code]
    keys = pixels.cell[pixels.code == code] * 100 + pixels.month[pixels.code == code]
    _, group, count = np.unique(keys, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(group, band) / count for band in values.T], axis=1)
    several = count[group] > 1
    size = count[group][several]
    deviations = (values - means[group])[several] * np.sqrt(size / (size - 1))[:, None]
    return np.asarray(np.cov(deviations.T) + 1e-3 * np.eye(6))


def months_apart(month: Array, other: Array | int) -> Array:
    """Return the difference of two months, 0 to 6."""
    apart: Array = np.abs(month - other) % 12
    return np.asarray(np.minimum(apart, 12 - apart))


def draw_from_cells(rng: Rng, path: Path) -> dict[int, Look]:
    """Return the signatures of the classes of a random cell and month."""
    pixels = read_pixels(path)
    cells = np.unique(pixels.cell[np.isin(pixels.code, (TREES, CROPS, RANGELAND))])
    cell = cells[rng.integers(len(cells))]
    own = np.flatnonzero(pixels.cell == cell)
    month, latitude = pixels.month[rng.choice(own)], pixels.latitude[own[0]]
    # Months are shifted by half a year if the cell lies in the other hemisphere.
    season = (pixels.month + 6 * ((pixels.latitude < 0) != (latitude < 0)) - 1) % 12 + 1
    looks = {}
    for code in REAL:
        of_class = pixels.code == code
        chosen = np.flatnonzero(of_class & (pixels.cell == cell) & (months_apart(pixels.month, month) <= MONTHS))
        if not len(chosen):
            near = np.abs(np.abs(pixels.latitude) - abs(latitude)) < LATITUDES
            others = np.flatnonzero(of_class & near & (months_apart(season, month) <= MONTHS))
            others = others if len(others) else np.flatnonzero(of_class)
            chosen = others[pixels.cell[others] == pixels.cell[rng.choice(others)]]
        looks[code] = look_of(rng, pixels.values[chosen], spread_within(path, code))
    return looks


def look_of(rng: Rng, values: Array, common: Array) -> Look:
    """Return the signature of a few pixels; with fewer pixels, the spread common to all cells counts more."""
    count = len(values)
    covariance = common
    if count > 1:
        covariance = (np.cov(values.T) * (count - 1) + common * PRIOR) / (count - 1 + PRIOR)
    deviation = np.sqrt(np.diag(common)) * (root_of(common) @ rng.standard_normal(6))
    mean = values.mean(0) + deviation / np.sqrt(count + 1)
    covariance = covariance.copy()
    covariance[4:, 4:] *= KEPT_SAR
    return mean, np.minimum(np.sqrt(np.diag(covariance)), MOST_SPREAD), root_of(covariance)


def root_of(covariance: Array) -> Array:
    """Return the root of a covariance's correlation matrix."""
    deviation = np.sqrt(np.diag(covariance))
    return root((covariance / deviation[:, None] / deviation).tolist())


def draw_from_signatures(rng: Rng, season: str, signatures: dict[str, Any]) -> dict[int, Look]:
    """Return signatures as in varied scenes, with a random spread: from near the medians to as wide as measured."""
    between, inside = rng.uniform(0.2, 1, 2)
    middles = {code: middle for code, (middle, *_) in measured(season, signatures).items()}
    looks = {}
    for code, (mean, spread, rooted) in draw_classes(rng, season, signatures).items():
        middle = middles.get(code, mean)
        looks[code] = (middle + between * (mean - middle), inside * spread, rooted)
    return looks


def draw_looks(rng: Rng, looks: dict[int, Look]) -> dict[int, Look]:
    """Return the signatures of all classes of one scene, varied by effects that the measurements do not cover."""
    for code, (middle, width) in RADAR.items():
        brighter = np.append(np.zeros(4), rng.normal(middle, width) + rng.normal(0, 0.3 * width, 2))
        looks[code] = (looks[code][0] + brighter, *looks[code][1:])
    looks[MEADOW] = looks[RANGELAND]
    water = looks[WATER][0].copy()
    water[4] = rng.uniform(*WATER_VV)
    water[5] = water[4] - rng.uniform(*WATER_VH_BELOW)
    looks[WATER] = (water, np.append(looks[WATER][1][:4], [1.5, 1.5]), looks[WATER][2])
    bare, built, grass = looks[BARE], looks[BUILT], looks[RANGELAND]
    if rng.random() < 0.6:  # sand, clay and salt are smooth; measured bare ground is often stony
        smooth = rng.uniform(0, 8)
        bare = (bare[0] - np.array([0, 0, 0, 0, smooth, 0.9 * smooth]), *bare[1:])
    if rng.random() < 0.5:  # roofs and roads made of local stone
        stone = rng.uniform(0, 0.9)
        mean = np.append((1 - stone) * built[0][:4] + stone * bare[0][:4], built[0][4:])
        built = (mean, built[1] * rng.uniform(0.4, 1), built[2])
    marsh = looks[FLOODED][0].copy()
    marsh[4:] = grass[0][4:] + rng.normal([1.5, 0], [3, 1.5])  # double bounce from stems above water, but not from bogs
    return looks | {BARE: bare, BUILT: built, FLOODED: (marsh, *looks[FLOODED][1:])}


def draw_stages(rng: Rng) -> Array:
    """Return how green each field is, (TABLE,), mean 0: most fields similar, or some green and some ripe or tilled."""
    low, high = rng.uniform(0.3, 2, 2)
    green = rng.beta(float(low), float(high), TABLE)
    return np.asarray(rng.uniform(2, 6) * (green - green.mean()), np.float32)


def paint(rng: Rng, land: Land, looks: dict[int, Look], stages: Array | None) -> Array:
    """Return reflectance x 10,000 (4 bands) and backscatter as linear power (2), (6, n, n), before sensor blur.

    ``stages`` (from `draw_stages`) varies the fields; None if the spread of crops already contains it.
    """
    n = len(land.cover)
    table = np.clip(rng.standard_normal((TABLE, 6)), -2.2, 2.2).astype(np.float32)
    size = log_uniform(rng, 5, 30)
    textures = np.stack([0.65 * field(rng, n, size) + 0.75 * field(rng, n, 2) for _ in range(6)], -1)
    walls = rng.uniform(0, 1)
    seen = np.empty((6, n, n), np.float32)
    for code, (mean, spread, rooted) in looks.items():
        inside = land.cover == code
        patch = land.patch[inside]
        pixel = rng.standard_normal((len(patch), 6), dtype=np.float32)
        by_patch, smooth, by_pixel = STEPS.get(code, USUAL_STEPS)
        offset = (by_patch * table[patch] + smooth * textures[inside] + by_pixel * pixel) @ rooted.T * spread
        if code == CROPS and stages is not None:
            offset = 0.6 * offset + stages[patch, None] * STAGE * spread
        if code == BUILT:
            offset[:, 4:] += walls * SCATTERERS * np.maximum(np.abs(pixel[:, :1]) - 0.5, 0)
        seen[:, inside] = (mean + offset).T
    down, right = (np.asarray(slope) for slope in np.gradient(land.relief * min(size, 20)))
    steep = rng.exponential(0.15) * np.clip(down - right, -2, 2)  # lit from the north west
    seen[:4] = np.exp(np.clip(seen[:4] + rng.normal(0, 0.05) + rng.normal(0, 0.03, (4, 1, 1)) + steep, 0, 9.9))
    seen[4:] = 10 ** ((seen[4:] + lean(rng, down, right)) / 10)
    return seen


def draw_scene(rng: Rng, path: Path, size: int) -> tuple[Place, Array, Array, Array]:
    """Return a random scene: place, reflectance (4, size, size), power on the place's SAR grid, labels (size, size)."""
    signatures = read_signatures()
    del signatures["inside_scene"]
    place = draw_place(rng, size, signatures)._replace(season=SEASONS[rng.integers(4)])
    place = place._replace(sar_crs=place.crs, sar_transform=place.transform, sar_shape=(size, size))
    land = lay_out(rng, size + 2 * MARGIN, draw_recipe(rng))
    looks, stages = draw_from_signatures(rng, place.season, signatures), None
    if rng.random() < 0.5:
        looks |= draw_from_cells(rng, path)
    else:
        stages = draw_stages(rng)
    seen = paint(rng, land, draw_looks(rng, looks), stages)
    seen[:4] = ndimage.gaussian_filter(seen[:4], (0, *[rng.uniform(0, 0.6)] * 2))
    labels = generalise(rng, land)
    labels[land.cover == MEADOW] = 0  # maps disagree on the class of mown grass
    inner = slice(MARGIN, -MARGIN)
    return place, observe_optical(rng, seen, size), observe_sar_varied(rng, seen, place), labels[inner, inner]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Simulate landscapes with signatures measured around the world.")
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--pixels", type=Path, required=True, help="pixels.npz of the folder of real places")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--size", type=int, default=256, help="pixels along an edge, at least 128")
    options = parser.parse_args()

    def make(rng: Rng, folder: Path, size: int) -> Place:
        place, *rasters = draw_scene(rng, options.pixels, size)
        save_scene(folder, place, *rasters)
        return place

    told = ("optical_offset = 0", 'sar_scale = "power"')
    simulate_many(options.seed, options.count, options.outdir, options.size, make, told)


if __name__ == "__main__":
    main()
