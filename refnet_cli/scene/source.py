"""The files of one sensor as they are opened: which band is where, and which files are pieces of one image."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError, RefnetError
from refnet_cli.products import SENSOR_NAMES
from refnet_cli.scene.bands import Named
from refnet_cli.scene.fills import Fills
from refnet_cli.scene.geometry import AffinePlace
from refnet_cli.scene.inputs import Files, Layer
from refnet_cli.scene.judge import Decision
from refnet_cli.scene.look import look_at
from refnet_cli.scene.mosaic import Mosaic
from refnet_cli.scene.raster import Float32, ZipMember, north_up_grid
from refnet_cli.scene.safe import zip_member
from refnet_cli.scene.sample import Sample, take_sample

_DEGREE = 111_320.0  # metres
_FARTHEST = 100_000  # pixels between a product's granules


class Source:
    """The opened files of one sensor and their bands.

    Parameters
    ----------
    files : Files
    stack : ExitStack
        Closes what is opened.

    Attributes
    ----------
    layers : tuple of Layer
        All bands of all files in their order, without masks.
    masks : tuple of Layer
    named : Named
        Canonical name of each band, and the evidence; see `band_names`.
    decisions : list of Decision
        Which files are pieces of one image.
    warnings : list of str
        What may be wrong with these.
    """

    def __init__(self, files: Files, stack: ExitStack) -> None:
        self.files = files
        self.what = SENSOR_NAMES[files.modality]
        self.decisions: list[Decision] = []
        self.warnings: list[str] = []
        self.rasters = files.open(stack, ())
        # A product's files need not be looked at to be known, and old ones have hundreds.
        layers = files.layers if files.layers is not None else self._look(stack)
        self.masks = tuple(layer for layer in layers if layer.is_mask)
        self.layers = tuple(layer for layer in layers if not layer.is_mask)
        if files.layers is not None:
            self.named = Named(tuple(layer.name for layer in self.layers), "name: the product's own files.")
        if not self.layers:
            raise InputError(f"The {self.what} input {self.label} has masks, but no band.")

    @property
    def label(self) -> str:
        """The files in a few words."""
        if self.files.product:
            return str(self.files.product.path)
        paths = self.files.paths
        archives = {archive[0] for path in paths if isinstance(path, ZipMember) and (archive := zip_member(path))}
        if len(archives) == 1:
            return archives.pop()
        return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Have refusals that do not say so yet name the files, and products next to them that may be meant."""
        try:
            yield
        except RefnetError as refusal:
            named = any(str(path) in str(refusal) for path in (self.label, *self.files.paths))
            products = ", ".join(self.files.products)
            if named and not products:
                raise
            message = str(refusal) if named else f"{self.label}: {refusal}"
            message += f" The folder also holds {products}: if that is meant, give its path." if products else ""
            raise type(refusal)(message) from refusal.__cause__

    def tags(self, layers: Iterable[Layer]) -> dict[str, str]:
        """Tags of the files of some layers together; the first file's count."""
        files = dict.fromkeys(file for layer in layers for file, _ in layer.pieces)
        return {key: value for file in reversed(files) for key, value in self.rasters[file].tags.items()}

    def paths(self, layers: Iterable[Layer]) -> list[str]:
        """Paths of the files of some layers, and of all pieces."""
        files = dict.fromkeys(file for layer in layers for file, _ in layer.pieces)
        return [self.files.paths[file] for file in self.files.pieces(files)]

    def images(self, layers: Iterable[Layer]) -> list[list[str]]:
        """Paths of the files of some layers, those together that are of one image or piece of it."""
        images: dict[tuple[int, int] | None, list[str]] = defaultdict(list)
        for file in dict.fromkeys(file for layer in layers for file, _ in layer.pieces):
            for piece in self.files.joined.get(file, ()):
                images[piece.window.row, piece.window.column].append(self.files.paths[piece.file])
            if file not in self.files.joined:
                images[None].append(self.files.paths[file])
        return list(images.values())

    @property
    def said(self) -> list[str | None]:
        """What the files call the bands."""
        return [layer.said for layer in self.layers]

    def _look(self, stack: ExitStack) -> Sequence[Layer]:
        """Look at all files, and keep those open that are no pieces of an image."""
        found = look_at(self.files, self.rasters)
        self.named, self.decisions, self.warnings = found.named, found.decisions, found.warnings
        if found.joined:
            opened, self.files = self.rasters, replace(self.files, joined=found.joined)
            pieces = set(self.files.pieces(found.joined))
            self.rasters = self.files.open(stack, ())
            for number, raster in opened.items():
                if number in pieces:
                    raster.close()
                else:
                    self.rasters[number] = raster
            first = self.rasters[next(iter(found.joined))]
            if isinstance(first, Mosaic) and (differs := first.compare()):
                self.warnings.append(differs)
        return found.layers

    def close_others(self, needed: Collection[int]) -> None:
        """Close the files whose numbers are not needed."""
        for number in set(self.rasters) - set(needed):
            self.rasters.pop(number).close()

    def pixel(self, layer: Layer) -> float:
        """Side of a layer's pixels in metres, about."""
        raster = self.rasters[layer.pieces[0][0]]
        if not isinstance(raster.place, AffinePlace):
            return math.inf
        metres = _DEGREE if raster.crs.is_geographic else raster.crs.axis_info[0].unit_conversion_factor
        return float(abs(raster.place.transform.determinant) ** 0.5 * metres)

    def grid(self, layers: Sequence[Layer]) -> GeoBox:
        """Grid of the finest of some bands, of a product's finest; all of the ground that its granules cover.

        Raises
        ------
        InputError
            If it is not north-up, or a product's granules are not of one grid.
        """
        finest = min(self.layers if self.files.product else layers, key=self.pixel)
        grids = [north_up_grid(self.rasters[file]) for file, _ in finest.pieces]
        return _union(grids, self.label) if len(grids) > 1 else grids[0]

    def sample(self, layers: Sequence[Layer], may_be_empty: bool = False) -> list[FileSample]:
        """Read values spread over some layers, file by file.

        Raises
        ------
        InputError
            If no layer has a valid pixel, unless that may be.
        """
        taken = []
        for file in dict.fromkeys(file for layer in layers for file, _ in layer.pieces):
            own = [(n, band) for n, layer in enumerate(layers) for number, band in layer.pieces if number == file]
            raster = self.rasters[file]
            targets, bands = zip(*own, strict=True)
            with raster.naming("cannot be understood"):
                taken.append(FileSample(file, bands, targets, take_sample(raster, bands, self.files.mask_errors)))
        if not may_be_empty and not any(np.isfinite(file.sample.values).any() for file in taken):
            raise self.empty()
        return taken

    def empty(self, why: str = "") -> InputError:
        """Return the error that no pixel is valid, perhaps with the reason in brackets."""
        return InputError(
            f"The {self.what} input {self.label} has no valid pixel{why}: give one that holds measurements. If you "
            "give files of both sensors, --missing use-other predicts from the other sensor alone."
        )

    def set_fills(self, fills: Mapping[int, Fills]) -> None:
        """Have files, by their numbers, read without their fills; those that are opened later too."""
        self.files = replace(self.files, fills=dict(fills))
        for file, found in fills.items():
            self.rasters[file].fills = found


class FileSample(NamedTuple):
    """Pixels spread over some bands of one file."""

    file: int
    bands: tuple[int, ...]
    targets: tuple[int, ...]
    """Which of the layers asked for each band feeds."""
    sample: Sample


def by_layer(samples: Sequence[FileSample], values: Callable[[Sample], Float32]) -> list[Float32]:
    """Bring values of files, shape (B, n) each, into an array for each layer."""
    taken: dict[int, list[Float32]] = {}
    for file in samples:
        for target, band in zip(file.targets, values(file.sample), strict=True):
            taken.setdefault(target, []).append(band)
    return [np.concatenate(taken[target]) for target in sorted(taken)]


def of_layers(samples: Sequence[FileSample], layers: Collection[int]) -> list[FileSample]:
    """Leave only some of the layers that were asked for."""
    kept = []
    for file, bands, targets, sample in samples:
        own = [index for index, target in enumerate(targets) if target in layers]
        if own:
            less = sample._replace(
                values=sample.values[own], lowest=sample.lowest[own], highest=sample.highest[own]
            )
            kept.append(FileSample(file, tuple(bands[i] for i in own), tuple(targets[i] for i in own), less))
    return kept


def _union(grids: list[GeoBox], label: str) -> GeoBox:
    """Grid that covers several of the same pixels."""
    first = grids[0].transform
    for grid in grids[1:]:
        steps = (grid.transform.c - first.c) / first.a, (grid.transform.f - first.f) / first.e
        alike = (grid.transform.a, grid.transform.e, grid.crs) == (first.a, first.e, grids[0].crs)
        if not alike or max(abs(step - round(step)) for step in steps) > 1e-6 or max(map(abs, steps)) > _FARTHEST:
            raise InputError(f"The granules of {label} do not lie on one grid: give an intact product.")
    left, top = min(grid.transform.c for grid in grids), max(grid.transform.f for grid in grids)
    right = max(grid.transform.c + grid.shape[1] * first.a for grid in grids)
    bottom = min(grid.transform.f + grid.shape[0] * first.e for grid in grids)
    shape = round((bottom - top) / first.e), round((right - left) / first.a)
    return GeoBox(shape, type(first)(first.a, 0.0, left, 0.0, first.e, top), grids[0].crs)


def nodata_decision(source: Source, layers: Sequence[Layer]) -> Decision:
    """Tell which number stands for "no measurement"."""
    what = f"{source.files.modality}.nodata"
    file, band = layers[0].pieces[0]
    declared = source.rasters[file].dataset.nodatavals[band - 1]
    if source.files.product:
        return Decision(what, 0, "tag: the product's own number for it; 65,535 marks saturated pixels.")
    if declared is None:
        return Decision(what, 0, "values: none is declared; pixels that are 0 in all bands of a file are nodata.")
    return Decision(what, declared if np.isfinite(declared) else str(declared), "tag: declared in the file.")


def stored_dtype(source: Source, layers: Sequence[Layer]) -> str:
    """Name the data type of the layers' values, as they are once declared scales are applied."""
    if any(scaling != (1.0, 0.0) for scaling in scalings(source, layers)):
        return "float32"
    types = [source.rasters[file].dataset.dtypes[band - 1] for layer in layers for file, band in layer.pieces]
    return str(np.result_type(*types))


def scalings(source: Source, layers: Iterable[Layer]) -> Iterator[tuple[float, float]]:
    """Yield the declared scale and offset of each layer's pieces."""
    for layer in layers:
        for file, band in layer.pieces:
            yield source.rasters[file].scaling(band)
