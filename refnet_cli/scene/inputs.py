"""Resolution of a user's paths to files: a stack, one file per band, a folder or zip of files, or a SAFE product."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.raster.arrays import ArrayImage, ArrayRaster
from refnet_cli.raster.fills import Fills
from refnet_cli.raster.headers import ZipMember
from refnet_cli.raster.mosaic import Mosaic, MosaicPiece
from refnet_cli.raster.raster import Raster
from refnet_cli.raster.vrt import is_vrt, read_vrt
from refnet_cli.scene.options import Paths, SceneOptions
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.bands import band_of_file
from refnet_cli.sensors.quality import CLOUD_MASKS
from refnet_cli.sensors.safe.files import has_metadata, is_safe, zip_member, zip_rasters
from refnet_cli.sensors.safe.optical import OpticalProduct
from refnet_cli.sensors.safe.read import read_safe
from refnet_cli.sensors.safe.sar import CorrectedProduct, SarProduct
from refnet_cli.sensors.sensor import Modality, other_of
from refnet_cli.system.atomic import local_file
from refnet_cli.system.urls import Remote, parse_paths

Given = Paths | Sequence[ArrayImage]
"""A sensor's files, or its images in memory."""
CLOUD_MASK = -1
"""Number of the file of `Files.cloud_mask`, which is none of `Files.paths`."""
RASTERS = {".tif", ".tiff", ".jp2"}
MAX_FILES = 4096
_MAX_FOLDER_ENTRIES = 1000  # files and folders that are listed of a folder
_MAX_FOLDER_DEPTH = 4  # of nested folders
_HIDDEN_PREFIXES = (".", "__MACOSX")  # of files that operating systems add


class Layer(NamedTuple):
    """A band of a sensor, or a mask of its files."""

    name: str | None
    """Canonical name of the band or of the mask."""
    description: str | None
    """The band's description, or its file's name."""
    pieces: tuple[tuple[int, int], ...]
    """File numbers, and the band number in each file, from 1. Several for the granules of a product."""
    is_mask: bool = False


def file_numbers(layers: Iterable[Layer]) -> list[int]:
    """Return the numbers of the files that contain some layers, without duplicates."""
    return list(dict.fromkeys(file for layer in layers for file, _ in layer.pieces))


@dataclass(frozen=True)
class Files:
    """The files to open, and what is known of them beforehand."""

    modality: Modality
    paths: tuple[str, ...]
    product: OpticalProduct | SarProduct | None = None
    layers: tuple[Layer, ...] | None = None
    """Known beforehand only for a product."""
    cloud_vectors: tuple[tuple[str, str], ...] = ()
    """CRS and GDAL path of cloud masks that consist of polygons."""
    allow_gcps: bool = False
    allow_vrt: bool = False
    mask_errors: bool = False
    """Whether unreadable blocks are skipped."""
    in_folder: bool = False
    """Whether the files come from a folder or zip, which may contain pictures as well."""
    other_products: tuple[str, ...] = ()
    """SAFE products in the same folder, which are not read."""
    fills: Mapping[int, Fills] = field(default_factory=dict)
    """Undeclared fill values, by file number."""
    mosaics: Mapping[int, tuple[MosaicPiece, ...]] = field(default_factory=dict)
    """Pieces of mosaics, by the number of the first piece, which represents the mosaic."""
    arrays: tuple[ArrayImage, ...] = ()
    """Images in memory, one for each of `paths`, which then are their names."""
    cloud_mask: Path | None = None
    """A raster of clouds that is given apart from the optical files."""

    def expand_mosaics(self, needed: Iterable[int]) -> list[int]:
        """Return file numbers, with those of all pieces in place of mosaics."""
        pieces: list[int] = []
        for number in needed:
            pieces += [piece.file for piece in self.mosaics[number]] if number in self.mosaics else [number]
        return pieces

    def on_disk(self, needed: Collection[int]) -> list[Path]:
        """Return the local paths that are read for some files: zips for their members, VRTs with their sources."""
        own = [Path(self.product.path)] if self.product else []
        own += [self.cloud_mask] if CLOUD_MASK in needed and self.cloud_mask else []
        if self.arrays:
            return own
        for path in self._paths_of(needed):
            if isinstance(path, ZipMember) and not self.product:
                archive, _ = zip_member(path) or ("", "")
                own.append(Path(archive))
            elif not isinstance(path, ZipMember | Remote):
                own += [Path(path), *map(Path, read_vrt(path).sources if self.allow_vrt and is_vrt(path) else ())]
        return list(dict.fromkeys(own))

    def remote(self, needed: Collection[int]) -> list[str]:
        """Return the URLs of some files, without secrets."""
        return [str(path) for path in self._paths_of(needed) if isinstance(path, Remote)]

    def _paths_of(self, needed: Collection[int]) -> list[str]:
        return [self.paths[file] for file in self.expand_mosaics(sorted({*needed} - {CLOUD_MASK}))]

    def open(self, stack: ExitStack, needed: Collection[int] | None = None) -> dict[int, Raster]:
        """Open all files, or those with the given numbers; ``stack`` closes them."""
        rasters = _Rasters(self, stack)
        for number in range(len(self.paths)) if needed is None else needed:
            rasters[number]
        return rasters


class _Rasters(dict[int, Raster]):
    """Files by number, opened on first access."""

    def __init__(self, files: Files, stack: ExitStack) -> None:
        super().__init__()
        self._files, self._stack = files, stack

    def __missing__(self, number: int) -> Raster:
        files, what = self._files, SENSORS[self._files.modality].name
        raster: Raster
        if number == CLOUD_MASK and files.cloud_mask:
            raster = Raster(files.cloud_mask, "cloud mask", allow_vrt=files.allow_vrt)
        elif files.arrays:
            raster = ArrayRaster(files.arrays[number], what)
        elif number in files.mosaics:
            raster = Mosaic(files.paths, files.mosaics[number], what, files.allow_vrt)
        else:
            raster = Raster(files.paths[number], what, files.allow_gcps, files.allow_vrt)
        self._stack.callback(raster.close)
        raster.fills = files.fills.get(number, Fills())
        self[number] = raster
        return raster


def find_files(given: Given, modality: Modality, options: SceneOptions) -> list[Files]:
    """Resolve a user's paths to files.

    Parameters
    ----------
    given : path, sequence of paths, or sequence of ArrayImage
        One or several raster files; folders or zips of them; a SAFE product as folder, zip or metadata file, or a
        folder that contains one. With ``allow_remote``, also URLs of raster files. Or images in memory.
    modality : {"optical", "sar"}
    options : SceneOptions
        Which kinds of files are allowed.

    Returns
    -------
    list of Files
        Alternatives, the largest first. More than one only for products in several UTM zones.

    Raises
    ------
    InputMissingError
        If a file is missing or unreadable.
    InputError
        If there are no usable files.
    """
    images = [] if isinstance(given, str | Path) else [each for each in given if isinstance(each, ArrayImage)]
    if images:
        return [Files(modality, tuple(image.label for image in images), arrays=tuple(images))]
    several = [parse_paths(path) for path in ([given] if isinstance(given, str | Path) else given)]
    if any(isinstance(path, Remote) for path in several):
        return [_raster_files(several, modality, options)]
    paths = []
    for path in map(Path, several):
        try:
            paths.append(_resolve(path, modality))
        except OSError as cause:
            what = SENSORS[modality].name
            raise InputMissingError(f"The {what} folder {path} cannot be read: {cause.strerror}.") from cause
    if len(paths) == 1 and is_safe(paths[0]):
        product = read_safe(paths[0])
        if not isinstance(product, CorrectedProduct):
            return _product_files(paths[0], product, modality, options.allow_gcps)
    if not paths:
        raise InputMissingError(f"There is no {SENSORS[modality].name} file. Pass one with --{modality}.")
    rasters = [raster for path in paths for raster in _expand(path, modality)]
    in_folder = any(os.path.isdir(path) or path.suffix.lower() == ".zip" for path in paths)
    products = tuple(str(child) for path in paths if os.path.isdir(path) for child in _products_in(path, modality))
    return [replace(_raster_files(rasters, modality, options), in_folder=in_folder, other_products=products)]


def _resolve(path: Path, modality: Modality) -> Path:
    """Return the path itself, or the only usable entry of a folder."""
    for _ in range(_MAX_FOLDER_DEPTH):
        if not os.path.isdir(path) or has_metadata(path) or _rasters_in(path, modality):
            break
        inner = [child for child in _children(path) if _can_be_used(child, modality)]
        if len(inner) > 1:
            listed = ", ".join(child.name for child in inner[:5]) + ", ..." * (len(inner) > 5)
            several = "" if any(map(is_safe, inner)) else (
                f", or adjacent ones separated by commas: --{modality} {inner[0]},{inner[1]}"
            )
            raise InputError(
                f"The {SENSORS[modality].name} folder {path} contains {len(inner)} usable products or folders "
                f"({listed}). Pass one of them{several}."
            )
        if not inner:
            break
        path = inner[0]
    return path


def _children(folder: Path) -> list[Path]:
    """Return the entries of a folder without hidden ones."""
    entries = islice(folder.iterdir(), _MAX_FOLDER_ENTRIES)
    return sorted(entry for entry in entries if not entry.name.startswith(_HIDDEN_PREFIXES))


def _can_be_used(path: Path, modality: Modality) -> bool:
    """Return whether an entry of a folder is a usable product, folder or zip."""
    missions = {sensor.mission: key for key, sensor in SENSORS.items()}
    if missions.get(path.name[:2].upper(), modality) != modality:
        return False
    try:
        if is_safe(path):
            return True
        if os.path.isdir(path):
            return bool(_rasters_in(path, modality)) or any(is_safe(child) for child in _children(path))
        return path.suffix.lower() == ".zip" and bool(_of_sensor(zip_rasters(path), modality))
    except (OSError, InputError, InputMissingError):
        return False


def _products_in(folder: Path, modality: Modality) -> list[Path]:
    """Return the SAFE products in a folder."""
    return [child for child in _children(folder) if is_safe(child) and _can_be_used(child, modality)]


def _of_sensor(names: Iterable[str], modality: Modality) -> list[str]:
    """Remove the files that are bands of another sensor according to their names. A folder may contain both sensors."""
    own = (None, *SENSORS[modality].bands)
    return [name for name in names if band_of_file(Path(name).name) in own]


def _rasters_in(folder: Path, modality: Modality | None = None) -> list[str]:
    """Return the raster files in a folder, or only those that may belong to a sensor."""
    names = (entry for entry in folder.iterdir() if not entry.name.startswith(_HIDDEN_PREFIXES))
    rasters = sorted(str(path) for path in names if path.suffix.lower() in RASTERS)
    return _of_sensor(rasters, modality) if modality else rasters


def _expand(path: Path, modality: Modality) -> Iterator[str]:
    """Yield the raster files of one path."""
    what = SENSORS[modality].name
    if is_safe(path):
        product = read_safe(path)
        if not isinstance(product, CorrectedProduct):
            raise InputError(f"The SAFE product {path} is one of several {what} inputs. Pass it alone.")
        if modality != "sar":
            raise _swapped_error(path, modality)
        yield from (ZipMember(image) if image.startswith("/vsizip/") else image for image in product.images.values())
    elif os.path.isdir(path):
        found = _rasters_in(path, modality)
        if not found and (others := _rasters_in(path)):
            raise InputError(
                f"The {what} folder {path} contains only bands of the other sensor ({Path(others[0]).name}). Pass it "
                f"with --{other_of(modality)}. Perhaps --optical and --sar are swapped."
            )
        if not found:
            raise InputMissingError(
                f"The {what} folder {path} is not a SAFE product and contains no GeoTIFF or JPEG 2000 file. "
                "Pass another one."
            )
        yield from found
    elif path.suffix.lower() == ".zip" and os.path.isfile(path):
        zipped = _of_sensor(zip_rasters(path), modality)
        if not zipped:
            raise InputError(f"The {what} zip {path} contains no GeoTIFF or JPEG 2000 file. Pass another one.")
        yield from map(ZipMember, zipped)
    else:
        yield str(path)


def _raster_files(paths: Sequence[str | Path], modality: Modality, options: SceneOptions) -> Files:
    what = SENSORS[modality].name
    if len(paths) > MAX_FILES:
        raise InputError(f"There are {len(paths)} {what} files (limit {MAX_FILES}). Mosaic them first.")
    # Remote files pass with --allow-remote. All other paths must be local files or members of a zip.
    known = tuple(
        path
        if isinstance(path, ZipMember) or (isinstance(path, Remote) and options.allow_remote)
        else local_file(path, what)
        for path in paths
    )
    return Files(modality, known, allow_gcps=options.allow_gcps and modality == "sar", allow_vrt=options.allow_vrt)


def _swapped_error(path: Path, modality: Modality) -> InputError:
    """Return the error for a product of the other sensor."""
    other = other_of(modality)
    return InputError(
        f"--{modality} {path} is a {SENSORS[other].satellite} product. Pass it with --{other}, and "
        f"{SENSORS[modality].satellite} with --{modality}. Perhaps --optical and --sar are swapped."
    )


def _product_files(
    path: Path, product: OpticalProduct | SarProduct, modality: Modality, allow_gcps: bool
) -> list[Files]:
    if isinstance(product, SarProduct):
        if modality != "sar":
            raise _swapped_error(path, modality)
        if not allow_gcps:
            raise InputError(
                f"The SAR product {path} is GRD and not terrain-corrected: in relief it is off by hundreds of metres. "
                "Terrain-correct it first, for instance with SNAP or sarsen, or accept the error with --allow-gcps."
            )
        found = {band: [location] for band, location in product.measurements.items()}
        return [replace(_with_layers(modality, product, found, {}), allow_gcps=True)]
    if modality != "optical":
        raise _swapped_error(path, modality)
    choices = []
    for zone in dict.fromkeys(granule.zone for granule in product.granules):
        granules = [granule for granule in product.granules if granule.zone == zone]
        bands = _common([granule.bands for granule in granules])
        masks = _common([granule.masks for granule in granules])
        vectors = tuple((zone, location) for location in masks.get("CLOUDS", []))
        choices.append((len(granules), replace(_with_layers(modality, product, bands, masks), cloud_vectors=vectors)))
    return [files for _, files in sorted(choices, key=lambda choice: -choice[0])]


def _common(tables: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Return the paths of each band or mask that all granules have."""
    return {name: [table[name] for table in tables] for name in tables[0] if all(name in table for table in tables)}


def _with_layers(
    modality: Modality,
    product: OpticalProduct | SarProduct,
    bands: dict[str, list[str]],
    masks: dict[str, list[str]],
) -> Files:
    """Number the files, one per band and granule."""
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
