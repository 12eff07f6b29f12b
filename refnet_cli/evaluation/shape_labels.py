"""Reference labels from the polygons or points of a vector file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from refnet_cli.classes.codes import explain_mixed, explain_unknown, warn_of_codes
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.evaluation.label_codes import advise_on_unknown, class_indexes, numbers_among, text_of
from refnet_cli.raster.vectors import ShapeProjector, VectorFile
from refnet_cli.system.closing import Closing
from refnet_cli.system.words import count
from refnet_cli.tiles.window import Window
from refnet_cli.types import Bool, UInt8


class ShapeLabels(Closing):
    """Polygons or points of a vector file, rasterized on a grid as the network's class indexes.

    Use ``ShapeLabels.open``. A pixel gets the class of the polygon that contains its centre, or of the point inside it.
    If shapes of several classes cover it, it has no label.

    Parameters
    ----------
    shapes : array of shapely geometries
        Shapes in pixel coordinates of the grid: x to the right, y down.
    indexes : uint8 array
        Class index of each shape.
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
        mapped: Collection[str] = (),
    ) -> Self:
        """Open a vector file and check its classes; see `open_labels` and `class_indexes` for the parameters.

        ``mapped`` are the codes that a mapping defines. Shapes whose class is NULL, NaN or empty are unlabelled.

        Raises
        ------
        InputMissingError
            If the file is missing or unreadable.
        InputError
            If it is not usable, does not overlap the grid, or has unknown classes.
        OptionsError
            If the field or layer does not exist, or is not given although there are several.
        """
        file = VectorFile.open(path, "label", layer, "--layer, or label_layer in a regions file")
        to_grid = ShapeProjector(file, grid)
        chosen = _choose_field(file, field)
        shapes, (values,) = file.read([chosen], to_grid.bounds)
        present = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
        shapes, values = shapes[present], values[present]
        kinds = set(np.unique(shapely.get_type_id(shapes)).tolist())
        if not kinds <= {0, 3, 4, 6}:  # (multi)points and (multi)polygons
            raise InputError(f"{file.name} has geometries other than polygons and points. Remove or convert them.")
        shapes, which = to_grid.project(shapes)
        inside = shapely.intersects(shapes, shapely.box(0, 0, grid.shape[1], grid.shape[0]))
        if not inside.any():
            raise InputError(f"No shape of the label file {file.path} lies on the scene.")
        shapes, which = shapes[inside], which[inside]
        labelled = _has_value(values)
        without = len(np.unique(which[~labelled[which]]))
        if without == len(np.unique(which)):
            raise InputError(
                f"None of the {count(without, 'shape')} of the label file {file.path} on the scene has a class: field "
                f"{chosen!r} is empty. Fill it in, or give another field: --field, or label_field in a regions file."
            )
        warnings = [
            f"{without} of the {len(np.unique(which))} shapes of {file.path} on the scene have no class in field "
            f"{chosen!r} and are ignored."
        ] * (without > 0)
        shapes, which = shapes[labelled[which]], which[labelled[which]]
        known = indexes or class_indexes(scheme)
        values = values[which]
        found = _indexes_of(file, values, scheme, known)
        plain = numbers_among({text for text in _texts(values) if known[text.casefold()]} - set(mapped))
        if mixed := explain_mixed(plain, scheme):
            raise InputError(f"{file.name} {mixed}")
        warnings += warn_of_codes(plain, scheme)
        return cls(shapes, found, grid, warnings)

    def close(self) -> None:
        """Do nothing: the file was read completely."""

    def read(self, window: Window) -> UInt8:
        """Read a window of the grid; see `Labels.read`."""
        window.check_inside(*self._grid.shape)
        out, claimed = np.zeros((2, window.height, window.width), np.uint8)
        transform = Affine.translation(window.column, window.row)
        box = shapely.box(window.column, window.row, window.column + window.width, window.row + window.height)
        near = self._tree.query(box)
        for index in np.unique(self._indexes[near]):
            shapes = self._shapes[near[self._indexes[near] == index]]
            covered = rasterio.features.rasterize(shapes, out.shape, transform=transform, dtype=np.uint8)
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
            f"{file.name} has {len(file.fields)} fields ({listed}). Give the one with the class: --field, or "
            "label_field in a regions file."
        )
    return asked or file.fields[0]


def _has_value(values: NDArray[Any]) -> Bool:
    """Return which values of a field are neither NULL, NaN nor an empty text."""
    return np.array([
        value is not None and value == value and bool(str(value).strip()) for value in values.tolist()
    ], bool)  # fmt: skip


def _indexes_of(file: VectorFile, values: NDArray[Any], scheme: ClassScheme, known: Mapping[str, int]) -> UInt8:
    """Return the class index of each value of a field: a code as number or text, or a class name in any case."""
    texts = _texts(values)
    unknown = sorted({text for text in texts if text.casefold() not in known})
    if unknown:
        listed = ", ".join(unknown[:20]) + ", ..." * (len(unknown) > 20)
        raise InputError(
            f"{file.name} has the classes {listed}, which are not in class scheme {scheme.name!r} "
            f"({scheme.listed}).{explain_unknown(numbers_among(unknown), scheme)} "
            f"{advise_on_unknown(unknown[0])}"
        )
    return np.array([known[text.casefold()] for text in texts], np.uint8)


def _texts(values: NDArray[Any]) -> list[str]:
    """Return the values of a field as text."""
    return [text_of(value) for value in values]
