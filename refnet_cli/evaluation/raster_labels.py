"""Reference labels, or a class map, from a raster of codes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from refnet_cli.classes.codes import explain_mixed, explain_unknown, indexes_by_name, tagged_classes, warn_of_codes
from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError, RefnetError
from refnet_cli.evaluation.label_codes import advise_on_unknown, class_indexes, text_of
from refnet_cli.raster.raster import BLOCK, Raster
from refnet_cli.raster.warp import Alignment
from refnet_cli.system.closing import Closing
from refnet_cli.tiles.window import Window
from refnet_cli.types import UInt8


class RasterLabels(Closing):
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
        return text_of(dtype.type(code) if dtype.kind == "f" else code)

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
            with raster.error_context("cannot be understood"):
                return cls(raster, grid, scheme, indexes or class_indexes(scheme), said, what)
        except RefnetError:
            raster.dataset.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._raster.dataset.close()

    def _check_codes(self) -> None:
        region = self._alignment.source_window(Window(0, 0, *self._grid.shape))
        found: set[float] = set()
        for part in region.pieces(4 * BLOCK):
            found.update(np.unique(self._stored(part)).tolist())
        unknown = sorted(value for value in found if value not in self._indexes and not np.isnan(value))
        if unknown:
            advice = advise_on_unknown(self._text(unknown[0]))
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
            f" The file's tags call {', '.join(names)}, but the scheme's classes are {self._scheme.listed}."
        )

    def _stored(self, source: Window) -> NDArray[np.generic]:
        with self._raster.error_context("is damaged"):
            return np.asarray(self._raster.read([1], source)[0])

    def read(self, window: Window) -> UInt8:
        """Read a window of the grid; see `Labels.read`."""
        window.check_inside(*self._grid.shape)
        out = np.zeros((window.height, window.width), np.uint8)
        for part in window.pieces(BLOCK):
            self._read_part(part, out[part.slices_in(window)])
        return out

    def _read_part(self, window: Window, out: UInt8) -> None:
        source = self._alignment.source_window(window)
        if not source.height * source.width:
            return
        stored = self._stored(source)
        indexes = np.zeros(stored.shape, np.uint8)
        for value, index in self._indexes.items():
            indexes[stored == value] = index
        with self._raster.error_context(f"cannot be warped to {window} of the grid", window):
            self._alignment.warp(window, source, indexes[None], out[None], self._method)


def _is_number(text: str) -> bool:
    """Whether a text can be a code in a raster, which may be no whole number."""
    try:
        return not np.isnan(float(text))
    except ValueError:
        return False
