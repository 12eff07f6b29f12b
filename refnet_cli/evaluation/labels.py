"""Reference labels from a raster or vector file, on a grid and in a class scheme."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, Resampling

from refnet_cli.classes.codes import (
    RENUMBERED,
    codes_of,
    explain_mixed,
    explain_unknown,
    indexes_by_name,
    tagged_classes,
    warn_of_codes,
)
from refnet_cli.classes.schemes import ClassScheme, rename_old
from refnet_cli.errors import InputError, OptionsError, RefnetError, WeightsError
from refnet_cli.raster.raster import BLOCK, Raster, north_up_grid
from refnet_cli.raster.vectors import VECTORS, VectorFile, WayToGrid, advise_conversion
from refnet_cli.raster.warp import Alignment
from refnet_cli.tiles.window import Window
from refnet_cli.types import UInt8


class Labels(Protocol):
    """Labels served on a grid as the network's class indexes; best used in a ``with`` statement."""

    on_grid: bool
    """Whether each label is that of one pixel of the grid."""
    warnings: list[str]
    """What of the file is doubtful, in a line each."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def close(self) -> None:
        """Close the file."""
        ...

    def read(self, window: Window) -> UInt8:
        """Read a window of the grid.

        Parameters
        ----------
        window : Window
            Any rectangle inside the grid.

        Returns
        -------
        uint8 array, shape (H, W)
            The network's class indexes; 0 where there is no label.

        Raises
        ------
        ValueError
            If the window is empty or leaves the grid.
        """
        ...


def open_labels(
    path: str | Path,
    grid: GeoBox,
    scheme: ClassScheme,
    field: str | None = None,
    meanings: Mapping[str, str] | None = None,
    layer: str | None = None,
) -> Labels:
    """Open a file of labels, raster or vector by its name's ending.

    Parameters
    ----------
    path : str or Path
        A local GeoTIFF of one band of codes, or a GeoPackage (.gpkg), GeoJSON (.geojson, .json), Shapefile (.shp) or
        FlatGeobuf (.fgb) of polygons or points.
    grid : GeoBox
        Grid to bring the labels onto.
    scheme : ClassScheme
        What they mean.
    field : str, optional
        Field of the vector file that holds codes or names of classes; needed where it has several.
    meanings : mapping of str to str, optional
        From what stands in the file to the scheme's codes or names of classes, 0 for no label; by default every code
        and name means itself, and a raster whose tags ``CLASS_<code>`` name its classes is read by these names. What
        it leaves out is refused.
    layer : str, optional
        Layer of the vector file; needed where several have shapes.

    Raises
    ------
    InputMissingError, InputError, OptionsError
        If the file is missing, cannot be used, or does not fit grid and scheme; see `RasterLabels` and `ShapeLabels`.
    """
    indexes, said = class_indexes(scheme, meanings), _said(meanings, scheme)
    if Path(path).suffix.lower() in VECTORS:
        labels: Labels = ShapeLabels.open(path, grid, scheme, field, indexes, layer, said=said)
        return _with_doubts(labels, meanings, scheme)
    _refuse_other_formats(path)
    for what, given in (("field", field), ("layer", layer)):
        if given is not None:
            raise OptionsError(f"{path} is taken for a raster, which has no {what} {given!r}; leave the {what} out.")
    return _with_doubts(RasterLabels.open(path, grid, scheme, indexes, said=said), meanings, scheme)


def _said(meanings: Mapping[str, str] | None, scheme: ClassScheme) -> frozenset[str]:
    """Codes and names, in lower case, of which a mapping says what they mean.

    Where it has all codes and names of the scheme, as a list of codes to ignore makes it, those that it leaves as they
    are do not count.
    """
    pairs = {text.casefold(): meaning.casefold() for text, meaning in (meanings or {}).items()}
    own = {*map(str, codes_of(scheme)), *map(str.casefold, scheme.names)}
    return frozenset(text for text, meaning in pairs.items() if text != meaning or not own <= pairs.keys())


def _with_doubts(labels: Labels, meanings: Mapping[str, str] | None, scheme: ClassScheme) -> Labels:
    """Add a warning where a mapping leads to codes that meant other classes in refnet 0.1."""
    said = _said(meanings, scheme)
    targets = {int(new) for old, new in (meanings or {}).items() if old.casefold() in said and new.isdecimal()}
    if scheme.name in RENUMBERED:
        labels.warnings += [warning for warning in warn_of_codes(targets, scheme) if warning not in labels.warnings]
    return labels


_RASTER_ENDINGS = (".tif", ".tiff", ".jp2", ".vrt")
_RASTER_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
"""First bytes of TIFF, BigTIFF and JPEG 2000."""


def _refuse_other_formats(path: str | Path) -> None:
    """Refuse a file that is neither raster nor vector by its ending and does not begin as a raster either.

    Raises
    ------
    InputError
        With the endings that are read, and how to convert the file.
    """
    place = Path(path)
    if place.suffix.lower() in _RASTER_ENDINGS or not place.exists():
        return
    if place.is_file():
        with place.open("rb") as file:
            if file.read(12).startswith(_RASTER_STARTS):
                return
    raise InputError(
        f"The label file {path} is neither GeoTIFF nor one of {', '.join(VECTORS)}. {advise_conversion(path)}"
    )


def class_indexes(scheme: ClassScheme, meanings: Mapping[str, str] | None = None) -> dict[str, int]:
    """Class index of every code, as text, and of every name in lower case, that labels may hold; 0 is no label.

    Parameters and what it raises are those of `open_labels`.

    Examples
    --------
    >>> class_indexes(ClassScheme("two", (5, 7), ("Water", "Land"), ((0, 0, 255), (0, 255, 0))))
    {'0': 0, '5': 1, 'water': 1, '7': 2, 'land': 2}
    """
    own = {"0": 0}
    for index, (code, name) in enumerate(zip(scheme.codes, scheme.names, strict=True), 1):
        own |= {str(code): index, name.casefold(): index}
    own |= {str(code): index for code, index in codes_of(scheme).items()}
    if meanings is None:
        return own
    strange = sorted({meaning for meaning in meanings.values() if meaning.casefold() not in own})
    if strange:
        raise OptionsError(
            f"The label mapping leads to {', '.join(strange)}, which class scheme {scheme.name!r} does not have "
            f"({_list_classes(scheme)}).{explain_unknown(_numbers(strange), scheme)}"
        )
    return {"0": 0} | {value.casefold(): own[meaning.casefold()] for value, meaning in meanings.items()}


def _say_what_to_do(unknown: str) -> str:
    """What to do about a code or name of a label file that the scheme does not have."""
    value = unknown if re.fullmatch(r"-?\d+", unknown) else json.dumps(unknown, ensure_ascii=False)
    return (
        f"Say what they mean in a TOML file: --mapping codes.toml with ignore = [{value}] if they are no label, or "
        f"with [mapping] and a line as {value} = \"Trees\" for each code of the file. In a regions file, write "
        "label_codes, or choose the labels' scheme."
    )


def _list_classes(scheme: ClassScheme) -> str:
    return ", ".join(f"{code} {name}" for code, name in scheme.by_code.items())


def _numbers(texts: Collection[str]) -> set[int]:
    """Those texts that are codes."""
    return {int(text) for text in texts if re.fullmatch(r"-?\d+", text)}


def _is_number(text: str) -> bool:
    """Whether a text can be a code in a raster, which may be no whole number."""
    try:
        return not np.isnan(float(text))
    except ValueError:
        return False


def _check_inside(window: Window, grid: GeoBox) -> None:
    height, width = grid.shape
    if window != window.clip(height, width) or window.height < 1 or window.width < 1:
        raise ValueError(f"{window} is not inside the grid of {height} x {width} pixels.")


class RasterLabels:
    """A raster of codes served on a grid as the network's class indexes.

    Use ``RasterLabels.open`` and, best, a ``with`` statement. A grid pixel takes the label at its centre, or the most
    frequent one inside it where the labels' pixels are finer than half the grid's.
    """

    def __init__(
        self,
        raster: Raster,
        grid: GeoBox,
        scheme: ClassScheme,
        indexes: Mapping[str, int],
        said: Collection[str] = (),
        what: str = "label",
    ) -> None:
        self._raster, self._grid, self._what = raster, grid, what
        self.warnings: list[str] = []
        dataset = raster.dataset
        self._tagged = tagged_classes(dataset.tags(1))
        if dataset.count != 1 and not self._tagged:  # a map with --missing use-other has a second band, quality
            raise InputError(f"The {what} file {raster.path} has {dataset.count} bands: give one band of class codes.")
        self._indexes = {self._stored_as(text): indexes[text] for text in indexes if _is_number(text)}
        self._scheme, self._said = scheme, {self._stored_as(text) for text in said if _is_number(text)}
        if self._tagged:
            kept = {code: index for code, index in self._indexes.items() if code in {0, *self._said}}
            self._indexes = {0: 0} | indexes_by_name(self._tagged, indexes) | kept
        self._leave_out_nodata(dataset.nodata)
        self._alignment = Alignment(raster, grid)
        self._method = Resampling.mode if self._alignment.ratio > 2 else Resampling.nearest
        self.on_grid = self._alignment.same_pixels
        self._check_codes()

    def _leave_out_nodata(self, nodata: float | None) -> None:
        """Count what the file declares as no data as no label, unless a mapping says otherwise."""
        if nodata is None or not np.isfinite(nodata):
            return
        code = self._stored_as(repr(nodata))
        if code in self._said and self._indexes[code]:
            name = self._scheme.names[self._indexes[code] - 1]
            self.warnings.append(
                f"{self._raster.path} declares {self._text(code)} as no data, but the mapping says that it is {name}, "
                "as which it is read."
            )
        else:
            self._indexes[code] = 0

    def _stored_as(self, text: str) -> float:
        """Return the number that the raster has for a code; one of floating point may round it."""
        if re.fullmatch(r"[-+]?\d+", text):
            return int(text)
        dtype = np.dtype(self._raster.dataset.dtypes[0])
        with np.errstate(over="ignore"):
            return float(dtype.type(text)) if dtype.kind == "f" else float(text)

    def _text(self, code: float) -> str:
        """Write a number of the raster as a mapping can name it."""
        dtype = np.dtype(self._raster.dataset.dtypes[0])
        return _text_of(dtype.type(code) if dtype.kind == "f" else code)

    @classmethod
    def open(
        cls,
        path: str | Path,
        grid: GeoBox,
        scheme: ClassScheme,
        indexes: Mapping[str, int] | None = None,
        *,
        said: Collection[str] = (),
        what: str = "label",
    ) -> Self:
        """Open a label file and check its codes.

        Parameters
        ----------
        path : str or Path
            A local GeoTIFF of any reference system and pixel size with one band of codes.
        grid : GeoBox
            Grid to bring the labels onto.
        scheme : ClassScheme
            What the codes mean.
        indexes : mapping of str to int, optional
            From `class_indexes`; by default every code means itself.
        said : collection of str
            Codes in ``indexes`` that a mapping explains; they take precedence over the file's tags and its nodata.
        what : str
            What the file is, "label" or "map", for messages.

        Raises
        ------
        InputMissingError
            If the file is missing or may not be read.
        InputError
            If it cannot be used, does not overlap the grid, or holds unknown codes.
        """
        raster = Raster(path, what)
        try:
            with raster.naming("cannot be understood"):
                return cls(raster, grid, scheme, indexes or class_indexes(scheme), said, what)
        except RefnetError:
            raster.dataset.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._raster.dataset.close()

    def _check_codes(self) -> None:
        region = self._alignment.source_window(Window(0, 0, *self._grid.shape))
        found: set[float] = set()
        for row in range(region.row, region.row + region.height, 4 * BLOCK):
            for column in range(region.column, region.column + region.width, 4 * BLOCK):
                part = Window(row, column, 4 * BLOCK, 4 * BLOCK).clip(
                    region.row + region.height, region.column + region.width
                )
                found.update(np.unique(self._stored(part)).tolist())
        unknown = sorted(value for value in found if value not in self._indexes and not np.isnan(value))
        if unknown:
            advice = _say_what_to_do(self._text(unknown[0]))
            listed = ", ".join(map(self._text, unknown[:20])) + ", ..." * (len(unknown) > 20)
            raise InputError(
                f"The {self._what} file {self._raster.path} holds the codes {listed}, which mean nothing in class "
                f"scheme {self._scheme.name!r} (codes {', '.join(map(self._text, self._indexes))})."
                + self._explain(unknown)
                + (f" {advice}" if self._what == "label" else " Name the map's scheme: --scheme.")
            )
        if not self._tagged:
            plain = {value for value in found if self._indexes.get(value)}
            if mixed := explain_mixed(plain - self._said, self._scheme):
                raise InputError(f"The {self._what} file {self._raster.path} {mixed}")
            what = "map" if self._what == "map" else "labels"
            self.warnings += warn_of_codes(plain - self._said, self._scheme, what)

    def _explain(self, unknown: Sequence[float]) -> str:
        """Say what is known of codes that mean nothing."""
        if not self._tagged:
            return explain_unknown(unknown, self._scheme)
        names_of = {self._text(code): name for code, name in self._tagged.items()}
        names = [f"{text} {names_of.get(text, 'nothing')!r}" for text in map(self._text, unknown[:20])]
        classes = {name.casefold() for name in self._scheme.names}
        if all(names_of.get(self._text(code), "").casefold() in classes for code in unknown):
            return f" The mapping leaves out {', '.join(names)}, as the file's tags call them: add a line for each."
        return (
            f" The file's tags call {', '.join(names)}, but the scheme's classes are {_list_classes(self._scheme)}."
        )

    def _stored(self, source: Window) -> NDArray[np.generic]:
        with self._raster.naming("is damaged"):
            return np.asarray(self._raster.read([1], source)[0])

    def read(self, window: Window) -> UInt8:
        """Read a window of the grid; see `Labels.read`."""
        _check_inside(window, self._grid)
        out = np.zeros((window.height, window.width), np.uint8)
        for row in range(0, window.height, BLOCK):
            for column in range(0, window.width, BLOCK):
                part = Window(row, column, BLOCK, BLOCK).clip(window.height, window.width)
                target = out[row : row + part.height, column : column + part.width]
                self._read_part(part._replace(row=row + window.row, column=column + window.column), target)
        return out

    def _read_part(self, window: Window, out: UInt8) -> None:
        source = self._alignment.source_window(window)
        if not source.height * source.width:
            return
        stored = self._stored(source)
        indexes = np.zeros(stored.shape, np.uint8)
        for value, index in self._indexes.items():
            indexes[stored == value] = index
        with self._raster.naming(f"cannot be warped to {window} of the grid"):
            self._alignment.warp(window, source, indexes[None], out[None], self._method)


class ShapeLabels:
    """Polygons or points of a vector file served on a grid as the network's class indexes.

    Use ``ShapeLabels.open``. A pixel takes the class of the polygon that its centre lies in, or of the point that lies
    in it; where shapes of several classes claim it, it has no label.

    Parameters
    ----------
    shapes : array of shapely geometries
        In pixels of the grid: x to the right, y down.
    indexes : uint8 array
        The network's class index of each.
    grid : GeoBox
    warnings : sequence of str
        See `Labels`.
    """

    def __init__(self, shapes: NDArray[Any], indexes: UInt8, grid: GeoBox, warnings: Sequence[str] = ()) -> None:
        self._shapes, self._indexes, self._grid = shapes, indexes, grid
        self.warnings = list(warnings)
        self._tree = shapely.STRtree(shapes)
        self.on_grid = bool((shapely.get_dimensions(shapes) == 0).all())

    @classmethod
    def open(
        cls,
        path: str | Path,
        grid: GeoBox,
        scheme: ClassScheme,
        field: str | None = None,
        indexes: Mapping[str, int] | None = None,
        layer: str | None = None,
        *,
        said: Collection[str] = (),
    ) -> Self:
        """Open a vector file and check its classes; see `open_labels` and `class_indexes` for the parameters.

        ``said`` are the codes of which a mapping says what they mean. Shapes whose class is NULL, NaN or an empty text
        are unlabelled.

        Raises
        ------
        InputMissingError
            If the file is missing or may not be read.
        InputError
            If it cannot be used, does not overlap the grid, or holds unknown classes.
        OptionsError
            If there is no such field or layer, or several and none was named.
        """
        file = VectorFile.open(path, "label", layer, "--layer, or label_layer in a regions file")
        way = WayToGrid(file, grid)
        chosen = _choose_field(file, field)
        shapes, (values,) = file.read([chosen], way.bounds)
        present = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
        shapes, values = shapes[present], values[present]
        kinds = set(np.unique(shapely.get_type_id(shapes)).tolist())
        if not kinds <= {0, 3, 4, 6}:  # points and polygons, single and multiple
            raise InputError(f"{file.name} holds other shapes than polygons and points.")
        shapes, which = way.onto(shapes)
        inside = shapely.intersects(shapes, shapely.box(0, 0, grid.shape[1], grid.shape[0]))
        if not inside.any():
            raise InputError(f"No shape of the label file {file.path} lies on the scene.")
        shapes, which = shapes[inside], which[inside]
        labelled = _has_value(values)
        without = len(np.unique(which[~labelled[which]]))
        if without == len(np.unique(which)):
            raise InputError(
                f"None of the {without} shapes of the label file {file.path} on the scene has a class: field "
                f"{chosen!r} is empty. Fill it in, or name another field: --field, or label_field in a regions file."
            )
        warnings = [
            f"{without} of the {len(np.unique(which))} shapes of {file.path} on the scene have no class in field "
            f"{chosen!r} and count as unlabelled."
        ] * (without > 0)
        shapes, which = shapes[labelled[which]], which[labelled[which]]
        known = indexes or class_indexes(scheme)
        values = values[which]
        found = _indexes_of(file, values, scheme, known)
        plain = _numbers({text for text in _texts(values) if known[text.casefold()]} - set(said))
        if mixed := explain_mixed(plain, scheme):
            raise InputError(f"{file.name} {mixed}")
        warnings += warn_of_codes(plain, scheme)
        return cls(shapes, found, grid, warnings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: the file was read whole."""

    def read(self, window: Window) -> UInt8:
        """Read a window of the grid; see `Labels.read`."""
        _check_inside(window, self._grid)
        out, claimed = np.zeros((2, window.height, window.width), np.uint8)
        place = Affine.translation(window.column, window.row)
        box = shapely.box(window.column, window.row, window.column + window.width, window.row + window.height)
        near = self._tree.query(box)
        for index in np.unique(self._indexes[near]):
            shapes = self._shapes[near[self._indexes[near] == index]]
            covered = rasterio.features.rasterize(shapes, out.shape, transform=place, dtype=np.uint8)
            claimed += covered
            out[covered > 0] = index
        out[claimed > 1] = 0
        return out


def _choose_field(file: VectorFile, asked: str | None) -> str:
    listed = ", ".join(map(repr, file.fields)) or "none"
    if asked is not None and asked not in file.fields:
        raise OptionsError(f"{file.name} has no field {asked!r}; its fields are {listed}.")
    if asked is None and len(file.fields) != 1:
        raise OptionsError(
            f"{file.name} has {len(file.fields)} fields ({listed}); name the one with the "
            "class: --field, or label_field in a regions file."
        )
    return asked or file.fields[0]


def _has_value(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values of a field are neither NULL nor NaN nor an empty text."""
    return np.array([
        value is not None and value == value and bool(str(value).strip()) for value in values.tolist()
    ], bool)  # fmt: skip


def _indexes_of(file: VectorFile, values: NDArray[Any], scheme: ClassScheme, known: Mapping[str, int]) -> UInt8:
    """Class index of each value of a field: a code as number or text, or a class's name in any case."""
    texts = _texts(values)
    unknown = sorted({text for text in texts if text.casefold() not in known})
    if unknown:
        listed = ", ".join(unknown[:20]) + ", ..." * (len(unknown) > 20)
        raise InputError(
            f"{file.name} holds the classes {listed}, which mean nothing in class scheme {scheme.name!r} "
            f"({_list_classes(scheme)}).{explain_unknown(_numbers(unknown), scheme)} {_say_what_to_do(unknown[0])}"
        )
    return np.array([known[text.casefold()] for text in texts], np.uint8)


def _texts(values: NDArray[Any]) -> list[str]:
    """Values of a field as text."""
    return [_text_of(value) for value in values]


def _text_of(value: Any) -> str:
    """Write a value so that another value has another text; whole numbers without a point."""
    if isinstance(value, bool | int | np.bool_ | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 2**63 else str(value)
    return str(value).strip()


def describe_map(path: str | Path) -> tuple[GeoBox, ClassScheme | None]:
    """Read the grid of a class map and the class scheme that its tags and colours tell; None where the tags do not.

    Without a colour table, as some programs write maps, all classes are black.

    The scheme of a map of refnet 0.1 has its name of today, see `rename_old`.

    Raises
    ------
    InputMissingError, InputError
        If the file cannot be read or used.
    """
    raster = Raster(path, "map")
    with raster.dataset as dataset:
        grid, tags = north_up_grid(raster), dataset.tags(1)
        names = tagged_classes(tags)
        if "CLASS_SCHEME" not in tags or not names:
            return grid, None
        coloured = dataset.colorinterp[0] == ColorInterp.palette
        colours = dataset.colormap(1) if coloured else dict.fromkeys(names, (0, 0, 0, 255))
    codes = sorted(names)
    try:
        scheme = ClassScheme(
            tags["CLASS_SCHEME"], tuple(codes), tuple(names[code] for code in codes),
            tuple((colours[code][0], colours[code][1], colours[code][2]) for code in codes),
        )  # fmt: skip
        return grid, rename_old(scheme)
    except (WeightsError, KeyError) as error:
        raise InputError(f"The tags of the map {path} make no class scheme: {error}") from error
