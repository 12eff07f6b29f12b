"""The files of one sensor: a stack, a file a band, a folder of them, or a SAFE product; and which band is where."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from odc.geo.geobox import GeoBox

from refnet_cli.errors import InputError, InputMissingError, RefnetError
from refnet_cli.files import local_file
from refnet_cli.products import CLOUD_MASKS, PRODUCTS, Modality, band_of_file, canonical_band, canonical_mask
from refnet_cli.remote import Remote, as_given
from refnet_cli.scene.fills import Fills
from refnet_cli.scene.geometry import AffinePlace
from refnet_cli.scene.judge import Decision, band_names
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.raster import Float32, Raster, ZipMember, north_up_grid
from refnet_cli.scene.safe import OpticalProduct, SarProduct, is_safe, read_safe
from refnet_cli.scene.sample import Sample, take_sample
from refnet_cli.scene.vrt import is_vrt, read_vrt

Paths = str | Path | Sequence[str | Path]
RASTERS = {".tif", ".tiff", ".jp2"}
MOST_FILES = 64
RADAR = ("VV", "VH", "HH", "HV")
_DEGREE = 111_320.0  # metres
_FARTHEST = 100_000  # pixels between a product's granules
WHAT: dict[Modality, str] = {"optical": "optical", "sar": "SAR"}


class Layer(NamedTuple):
    """One band of a sensor, or a mask that comes with its bands."""

    name: str | None
    """Canonical name of the band or of the mask."""
    said: str | None
    """The band's description, or its file's name."""
    pieces: tuple[tuple[int, int], ...]
    """Numbers of files and of the band in each, from 1; several where the ground is cut into granules."""
    is_mask: bool = False


@dataclass(frozen=True)
class Files:
    """Which files to open, and what is known of them before they are."""

    modality: Modality
    paths: tuple[str, ...]
    product: OpticalProduct | SarProduct | None = None
    layers: tuple[Layer, ...] | None = None
    """Known beforehand only of a product."""
    outlines: tuple[tuple[str, str], ...] = ()
    """Reference system and file of masks that give clouds by their outlines."""
    allow_gcps: bool = False
    allow_vrt: bool = False
    mask_errors: bool = False
    """Whether what cannot be read is passed over."""
    fills: Mapping[int, Fills] = field(default_factory=dict)
    """Undeclared fills, by the numbers of files."""

    def on_disk(self, needed: Collection[int]) -> list[Path]:
        """What is read of the files whose numbers are needed; of a zip, the zip; of a virtual raster, what it names."""
        own = [Path(self.product.path)] if self.product else []
        for path in (self.paths[file] for file in sorted(needed)):
            if not isinstance(path, ZipMember | Remote):
                own += [Path(path), *map(Path, read_vrt(path).sources if self.allow_vrt and is_vrt(path) else ())]
        return own

    def remote(self, needed: Collection[int]) -> list[str]:
        """URLs of the files whose numbers are needed, as they may be shown."""
        return [str(self.paths[file]) for file in sorted(needed) if isinstance(self.paths[file], Remote)]

    def open(self, stack: ExitStack, needed: Collection[int] | None = None) -> dict[int, Raster]:
        """Open files, to be closed by ``stack``: those whose numbers are needed, or all."""
        rasters = _Rasters(self, stack)
        for number in range(len(self.paths)) if needed is None else needed:
            rasters[number]
        return rasters


class _Rasters(dict[int, Raster]):
    """Files by their numbers, opened when they are first asked for."""

    def __init__(self, files: Files, stack: ExitStack) -> None:
        super().__init__()
        self._files, self._stack = files, stack

    def __missing__(self, number: int) -> Raster:
        files = self._files
        raster = Raster(files.paths[number], WHAT[files.modality], files.allow_gcps, files.allow_vrt)
        self._stack.callback(raster.dataset.close)
        raster.fills = files.fills.get(number, Fills())
        self[number] = raster
        return raster


def find_files(given: Paths, modality: Modality, options: SceneOptions) -> list[Files]:
    """Tell what a user's path or paths stand for.

    Parameters
    ----------
    given : path or sequence of paths
        A raster file; several; a folder of them; a SAFE product as folder, zip or metadata file. With
        ``allow_remote``, URLs of raster files too.
    modality : {"optical", "sar"}
    options : SceneOptions
        What files may be.

    Returns
    -------
    list of Files
        Alternatives, the largest first: more than one only for products that lie in several UTM zones.

    Raises
    ------
    InputMissingError
        If a file is missing or may not be read.
    InputError
        If there is nothing that can be used.
    """
    what = WHAT[modality]
    several = [as_given(path) for path in ([given] if isinstance(given, str | Path) else given)]
    if any(isinstance(path, Remote) for path in several):
        return [_raster_files(several, modality, options)]
    paths = [Path(path) for path in several]
    if len(paths) == 1 and is_safe(paths[0]):
        return _product_files(paths[0], modality, options.allow_gcps)
    if len(paths) == 1 and os.path.isdir(paths[0]):
        # A folder may hold both sensors' files.
        others = PRODUCTS["sentinel-2-l1c"].bands if modality == "sar" else RADAR
        folder = paths[0]
        paths = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in RASTERS and band_of_file(path.name) not in others
        )
        left_out = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in RASTERS)
        if not paths and left_out:
            raise InputError(
                f"The {what} folder {folder} holds bands of the other sensor only ({left_out[0]}): perhaps --optical "
                "and --sar are exchanged."
            )
        if not paths:
            raise InputMissingError(
                f"The {what} folder {folder} is no SAFE product and holds no GeoTIFF or JPEG 2000 file: name another."
            )
    if not paths:
        raise InputMissingError(f"No {what} file is given.")
    return [_raster_files(paths, modality, options)]


def _raster_files(paths: Sequence[str | Path], modality: Modality, options: SceneOptions) -> Files:
    what = WHAT[modality]
    if len(paths) > MOST_FILES:
        raise InputError(f"{len(paths)} {what} files are too many: give one a band, at most {MOST_FILES}.")
    # A Remote is taken as it is, which is all that --allow-remote allows.
    known = tuple(
        path if isinstance(path, Remote) and options.allow_remote else local_file(path, what) for path in paths
    )  # fmt: skip
    return Files(modality, known, allow_gcps=options.allow_gcps and modality == "sar", allow_vrt=options.allow_vrt)


def _product_files(path: Path, modality: Modality, allow_gcps: bool) -> list[Files]:
    product = read_safe(path)
    if isinstance(product, SarProduct):
        if modality != "sar":
            raise InputError(
                f"--optical {path} is a Sentinel-1 product: give it with --sar, and Sentinel-2 with --optical; perhaps "
                "--optical and --sar are exchanged."
            )
        if not allow_gcps:
            raise InputError(
                f"The SAR product {path} is GRD and not terrain-corrected: in relief it is off by hundreds of metres. "
                "Terrain-correct it first, for instance with SNAP or sarsen, or accept that with --allow-gcps."
            )
        found = {band: [location] for band, location in product.measurements.items()}
        return [replace(_with_layers(modality, product, found, {}), allow_gcps=True)]
    if modality != "optical":
        raise InputError(
            f"--sar {path} is a Sentinel-2 product: give it with --optical, and Sentinel-1 with --sar; perhaps "
            "--optical and --sar are exchanged."
        )
    choices = []
    for zone in dict.fromkeys(granule.zone for granule in product.granules):
        granules = [granule for granule in product.granules if granule.zone == zone]
        bands = _common([granule.bands for granule in granules])
        masks = _common([granule.masks for granule in granules])
        outlines = tuple((zone, location) for location in masks.get("CLOUDS", []))
        choices.append((len(granules), replace(_with_layers(modality, product, bands, masks), outlines=outlines)))
    return [files for _, files in sorted(choices, key=lambda choice: -choice[0])]


def _common(tables: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Gather what all granules have: what one of them lacks is no band, and no mask, of the product."""
    return {name: [table[name] for table in tables] for name in tables[0] if all(name in table for table in tables)}


def _with_layers(
    modality: Modality,
    product: OpticalProduct | SarProduct,
    bands: dict[str, list[str]],
    masks: dict[str, list[str]],
) -> Files:
    """Number the files, one a band and granule."""
    paths: list[str] = []
    layers = []
    for table, is_mask in ((bands, False), (masks, True)):
        for name, locations in table.items():
            known = name if name in CLOUD_MASKS else f"MSK_{name}"
            if is_mask and known not in CLOUD_MASKS:
                continue
            first = len(paths)
            paths += [ZipMember(text) if text.startswith("/vsizip/") else text for text in locations]
            pieces = tuple((first + index, 1) for index in range(len(locations)))
            layers.append(Layer(known if is_mask else name, None, pieces, is_mask))
    return Files(modality, tuple(paths), product, tuple(layers))


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
    named : tuple
        Canonical name of each band, and the evidence; see `band_names`.
    """

    def __init__(self, files: Files, stack: ExitStack) -> None:
        self.files = files
        self.what = WHAT[files.modality]
        # A product's files need not be looked at to be known, and old ones have hundreds.
        self.rasters = files.open(stack, None if files.layers is None else ())
        layers, how = self._told() if files.layers is None else (files.layers, "name: the product's own files.")
        self.masks = tuple(layer for layer in layers if layer.is_mask)
        self.layers = tuple(layer for layer in layers if not layer.is_mask)
        self.named = [layer.name for layer in self.layers], how
        if not self.layers:
            raise InputError(f"The {self.what} input {self.label} has masks, but no band.")

    @property
    def label(self) -> str:
        """The files in a few words."""
        if self.files.product:
            return str(self.files.product.path)
        paths = self.files.paths
        return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Have refusals that do not say so yet name the files."""
        try:
            yield
        except RefnetError as refusal:
            if any(str(path) in str(refusal) for path in (self.label, *self.files.paths)):
                raise
            raise type(refusal)(f"{self.label}: {refusal}") from refusal.__cause__

    def tags(self, layers: Iterable[Layer]) -> dict[str, str]:
        """Tags of the files of some layers together; the first file's count."""
        files = dict.fromkeys(file for layer in layers for file, _ in layer.pieces)
        return {key: value for file in reversed(files) for key, value in self.rasters[file].tags.items()}

    def paths(self, layers: Iterable[Layer]) -> list[str]:
        """Paths of the files of some layers."""
        return [self.files.paths[file] for file in dict.fromkeys(file for layer in layers for file, _ in layer.pieces)]

    @property
    def said(self) -> list[str | None]:
        """What the files call the bands."""
        return [layer.said for layer in self.layers]

    def _told(self) -> tuple[tuple[Layer, ...], str]:
        """Name bands by descriptions, by the files' names, or by their number."""
        if len(self.rasters) > 1:
            # A map that was written beside its bands is none of them.
            for number in [n for n, raster in self.rasters.items() if "REFNET_VERSION" in raster.tags]:
                self.rasters.pop(number).dataset.close()
        if len(self.rasters) == 1:
            ((number, raster),) = self.rasters.items()
            if raster.dataset.count > 1:
                return self._told_of_stack(raster, number)
        layers, kinds = [], set()
        for number, raster in self.rasters.items():
            if raster.dataset.count > 1:
                names, how = band_names(raster.dataset.descriptions, self.files.modality)
                kinds.add(how.partition(":")[0])
                layers += [
                    self._layer(name, said, number, band)
                    for band, (name, said) in enumerate(zip(names, raster.dataset.descriptions, strict=True), 1)
                ]
                continue
            said, file = raster.dataset.descriptions[0], Path(raster.path).name
            by_file, by_description = band_of_file(file), canonical_band(said)
            if by_file and by_description and by_file != by_description and by_description != "B01":
                raise InputError(
                    f"The {self.what} file {raster.path} is {by_file} by its name and {by_description} by its "
                    f"description {said!r}: rename it, or describe its band rightly."
                )
            kinds.add("name" if by_file else "description")
            layers.append(self._layer(by_file or by_description, said if not by_file and said else file, number, 1))
        known = [layer.name for layer in layers if not layer.is_mask and layer.name]
        kind = "count" if "count" in kinds else "name" if "name" in kinds else "description"
        return tuple(layers), f"{kind}: the files are {', '.join(known)}." if known else ""

    def _told_of_stack(self, raster: Raster, number: int) -> tuple[tuple[Layer, ...], str]:
        names, how = band_names(raster.dataset.descriptions, self.files.modality)
        said = raster.dataset.descriptions
        return tuple(
            self._layer(name, text, number, band) for band, (name, text) in enumerate(zip(names, said, strict=True), 1)
        ), how

    def _layer(self, name: str | None, said: str | None, file: int, band: int) -> Layer:
        if name is not None and (name in RADAR) != (self.files.modality == "sar"):
            return Layer(None, said, ((file, band),))
        mask = canonical_mask(said) if self.files.modality == "optical" and name is None else None
        return Layer(mask or name, said, ((file, band),), mask is not None)

    def close_others(self, needed: Collection[int]) -> None:
        """Close the files whose numbers are not needed."""
        for number in set(self.rasters) - set(needed):
            self.rasters.pop(number).dataset.close()

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
            raise InputError(
                f"The {self.what} input {self.label} has no valid pixel: give one that holds measurements, or "
                "predict from the other sensor alone with --missing use-other."
            )
        return taken

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
