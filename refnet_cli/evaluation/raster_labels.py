"""Reference labels or a class map from a raster of codes."""

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

MAPS = {"map": "--scheme", "old map": "--old-scheme", "new map": "--new-scheme"}
"""Kinds of class maps, and the option with the scheme of each."""


class RasterLabels(Closing):
    """A raster of codes, resampled to a grid as the network's class indexes.

    Use ``RasterLabels.open`` in a ``with`` statement. A grid pixel gets the label at its centre, or the most frequent
    label inside it if the labels' pixels are smaller than half of it.
    """

    def __init__(
        self,
        raster: Raster,
        grid: GeoBox,
        scheme: ClassScheme,
        indexes: Mapping[str, int],
        mapped: Collection[str] = (),
        what: str = "label",
    ) -> None:
        self._raster, self._grid, self._what = raster, grid, what
        self.warnings: list[str] = []
        dataset = raster.dataset
        self._tagged = tagged_classes(dataset.tags(1))
        if dataset.count != 1 and not self._tagged:  # a map with --missing use-other has a second band, quality
            raise InputError(f"The {what} file {raster.path} has {dataset.count} bands; it must have one, class codes.")
        self._indexes = {self._stored_as(text): indexes[text] for text in indexes if _is_number(text)}
        self._scheme, self._mapped = scheme, {self._stored_as(text) for text in mapped if _is_number(text)}
        if self._tagged:
            kept = {code: index for code, index in self._indexes.items() if code in {0, *self._mapped}}
            self._indexes = {0: 0} | indexes_by_name(self._tagged, indexes) | kept
        self._ignore_nodata(dataset.nodata)
        self._alignment = Alignment(raster, grid)
        self._method = Resampling.mode if self._alignment.ratio > 2 else Resampling.nearest
        self.on_grid = self._alignment.same_pixels
        self._check_codes()

    def _ignore_nodata(self, nodata: float | None) -> None:
        """Treat the file's nodata value as no label, unless a mapping gives it a class."""
        if nodata is None or not np.isfinite(nodata):
            return
        code = self._stored_as(repr(nodata))
        if code in self._mapped and self._indexes[code]:
            name = self._scheme.names[self._indexes[code] - 1]
            self.warnings.append(
                f"{self._raster.path} declares {self._text(code)} as nodata, but the mapping assigns it to {name}. The "
                "mapping is used."
            )
        else:
            self._indexes[code] = 0

    def _stored_as(self, text: str) -> float:
        """Return a code as the raster stores it; floating-point types may round it."""
        if re.fullmatch(r"[-+]?\d+", text):
            return int(text)
        dtype = np.dtype(self._raster.dataset.dtypes[0])
        with np.errstate(over="ignore"):
            return float(dtype.type(text)) if dtype.kind == "f" else float(text)

    def _text(self, code: float) -> str:
        """Return the text with which a mapping can refer to a value of the raster."""
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
        mapped: Collection[str] = (),
        what: str = "label",
    ) -> Self:
        """Open a label file and check its codes.

        Parameters
        ----------
        path : str or Path
            A local GeoTIFF in any CRS and with any pixel size, with one band of codes.
        grid : GeoBox
            Grid to resample to.
        scheme : ClassScheme
            Class scheme of the codes.
        indexes : mapping of str to int, optional
            Class index of each code, from `class_indexes`; by default the codes of the scheme.
        mapped : collection of str
            Codes in ``indexes`` that a mapping defines; they take precedence over the file's tags and nodata.
        what : str
            Kind of file for messages: "label", or a key of `MAPS`.

        Raises
        ------
        InputMissingError
            If the file is missing or unreadable.
        InputError
            If it is not usable, does not overlap the grid, or has unknown codes.
        """
        raster = Raster(path, what)
        try:
            with raster.error_context("is invalid"):
                return cls(raster, grid, scheme, indexes or class_indexes(scheme), mapped, what)
        except RefnetError:
            raster.dataset.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._raster.dataset.close()

    @property
    def is_prediction(self) -> bool:
        """Whether the file is a map that refnet predicted."""
        return "REFNET_WEIGHTS" in self._raster.dataset.tags()

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
                f"The {self._what} file {self._raster.path} has the codes {listed}, which are not in class scheme "
                f"{self._scheme.name!r} (codes 0, {', '.join(map(str, self._scheme.codes))})."
                + self._explain(unknown)
                + (f" {advice}" if self._what == "label" else f" Give the map's scheme: {MAPS[self._what]}.")
            )
        if not self._tagged:
            plain = {value for value in found if self._indexes.get(value)}
            if mixed := explain_mixed(plain - self._mapped, self._scheme):
                raise InputError(f"The {self._what} file {self._raster.path} {mixed}")
            what = self._what if self._what in MAPS else "labels"
            self.warnings += warn_of_codes(plain - self._mapped, self._scheme, what)

    def _explain(self, unknown: Sequence[float]) -> str:
        """Return an explanation for unknown codes, from the file's tags or other known class tables."""
        if not self._tagged:
            return explain_unknown(unknown, self._scheme)
        names_of = {self._text(code): name for code, name in self._tagged.items()}
        names = [f"{text} {names_of.get(text, 'nothing')!r}" for text in map(self._text, unknown[:20])]
        classes = {name.casefold() for name in self._scheme.names}
        if all(names_of.get(self._text(code), "").casefold() in classes for code in unknown):
            return f" The mapping lacks {', '.join(names)} (names from the file's tags). Add a line for each."
        return (
            f" The file's tags have {', '.join(names)}, but the scheme's classes are {self._scheme.listed}."
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
    """Return whether a text is a number, and can therefore be a code in a raster."""
    try:
        return not np.isnan(float(text))
    except ValueError:
        return False
