"""Adjacent raster files with the same bands, read as one image: export tiles, slices, neighbouring product tiles."""

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
from refnet_cli.raster.georeference import AffineGeoreference, apply, crs_name, window_transform
from refnet_cli.raster.raster import Raster
from refnet_cli.tiles.window import Window
from refnet_cli.types import Float32

MAX_OPEN = 8  # pieces of a mosaic that are open at the same time, per thread
_MAX_PIXELS = 1 << 34
_TOLERANCE = 1e-3  # pixels by which corners may deviate from the first piece's pixel grid
_MAX_SHARED = 0.5  # of either piece; if they share more, they show the same ground
_INSIDE = 0.99  # of the smaller piece; if they share more, they show the same ground; if less, it is a narrow edge
_COMPARED = 16  # pairs of overlapping pieces
_SIDE = 256  # side in pixels of the area that is compared


class RasterProfile(NamedTuple):
    """Georeferencing of a raster file, and how its values are stored."""

    path: str
    shape: tuple[int, int]
    transform: Affine
    crs: CRS
    gcps_only: bool
    stored: dict[str, Any]
    """Data types, scales, units, and the unit or offset in names and tags. Equal in all pieces of a mosaic.

    Alpha bands are ignored."""
    tags: dict[str, str]

    @classmethod
    def of(cls, raster: Raster) -> RasterProfile:
        """Return the profile of an open file."""
        dataset, tags, path = raster.dataset, raster.tags, raster.path
        bands = [band for band in range(dataset.count) if band + 1 not in raster.alphas]
        dtypes, scales, offsets, units, texts = (
            tuple(values[band] for band in bands)
            for values in (dataset.dtypes, dataset.scales, dataset.offsets, dataset.units, dataset.descriptions)
        )
        stored: dict[str, Any] = {"data types": dtypes, "scales": scales, "offsets": offsets, "units": units}
        if sensor := raster.sensor:
            stated = sensor.read_metadata(tags, path, texts, units)
            stored[sensor.metadata_label] = stated and stated[0]
        return cls(path, raster.shape, raster.transform, raster.crs, raster.gcps_only, stored, tags)


class NotAMosaicError(Exception):
    """Files are not pieces of one mosaic. The message says why, and what to do."""


class MosaicPiece(NamedTuple):
    """A piece of a mosaic: its file number, its window in the mosaic, and its tags."""

    file: int
    window: Window
    tags: dict[str, str]


def arrange_pieces(pieces: Mapping[int, RasterProfile]) -> tuple[MosaicPiece, ...]:
    """Return the window of each piece in the mosaic.

    Parameters
    ----------
    pieces : mapping of int to RasterProfile
        By file number. Where two overlap, the earlier one is used.

    Raises
    ------
    NotAMosaicError
        If they have no common pixel grid, are stored differently, or show the same ground.
    """
    first = next(iter(pieces.values()))
    origins = [_origin(first, piece) for piece in pieces.values()]
    top, left = (min(origin[axis] for origin in origins) for axis in (0, 1))
    placed = [
        MosaicPiece(file, Window(row - top, column - left, *piece.shape), piece.tags)
        for (file, piece), (row, column) in zip(pieces.items(), origins, strict=True)
    ]
    height, width = mosaic_shape(placed)
    if height * width > _MAX_PIXELS:
        raise NotAMosaicError(
            f"{first.path} and the other files span {width} x {height} pixels (limit 2^34). Use files of a smaller area"
        )
    one, other = _largest_overlap(placed)
    if one != other:
        raise NotAMosaicError(
            f"{pieces[placed[one].file].path} and {pieces[placed[other].file].path} show the same ground. Use only one"
        )
    return tuple(placed)


def _origin(first: RasterProfile, piece: RasterProfile) -> tuple[int, int]:
    """Return the row and column of a piece's upper left corner in pixels of the first piece."""
    both = f"{first.path} and {piece.path}"
    if first.gcps_only or piece.gcps_only:
        raise NotAMosaicError(f"{both} are georeferenced by ground control points. Use terrain-corrected files")
    if piece.crs != first.crs:
        fact = f"{both} are in {crs_name(first.crs)} and {crs_name(piece.crs)}"
        raise NotAMosaicError(f"{fact}. {_warp_advice(first, piece)}")
    if piece is not first and _same_ground(first, piece):
        raise NotAMosaicError(f"{both} show the same ground. Use only one")
    height, width = piece.shape
    corners = np.array([[0, width, 0], [0, 0, height]], np.float64)
    columns, rows = apply(~first.transform, *apply(piece.transform, corners[0], corners[1]))
    column, row = round(float(columns[0])), round(float(rows[0]))
    steps = columns[1] - columns[0] - width, rows[1] - rows[0], columns[2] - columns[0], rows[2] - rows[0] - height
    if max(map(abs, steps)) > _TOLERANCE:
        sizes = " and ".join(f"{abs(each.transform.a):.6g} x {abs(each.transform.e):.6g}" for each in (first, piece))
        raise NotAMosaicError(f"{both} have pixels of {sizes}. {_warp_advice(first, piece)}")
    off = columns[0] - column, rows[0] - row
    if max(map(abs, off)) > _TOLERANCE:
        raise NotAMosaicError(
            f"the pixel grids of {both} differ by {abs(off[0]):.3g} columns and {abs(off[1]):.3g} rows. "
            f"{_warp_advice(first, piece)}"
        )
    if piece.stored != first.stored:
        raise NotAMosaicError(
            f"{both} are stored differently ({_describe_difference(first.stored, piece.stored)}). "
            "Use files of one product"
        )
    return row, column


def _same_ground(first: RasterProfile, piece: RasterProfile) -> bool:
    """Return whether two files with the same CRS show the same ground, as defined by `_is_same`."""
    boxes = []
    for each in (first, piece):
        height, width = each.shape
        x, y = apply(each.transform, np.array([0.0, width, 0, width]), np.array([0.0, 0, height, height]))
        boxes.append((x.min(), x.max(), y.min(), y.max()))
    (west, east, south, north), (left, right, low, high) = boxes
    shared = max(min(east, right) - max(west, left), 0) * max(min(north, high) - max(south, low), 0)
    return bool(_is_same(shared, (east - west) * (north - south), (right - left) * (high - low)))


def are_side_by_side(first: RasterProfile, piece: RasterProfile) -> bool:
    """Return whether the positions of two files allow them to be pieces of one mosaic."""
    placed = not (first.gcps_only or piece.gcps_only)
    return placed and first.crs == piece.crs and not _same_ground(first, piece)


def _is_same(shared: Any, one: Any, other: Any) -> Any:
    """Return whether two pieces share most of their areas, or one contains the other."""
    return (shared > _MAX_SHARED * np.maximum(one, other)) | (shared > _INSIDE * np.minimum(one, other))


def _describe_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return "; ".join(f"{kind} {value} and {other[kind]}" for kind, value in one.items() if value != other[kind])


def _warp_advice(first: RasterProfile, piece: RasterProfile) -> str:
    """Return the advice to warp two pieces to a common grid."""
    authority = first.crs.to_authority()
    code = ":".join(authority) if authority else shlex.quote(first.crs.to_wkt())
    names = " ".join(shlex.quote(each.path) for each in (first, piece))
    size = f"{abs(first.transform.a):.15g} {abs(first.transform.e):.15g}"
    return f"Warp them to a common grid first: `gdalwarp -t_srs {code} -tr {size} -tap {names} joined.tif`"


def mosaic_shape(placed: Sequence[MosaicPiece]) -> tuple[int, int]:
    """Return the height and width of a mosaic."""
    return (
        max(piece.window.row + piece.window.height for piece in placed),
        max(piece.window.column + piece.window.width for piece in placed),
    )


def _edges(placed: Sequence[MosaicPiece]) -> NDArray[np.int64]:
    """Return the first row, last row, first column and last column of each piece, shape (4, n)."""
    windows = np.array([piece.window for piece in placed], np.int64).T
    return np.stack([windows[0], windows[0] + windows[2], windows[1], windows[1] + windows[3]])


def _shared(edges: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Return the number of pixels that a piece shares with each piece, shape (n,)."""
    top, bottom, left, right = edges
    down = np.minimum(bottom, bottom[number]) - np.maximum(top, top[number])
    across = np.minimum(right, right[number]) - np.maximum(left, left[number])
    return np.asarray(np.maximum(down, 0) * np.maximum(across, 0))


def _largest_overlap(placed: Sequence[MosaicPiece]) -> tuple[int, int]:
    """Return two pieces that show the same ground, as defined by `_is_same`; the same piece twice if none do."""
    edges = _edges(placed)
    areas = (edges[1] - edges[0]) * (edges[3] - edges[2])
    for number in range(len(placed)):
        shared = _shared(edges, number)[:number]
        found = np.flatnonzero(_is_same(shared, areas[:number], areas[number]))
        if found.size:
            return int(found[0]), number
    return 0, 0


class Mosaic(Raster):
    """Adjacent files as one raster; see `Raster`.

    Parameters
    ----------
    paths : sequence of str
        All files of the sensor.
    placed : sequence of MosaicPiece
        The pieces. The first one defines the bands.
    what : str
    allow_vrt : bool
    """

    def __init__(self, paths: Sequence[str], placed: Sequence[MosaicPiece], what: str, allow_vrt: bool = False) -> None:
        self._paths = [paths[piece.file] for piece in placed]
        super().__init__(self._paths[0], what, allow_vrt=allow_vrt)
        self._windows, self._allow_vrt = [piece.window for piece in placed], allow_vrt
        self._tags = {key: value for piece in reversed(placed) for key, value in piece.tags.items()}
        self._shape, self._edges = mosaic_shape(placed), _edges(placed)
        first = self._windows[0]
        self._transform = window_transform(self.dataset.transform, Window(-first.row, -first.column, 0, 0))
        self.georeference = AffineGeoreference(self._transform)
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
        """Return an open piece. Close the least recently read one if too many are open."""
        if number in self._opened:
            self._opened.move_to_end(number)
        else:
            while len(self._opened) >= MAX_OPEN:
                self._opened.popitem(last=False)[1].close()
            self._opened[number] = Raster(self._paths[number], self.what, allow_vrt=self._allow_vrt)
        self._opened[number].fills = self.fills
        return self._opened[number]

    def _within(self, window: Window) -> list[tuple[int, Window, tuple[slice, slice]]]:
        """Return the pieces that a window intersects: number, window in the piece, and slices in the window."""
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
        for number, own, slices in reversed(self._within(window)):
            out[:, *slices] = self._piece(number).read(bands, own)
        return out

    def read_valid(self, bands: Sequence[int], window: Window) -> tuple[Float32, int]:
        """See `Raster.read_valid`; NaN between the pieces.

        Where pieces overlap, the first valid value is used. A fill value is used only if no piece has another value.
        """
        out = np.full((len(bands), window.height, window.width), np.nan, np.float32)
        non_finite = 0
        for number, own, slices in self._within(window):
            values, wrong = self._piece(number).read_valid(bands, own)
            non_finite += wrong
            target = out[:, *slices]
            empty = np.isnan(target)
            if self.fills.values:
                empty |= fill_mask(target, self.fills.values) & ~np.isnan(values)
            np.copyto(target, values, where=empty)
        return out, non_finite

    def read_masked(self, bands: Sequence[int], window: Window) -> tuple[Float32, int]:
        """See `Raster.read_masked`; each piece is dilated by its own fill values, unless another piece fills them."""
        values, non_finite = super().read_masked(bands, window)
        within = self._within(window)
        if self.fills.values and len(within) > 1:
            absent = np.isnan(values)
            values[:] = np.nan
            for number, own, slices in within:
                target = values[:, *slices]
                np.copyto(target, self._piece(number).read_masked(bands, own)[0], where=np.isnan(target))
            values[absent] = np.nan
        return values, non_finite

    def read_near_nodata(self, bands: Sequence[int], window: Window, margin: int) -> tuple[Float32, NDArray[np.bool_]]:
        """See `Raster.read_near_nodata`; near nodata of the mosaic, or of the piece that the pixel is read from."""
        values, near = super().read_near_nodata(bands, window, margin)
        within = self._within(window)
        if len(within) > 1:
            missing = np.ones(near.shape, bool)
            for number, own, slices in within:
                piece, near_own = self._piece(number).read_near_nodata(bands, own, margin)
                new = missing[slices] & np.isfinite(piece).any(axis=0)
                near[slices] |= near_own & new
                missing[slices] &= ~new
        return values, near

    def read_pieces(self, bands: Sequence[int], window: Window) -> Iterator[Float32]:
        """See `Raster.read_pieces`."""
        for number, own, _ in self._within(window):
            yield from self._piece(number).read_pieces(bands, own)

    def split(self, window: Window) -> Iterator[Window]:
        """See `Raster.split`; one part per piece, so that damage in one file affects only its part."""
        for _, own, slices in self._within(window):
            yield Window(window.row + slices[0].start, window.column + slices[1].start, own.height, own.width)

    def compare_overlaps(self) -> str:
        """Return a warning about the pieces that differ most where they overlap; "" if none do."""
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
                continue  # reported when the window is needed
            known = np.isfinite(values[0]) & np.isfinite(values[1])
            differing = float(np.mean(values[0][known] != values[1][known])) if known.any() else 0.0
            if differing > worst[0]:
                median = float(np.median(np.abs(values[0] - values[1])[known]))
                worst = differing, (
                    f"{self._paths[one]} and {self._paths[other]} overlap and differ in {differing:.0%} of the "
                    f"compared pixels, by {median:.3g} in the median. The first one is used there."
                )
        return worst[1]

    def _overlapping(self) -> list[tuple[int, int]]:
        pairs: list[tuple[int, int]] = []
        for number in range(len(self._windows)):
            pairs += [(int(earlier), number) for earlier in np.flatnonzero(_shared(self._edges, number)[:number])]
            if len(pairs) >= _COMPARED:
                break
        return pairs[:_COMPARED]
