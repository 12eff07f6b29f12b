"""Calling ``refnet fetch`` on this machine's servers, and judging what it wrote by what the items hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter
from shapely.geometry import mapping

from tests.helpers.programs import Done, refnet
from tests.helpers.stac_items import AREA, BANDS, DATES, EPSG, PIXELS, Bounds, Json, Numbers, Optical, World, lonlat
from tests.helpers.stac_servers import Store, catalogue, write_source

FILES = ("s2.tif", "s1.tif", "labels.tif", "source.tif", "items.json", "regions.toml")
IMAGES = FILES[:4]
RASTERS = ("s2.tif", "s1.tif", "source.tif")
"""Those of a fetch without labels."""
TENS = tuple(band for band in BANDS if PIXELS[band] == 10)
FEW = ("--bands", "B02,B03,B04,B08")
"""Bands that say where a pixel is from, and no others."""
REFUSED = {65, 66, 75}
"""Exit codes of a fetch whose sources cannot be used."""


@dataclass
class Site:
    """Items, and the servers that hold them."""

    world: World
    files: Store
    catalogue: Store
    source: Path
    folder: Path

    def words(self, out: Path, *more: str, area: Bounds | Path | None = AREA, dates: str | None = DATES) -> list[str]:
        """The command that fetches an area."""
        if area is not None and not isinstance(area, Path):
            area = write_area(out.parent / f"{out.name}.geojson", {"place": area})
        what = [*(["--area", str(area)] if area else []), *(["--dates", dates] if dates else [])]
        return [
            "fetch", *what, "--source", str(self.source),
            "--allow-host", self.files.host, "--allow-host", self.catalogue.host, "-o", str(out), *more,
        ]  # fmt: skip

    def fetch(self, out: Path, *more: str, code: int = 0, **how: Any) -> Done:
        """Fetch an area and hold the exit code."""
        done = refnet(*self.words(out, *more, **how))
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stderr}"
        return done

    @contextmanager
    def use(self, items: Iterable[Json], **more: Any) -> Iterator[Site]:
        """Show other items of the same files, in a catalogue of their own; ``more`` is for `write_source`."""
        number = len(list(self.folder.iterdir()))
        folder = self.folder / f"items-{number}"
        with catalogue(items, folder) as front:
            source = write_source(folder / "source.toml", front.url, [self.files.host], **more)
            yield Site(self.world, self.files, front, source, self.folder)

    def items(self, collection: str = "") -> list[Json]:
        """Copies of the items of a collection, or of all."""
        return [json.loads(json.dumps(one)) for one in self.world.items if collection in ("", one["collection"])]


def write_area(path: Path, areas: dict[str, Bounds], epsg: int = EPSG, shrink: float = 2.0) -> Path:
    """Write areas as GeoJSON, a little smaller, so that their grid is that of the bounds."""
    features = [
        {"type": "Feature", "properties": {"name": name}, "geometry": mapping(lonlat(bounds, epsg, shrink))}
        for name, bounds in areas.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@dataclass
class Fetched:
    """What a fetch wrote."""

    folder: Path

    def read(self, name: str) -> NDArray[Any]:
        """Bands of a file."""
        with rasterio.open(self.folder / name) as file:
            values: NDArray[Any] = file.read()
        return values

    @cached_property
    def optical(self) -> dict[str, NDArray[Any]]:
        """Bands by name."""
        with rasterio.open(self.folder / "s2.tif") as file:
            return dict(zip(file.descriptions, file.read(), strict=True))

    @cached_property
    def sar(self) -> dict[str, NDArray[Any]]:
        """Bands by name; NaN for no data."""
        with rasterio.open(self.folder / "s1.tif") as file:
            return dict(zip(file.descriptions, file.read(masked=True).filled(np.nan), strict=True))

    @cached_property
    def grid(self) -> tuple[Any, ...]:
        """Size, place and CRS."""
        return self.grid_of("s2.tif")

    def grid_of(self, name: str) -> tuple[Any, ...]:
        """Size, place and CRS of a file."""
        with rasterio.open(self.folder / name) as file:
            return file.shape, tuple(file.transform)[:6], file.crs.to_epsg()

    @cached_property
    def places(self) -> tuple[Numbers, Numbers]:
        """Coordinates of the pixels' centres, as a row and a column."""
        (height, width), (pixel, _, west, _, _, north), _ = self.grid
        return west + (np.arange(width)[None] + 0.5) * pixel, north - (np.arange(height)[:, None] + 0.5) * pixel

    def match(self, acquisitions: Iterable[Optical]) -> NDArray[np.int64]:
        """For each pixel, the number of the acquisition whose values it has in all 10 m bands; -1 for no data.

        Raises
        ------
        AssertionError
            If a pixel has values of none.
        """
        found = np.full(self.grid[0], -2)
        bands = [band for band in TENS if band in self.optical]
        assert len(bands) > 2
        empty = np.all([self.optical[band] == 0 for band in bands], axis=0)
        some = np.any([self.optical[band] == 0 for band in bands], axis=0)
        assert (empty == some).all(), "some bands have no data where others have"
        found[empty] = -1
        for one in acquisitions:
            same = np.all([self.optical[band] == one.reflectance(band, *self.places) for band in bands], axis=0)
            found[same & ~empty & one.valid(*self.places)] = one.number
        rows, columns = np.nonzero(found == -2)
        assert not rows.size, (
            f"{rows.size} pixels have values of no acquisition, such as {rows[0]}, {columns[0]}: "
            f"{[int(self.optical[band][rows[0], columns[0]]) for band in bands]}"
        )
        return found

    def hashes(self, names: Iterable[str] = IMAGES) -> dict[str, str]:
        """Checksums of files."""
        return {name: hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in names}

    def contents(self, names: Iterable[str] = RASTERS) -> dict[str, Any]:
        """Checksum of the pixels, and the tags, of files; without that which names the catalogue."""
        found = {}
        for name in names:
            with rasterio.open(self.folder / name) as file:
                tags = file.tags() | file.tags(1) | {"bands": file.descriptions, "nodata": file.nodata}
                tags.pop("REFNET_FETCH_SOURCE", None)
                found[name] = hashlib.sha256(file.read().tobytes()).hexdigest(), tags
        return found


def plane(one: Optical, band: str, x: Numbers, y: Numbers) -> tuple[Numbers, float]:
    """What a coarser band of an acquisition is on its plane at places, and how far nearest pixels may be from it."""
    pixel, number = PIXELS[band], BANDS.index(band)
    across, down = 2 + number % 3, 2 + number // 3 % 3
    half = pixel / 20
    column, row = (x - one.bounds[0]) / 10 - half, (one.bounds[3] - y) / 10 - half
    return 150 + 37 * number + 350 * one.number + across * column + down * row, (across + down) * half + 1


def inner(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Places that are in a mask with all their neighbours; beyond the edge is in it."""
    found: NDArray[np.bool_] = minimum_filter(mask.astype(np.uint8), 2 * pixels + 1, mode="nearest") > 0
    return found


def outer(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Places that are in a mask or near it."""
    found: NDArray[np.bool_] = maximum_filter(mask.astype(np.uint8), 2 * pixels + 1, mode="nearest") > 0
    return found


def left_behind(out: Path) -> list[str]:
    """Files that a fetch wrote under their final names."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and not hidden(path, out))


def hidden(path: Path, out: Path) -> bool:
    """Whether a file is one of a working folder."""
    return any(part.startswith(".") for part in path.relative_to(out).parts)


def all_texts(out: Path) -> str:
    """Everything that is in the files of a folder, as text."""
    return "\n".join(path.read_bytes().decode("latin-1") for path in sorted(out.rglob("*")) if path.is_file())
