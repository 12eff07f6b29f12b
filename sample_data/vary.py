"""Simulate harder and more varied scenes to train on: many kinds of places, and all that differs from scene to scene.

``python sample_data/simulate.py OUTDIR --varied --count M`` makes them. What the sensors see (the cover) is as fine as
the measured pixels of ESA WorldCover; the labels are drawn from it as coarsely as Esri / Impact Observatory maps it.
Class means and spreads come from pixels all over the world (`between_places`, `between_correlation` and `snow` of
`signatures.json`); `inside_scene` is never used, so that its places can be held out for scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from simulate import (
    BARE,
    BUILT,
    CROPS,
    DRY,
    FLOODED,
    MARGIN,
    NAMES,
    RANGELAND,
    SEASONS,
    SNOW,
    SPECKLE_BIAS,
    TABLE,
    TREES,
    WATER,
    Array,
    Place,
    Rng,
    bricks,
    distance_to_line,
    draw_place,
    few_digits,
    field,
    mix,
    nearest,
    observe_optical,
    read_signatures,
    sample_sar,
    save_scene,
    top,
    turn,
)

MEADOW = 20  # a cover only: mown grass in parcels, which ESA calls grassland and Esri calls crops
# Kept of the measured spread: haze and radar angles, in it too, are simulated apart, and its labels have errors. With
# these two, all scenes together have about the measured percentiles again.
KEPT_OPTICAL, KEPT_SAR = 0.65, 0.8
BETWEEN_SHARE, BETWEEN_SHARE_CROPS = 0.6, 0.35  # of the variance lies between scenes, the rest inside one
COMPOSITE_SPECKLE = 1.5  # dB of the measured spread of SAR; the measured pixels were composites of a month
# What the classes of a scene share: vegetation by weather and season, ground by the colour of its soil. The rest of the
# variance between scenes is a class's own.
SHARED = {WATER: (0.0, 0.0), TREES: (0.8, 0.3), CROPS: (0.65, 0.6), BUILT: (0.1, 0.7), BARE: (0.0, 0.8),
          RANGELAND: (0.7, 0.55)}  # fmt: skip
# How fields of one scene differ by their stage, in standard deviations: the green ones are dark in red, bright in NIR.
STAGE = np.array([-0.5, -0.5, -0.9, 0.8, 0.1, 0.4])
# Steps of a class's variance: by field or stand, smooth texture, pixel by pixel.
STEPS = {BUILT: (0.5, 0.4, 0.8), WATER: (0.3, 0.9, 0.15), SNOW: (0.2, 0.9, 0.3)}
USUAL_STEPS = (0.7, 0.5, 0.4)
SCATTERERS = 3.0  # dB, of the heavy tail of buildings: walls that face the radar
HAZE = np.array([1.0, 0.7, 0.45, 0.15])  # path radiance: falls with wavelength
CONFUSED = {TREES: RANGELAND, CROPS: RANGELAND, RANGELAND: CROPS, BARE: RANGELAND, FLOODED: RANGELAND}  # by mappers


class Recipe(NamedTuple):
    """What kind of land a scene is: shares from 0 to 1, and the height of parcels in pixels."""

    wild: float  # of the scene is not farmed
    forest: float  # of the wild
    bare: float  # of the wild that is no forest
    crops: float  # of the parcels
    parcel: float
    water: float  # of the scene, as the others that follow
    wet: float
    built: float
    snow: float


# Lowest and highest value of each.
RECIPES = {
    "farms": ((0.02, 0.3), (0.2, 0.9), (0, 0.05), (0.75, 0.98), (8, 90), (0, 0.03), (0, 0.01), (0, 0.06), (0, 0)),
    "villages": ((0.05, 0.4), (0.2, 0.8), (0, 0.1), (0.6, 0.95), (3, 8), (0, 0.04), (0, 0.04), (0.02, 0.15), (0, 0)),
    "pasture": ((0.3, 0.8), (0.03, 0.3), (0, 0.15), (0.4, 0.95), (8, 90), (0, 0.03), (0, 0.03), (0, 0.03), (0, 0)),
    "forest": ((0.7, 1), (0.6, 0.98), (0, 0.1), (0.3, 0.8), (5, 30), (0, 0.25), (0, 0.08), (0, 0.04), (0, 0)),
    "city": ((0.1, 0.5), (0.2, 0.8), (0, 0.15), (0.3, 0.9), (5, 40), (0, 0.12), (0, 0.02), (0.25, 0.75), (0, 0)),
    "coast": ((0.3, 0.9), (0.1, 0.9), (0, 0.4), (0.3, 0.9), (4, 40), (0.3, 0.75), (0, 0.1), (0, 0.2), (0, 0)),
    "desert": ((0.7, 1), (0, 0.06), (0.3, 0.95), (0.4, 0.9), (8, 80), (0, 0.03), (0, 0), (0, 0.06), (0, 0)),
    "wetland": ((0.4, 0.9), (0.2, 0.7), (0, 0.1), (0.4, 0.9), (6, 40), (0.03, 0.3), (0.1, 0.4), (0, 0.05), (0, 0)),
    "mountains": ((0.8, 1), (0.2, 0.8), (0.1, 0.7), (0.2, 0.6), (4, 15), (0, 0.06), (0, 0), (0, 0.03), (0.05, 0.6)),
    "ice": ((1, 1), (0, 0.1), (0.4, 1), (0, 1), (9, 9), (0, 0.06), (0, 0), (0, 0), (0.7, 1)),
    "mixed": ((0.3, 0.6), (0.3, 0.7), (0.05, 0.3), (0.5, 0.8), (6, 40), (0.02, 0.1), (0.02, 0.1), (0.03, 0.2), (0, 0)),
}
SCARCE = {"ice": 0.8}  # how often, where the others are 1


class Land(NamedTuple):
    """Where everything is: each array is (n, n)."""

    cover: Array  # uint8, what the sensors see, in Esri/IO codes and MEADOW
    use: Array  # uint8, what the land is taken for: gardens are built, and a gap in a forest is forest
    patch: Array  # int64, key of the field, block or stand in tables of length TABLE
    relief: Array  # smooth height, mean 0


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def most(values: Array, share: float) -> Array:
    """Mask of the largest `share` of the values; of none or all of them, if share is 0 or 1."""
    return top(values, share) if 0 < share < 1 else np.full(values.shape, share >= 1)


def draw_recipe(rng: Rng) -> Recipe:
    """Draw the kind of land and how much of everything it has; often none, or all, of what may be scarce or common."""
    weights = np.array([SCARCE.get(name, 1.0) for name in RECIPES])
    ranges = RECIPES[rng.choice(list(RECIPES), p=weights / weights.sum())]
    values = {}
    for name, (low, high) in zip(Recipe._fields, ranges, strict=True):
        values[name] = rng.uniform(low, high)
        if name != "parcel" and (low < 0.05 or high > 0.95) and rng.random() < 0.35:
            values[name] = float(low >= 0.05)
    return Recipe(**values)._replace(parcel=log_uniform(rng, *ranges[4]))


def lay_farmland(rng: Rng, x: Array, y: Array, n: int, recipe: Recipe, table: Array) -> tuple[Array, Array]:
    """Parcels of their own direction on every estate, or fields under centre pivots: use and patch keys."""
    spacing = float(np.clip(10 * recipe.parcel, 60, 2 * n))
    estate = nearest(rng, x, y, n, spacing)
    u, v = turn(x, y, rng.uniform(0, np.pi) + rng.choice([0.1, 1.0]) * rng.standard_normal(TABLE)[estate])
    height = (recipe.parcel * rng.uniform(0.7, 1.4, TABLE))[estate]
    parcel = bricks(u, v, height, height * rng.uniform(1, rng.uniform(1.5, 5)), estate, table)
    others = rng.dirichlet([1.5, 1.0, 0.3]) * (1 - recipe.crops)
    kinds = np.array([CROPS, RANGELAND, TREES, BARE], np.uint8)
    use = kinds[np.searchsorted(np.cumsum([recipe.crops, *others])[:3], table[mix(parcel, 3)])]
    if recipe.parcel > 20 and rng.random() < 0.3:
        u, v = turn(x, y, rng.normal(0, 0.1))
        pitch = rng.uniform(42, 84)  # pixels; circles of a quarter or a half mile in radius
        parcel = mix(np.floor(u / pitch).astype(np.int64), np.floor(v / pitch).astype(np.int64), 12)
        circle = np.hypot(u % pitch - pitch / 2, v % pitch - pitch / 2) < 0.48 * pitch
        use = np.where(circle & (table[mix(parcel, 3)] < recipe.crops), CROPS, RANGELAND).astype(np.uint8)
        parcel = np.where(circle, parcel, estate)
    return use, parcel


def lay_wild(rng: Rng, x: Array, y: Array, n: int, recipe: Recipe) -> tuple[Array, Array]:
    """Forest, rangeland and bare ground in stands: use and patch keys."""
    stand = nearest(rng, x, y, n, log_uniform(rng, 8, 50))
    woods = field(rng, n, log_uniform(rng, 15, 120)) + rng.uniform(0, 0.5) * field(rng, n, 6)
    waste = field(rng, n, log_uniform(rng, 15, 90)) + rng.uniform(0, 0.5) * field(rng, n, 6)
    use = np.where(most(waste, recipe.bare), BARE, RANGELAND).astype(np.uint8)
    use[most(woods, recipe.forest)] = TREES
    return use, mix(stand, 5000)


def add_towns(rng: Rng, x: Array, y: Array, use: Array, cover: Array, patch: Array, share: float) -> None:
    """Set towns of buildings, streets, gardens and trees into use, cover and patch; and farmsteads and roads."""
    n = len(use)
    density = 0.5 * field(rng, n, log_uniform(rng, 8, 60))
    centres = rng.uniform(0, n, (max(1, int(rng.exponential(5))), 2))
    for column, row in centres:
        density += 2 * np.exp(-np.hypot(x - column, y - row) / log_uniform(rng, 8, 120))
    town = most(density, share)
    u, v = turn(x, y, rng.uniform(0, np.pi) + 0.5 * field(rng, n, 100, 2.5))
    pitch = rng.uniform(6, 18)
    row, column = (np.floor(axis / pitch).astype(np.int64) for axis in (u, v * rng.uniform(0.5, 1)))
    block = mix(row, column, 9000)
    sealed = rng.uniform(0.2, 0.85) + 0.25 * rng.standard_normal(TABLE)[block]
    kinds = np.array([RANGELAND, TREES, BARE], np.uint8)[rng.choice(3, TABLE, p=rng.dirichlet([2, 2, 0.5]))]
    garden = rng.random((n, n), dtype=np.float32) > sealed
    seen = np.where(garden, kinds[mix(block, 3)], BUILT)
    seen[(v % pitch < 1.2) & (rng.random(TABLE)[mix(row, 4)] < 0.7)] = BUILT
    use[town], cover[town], patch[town] = BUILT, seen[town], block[town]
    for _ in range(rng.integers(0, 5)):
        along = turn(x - rng.uniform(0, n), y - rng.uniform(0, n), rng.uniform(0, np.pi))[1]
        road = distance_to_line(along + 12 * field(rng, n, 90, 3)) < rng.uniform(0.5, 1.2)
        use[road] = cover[road] = BUILT
    farmstead = ndimage.binary_dilation(rng.random((n, n)) < rng.uniform(0, 0.0015), iterations=2) & (use == CROPS)
    use[farmstead] = BUILT
    cover[farmstead & (rng.random((n, n)) < 0.6)] = BUILT


def add_details(rng: Rng, use: Array, patch: Array, table: Array) -> Array:
    """Cover of the countryside: its use, but for hedges, single trees, gaps and bare spots that maps leave out."""
    n = len(use)
    cover = use.copy()
    border = (patch != np.roll(patch, 1, 0)) | (patch != np.roll(patch, 1, 1))
    hedge = border & (use == CROPS) & (table[mix(patch, 8)] < rng.uniform(0, 0.5) * (rng.random() < 0.6))
    fine = field(rng, n, 3) + 0.5 * field(rng, n, 40)
    scrub = (use == RANGELAND) & most(fine, rng.beta(0.7, 3) * 0.5)
    gap = (use == TREES) & most(-fine, rng.beta(0.7, 3) * 0.4)
    spot = (use == RANGELAND) & most(field(rng, n, 5) + 0.5 * field(rng, n, 40), rng.beta(0.7, 3) * 0.5)
    tuft = (use == BARE) & most(fine, rng.beta(0.7, 3) * 0.5)
    meadow = (use == CROPS) & (table[mix(patch, 9)] < rng.uniform(0, 0.4) * (rng.random() < 0.6))
    cover[meadow] = MEADOW
    cover[gap | tuft], cover[spot], cover[hedge | scrub] = RANGELAND, BARE, TREES
    return cover


def add_water(rng: Rng, land: Land, recipe: Recipe, table: Array) -> None:
    """Set lakes or a sea, a river, and flooded vegetation along them into use, cover and patch."""
    n = len(land.use)
    lake = most(-land.relief + rng.uniform(0, 0.2) * field(rng, n, 15), recipe.water)
    if rng.random() < 0.35 and recipe.snow < 0.5:
        y, x = np.mgrid[:n, :n].astype(np.float32)
        across = turn(x - n / 2, y - n / 2, rng.uniform(0, np.pi))[1] + rng.uniform(-0.3, 0.3) * n
        river = distance_to_line(across + rng.uniform(10, 60) * field(rng, n, 70, 3)) < log_uniform(rng, 0.7, 8)
        lake |= river
    far = ndimage.distance_transform_edt(~lake) if lake.any() else np.full((n, n), 99.0)
    marsh = most(field(rng, n, log_uniform(rng, 10, 50)) - np.minimum(far, 60).astype(np.float32) / 20, recipe.wet)
    land.use[marsh] = land.cover[marsh] = FLOODED
    pond = marsh & (table[mix(land.patch, 21)] < 0.1)
    land.cover[pond] = WATER
    land.use[lake] = land.cover[lake] = WATER
    land.patch[lake] = 78


def lay_out(rng: Rng, n: int, recipe: Recipe) -> Land:
    """Draw one landscape of n x n pixels."""
    table = rng.random(TABLE, dtype=np.float32)
    y, x = np.mgrid[:n, :n].astype(np.float32)
    bent = rng.uniform(0, 6)
    warped_x, warped_y = (axis + bent * field(rng, n, 40, 3) + 0.5 * field(rng, n, 5, 2.5) for axis in (x, y))
    relief = field(rng, n, log_uniform(rng, 30, 200), rng.uniform(1.8, 2.4))
    farmed, parcel = lay_farmland(rng, warped_x, warped_y, n, recipe, table)
    wild, stand = lay_wild(rng, warped_x, warped_y, n, recipe)
    is_wild = most(field(rng, n, log_uniform(rng, 20, 150)) + 0.6 * table[mix(parcel, 5)], recipe.wild)
    use, patch = np.where(is_wild, wild, farmed), np.where(is_wild, stand, parcel)
    cover = add_details(rng, use, patch, table)
    if recipe.built:
        add_towns(rng, warped_x, warped_y, use, cover, patch, recipe.built)
    land = Land(cover, use, patch, relief)
    add_water(rng, land, recipe, table)
    if recipe.snow:
        relief *= rng.uniform(1, 4)
        ragged = 0.3 * field(rng, n, 25) + rng.uniform(0, 0.3) * field(rng, n, 4)
        snow = most(relief / relief.std() + ragged, recipe.snow)
        use[snow] = SNOW
        bushes = most(field(rng, n, 4) + field(rng, n, 40), rng.beta(0.5, 3) * 0.5)  # and rocks come through
        cover[snow & ~bushes] = SNOW
    return land


def generalise(rng: Rng, land: Land) -> Array:
    """Labels as a mapper of coarse blobs draws them: some stands mistaken, then the commonest use nearby."""
    use = land.use.copy()
    mistaken = rng.random(TABLE)[land.patch] < rng.uniform(0, 0.08)
    for code, other in CONFUSED.items():
        if (land.use == other).any():
            use[mistaken & (land.use == code)] = other
    width, swollen = log_uniform(rng, 0.7, 5), rng.uniform(1, 1.6)  # settlements swallow what lies between houses
    best, labels = np.zeros(use.shape, np.float32), np.zeros_like(use)
    for code in np.unique(use):
        near = ndimage.gaussian_filter((use == code).astype(np.float32), width)
        near *= swollen if code == BUILT else 1
        labels[near > best] = code
        best = np.maximum(best, near)
    return labels


def root(correlation: list[list[float]]) -> Array:
    """Matrix that makes independent deviations correlated as given."""
    values, vectors = np.linalg.eigh(np.array(correlation))
    return np.asarray(vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T)


def measured(season: str, signatures: dict[str, Any]) -> dict[int, tuple[Array, Array, Array]]:
    """Middle, spread and root of the correlation of each measured class: logarithm of reflectance, and dB."""
    known = {}
    for code in SHARED:
        entry = signatures["between_places"][NAMES[code]][season]
        median, spread = np.array(entry["median"]), np.array(entry["spread"])
        middle = np.concatenate([np.log(median[:4]), median[4:] + SPECKLE_BIAS])
        spread[:4] *= KEPT_OPTICAL
        spread[4:] = KEPT_SAR * np.sqrt(np.maximum(spread[4:] ** 2 - COMPOSITE_SPECKLE**2, 1))
        known[code] = middle, spread, root(signatures["between_correlation"][NAMES[code]])
    return known


def draw_snow(rng: Rng, signatures: dict[str, Any]) -> tuple[Array, Array, Array]:
    """Middle, spread inside and root for snow or ice: reflectance as measured under snow, backscatter as known."""
    low, high = (np.log(np.array(signatures["snow"][key][:4])) for key in ("p50", "p95"))
    reflectance = low + rng.uniform(0.1, 0.9) * (high - low)
    reflectance += rng.exponential(0.1) * np.array([0, -0.1, -0.4, -1.0])  # old or wet grains, and ice, absorb in NIR
    kind = rng.choice(3, p=[0.4, 0.3, 0.3])  # dry snow shows the ground; wet snow absorbs; firn and glaciers scatter
    vv = [signatures["snow"]["p50"][4] + rng.normal(0, 2), rng.uniform(-19, -13), rng.uniform(-9, -2)][kind]
    middle = np.array([*reflectance, vv, vv - rng.uniform(6, 9)])
    spread = np.array([0.1, 0.1, 0.12, 0.15, 1.5, 1.5]) * log_uniform(rng, 0.4, 2)
    bands = np.eye(6)
    bands[:4, :4] = bands[:4, :4] * 0.05 + 0.95
    bands[4, 5] = bands[5, 4] = 0.7
    return middle, spread, root(bands.tolist())


def draw_classes(rng: Rng, season: str, signatures: dict[str, Any]) -> dict[int, tuple[Array, Array, Array]]:
    """Mean, spread inside the scene and root of the correlation of each class of one scene."""
    vegetation, soil = rng.standard_normal((2, 6))
    scene = {}
    for code, (middle, spread, rooted) in measured(season, signatures).items():
        green, ground = SHARED[code]
        own = rng.standard_normal(6)
        moved = np.sqrt(1 - green**2 - ground**2) * own + green * vegetation + ground * soil
        share = BETWEEN_SHARE_CROPS if code == CROPS else BETWEEN_SHARE
        moved = np.clip(rooted @ moved, -2, 2) * spread * np.sqrt(share)
        inside = spread * np.sqrt(1 - share) * (1 if code == CROPS else log_uniform(rng, 0.6, 1.3))
        scene[code] = middle + moved, np.minimum(inside, [0.4, 0.4, 0.4, 0.4, 4, 4]), rooted
    grass = scene[MEADOW] = scene[RANGELAND]
    dry = np.append(rng.uniform(0.5, 2.5) * DRY, [0, 0])
    scene[RANGELAND] = (grass[0] + dry, *grass[1:])  # Esri counts scrub, and only grass that nobody mows
    marsh = grass[0].copy()
    plants, pool = (np.exp(scene[code][0][:4]) for code in (TREES if rng.random() < 0.4 else RANGELAND, WATER))
    marsh[:4] = np.log(plants + rng.uniform(0, 0.5) * (pool - plants))
    marsh[4:] += rng.normal([3.5, 0.5], [2, 1.5])  # stems above water reflect twice, or the water shows
    return scene | {FLOODED: (marsh, 1.1 * grass[1], grass[2]), SNOW: draw_snow(rng, signatures)}


def deviate(rng: Rng, code: int, patch: Array, textures: Array, table: Array, spread: Array, rooted: Array) -> Array:
    """How k pixels of a class differ from its mean: (k, 6)."""
    by_patch, smooth, by_pixel = STEPS.get(code, USUAL_STEPS)
    pixel = rng.standard_normal((len(patch), 6), dtype=np.float32)
    offset = (by_patch * table[patch] + smooth * textures + by_pixel * pixel) @ rooted.T * spread
    if code == BUILT:
        offset[:, 4:] += SCATTERERS * np.maximum(np.abs(pixel[:, :1]) - 0.5, 0)
    return np.asarray(offset, np.float32)


def look(rng: Rng, land: Land, season: str, signatures: dict[str, Any]) -> Array:
    """Reflectance x 10000 (4 bands) and backscatter as linear power (2), (6, n, n), before either sensor blurs it."""
    n = len(land.cover)
    table = rng.standard_normal((TABLE, 6), dtype=np.float32)
    low, high = rng.uniform(0.3, 2, 2)
    green = rng.beta(float(low), float(high), TABLE)  # most fields alike, or some green and some ripe or tilled
    stage = rng.uniform(2, 6) * (green - green.mean())
    size = log_uniform(rng, 5, 30)
    textures = np.stack([0.65 * field(rng, n, size) + 0.75 * field(rng, n, 2) for _ in range(6)], -1)
    seen = np.empty((6, n, n), np.float32)
    for code, (mean, spread, rooted) in draw_classes(rng, season, signatures).items():
        inside = land.cover == code
        patch = land.patch[inside]
        offset = deviate(rng, code, patch, textures[inside], table, spread, rooted)
        if code == CROPS:
            offset = 0.6 * offset + stage[patch, None] * STAGE * spread
        seen[:, inside] = (mean + offset).T
    down, right = (np.asarray(slope) for slope in np.gradient(land.relief * min(size, 20)))
    seen[:4] = light(rng, seen[:4], down, right)
    seen[4:] = 10 ** ((seen[4:] + lean(rng, down, right)) / 10)
    return seen


def light(rng: Rng, logarithm: Array, down: Array, right: Array) -> Array:
    """Reflectance x 10000 under one scene's sun, correction of the atmosphere, and haze."""
    n = len(down)
    steep = rng.exponential(0.15) * np.clip(down - right, -2, 2)  # lit from the north west
    bright = np.exp(np.clip(logarithm + rng.normal(0, 0.08) + rng.normal(0, 0.04, (4, 1, 1)) + steep, 0, 9.9))
    thick = rng.exponential(250) if rng.random() < 0.4 else 0.0
    haze = thick * np.maximum(1 + rng.uniform(0, 0.5) * field(rng, n, 150, 2), 0)
    gloomy = rng.normal(-80, 40) * HAZE  # the measured medians have some haze; correcting for it goes wrong at times
    return np.asarray(bright * np.exp(-haze / 8000) + haze * HAZE[:, None, None] + gloomy[:, None, None], np.float32)


def lean(rng: Rng, down: Array, right: Array) -> Array:
    """Offsets in dB, (2, n, n), by angle of incidence, orbit, calibration and slopes that face the radar."""
    n = len(down)
    y, x = np.mgrid[:n, :n].astype(np.float32) / n - 0.5
    both, each = rng.normal(0, 0.8), rng.normal(0, 0.5, (2, 1, 1))
    across = turn(x, y, rng.uniform(0, 2 * np.pi))[0] * rng.normal(0, 0.7)
    facing = (right if rng.random() < 0.5 else -right) * rng.exponential(1.0)
    return np.asarray(both + each + across + np.clip(facing, -5, 5), np.float32)


def speckle(rng: Rng, shape: tuple[int, ...]) -> Array:
    """Multiplicative noise of 2 looks (one image) to 25 (the mean of many), of mean 1, often alike in neighbours."""
    looks = log_uniform(rng, 2, 25)
    width = rng.choice([0.0, rng.uniform(0.4, 0.9)])
    if not width:
        return np.asarray(rng.gamma(looks, 1 / looks, shape), np.float32)
    independent = max(1.0, 4 * np.pi * width**2)  # pixels in one smoothing window
    few = max(0.5, looks / independent)
    return np.asarray(ndimage.gaussian_filter(rng.gamma(few, 1 / few, shape), (0, width, width)), np.float32)


def observe_sar_varied(rng: Rng, seen: Array, place: Place) -> Array:
    """Sentinel-1 with one scene's resolution, registration, speckle and noise of the instrument."""
    sar = sample_sar(seen, place, rng.uniform(0.5, 1.5), tuple(rng.normal(0, 0.3, 2).clip(-0.9, 0.9)))
    sar += 10 ** (rng.uniform(-34, -23) / 10)
    return few_digits(sar * speckle(rng, sar.shape))


def simulate_varied(rng: Rng, folder: Path, size: int = 768) -> Place:
    """Simulate one varied scene and write it into the folder."""
    signatures = read_signatures()
    del signatures["inside_scene"]  # measured at places that are held out for scores
    place = draw_place(rng, size, signatures)._replace(season=SEASONS[rng.integers(4)])
    if rng.random() < 0.3:  # a product on one grid
        place = place._replace(sar_crs=place.crs, sar_transform=place.transform, sar_shape=(size, size))
    land = lay_out(rng, size + 2 * MARGIN, draw_recipe(rng))
    seen = look(rng, land, place.season, signatures)
    seen[:4] = ndimage.gaussian_filter(seen[:4], (0, *[rng.uniform(0, 0.6)] * 2))
    optical = observe_optical(rng, seen, size)
    sar = observe_sar_varied(rng, seen, place)
    save_scene(folder, place, optical, sar, generalise(rng, land)[MARGIN:-MARGIN, MARGIN:-MARGIN])
    return place
