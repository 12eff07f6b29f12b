"""Which files a user's path stands for: a stack, a file a band, a folder or zip of them, or a SAFE product."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from refnet_cli.errors import InputError, InputMissingError
from refnet_cli.files import local_file
from refnet_cli.products import CLOUD_MASKS, PRODUCTS, SENSOR_NAMES, Modality, band_of_file
from refnet_cli.remote import Remote, as_given
from refnet_cli.scene.bands import RADAR
from refnet_cli.scene.fills import Fills
from refnet_cli.scene.mosaic import Mosaic, Placed
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.raster import Raster, ZipMember
from refnet_cli.scene.safe import (
    CorrectedProduct,
    OpticalProduct,
    SarProduct,
    has_metadata,
    is_safe,
    read_safe,
    zip_member,
    zip_rasters,
)
from refnet_cli.scene.vrt import is_vrt, read_vrt

Paths = str | Path | Sequence[str | Path]
RASTERS = {".tif", ".tiff", ".jp2"}
MOST_FILES = 4096
_MOST_LOOKED_AT = 1000  # files and folders within a folder
_MOST_NESTED = 4  # folders within folders
_NOT_LOOKED_AT = (".", "__MACOSX")  # how names begin that systems give files of their own


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
    found: bool = False
    """Whether the files were found in a folder or zip, where pictures may lie next to them."""
    products: tuple[str, ...] = ()
    """SAFE products that lie next to the files in a folder, and are not read."""
    fills: Mapping[int, Fills] = field(default_factory=dict)
    """Undeclared fills, by the numbers of files."""
    joined: Mapping[int, tuple[Placed, ...]] = field(default_factory=dict)
    """Pieces of images, by the number of the first, which stands for all."""

    def pieces(self, needed: Iterable[int]) -> list[int]:
        """Return the numbers of files, and of all pieces where one stands for an image."""
        pieces: list[int] = []
        for number in needed:
            pieces += [piece.file for piece in self.joined[number]] if number in self.joined else [number]
        return pieces

    def on_disk(self, needed: Collection[int]) -> list[Path]:
        """What is read of the files whose numbers are needed; of a zip, the zip; of a virtual raster, what it names."""
        own = [Path(self.product.path)] if self.product else []
        for path in (self.paths[file] for file in self.pieces(sorted(needed))):
            if isinstance(path, ZipMember) and not self.product:
                archive, _ = zip_member(path) or ("", "")
                own.append(Path(archive))
            elif not isinstance(path, ZipMember | Remote):
                own += [Path(path), *map(Path, read_vrt(path).sources if self.allow_vrt and is_vrt(path) else ())]
        return list(dict.fromkeys(own))

    def remote(self, needed: Collection[int]) -> list[str]:
        """URLs of the files whose numbers are needed, as they may be shown."""
        return [str(self.paths[file]) for file in self.pieces(sorted(needed)) if isinstance(self.paths[file], Remote)]

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
        files, what = self._files, SENSOR_NAMES[self._files.modality]
        raster: Raster
        if number in files.joined:
            raster = Mosaic(files.paths, files.joined[number], what, files.allow_vrt)
        else:
            raster = Raster(files.paths[number], what, files.allow_gcps, files.allow_vrt)
        self._stack.callback(raster.close)
        raster.fills = files.fills.get(number, Fills())
        self[number] = raster
        return raster


def find_files(given: Paths, modality: Modality, options: SceneOptions) -> list[Files]:
    """Tell what a user's path or paths stand for.

    Parameters
    ----------
    given : path or sequence of paths
        A raster file; several; folders or zips of them; a SAFE product as folder, zip or metadata file, or the folder
        that holds one. With ``allow_remote``, URLs of raster files too.
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
    several = [as_given(path) for path in ([given] if isinstance(given, str | Path) else given)]
    if any(isinstance(path, Remote) for path in several):
        return [_raster_files(several, modality, options)]
    paths = []
    for path in map(Path, several):
        try:
            paths.append(_resolve(path, modality))
        except OSError as cause:
            what = SENSOR_NAMES[modality]
            raise InputMissingError(f"The {what} folder {path} cannot be read: {cause.strerror}.") from cause
    if len(paths) == 1 and is_safe(paths[0]):
        product = read_safe(paths[0])
        if not isinstance(product, CorrectedProduct):
            return _product_files(paths[0], product, modality, options.allow_gcps)
    if not paths:
        raise InputMissingError(f"No {SENSOR_NAMES[modality]} file is given.")
    rasters = [raster for path in paths for raster in _expand(path, modality)]
    found = any(os.path.isdir(path) or path.suffix.lower() == ".zip" for path in paths)
    products = tuple(str(child) for path in paths if os.path.isdir(path) for child in _products_in(path, modality))
    return [replace(_raster_files(rasters, modality, options), found=found, products=products)]


def _resolve(path: Path, modality: Modality) -> Path:
    """Return a path itself, or the only thing in a folder that can be used."""
    for _ in range(_MOST_NESTED):
        if not os.path.isdir(path) or has_metadata(path) or _rasters_in(path, modality):
            break
        inner = [child for child in _children(path) if _can_be_used(child, modality)]
        if len(inner) > 1:
            listed = ", ".join(child.name for child in inner[:5]) + ", ..." * (len(inner) > 5)
            several = "" if any(map(is_safe, inner)) else (
                f", or those that lie side by side, joined by commas: --{modality} {inner[0]},{inner[1]}"
            )
            raise InputError(
                f"The {SENSOR_NAMES[modality]} folder {path} holds {len(inner)} products or folders that can be used "
                f"({listed}): give one of them{several}."
            )
        if not inner:
            break
        path = inner[0]
    return path


def _children(folder: Path) -> list[Path]:
    """Return what is in a folder, without what systems and programs hide there."""
    entries = islice(folder.iterdir(), _MOST_LOOKED_AT)
    return sorted(entry for entry in entries if not entry.name.startswith(_NOT_LOOKED_AT))


def _can_be_used(path: Path, modality: Modality) -> bool:
    """Whether a folder or zip in a folder may be what is meant."""
    if {"S1": "sar", "S2": "optical"}.get(path.name[:2].upper(), modality) != modality:
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
    """Leave out the files that are a band of the other sensor by their names; a folder may hold both sensors' files."""
    others = PRODUCTS["sentinel-2-l1c"].bands if modality == "sar" else RADAR
    return [name for name in names if band_of_file(Path(name).name) not in others]


def _rasters_in(folder: Path, modality: Modality | None = None) -> list[str]:
    """Return the raster files in a folder, all of them or those that may be a sensor's."""
    names = (entry for entry in folder.iterdir() if not entry.name.startswith(_NOT_LOOKED_AT))
    rasters = sorted(str(path) for path in names if path.suffix.lower() in RASTERS)
    return _of_sensor(rasters, modality) if modality else rasters


def _expand(path: Path, modality: Modality) -> Iterator[str]:
    """Yield the raster files that one of a user's paths stands for."""
    what = SENSOR_NAMES[modality]
    if is_safe(path):
        product = read_safe(path)
        if not isinstance(product, CorrectedProduct):
            raise InputError(f"The SAFE product {path} is one of several {what} inputs: give it alone.")
        if modality != "sar":
            raise _exchanged(path, modality)
        yield from (ZipMember(image) if image.startswith("/vsizip/") else image for image in product.images.values())
    elif os.path.isdir(path):
        found = _rasters_in(path, modality)
        if not found and (others := _rasters_in(path)):
            raise InputError(
                f"The {what} folder {path} holds bands of the other sensor only ({Path(others[0]).name}): give it with "
                f"--{'optical' if modality == 'sar' else 'sar'}; perhaps --optical and --sar are exchanged."
            )
        if not found:
            raise InputMissingError(
                f"The {what} folder {path} is no SAFE product and holds no GeoTIFF or JPEG 2000 file: name another."
            )
        yield from found
    elif path.suffix.lower() == ".zip" and os.path.isfile(path):
        zipped = _of_sensor(zip_rasters(path), modality)
        if not zipped:
            raise InputError(f"The {what} zip {path} holds no GeoTIFF or JPEG 2000 file: name another.")
        yield from map(ZipMember, zipped)
    else:
        yield str(path)


def _raster_files(paths: Sequence[str | Path], modality: Modality, options: SceneOptions) -> Files:
    what = SENSOR_NAMES[modality]
    if len(paths) > MOST_FILES:
        raise InputError(f"{len(paths)} {what} files are too many: at most {MOST_FILES} are read as one image.")
    # With --allow-remote a Remote passes; every other path must lead to a local file or a member of a zip.
    known = tuple(
        path
        if isinstance(path, ZipMember) or (isinstance(path, Remote) and options.allow_remote)
        else local_file(path, what)
        for path in paths
    )
    return Files(modality, known, allow_gcps=options.allow_gcps and modality == "sar", allow_vrt=options.allow_vrt)


def _exchanged(path: Path, modality: Modality) -> InputError:
    """Return the refusal of a product of the other sensor."""
    here, there, wanted, given = (
        ("--optical", "--sar", "Sentinel-2", "Sentinel-1")
        if modality == "optical"
        else ("--sar", "--optical", "Sentinel-1", "Sentinel-2")
    )
    return InputError(
        f"{here} {path} is a {given} product: give it with {there}, and {wanted} with {here}; perhaps --optical and "
        "--sar are exchanged."
    )


def _product_files(
    path: Path, product: OpticalProduct | SarProduct, modality: Modality, allow_gcps: bool
) -> list[Files]:
    if isinstance(product, SarProduct):
        if modality != "sar":
            raise _exchanged(path, modality)
        if not allow_gcps:
            raise InputError(
                f"The SAR product {path} is GRD and not terrain-corrected: in relief it is off by hundreds of metres. "
                "Terrain-correct it first, for instance with SNAP or sarsen, or accept that with --allow-gcps."
            )
        found = {band: [location] for band, location in product.measurements.items()}
        return [replace(_with_layers(modality, product, found, {}), allow_gcps=True)]
    if modality != "optical":
        raise _exchanged(path, modality)
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
