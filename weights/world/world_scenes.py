"""The scenes of places of the world: areas and seasons, fetching, and on which pixels two land-cover maps agree."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import shapely
from pyproj import Geod

from refnet_cli.fetching.area import Area, areas_of_file
from refnet_cli.fetching.catalogues import Catalogue, choose_catalogue
from refnet_cli.fetching.fetch import FetchReport, fetch
from refnet_cli.fetching.http import Http
from refnet_cli.fetching.items import read_labels
from refnet_cli.fetching.labels import MAX_YEARS, LabelMosaic, choose_year, items_of_template
from refnet_cli.fetching.options import FetchOptions
from refnet_cli.fetching.reading import Reader
from refnet_cli.fetching.search import Search
from refnet_cli.fetching.signing import Signer
from refnet_cli.system.atomic import replacing, write_text_atomic
from refnet_cli.tiles.window import Window
from refnet_cli.types import UInt8

LOG = logging.getLogger("refnet_cli.weights")
SEASONS = {
    "north": ("{year}-05-15/{year}-09-15", "{year}-03-01/{year}-05-10"),
    "tropics": ("{year}-05-01/{year}-10-31", "{year}-01-01/{year}-04-30"),
    "south": ("{year}-01-01/{year}-03-31", "{year}-08-01/{year}-11-15"),
}
"""Two parts of the year by where a place lies: the season of growth first."""
TROPICS = 23.4
"""Degrees of latitude."""
LABELS = ("worldcover", "io-lulc")
"""The labels, and the map that they are compared with."""
DIFFERENT = 40
"""Percent that a label counts on which the two maps differ."""
SCENE_FILES = ("s2.tif", "s1.tif", "labels.tif")
AGREEMENT = "agreement.tif"


@dataclass(frozen=True)
class Place:
    """A place as the table lists it."""

    name: str
    longitude: float
    latitude: float
    region: str
    continent: str
    held_out: bool

    @property
    def belt(self) -> str:
        """Key of `SEASONS`."""
        return "tropics" if abs(self.latitude) < TROPICS else "north" if self.latitude > 0 else "south"

    def outline(self, side: float) -> shapely.Polygon:
        """Return the polygon in longitude and latitude of a square with sides in metres."""
        angles = np.array([45.0, 135.0, 225.0, 315.0])
        ones = np.ones(4)
        x, y, _ = Geod(ellps="WGS84").fwd(
            self.longitude * ones, self.latitude * ones, angles, ones * side / math.sqrt(2)
        )
        return shapely.Polygon(np.column_stack([x, y]))


@dataclass(frozen=True)
class Scene:
    """A place in a season, from a source."""

    place: Place
    folder: Path

    @property
    def name(self) -> str:
        """Name in tables and regions files."""
        return f"{self.place.name}_{self.folder.parent.name}"

    @property
    def complete(self) -> bool:
        """Whether all of its files were fetched."""
        return all((self.folder / file).is_file() for file in SCENE_FILES)


def read_places(path: Path, small: bool) -> list[Place]:
    """Read the table of places, or its small set."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Place(row["name"], float(row["longitude"]), float(row["latitude"]), row["region"], row["continent"],
                  row["role"] == "held-out")
            for row in csv.DictReader(file) if row["small"] == "1" or not small
        ]  # fmt: skip


@dataclass(frozen=True)
class Fetcher:
    """Fetches the scenes of places into ``FOLDER/scenes/SOURCE-BELT-SEASON/PLACE``.

    Parameters
    ----------
    folder : Path
    places : tuple of Place
    sources : tuple of str
        Catalogues. Each gives scenes of its own: one of level L1C besides one of L2A teaches both.
    year : int
    side : float
        Metres of a place's side.
    allow_host : tuple of str
    workers : int
        Places at the same time.
    """

    folder: Path
    places: tuple[Place, ...]
    sources: tuple[str, ...]
    year: int
    side: float
    allow_host: tuple[str, ...] = ()
    workers: int = 4

    def parts(self) -> Iterator[tuple[Path, str, str, list[Place]]]:
        """Yield folder, source, dates and places of each source, belt and season."""
        for number, source in enumerate(self.sources, 1):
            for belt, seasons in SEASONS.items():
                places = [place for place in self.places if place.belt == belt]
                for season, dates in enumerate(seasons, 1):
                    if places:
                        folder = self.folder / "scenes" / f"{number}-{belt}-{season}"
                        yield folder, source, dates.format(year=self.year), places

    def scenes(self) -> list[Scene]:
        """Return all scenes, whether they are there or not."""
        return [Scene(place, folder / place.name) for folder, _, _, places in self.parts() for place in places]

    def areas(self, folder: Path, places: Sequence[Place]) -> Path:
        """Write the areas of places for `refnet fetch`, unless they are there, and return the file."""
        features = [
            {"type": "Feature", "properties": {"name": place.name},
             "geometry": shapely.geometry.mapping(place.outline(self.side))}
            for place in places
        ]  # fmt: skip
        path = folder.with_suffix(".geojson")
        text = json.dumps({"type": "FeatureCollection", "features": features})
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text_atomic(path, text)
        return path

    def run(self, dry_run: int = 0) -> list[FetchReport]:
        """Fetch what is missing; or only plan so many places of each part.

        Raises
        ------
        RefnetError
            If nothing of a part can be fetched.
        """
        reports = []
        for folder, source, dates, places in self.parts():
            chosen = places[:dry_run] if dry_run else places
            path = self.areas(folder.with_name(f"plan-{folder.name}") if dry_run else folder, chosen)
            LOG.info(f"{folder.name}: {len(chosen)} places, {dates}, from {source}")
            options = FetchOptions(
                folder if len(chosen) > 1 else folder / chosen[0].name, area=path, area_field="name", dates=dates,
                source=source, labels=LABELS[0], allow_host=self.allow_host, workers=self.workers,
                dry_run=bool(dry_run), min_clear=0.9,
            )  # fmt: skip
            reports.append(fetch(options))
        return reports

    def compare_labels(self) -> None:
        """Write on which pixels the labels agree with the second map, for each scene without that file."""
        for folder, source, _, _ in self.parts():
            missing = [
                scene for scene in self.scenes()
                if scene.folder.parent == folder and scene.complete and not (scene.folder / AGREEMENT).is_file()
            ]  # fmt: skip
            if missing:
                areas = {area.name: area for area in areas_of_file(folder.with_suffix(".geojson"), None, "name")}
                catalogue = choose_catalogue(source)
                http = Http(catalogue, self.allow_host, 8)
                search = Search(catalogue, http)
                for scene in missing:
                    with Reader(http, Signer(catalogue, http), 8) as reader:
                        _compare(scene.folder, areas.get(scene.place.name) or areas["scene"], self.year, catalogue,
                                 search, reader)  # fmt: skip


def _compare(
    folder: Path, area: Area, year: int, catalogue: Catalogue, search: Search, reader: Reader
) -> None:
    """Write `AGREEMENT`: band 1 is 100 where two maps agree and `DIFFERENT` elsewhere, band 2 has 0 elsewhere."""
    about = catalogue.labels[LABELS[1]]
    span = f"{year - MAX_YEARS}-01-01T00:00:00Z", f"{year + MAX_YEARS}-12-31T23:59:59Z"
    found = (
        search.find(about.collection, area.outline(), span, read_labels, about, overlapping=True)
        if about.collection else items_of_template(about, area)
    )  # fmt: skip
    _, items = choose_year(found, year, LABELS[1])
    with rasterio.open(folder / "labels.tif") as file:
        first: UInt8 = file.read(1)
        profile = {"crs": file.crs, "transform": file.transform, "height": file.height, "width": file.width}
    mosaic = LabelMosaic(items, about, area.grid, reader)
    second: UInt8 = mosaic.read(Window(0, 0, *area.grid.shape), None)["labels"]
    same = (first == second) & (first > 0)
    with replacing(folder / AGREEMENT) as temporary, rasterio.open(
        temporary, "w", driver="GTiff", count=2, dtype="uint8", nodata=255, compress="deflate", **profile
    ) as out:
        out.write(np.where(same, 100, np.where(first > 0, DIFFERENT, 0)).astype(np.uint8), 1)
        out.write(np.where(same, 100, 0).astype(np.uint8), 2)
