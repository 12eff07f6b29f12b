"""Raster files of the same bands side by side, read as one image: export tiles, slices, neighbouring tiles."""

from __future__ import annotations

import shlex
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.transform import Affine

from refnet_cli.errors import InputError
from refnet_cli.raster.fills import fill_mask
from refnet_cli.raster.georeference import AffinePlace, apply, crs_name, moved
from refnet_cli.raster.raster import Raster
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

MOST_OPEN = 8  # pieces of one image that are open at a time, in each thread
_MOST_PIXELS = 1 << 34
_OFF = 1e-3  # pixels by which corners may lie off the first piece's
_MOST_SHARED = 0.5  # of each of two pieces; more is the same ground twice
_INSIDE = 0.99  # of the smaller of two pieces; more is the same ground twice, and less is a narrow piece at an edge
_COMPARED = 16  # pairs of overlapping pieces
_SIDE = 256  # pixels that are compared


class Footprint(NamedTuple):
    """Where a raster file lies and how its values are stored."""

    path: str
    shape: tuple[int, int]
    transform: Affine
    crs: CRS
    by_points: bool
    stored: dict[str, Any]
    """Data types, declared scales, units, and what names and tags say of values: alike in pieces of one image.

    Alpha bands do not count."""
    tags: dict[str, str]

    @classmethod
    def of(cls, raster: Raster) -> Footprint:
        """Look at an opened file."""
        dataset, tags, path = raster.dataset, raster.tags, raster.path
        bands = [band for band in range(dataset.count) if band + 1 not in raster.alphas]
        dtypes, scales, offsets, units, texts = (
            tuple(values[band] for band in bands)
            for values in (dataset.dtypes, dataset.scales, dataset.offsets, dataset.units, dataset.descriptions)
        )
        stored: dict[str, Any] = {"data types": dtypes, "scales": scales, "offsets": offsets, "units": units}
        if sensor := raster.sensor:
            stated = sensor.stated(tags, path, texts, units)
            stored[sensor.statement] = stated and stated[0]
        return cls(path, raster.shape, raster.transform, raster.crs, raster.by_points, stored, tags)


class NotOneImageError(Exception):
    """Files are no pieces of one image; its text says why, and what to do."""


class Placed(NamedTuple):
    """A piece of an image: its number among the files, its place in the image's pixels, and its tags."""

    file: int
    window: Window
    tags: dict[str, str]


def arrange(pieces: Mapping[int, Footprint]) -> tuple[Placed, ...]:
    """Find the place of each piece in one image.

    Parameters
    ----------
    pieces : mapping of int to Footprint
        By their files' numbers; where two overlap, the earlier one counts.

    Raises
    ------
    NotOneImageError
        If they have no pixels in common grid, are stored differently, or show the same ground.
    """
    first = next(iter(pieces.values()))
    origins = [_origin(first, piece) for piece in pieces.values()]
    top, left = (min(origin[axis] for origin in origins) for axis in (0, 1))
    placed = [
        Placed(file, Window(row - top, column - left, *piece.shape), piece.tags)
        for (file, piece), (row, column) in zip(pieces.items(), origins, strict=True)
    ]
    height, width = shape_of(placed)
    if height * width > _MOST_PIXELS:
        raise NotOneImageError(
            f"{first.path} and the others span {width} x {height} pixels, more than 2^34. Give pieces of one place"
        )
    one, other = _largest_overlap(placed)
    if one != other:
        raise NotOneImageError(
            f"{pieces[placed[one].file].path} and {pieces[placed[other].file].path} show the same ground. Give one"
        )
    return tuple(placed)


def _origin(first: Footprint, piece: Footprint) -> tuple[int, int]:
    """Return row and column of a piece's corner in pixels of the first."""
    both = f"{first.path} and {piece.path}"
    if first.by_points or piece.by_points:
        raise NotOneImageError(f"{both} are placed by ground control points. Terrain-correct and join them first")
    if piece.crs != first.crs:
        fact = f"{both} are in {crs_name(first.crs)} and {crs_name(piece.crs)}"
        raise NotOneImageError(f"{fact}. {_warp(first, piece)}")
    if piece is not first and _same_ground(first, piece):
        raise NotOneImageError(f"{both} show the same ground. Give one")
    height, width = piece.shape
    corners = np.array([[0, width, 0], [0, 0, height]], np.float64)
    columns, rows = apply(~first.transform, *apply(piece.transform, corners[0], corners[1]))
    column, row = round(float(columns[0])), round(float(rows[0]))
    steps = columns[1] - columns[0] - width, rows[1] - rows[0], columns[2] - columns[0], rows[2] - rows[0] - height
    if max(map(abs, steps)) > _OFF:
        sizes = " and ".join(f"{abs(each.transform.a):.6g} x {abs(each.transform.e):.6g}" for each in (first, piece))
        raise NotOneImageError(f"{both} have pixels of {sizes}. {_warp(first, piece)}")
    off = columns[0] - column, rows[0] - row
    if max(map(abs, off)) > _OFF:
        raise NotOneImageError(
            f"the pixels of {both} lie {abs(off[0]):.3g} columns and {abs(off[1]):.3g} rows off each other. "
            f"{_warp(first, piece)}"
        )
    if piece.stored != first.stored:
        raise NotOneImageError(
            f"{both} are stored differently ({_difference(first.stored, piece.stored)}). Give pieces of one product"
        )
    return row, column


def _same_ground(first: Footprint, piece: Footprint) -> bool:
    """Whether two files of one reference system show the same ground by `_is_same`."""
    boxes = []
    for each in (first, piece):
        height, width = each.shape
        x, y = apply(each.transform, np.array([0.0, width, 0, width]), np.array([0.0, 0, height, height]))
        boxes.append((x.min(), x.max(), y.min(), y.max()))
    (west, east, south, north), (left, right, low, high) = boxes
    shared = max(min(east, right) - max(west, left), 0) * max(min(north, high) - max(south, low), 0)
    return bool(_is_same(shared, (east - west) * (north - south), (right - left) * (high - low)))


def lie_apart(first: Footprint, piece: Footprint) -> bool:
    """Whether two files may be pieces of one image by their places."""
    placed = not (first.by_points or piece.by_points)
    return placed and first.crs == piece.crs and not _same_ground(first, piece)


def _is_same(shared: Any, one: Any, other: Any) -> Any:
    """Tell by areas whether two pieces share most of each, or one lies in the other."""
    return (shared > _MOST_SHARED * np.maximum(one, other)) | (shared > _INSIDE * np.minimum(one, other))


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return "; ".join(f"{kind} {value} and {other[kind]}" for kind, value in one.items() if value != other[kind])


def _warp(first: Footprint, piece: Footprint) -> str:
    """Say how to bring two pieces onto one grid."""
    authority = first.crs.to_authority()
    code = ":".join(authority) if authority else shlex.quote(first.crs.to_wkt())
    names = " ".join(shlex.quote(each.path) for each in (first, piece))
    size = f"{abs(first.transform.a):.15g} {abs(first.transform.e):.15g}"
    return f"Bring them onto one grid first: `gdalwarp -t_srs {code} -tr {size} -tap {names} joined.tif`"


def shape_of(placed: Sequence[Placed]) -> tuple[int, int]:
    """Return height and width of the image that pieces make."""
    return (
        max(piece.window.row + piece.window.height for piece in placed),
        max(piece.window.column + piece.window.width for piece in placed),
    )


def _edges(placed: Sequence[Placed]) -> NDArray[np.int64]:
    """Return first and last rows and columns of pieces, shape (4, n)."""
    windows = np.array([piece.window for piece in placed], np.int64).T
    return np.stack([windows[0], windows[0] + windows[2], windows[1], windows[1] + windows[3]])


def _shared(edges: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Return how many pixels a piece shares with each, shape (n,)."""
    top, bottom, left, right = edges
    down = np.minimum(bottom, bottom[number]) - np.maximum(top, top[number])
    across = np.minimum(right, right[number]) - np.maximum(left, left[number])
    return np.asarray(np.maximum(down, 0) * np.maximum(across, 0))


def _largest_overlap(placed: Sequence[Placed]) -> tuple[int, int]:
    """Return two pieces that show the same ground by `_is_same`; twice the same if none do."""
    edges = _edges(placed)
    areas = (edges[1] - edges[0]) * (edges[3] - edges[2])
    for number in range(len(placed)):
        shared = _shared(edges, number)[:number]
        found = np.flatnonzero(_is_same(shared, areas[:number], areas[number]))
        if found.size:
            return int(found[0]), number
    return 0, 0


class Mosaic(Raster):
    """Files side by side as one raster; see `Raster`.

    Parameters
    ----------
    paths : sequence of str
        Of the files among which the pieces are.
    placed : sequence of Placed
        The pieces; the first says what the bands are.
    what : str
    allow_vrt : bool
    """

    def __init__(self, paths: Sequence[str], placed: Sequence[Placed], what: str, allow_vrt: bool = False) -> None:
        self._paths = [paths[piece.file] for piece in placed]
        super().__init__(self._paths[0], what, allow_vrt=allow_vrt)
        self._windows, self._allow_vrt = [piece.window for piece in placed], allow_vrt
        self._tags = {key: value for piece in reversed(placed) for key, value in piece.tags.items()}
        self._shape, self._edges = shape_of(placed), _edges(placed)
        first = self._windows[0]
        self._transform = moved(self.dataset.transform, Window(-first.row, -first.column, 0, 0))
        self.place = AffinePlace(self._transform)
        self._opened: OrderedDict[int, Raster] = OrderedDict()

    @property
    def shape(self) -> tuple[int, int]:
        """See `Raster.shape`."""
        return self._shape

    @property
    def transform(self) -> Affine:
        """See `Raster.transform`."""
        return self._transform

    @property
    def tags(self) -> dict[str, str]:
        """See `Raster.tags`."""
        return self._tags

    def close(self) -> None:
        """Close all pieces."""
        for raster in self._opened.values():
            raster.close()
        self._opened.clear()
        super().close()

    def _piece(self, number: int) -> Raster:
        """Return an opened piece, and close the one that was read longest ago if there are too many."""
        if number in self._opened:
            self._opened.move_to_end(number)
        else:
            while len(self._opened) >= MOST_OPEN:
                self._opened.popitem(last=False)[1].close()
            self._opened[number] = Raster(self._paths[number], self.what, allow_vrt=self._allow_vrt)
        self._opened[number].fills = self.fills
        return self._opened[number]

    def _within(self, window: Window) -> list[tuple[int, Window, tuple[slice, slice]]]:
        """Return the pieces that a window meets: numbers, windows of theirs, and places in the window."""
        top, bottom, left, right = self._edges
        meets = (top < window.row + window.height) & (bottom > window.row)
        meets &= (left < window.column + window.width) & (right > window.column)
        found = []
        for number in map(int, np.flatnonzero(meets)):
            piece = self._windows[number]
            own = window._replace(row=window.row - piece.row, column=window.column - piece.column)
            own = own.clip(piece.height, piece.width)
            row, column = own.row + piece.row - window.row, own.column + piece.column - window.column
            found.append((number, own, np.s_[row : row + own.height, column : column + own.width]))
        return found

    def read(self, bands: Sequence[int], window: Window) -> NDArray[Any]:
        """See `Raster.read`; 0 between the pieces."""
        out = np.zeros((len(bands), window.height, window.width), self.dataset.dtypes[bands[0] - 1])
        for number, own, place in reversed(self._within(window)):
            out[:, *place] = self._piece(number).read(bands, own)
        return out

    def read_valid(self, bands: Sequence[int], window: Window) -> tuple[Float32, int]:
        """See `Raster.read_valid`; NaN between the pieces.

        Of pieces that overlap, the first valid one counts, and what `fills` name only where no other has more.
        """
        out = np.full((len(bands), window.height, window.width), np.nan, np.float32)
        non_finite = 0
        for number, own, place in self._within(window):
            values, wrong = self._piece(number).read_valid(bands, own)
            non_finite += wrong
            there = out[:, *place]
            empty = np.isnan(there)
            if self.fills.values:
                empty |= fill_mask(there, self.fills.values) & ~np.isnan(values)
            np.copyto(there, values, where=empty)
        return out, non_finite

    def read_measured(self, bands: Sequence[int], window: Window) -> tuple[Float32, int]:
        """See `Raster.read_measured`; a piece is blended with its own fills where another piece fills them too."""
        values, non_finite = super().read_measured(bands, window)
        within = self._within(window)
        if self.fills.values and len(within) > 1:
            absent = np.isnan(values)
            values[:] = np.nan
            for number, own, place in within:
                there = values[:, *place]
                np.copyto(there, self._piece(number).read_measured(bands, own)[0], where=np.isnan(there))
            values[absent] = np.nan
        return values, non_finite

    def read_near(self, bands: Sequence[int], window: Window, margin: int) -> tuple[Float32, NDArray[np.bool_]]:
        """See `Raster.read_near`; holes are those of the piece that a pixel is from, and those of the image."""
        values, near = super().read_near(bands, window, margin)
        within = self._within(window)
        if len(within) > 1:
            missing = np.ones(near.shape, bool)
            for number, own, place in within:
                piece, near_own = self._piece(number).read_near(bands, own, margin)
                new = missing[place] & np.isfinite(piece).any(axis=0)
                near[place] |= near_own & new
                missing[place] &= ~new
        return values, near

    def read_pieces(self, bands: Sequence[int], window: Window) -> Iterator[Float32]:
        """See `Raster.read_pieces`."""
        for number, own, _ in self._within(window):
            yield from self._piece(number).read_pieces(bands, own)

    def cut(self, window: Window) -> Iterator[Window]:
        """See `Raster.cut`; one for each piece, so that a damaged one spoils no other."""
        for _, own, place in self._within(window):
            yield Window(window.row + place[0].start, window.column + place[1].start, own.height, own.width)

    def compare(self) -> str:
        """Say how pieces differ where they overlap; nothing if they do not."""
        worst: tuple[float, str] = 0.0, ""
        for one, other in self._overlapping():
            a, b = self._windows[one], self._windows[other]
            row, column = max(a.row, b.row), max(a.column, b.column)
            height = min(a.row + a.height, b.row + b.height) - row
            width = min(a.column + a.width, b.column + b.width) - column
            down, across = min(height, _SIDE), min(width, _SIDE)
            row, column = row + (height - down) // 2, column + (width - across) // 2
            try:
                values = [
                    self._piece(number).read_valid([1], Window(row - own.row, column - own.column, down, across))[0]
                    for number, own in ((one, a), (other, b))
                ]
            except InputError:
                continue  # what cannot be read is said where it is needed
            known = np.isfinite(values[0]) & np.isfinite(values[1])
            differing = float(np.mean(values[0][known] != values[1][known])) if known.any() else 0.0
            if differing > worst[0]:
                apart = float(np.median(np.abs(values[0] - values[1])[known]))
                worst = differing, (
                    f"{self._paths[one]} and {self._paths[other]} overlap and differ in {differing:.0%} of the pixels "
                    f"compared, by {apart:.3g} in the median; the first one counts there."
                )
        return worst[1]

    def _overlapping(self) -> list[tuple[int, int]]:
        pairs: list[tuple[int, int]] = []
        for number in range(len(self._windows)):
            pairs += [(int(earlier), number) for earlier in np.flatnonzero(_shared(self._edges, number)[:number])]
            if len(pairs) >= _COMPARED:
                break
        return pairs[:_COMPARED]
