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
    """Labels on a grid, as the network's class indexes; use in a ``with`` statement."""

    on_grid: bool
    """Whether each label belongs to exactly one pixel of the grid."""
    warnings: list[str]
    """Warnings about the file."""

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
            A rectangle inside the grid.

        Returns
        -------
        uint8 array, shape (H, W)
            Class indexes of the network; 0 where there is no label.

        Raises
        ------
        ValueError
            If the window is empty or extends beyond the grid.
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
    """Open a label file; its ending decides whether it is a raster or a vector file.

    Parameters
    ----------
    path : str or Path
        A local GeoTIFF with one band of codes, or a GeoPackage (.gpkg), GeoJSON (.geojson, .json), Shapefile (.shp) or
        FlatGeobuf (.fgb) of polygons or points.
    grid : GeoBox
        Grid to resample or rasterize to.
    scheme : ClassScheme
        Class scheme of the labels.
    field : str, optional
        Field with class codes or names in a vector file; required if it has several fields.
    meanings : mapping of str to str, optional
        Mapping from codes or names in the file to the scheme's codes or names, 0 for no label; values that are not in
        it are refused. By default the file uses the scheme's codes and names. A raster with tags ``CLASS_<code>`` is
        read by the names in these tags.
    layer : str, optional
        Layer of a vector file; required if several layers have geometries.

    Raises
    ------
    InputMissingError, InputError, OptionsError
        If the file is missing or not usable, or does not match grid and scheme; see `RasterLabels` and `ShapeLabels`.
    """
    indexes, mapped = class_indexes(scheme, meanings), _mapped_codes(meanings, scheme)
    if Path(path).suffix.lower() in VECTORS:
        labels: Labels = ShapeLabels.open(path, grid, scheme, field, indexes, layer, mapped=mapped)
        return _with_warning(labels, meanings, scheme)
    _refuse_other_formats(path)
    for what, given in (("field", field), ("layer", layer)):
        if given is not None:
            raise OptionsError(f"{what} is {given!r}, but {path} is a raster file. Remove the {what}.")
    return _with_warning(RasterLabels.open(path, grid, scheme, indexes, mapped=mapped), meanings, scheme)


def _mapped_codes(meanings: Mapping[str, str] | None, scheme: ClassScheme) -> frozenset[str]:
    """Return the codes and names, in lower case, that a mapping defines.

    If it contains all codes and names of the scheme (`with_ignored` adds them), those that map to themselves are left
    out.
    """
    pairs = {text.casefold(): meaning.casefold() for text, meaning in (meanings or {}).items()}
    own = {*map(str, codes_of(scheme)), *map(str.casefold, scheme.names)}
    return frozenset(text for text, meaning in pairs.items() if text != meaning or not own <= pairs.keys())


def _with_warning(labels: Labels, meanings: Mapping[str, str] | None, scheme: ClassScheme) -> Labels:
    """Add a warning if the targets of a mapping are codes that meant other classes in refnet 0.1."""
    mapped = _mapped_codes(meanings, scheme)
    targets = {int(new) for old, new in (meanings or {}).items() if old.casefold() in mapped and new.isdecimal()}
    if scheme.name in RENUMBERED:
        labels.warnings += [warning for warning in warn_of_codes(targets, scheme) if warning not in labels.warnings]
    return labels


_RASTER_ENDINGS = (".tif", ".tiff", ".jp2", ".vrt")
_RASTER_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
"""First bytes of TIFF, BigTIFF and JPEG 2000."""


def _refuse_other_formats(path: str | Path) -> None:
    """Refuse a file that is neither a known raster or vector format by its ending, nor a raster by its first bytes.

    Raises
    ------
    InputError
        With the supported endings, and how to convert the file.
    """
    file_path = Path(path)
    if file_path.suffix.lower() in _RASTER_ENDINGS or not file_path.exists():
        return
    if file_path.is_file():
        with file_path.open("rb") as file:
            if file.read(12).startswith(_RASTER_STARTS):
                return
    raise InputError(
        f"The label file {path} is neither a GeoTIFF nor one of {', '.join(VECTORS)}. {advise_conversion(path)}"
    )
