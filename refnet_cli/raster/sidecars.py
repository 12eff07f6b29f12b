"""Sidecar files that complete an image for other programs, such as .aux.xml and .tfw.

refnet ignores them, because they may come from someone else than the image. If an image lacks metadata that a sidecar
file has, refnet reports the command that writes one complete file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from refnet_cli.raster.band_tags import BAND_TAG, LIST_TAG, NUMBERED_TAG
from refnet_cli.sensors.bands import band_of_wavelength, candidate_bands, is_band_number

_NO_COLOURS = {b"gray", b"undefined", b"palette"}
_MAX_BYTES = 1 << 24  # that are read of a sidecar file
_AUX = (".aux.xml",)
_WORLD = (".tfw", ".tifw", ".tiffw", ".wld", ".j2w", ".jp2w")


def band_names_in_sidecar(path: str | Path, colours: bool) -> str:
    """Return a message about the sidecar file that identifies an image's bands; "" if there is none.

    Parameters
    ----------
    path : str or Path
        A local image.
    colours : bool
        Whether colour interpretations identify bands.
    """
    for sidecar in _sidecars(path, _AUX):
        if _identifies_bands(_read_start(sidecar), colours):
            return f"{_ignored_names(path, sidecar)}. {_completion_advice(path)}"
    for sidecar in _sidecars(path, (".hdr",)):
        if re.search(rb"(?i)band names\s*=", _read_start(sidecar)):
            return _ignored_names(path, sidecar)
    return ""


def georeferencing_in_sidecar(path: str | Path, lacks_crs: bool, lacks_transform: bool) -> str:
    """Return a message about sidecar files with the missing georeferencing of an image; "" if there are none.

    Parameters
    ----------
    path : str or Path
        A local image.
    lacks_crs, lacks_transform : bool
        What the image itself lacks.
    """
    aux = {sidecar: _read_start(sidecar) for sidecar in _sidecars(path, _AUX)}
    tables = list(_sidecars(path, (".tab",)))
    crs = [*(sidecar for sidecar, text in aux.items() if b"<SRS" in text), *tables]
    transform = [
        *(sidecar for sidecar, text in aux.items() if re.search(b"<GeoTransform|<GCPList", text)),
        *_sidecars(path, _WORLD), *tables,
    ]  # fmt: skip
    projections = list(_sidecars(path, (".prj",)))
    found = [*(crs or projections if lacks_crs else []), *(transform if lacks_transform else [])]
    if not found:
        return ""
    assign = ""
    if lacks_crs and not crs:
        assign = f"-a_srs {shlex.quote(projections[0].name)} " if projections else "-a_srs EPSG:<code> "
    names = list(dict.fromkeys(file.name for file in found))
    subject = f"The sidecar file {names[0]} contains" if len(names) == 1 else f"{' and '.join(names)} contain"
    return f" {subject} it, but refnet does not read sidecar files. {_completion_advice(path, assign)}."


def value_metadata_in_sidecars(path: str | Path, lacks_nodata: bool, lacks_scaling: bool) -> str:
    """Return a message about sidecar files with missing nodata, scale, offset or mask; "" if there are none.

    Parameters
    ----------
    path : str or Path
        A local image.
    lacks_nodata, lacks_scaling : bool
        What the image itself does not declare.
    """
    kinds: dict[str, list[str]] = {}
    for sidecar in _sidecars(path, _AUX):
        text = _read_start(sidecar)
        scaling = rb"<Scale>\s*(?!1(\.0*)?\s*<)[^<\s]|<Offset>\s*(?!-?0(\.0*)?\s*<)[^<\s]"
        kinds[sidecar.name] = [
            *(["nodata"] if lacks_nodata and re.search(rb"<NoDataValue\b", text) else []),
            *(["scale and offset"] if lacks_scaling and re.search(scaling, text) else []),
        ]
    kinds |= {sidecar.name: ["a mask"] for sidecar in _sidecars(path, (".msk",))}
    found = {name: kind for name, kind in kinds.items() if kind}
    if not found:
        return ""
    listed = " and ".join(f"{name} ({', '.join(kind)})" for name, kind in found.items())
    return (
        f"{listed} next to {path} describes its values, but refnet does not read sidecar files. "
        f"{_completion_advice(path, '--config GDAL_TIFF_INTERNAL_MASK YES ')}."
    )


def _identifies_bands(text: bytes, colours: bool) -> bool:
    """Return whether descriptions, tags or colour interpretations in an .aux.xml identify bands."""
    described = re.findall(rb"<Description>\s*([^<\s][^<]*?)\s*</Description>", text)
    if any(not is_band_number(each.decode(errors="replace"), number) for number, each in enumerate(described, 1)):
        return True
    if colours and {each.lower() for each in re.findall(rb"<ColorInterp>\s*(\w+)", text)} - _NO_COLOURS:
        return True
    bands = b"".join(re.findall(rb"<PAMRasterBand\b.*?</PAMRasterBand>", text, re.DOTALL))
    of_file = re.sub(rb"<PAMRasterBand\b.*?</PAMRasterBand>", b"", text, flags=re.DOTALL)
    listed = [part for each in _tags(of_file, LIST_TAG) for part in re.split(r"[][(){}'\",;| ]+", each)]
    return any(map(_names_band, [*_tags(bands, BAND_TAG), *_tags(of_file, NUMBERED_TAG), *listed]))


def _tags(text: bytes, kind: re.Pattern[str]) -> list[str]:
    """Return the values of the tags whose name matches a pattern."""
    found = re.findall(r"<MDI key=[\"']([^\"']*)[\"']>([^<]*)", text.decode(errors="replace"))
    return [value for key, value in found if kind.fullmatch(key)]


def _names_band(text: str) -> bool:
    return band_of_wavelength(text) is not None or bool(candidate_bands(text))


def _ignored_names(path: str | Path, sidecar: Path) -> str:
    return f"The bands of {path} are named in the sidecar {sidecar.name}, but refnet does not read sidecar files"


def _completion_advice(path: str | Path, assign: str = "") -> str:
    name = Path(path).name
    complete = f"{Path(path).stem}_complete.tif"
    return f"Write one complete file: `gdal_translate {assign}{shlex.quote(name)} {shlex.quote(complete)}`"


def _sidecars(path: str | Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Yield the existing sidecar files with these extensions, which replace or follow the image's own."""
    path = Path(path)
    for ending in endings:
        for name in (f"{path.name}{ending}", f"{path.stem}{ending}", f"{path.stem}{ending.upper()}"):
            candidate = path.with_name(name)
            if candidate.is_file():
                yield candidate
                break


def _read_start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return b""
