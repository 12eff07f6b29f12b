"""Places all over the world as a catalogue serves them: pieces of the sample scene in two seasons."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer

from refnet_cli.classes.schemes import SCHEMES
from tests.helpers.programs import ROOT
from tests.helpers.stac_items import CLEAR, Bounds, Labels, World, corner, write_cog
from tests.helpers.stac_scenes import BANDS, OpticalFiles, SarFiles, add_worldcover, sample_pieces
from tests.helpers.stac_servers import catalogue, store, write_source

PIECE, SIDE = 120, 960.0
"""Pixels of a piece of the sample, and metres of a place's side, which fits into it however it is turned."""
SEEN = {
    "north": (datetime(2021, 7, 5, 10, 20), datetime(2021, 4, 2, 10, 20)),
    "tropics": (datetime(2021, 7, 5, 10, 20), datetime(2021, 2, 2, 10, 20)),
    "south": (datetime(2021, 2, 2, 10, 20), datetime(2021, 9, 9, 10, 20)),
}


def choose_places(count: int) -> list[dict[str, str]]:
    """Choose places of the real table, of all belts, a quarter of them held out."""
    with (ROOT / "weights" / "world" / "places.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if 8 < abs(float(row["latitude"])) < 60]
    held_out = [row for row in rows if row["role"] == "held-out"]
    learned = [row for row in rows if row["role"] == "train"]
    few = count // 4
    return held_out[:: len(held_out) // few][:few] + learned[:: len(learned) // (count - few)][: count - few]


def write_places(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write a table of places."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path


def simulate(folder: Path, url: str, rows: list[dict[str, str]]) -> World:
    """Write the files of the places: in the second season darker; the second map differs in a corner."""
    world = World(folder, url)
    pieces = sample_pieces(PIECE)
    for number, row in enumerate(rows):
        longitude, latitude = float(row["longitude"]), float(row["latitude"])
        epsg = (32600 if latitude > 0 else 32700) + int((longitude + 180) // 6) + 1
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(longitude, latitude)
        half = PIECE * 5
        west, north = round((x - half) / 60) * 60, round((y + half) / 60) * 60
        bounds: Bounds = (west, north - 2 * half, west + 2 * half, north)
        belt = "tropics" if abs(latitude) < 23.4 else "north" if latitude > 0 else "south"
        _add_place(world, number, bounds, epsg, SEEN[belt], pieces[number])
    return world


def _add_place(
    world: World, number: int, bounds: Bounds, epsg: int, times: tuple[datetime, ...],
    piece: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
) -> None:  # fmt: skip
    optical, sar, labels = piece
    west, _, _, north = bounds
    common: dict[str, Any] = {"bounds": bounds, "epsg": epsg, "folder": world.folder, "url": world.url}
    made = world.folder / "made" / str(number)
    scl = np.full((PIECE // 2, PIECE // 2), CLEAR, np.uint8)
    tile = f"{epsg % 100:02d}{'N' if epsg < 32700 else 'M'}{chr(65 + number // 20)}{chr(65 + number % 20)}"
    for season, time in enumerate(times):
        time += timedelta(seconds=number)
        stored = np.where(optical > 0, np.maximum(optical * (1 - 0.1 * season), 1), 0).astype(np.uint16)
        files = {"SCL": write_cog(made / f"{season}-SCL.tif", scl, corner(west, north, 20), epsg, None)}
        for band, values in zip(BANDS, stored, strict=True):
            files[band] = write_cog(made / f"{season}-{band}.tif", values, corner(west, north, 10), epsg, 0)
        world.add(OpticalFiles(**common, number=2 * number + season, time=time, tile=tile, files=files,
                               cloud_cover=0.0))  # fmt: skip
        radar = {
            name: write_cog(made / f"{season}-{name}.tif", values, corner(west, north, 10), epsg, -32768)
            for name, values in zip(("VV", "VH"), sar, strict=True)
        }
        world.add(SarFiles(**common, number=0, time=time + timedelta(hours=7), files=radar))
    second = labels.copy()
    second[:40, :40] = np.where(labels[:40, :40] == 5, 11, 5)
    world.add(Labels(bounds, epsg, 2021, world.folder, world.url, tile, lambda column, row: second[row, column]),
              "io_lulc")  # fmt: skip
    add_worldcover(world, bounds, epsg, labels, f"{tile}{number:03d}")


@contextmanager
def serving(folder: Path, rows: list[dict[str, str]]) -> Iterator[tuple[World, Any, Path]]:
    """Serve places, and yield what they hold, the server of files, and the description of the catalogue."""
    with store(folder / "files") as files:
        world = simulate(folder / "files", files.url, rows)
        with catalogue(world.items, folder / "items") as front:
            yield world, files, write_source(folder / "local.toml", front.url, [files.host])


def draw_sample(folder: Path, rows: list[dict[str, str]], points: int, path: Path) -> dict[str, float]:
    """Draw so many pixels of each held-out place, all with the same chance; return the true hectares of each class.

    Places are strata. What is true is the label of each pixel in the place's first season.
    """
    names = dict(zip(SCHEMES["esri-io"].codes, SCHEMES["esri-io"].names, strict=True))
    places = [folder.glob(f"scenes/*-1/{row['name']}/labels.tif") for row in rows if row["role"] == "held-out"]
    labels = {}
    for place in (path for found in places for path in found):
        with rasterio.open(place) as file:
            labels[place.parent.name] = (file.read(1), file.transform, file.crs.to_epsg())
    everywhere = np.concatenate([codes.ravel() for codes, _, _ in labels.values()])
    assert (everywhere > 0).all()
    random, lines = np.random.default_rng(1), ["place,x,y,crs,class,stratum,weight"]
    for name, (codes, transform, epsg) in labels.items():
        for pixel in random.choice(codes.size, points, replace=False):
            row, column = divmod(int(pixel), codes.shape[1])
            x, y = transform.c + 10 * column + 5, transform.f - 10 * row - 5
            weight = codes.size / everywhere.size
            lines.append(f"{name},{x},{y},EPSG:{epsg},{names[codes[row, column]]},{name},{weight}")
    path.write_text("\n".join(lines) + "\n")
    return {names[code]: float((everywhere == code).sum()) / 100 for code in np.unique(everywhere)}
