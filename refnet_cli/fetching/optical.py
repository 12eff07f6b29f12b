"""Optical composition: dates ranked by how clear they are over the area, the best first, holes filled from the next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import geometry_mask

from refnet_cli.errors import InputError
from refnet_cli.fetching.area import Area, zone_of
from refnet_cli.fetching.catalogues import OpticalCollection
from refnet_cli.fetching.items import SceneItem
from refnet_cli.fetching.reading import GridFile, Reader, blame, coarse_grid
from refnet_cli.sensors.offset import parse_baseline
from refnet_cli.sensors.quality import CLOUD_MASKS
from refnet_cli.tiles.window import Window
from refnet_cli.types import Bool, UInt8

PASS = timedelta(minutes=15)
"""Scenes of one pass begin within this time."""
SCL_PIXEL = 20.0
RANK_PIXELS = 1_000_000
"""Pixels at which dates are ranked; larger areas are ranked by overviews."""
SATURATED = 65_535
LARGEST = 65_534
BLOCK = 1024
"""Side in pixels of the blocks in which holes are filled."""
COMPLETE = 0.9999
"""Share of clear pixels from which no further date is added."""


@dataclass(frozen=True)
class OpticalDate:
    """The scenes of one pass, in the order in which they fill pixels."""

    items: tuple[SceneItem, ...]
    clear: float = math.nan
    """Share of the area that is clear."""
    replaced: tuple[str, ...] = field(default=())
    """Ids of older versions of its scenes."""

    @property
    def day(self) -> str:
        """Day of the acquisition, UTC."""
        return self.items[0].day

    @property
    def cloud(self) -> float:
        """Mean cloud cover in percent that the items state; 100 if none does."""
        known = [item.cloud for item in self.items if item.cloud is not None]
        return sum(known) / len(known) if known else 100.0


def group_by_date(items: Iterable[SceneItem], epsg: int) -> list[OpticalDate]:
    """Group scenes by pass, with the newest processing of each tile only.

    Parameters
    ----------
    items : iterable of SceneItem
    epsg : int
        UTM zone of the grid; tiles of this zone come first.

    Returns
    -------
    list of OpticalDate
        By time.
    """
    passes: list[list[SceneItem]] = []
    for item in sorted(items, key=lambda item: (item.acquired, item.id)):
        if passes and item.when - passes[-1][0].when <= PASS:
            passes[-1].append(item)
        else:
            passes.append([item])
    return [_without_old(one, epsg) for one in passes]


def clearest_by_day(dates: Sequence[OpticalDate]) -> list[OpticalDate]:
    """Return the clearest pass of each day, by day; days name scenes, and several satellites may see a place on one."""
    ordered = sorted(dates, key=lambda date: date.clear)
    return [date for _, date in sorted({date.day: date for date in ordered}.items())]


def _without_old(items: Sequence[SceneItem], epsg: int) -> OpticalDate:
    newest: dict[str, SceneItem] = {}
    for item in sorted(items, key=lambda item: (_version(item.baseline), item.id)):
        newest[item.tile or item.id] = item
    kept = sorted(newest.values(), key=lambda item: (_zone(item) != zone_of(epsg), item.tile, item.id))
    return OpticalDate(tuple(kept), replaced=tuple(sorted({item.id for item in items} - {item.id for item in kept})))


def _version(baseline: str) -> tuple[int, int]:
    """Return a baseline as numbers that can be compared.

    Examples
    --------
    >>> _version("05.10"), _version("N0301"), _version("")
    ((5, 10), (3, 1), (-1, 0))
    """
    major = parse_baseline(baseline) if baseline else None
    return (-1, 0) if major is None else (major, int(baseline.replace(".", "")[-2:]))


def _zone(item: SceneItem) -> int:
    digits = item.tile.rstrip("ABCDEFGHJKLMNPQRSTUVWXYZ")
    return int(digits) if digits.isdecimal() else 0


def is_clear(scl: NDArray[Any]) -> Bool:
    """Return which pixels of ESA's scene classification show the ground: no cloud, cirrus, cloud shadow or no data."""
    return ~CLOUD_MASKS["SCL"](scl) & (scl < 12)


@dataclass
class Ranking:
    """The clear pixels of each date on a coarse grid."""

    dates: list[OpticalDate]
    masks: list[NDArray[np.uint8]]
    """Clear pixels, packed into bits."""
    inside: Bool
    """Pixels of the area."""
    pixel: float
    """Size of the pixels in metres."""

    def clear(self, number: int) -> Bool:
        """Return the clear pixels of a date inside the area."""
        bits = np.unpackbits(self.masks[number], count=self.inside.size)
        return bits.astype(bool).reshape(self.inside.shape)


def rank(dates: Sequence[OpticalDate], area: Area, reader: Reader) -> Ranking:
    """Find the share of the area that is clear on each date.

    Reads the scene classification, its overviews where the area is large.

    Returns
    -------
    Ranking
        The clearest date first.

    Raises
    ------
    RefnetError
        See `Reader.open`.
    """
    height, width = area.grid.shape
    factor = max(2, math.ceil(math.sqrt(height * width / RANK_PIXELS)))
    grid = coarse_grid(area.grid, factor)
    pixel = 10.0 * factor
    inside = _inside(area, grid)
    whole = Window(0, 0, *grid.shape)
    found = []
    for date in dates:
        files = reader.open(((item, "SCL") for item in date.items), grid, "scene classification", pixel)
        reader.fetch((file, [whole]) for file in files)
        clear = np.zeros(grid.shape, bool)
        for file in files:
            clear |= is_clear(_classification(file, whole))
        if pixel > SCL_PIXEL:  # else filling needs it again
            reader.keep(files, None)
        clear &= inside
        share = float(clear.sum() / inside.sum())
        found.append((OpticalDate(date.items, round(share, 6), date.replaced), np.packbits(clear)))
    found.sort(key=lambda entry: (-entry[0].clear, entry[0].cloud, entry[0].items[0].acquired))
    return Ranking([date for date, _ in found], [mask for _, mask in found], inside, pixel)


def _classification(file: GridFile, window: Window, cells: Sequence[Window] | None = None) -> UInt8:
    with blame(file.item):
        scl = file.read_nearest(window, cells)
        if scl.dtype != np.uint8:
            raise InputError(f"The scene classification {file.raster.path} is {scl.dtype}; it must be uint8.")
        return scl


def _inside(area: Area, grid: GeoBox) -> Bool:
    """Return which pixels of a grid lie in an area; all if it is smaller than a pixel."""
    to_grid = Transformer.from_crs(4326, area.epsg, always_xy=True)
    shape = shapely.transform(area.shape, lambda points: np.stack(to_grid.transform(*points.T), axis=1))
    inside: Bool = geometry_mask([shape], grid.shape, grid.affine, invert=True)
    return inside if inside.any() else np.ones(grid.shape, bool)


def choose_dates(ranking: Ranking) -> tuple[list[OpticalDate], float]:
    """Choose the dates of a composite: the clearest, and in their order those that fill its holes.

    Returns
    -------
    dates : list of OpticalDate
    share : float
        Share of the area that is clear on one of them.
    """
    chosen: list[OpticalDate] = []
    covered = np.zeros_like(ranking.inside)
    total = int(ranking.inside.sum())
    for number, date in enumerate(ranking.dates):
        clear = ranking.clear(number)
        if (clear & ~covered).any():
            chosen.append(date)
            covered |= clear
        if covered.sum() >= COMPLETE * total:
            break
    return chosen, float(covered.sum() / total)


class Composite:
    """Pixels of the chosen dates on a grid.

    Parameters
    ----------
    dates : sequence of OpticalDate
        In the order in which they fill pixels.
    bands : sequence of str
    method : {"best", "median"}
    about : OpticalCollection
    grid : GeoBox
    reader : Reader
    """

    def __init__(
        self,
        dates: Sequence[OpticalDate],
        bands: Sequence[str],
        method: str,
        about: OpticalCollection,
        grid: GeoBox,
        reader: Reader,
    ) -> None:
        self._dates, self._bands, self._method, self._about = dates, bands, method, about
        self._grid, self._reader = grid, reader
        self._files: dict[int, tuple[list[GridFile], list[list[GridFile]]]] = {}

    def read(self, window: Window, after: Window | None) -> dict[str, NDArray[Any]]:
        """Read a window of the grid.

        Parameters
        ----------
        window : Window
        after : Window or None
            What is still to be read; bytes that it shares with this window are kept.

        Returns
        -------
        dict
            ``optical``: reflectance x 10,000, uint16, shape (B, H, W), 0 for no data, valid values from 1; and
            ``source``: uint16, shape (H, W), the number of the date that filled a pixel, from 1 (for the median the
            number of dates), 0 for none.
        """
        out = np.zeros((len(self._bands), window.height, window.width), np.uint16)
        source = np.zeros((window.height, window.width), np.uint16)
        stack: list[NDArray[np.uint16]] = []
        for number in range(len(self._dates)):
            target = out if self._method == "best" else np.zeros_like(out)
            filled = source if self._method == "best" else np.zeros_like(source)
            blocks = [part for part in window.pieces(BLOCK) if (filled[part.slices_in(window)] == 0).any()]
            if not blocks:
                break
            self._fill(number, blocks, window, target, filled)
            if self._method == "median":
                stack.append(target)
                source += filled > 0
        for files, rows in self._files.values():
            self._reader.keep([*files, *(file for row in rows for file in row)], after)
        if self._method == "median":
            out = median_of(stack, out)
        return {"optical": out, "source": source}

    def _open(self, number: int) -> tuple[list[GridFile], list[list[GridFile]]]:
        """Open the files of a date: its scene classifications, and the bands of each of its scenes."""
        if number not in self._files:
            items = self._dates[number].items
            scl = self._reader.open(((item, "SCL") for item in items), self._grid, "scene classification")
            there = [file.item for file in scl]
            bands = self._reader.open(((item, band) for item in there for band in self._bands), self._grid, "optical")
            rows = [[file for file in bands if file.item.id == item.id] for item in there]
            complete = [place for place, row in enumerate(rows) if len(row) == len(self._bands)]
            self._files[number] = [scl[place] for place in complete], [rows[place] for place in complete]
        return self._files[number]

    def _fill(
        self,
        number: int,
        blocks: Sequence[Window],
        window: Window,
        out: NDArray[np.uint16],
        source: NDArray[np.uint16],
    ) -> None:
        """Fill pixels that are still empty from a date, block by block.

        Of the bands only blocks are fetched in which the scene classification shows the ground of such a pixel.
        """
        classifications, rows = self._open(number)
        for scl, files in zip(classifications, rows, strict=True):
            empty = [(part, scl.cells(part, source[part.slices_in(window)] == 0)) for part in blocks]
            self._reader.fetch([(scl, [cell for _, cells in empty for cell in cells])])
            wanted = []
            for part, cells in empty:
                clear = is_clear(_classification(scl, part, cells)) & (source[part.slices_in(window)] == 0)
                if clear.any():
                    wanted.append((part, clear, [file.cells(part, clear) for file in files]))
            self._reader.fetch(
                (file, [cell for _, _, cells in wanted for cell in cells[place]]) for place, file in enumerate(files)
            )
            for part, clear, cells_of in wanted:
                place = part.slices_in(window)
                self._fill_block(number, files, part, clear, cells_of, out[:, *place], source[place])

    def _fill_block(
        self,
        number: int,
        files: Sequence[GridFile],
        part: Window,
        clear: Bool,
        cells: Sequence[Sequence[Window]],
        out: NDArray[np.uint16],
        source: NDArray[np.uint16],
    ) -> None:
        def read(file: GridFile, parts: Sequence[Window]) -> NDArray[np.uint16]:
            with blame(file.item):
                return self._reflectance(file, part, parts)

        values = list(self._reader.pool.map(read, files, cells))
        valid = clear & np.logical_and.reduce([band > 0 for band in values])
        for target, band in zip(out, values, strict=True):
            np.copyto(target, band, where=valid)
        source[valid] = number + 1

    def _reflectance(self, file: GridFile, part: Window, cells: Sequence[Window]) -> NDArray[np.uint16]:
        """Read reflectance x 10,000 without offset; 0 for no data and for saturated pixels."""
        dtype = file.raster.dataset.dtypes[0]
        if dtype != "uint16":
            raise InputError(f"The optical file {file.raster.path} is {dtype}; it must be uint16. Use another source.")
        nodata = self._about.nodata
        stored = file.read_as_stored(part, cells, nodata)
        if stored is None:
            resampled = file.read_resampled(part, cells, nodata)
            valid = np.isfinite(resampled)
            stored = np.rint(np.where(valid, resampled, 0)).astype(np.int32)
        else:
            valid = stored != nodata
            stored = stored.astype(np.int32)
        valid &= stored < SATURATED
        stored = np.clip(stored - round(file.item.offset), 1, LARGEST)
        return np.where(valid, stored, 0).astype(np.uint16)


def median_of(stack: Sequence[NDArray[np.uint16]], out: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return the median of the dates, each of shape (B, H, W), where 0 is no data; of an even number the lower one.

    Examples
    --------
    >>> dates = [np.full((1, 1, 1), value, np.uint16) for value in (0, 900, 400)]
    >>> int(median_of(dates, np.zeros((1, 1, 1), np.uint16))[0, 0, 0])
    400
    """
    if not stack:
        return out
    for band in range(len(out)):
        values = np.sort(np.stack([date[band] for date in stack]), axis=0)
        count = (values > 0).sum(axis=0)
        place = len(stack) - count + (np.maximum(count, 1) - 1) // 2
        out[band] = np.take_along_axis(values, np.minimum(place, len(stack) - 1)[None], axis=0)[0]
    return out
