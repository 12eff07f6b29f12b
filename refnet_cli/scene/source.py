"""The open files of one sensor: their bands, and the mosaics that they form."""

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
from refnet_cli.raster.fills import Fills
from refnet_cli.raster.georeference import AffineGeoreference
from refnet_cli.raster.headers import ZipMember
from refnet_cli.raster.mosaic import Mosaic
from refnet_cli.raster.raster import north_up_grid
from refnet_cli.raster.sample import Sample, take_sample
from refnet_cli.scene.inputs import Files, Layer, file_numbers
from refnet_cli.scene.layout import detect_layout
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.band_names import BandNames
from refnet_cli.sensors.decisions import Decision
from refnet_cli.sensors.safe.files import zip_member
from refnet_cli.types import Float32

_DEGREE = 111_320.0  # metres
_FARTHEST = 100_000  # maximum distance in pixels between a product's granules


class Source:
    """The opened files of one sensor and their bands.

    Parameters
    ----------
    files : Files
    stack : ExitStack
        Closes the opened files.

    Attributes
    ----------
    layers : tuple of Layer
        All bands of all files in their order, without masks.
    masks : tuple of Layer
    band_names : BandNames
        Canonical name of each band, and the evidence; see `band_names`.
    decisions : list of Decision
        The mosaics.
    warnings : list of str
        Possible problems with them.
    """

    def __init__(self, files: Files, stack: ExitStack) -> None:
        self.files = files
        self.what = SENSORS[files.modality].name
        self.decisions: list[Decision] = []
        self.warnings: list[str] = []
        self.rasters = files.open(stack, ())
        # The files of a product are known without opening them, and old products have hundreds.
        layers = files.layers if files.layers is not None else self._detect_layout(stack)
        self.masks = tuple(layer for layer in layers if layer.is_mask)
        self.layers = tuple(layer for layer in layers if not layer.is_mask)
        if files.layers is not None:
            self.band_names = BandNames(tuple(layer.name for layer in self.layers), "name: the files of the product.")
        if not self.layers:
            raise InputError(f"The {self.what} input {self.label} has masks, but no bands. Add the bands.")

    @property
    def label(self) -> str:
        """Short name of the files for messages."""
        if self.files.product:
            return str(self.files.product.path)
        paths = self.files.paths
        archives = {archive[0] for path in paths if isinstance(path, ZipMember) and (archive := zip_member(path))}
        if len(archives) == 1:
            return archives.pop()
        return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"

    @contextmanager
    def error_context(self) -> Iterator[None]:
        """Add the files' names to refusals that lack them, and name products next to them that may be meant."""
        try:
            yield
        except RefnetError as refusal:
            named = any(str(path) in str(refusal) for path in (self.label, *self.files.paths))
            products = ", ".join(self.files.other_products)
            if named and not products:
                raise
            message = str(refusal) if named else f"{self.label}: {refusal}"
            message += f" The folder also contains {products}. To use it, pass its path." if products else ""
            raise type(refusal)(message) from refusal.__cause__

    def tags(self, layers: Iterable[Layer]) -> dict[str, str]:
        """Return the tags of the files of some layers. The first file takes precedence."""
        files = file_numbers(layers)
        return {key: value for file in reversed(files) for key, value in self.rasters[file].tags.items()}

    def paths(self, layers: Iterable[Layer]) -> list[str]:
        """Return the paths of the files of some layers, with all pieces of mosaics."""
        files = file_numbers(layers)
        return [self.files.paths[file] for file in self.files.expand_mosaics(files)]

    def images(self, layers: Iterable[Layer]) -> list[list[str]]:
        """Return the paths of the files of some layers, grouped by image or position in a mosaic."""
        images: dict[tuple[int, int] | None, list[str]] = defaultdict(list)
        for file in file_numbers(layers):
            for piece in self.files.mosaics.get(file, ()):
                images[piece.window.row, piece.window.column].append(self.files.paths[piece.file])
            if file not in self.files.mosaics:
                images[None].append(self.files.paths[file])
        return list(images.values())

    @property
    def descriptions(self) -> list[str | None]:
        """Descriptions of the bands."""
        return [layer.description for layer in self.layers]

    def _detect_layout(self, stack: ExitStack) -> Sequence[Layer]:
        """Detect the layout of the files. Keep those open that are not pieces of a mosaic."""
        found = detect_layout(self.files, self.rasters)
        self.band_names, self.decisions, self.warnings = found.band_names, found.decisions, found.warnings
        if found.mosaics:
            opened, self.files = self.rasters, replace(self.files, mosaics=found.mosaics)
            pieces = set(self.files.expand_mosaics(found.mosaics))
            self.rasters = self.files.open(stack, ())
            for number, raster in opened.items():
                if number in pieces:
                    raster.close()
                else:
                    self.rasters[number] = raster
            first = self.rasters[next(iter(found.mosaics))]
            if isinstance(first, Mosaic) and (differs := first.compare_overlaps()):
                self.warnings.append(differs)
        return found.layers

    def close_others(self, needed: Collection[int]) -> None:
        """Close the files that are not needed."""
        for number in set(self.rasters) - set(needed):
            self.rasters.pop(number).close()

    def pixel(self, layer: Layer) -> float:
        """Return the approximate side of a layer's pixels in metres."""
        raster = self.rasters[layer.pieces[0][0]]
        if not isinstance(raster.georeference, AffineGeoreference):
            return math.inf
        metres = _DEGREE if raster.crs.is_geographic else raster.crs.axis_info[0].unit_conversion_factor
        return float(abs(raster.georeference.transform.determinant) ** 0.5 * metres)

    def grid(self, layers: Sequence[Layer]) -> GeoBox:
        """Return the grid of the finest of some bands, or of all bands of a product, over all of its granules.

        Raises
        ------
        InputError
            If it is not north-up, or the granules of a product are not on one grid.
        """
        finest = min(self.layers if self.files.product else layers, key=self.pixel)
        grids = [north_up_grid(self.rasters[file]) for file, _ in finest.pieces]
        return _union(grids, self.label) if len(grids) > 1 else grids[0]

    def sample(self, layers: Sequence[Layer], allow_empty: bool = False) -> list[FileSample]:
        """Sample the values of some layers, file by file.

        Raises
        ------
        InputError
            If no layer has a valid pixel and ``allow_empty`` is false.
        """
        taken = []
        for file in file_numbers(layers):
            own = [(n, band) for n, layer in enumerate(layers) for number, band in layer.pieces if number == file]
            raster = self.rasters[file]
            targets, bands = zip(*own, strict=True)
            with raster.error_context("cannot be understood"):
                taken.append(FileSample(file, bands, targets, take_sample(raster, bands, self.files.mask_errors)))
        if not allow_empty and not any(np.isfinite(file.sample.values).any() for file in taken):
            raise self.empty()
        return taken

    def empty(self, why: str = "") -> InputError:
        """Return the error that no pixel is valid, optionally with a reason."""
        return InputError(
            f"The {self.what} input {self.label} has no valid pixel{why}. Use a file with measurements. With files of "
            "both sensors, --missing use-other predicts from the other sensor alone."
        )

    def set_fills(self, fills: Mapping[int, Fills]) -> None:
        """Mask fill values, by file number, in all files, including those that are opened later."""
        self.files = replace(self.files, fills=dict(fills))
        for file, found in fills.items():
            self.rasters[file].fills = found


class FileSample(NamedTuple):
    """Sampled pixels of some bands of one file."""

    file: int
    bands: tuple[int, ...]
    targets: tuple[int, ...]
    """The index of the requested layer that each band fills."""
    sample: Sample


def by_layer(samples: Sequence[FileSample], values: Callable[[Sample], Float32]) -> list[Float32]:
    """Concatenate the values of files, shape (B, n) each, by layer."""
    taken: dict[int, list[Float32]] = {}
    for file in samples:
        for target, band in zip(file.targets, values(file.sample), strict=True):
            taken.setdefault(target, []).append(band)
    return [np.concatenate(taken[target]) for target in sorted(taken)]


def restrict_samples(samples: Sequence[FileSample], layers: Collection[int]) -> list[FileSample]:
    """Keep only some of the requested layers."""
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
    """Return the grid that covers several grids with common pixels."""
    first = grids[0].transform
    for grid in grids[1:]:
        steps = (grid.transform.c - first.c) / first.a, (grid.transform.f - first.f) / first.e
        alike = (grid.transform.a, grid.transform.e, grid.crs) == (first.a, first.e, grids[0].crs)
        if not alike or max(abs(step - round(step)) for step in steps) > 1e-6 or max(map(abs, steps)) > _FARTHEST:
            raise InputError(f"The granules of {label} are not on one grid. Re-download the product.")
    left, top = min(grid.transform.c for grid in grids), max(grid.transform.f for grid in grids)
    right = max(grid.transform.c + grid.shape[1] * first.a for grid in grids)
    bottom = min(grid.transform.f + grid.shape[0] * first.e for grid in grids)
    shape = round((bottom - top) / first.e), round((right - left) / first.a)
    return GeoBox(shape, type(first)(first.a, 0.0, left, 0.0, first.e, top), grids[0].crs)


def nodata_decision(source: Source, layers: Sequence[Layer]) -> Decision:
    """Return the decision on the nodata value."""
    what = f"{source.files.modality}.nodata"
    file, band = layers[0].pieces[0]
    declared = source.rasters[file].dataset.nodatavals[band - 1]
    if source.files.product:
        return Decision(what, 0, "tag: the nodata value of the product; 65,535 marks saturated pixels.")
    if declared is None:
        return Decision(what, 0, "values: none is declared; pixels with 0 in all bands of a file are nodata.")
    return Decision(what, declared if np.isfinite(declared) else str(declared), "tag: declared in the file.")


def stored_dtype(source: Source, layers: Sequence[Layer]) -> str:
    """Return the data type of the layers' values after declared scales are applied."""
    if any(scaling != (1.0, 0.0) for scaling in declared_scalings(source, layers)):
        return "float32"
    types = [source.rasters[file].dataset.dtypes[band - 1] for layer in layers for file, band in layer.pieces]
    return str(np.result_type(*types))


def declared_scalings(source: Source, layers: Iterable[Layer]) -> Iterator[tuple[float, float]]:
    """Yield the declared scale and offset of each piece of the layers."""
    for layer in layers:
        for file, band in layer.pieces:
            yield source.rasters[file].scaling(band)
