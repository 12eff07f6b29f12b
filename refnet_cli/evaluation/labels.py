"""Reference labels from a raster or vector file, on a grid and in a class scheme."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

from odc.geo.geobox import GeoBox

from refnet_cli.classes.codes import RENUMBERED, codes_of, warn_of_codes
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError, OptionsError
from refnet_cli.evaluation.label_codes import class_indexes
from refnet_cli.evaluation.raster_labels import RasterLabels
from refnet_cli.evaluation.shape_labels import ShapeLabels
from refnet_cli.raster.vectors import VECTORS, advise_conversion
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
