"""Files next to an image that complete it for other programs, such as .aux.xml and .tfw.

refnet does not use them, since strangers may have put them there. It says so where an image lacks what they hold, with
the command that makes one complete file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from refnet_cli.sensors.bands import band_evidence, band_of_wavelength, only_numbers

BAND_TAG = re.compile(
    r"(band|common|long|standard|display|short)?_?name|band(_?id)?|description|polari[sz]ation|pol|"
    r"(cent(er|re|ral)_?)?wavelength(_?(nm|um|nanometers|micrometers))?",
    re.IGNORECASE,
)
"""Tags of a band that name it."""
LIST_TAG = re.compile(r"bands?_?(names|list)?|descriptions|long_name|channels|polari[sz]ations", re.IGNORECASE)
"""Tags of a file that name all its bands."""
NUMBERED_TAG = re.compile(r"band_(\d{1,2})", re.IGNORECASE)
"""Tags of a file that name one of its bands."""
_NO_COLOURS = {b"gray", b"undefined", b"palette"}
_MOST = 1 << 24  # bytes that are looked at
_AUX = (".aux.xml",)
_WORLD = (".tfw", ".tifw", ".tiffw", ".wld", ".j2w", ".jp2w")


def names_in_sidecar(path: str | Path, colours: bool) -> str:
    """Say which file next to an image names its bands, and what to do; nothing if none does.

    Parameters
    ----------
    path : str or Path
        A local image.
    colours : bool
        Whether colour interpretations are names.
    """
    for sidecar in _present(path, _AUX):
        if _says_names(_beginning(sidecar), colours):
            return f"{_names(path, sidecar)}. {_complete(path)}"
    for sidecar in _present(path, (".hdr",)):
        if re.search(rb"(?i)band names\s*=", _beginning(sidecar)):
            return _names(path, sidecar)
    return ""


def place_in_sidecar(path: str | Path, lacks_crs: bool, lacks_transform: bool) -> str:
    """Say which files next to an image give the place that it lacks, and what to do; nothing if none does.

    Parameters
    ----------
    path : str or Path
        A local image.
    lacks_crs, lacks_transform : bool
        What the image does not hold itself.
    """
    aux = {sidecar: _beginning(sidecar) for sidecar in _present(path, _AUX)}
    tables = list(_present(path, (".tab",)))
    crs = [*(sidecar for sidecar, text in aux.items() if b"<SRS" in text), *tables]
    transform = [
        *(sidecar for sidecar, text in aux.items() if re.search(b"<GeoTransform|<GCPList", text)),
        *_present(path, _WORLD), *tables,
    ]  # fmt: skip
    projections = list(_present(path, (".prj",)))
    found = [*(crs or projections if lacks_crs else []), *(transform if lacks_transform else [])]
    if not found:
        return ""
    assign = ""
    if lacks_crs and not crs:
        assign = f"-a_srs {shlex.quote(projections[0].name)} " if projections else "-a_srs EPSG:<code> "
    listed = " and ".join(dict.fromkeys(file.name for file in found))
    verb = "gives" if len(set(found)) == 1 else "give"
    return f" {listed} next to it {verb} that, but refnet does not read such files. {_complete(path, assign)}."


def values_in_sidecars(path: str | Path, lacks_nodata: bool, lacks_scaling: bool) -> str:
    """Say which files next to an image tell what its values mean, and what to do; nothing if none does.

    Parameters
    ----------
    path : str or Path
        A local image.
    lacks_nodata, lacks_scaling : bool
        What the image does not declare itself.
    """
    kinds: dict[str, list[str]] = {}
    for sidecar in _present(path, _AUX):
        text = _beginning(sidecar)
        scaling = rb"<Scale>\s*(?!1(\.0*)?\s*<)[^<\s]|<Offset>\s*(?!-?0(\.0*)?\s*<)[^<\s]"
        kinds[sidecar.name] = [
            *(["nodata"] if lacks_nodata and re.search(rb"<NoDataValue\b", text) else []),
            *(["scale and offset"] if lacks_scaling and re.search(scaling, text) else []),
        ]
    kinds |= {sidecar.name: ["a mask"] for sidecar in _present(path, (".msk",))}
    found = {name: kind for name, kind in kinds.items() if kind}
    if not found:
        return ""
    listed = " and ".join(f"{name} ({', '.join(kind)})" for name, kind in found.items())
    return (
        f"{listed} next to {path} says what its values mean, but refnet does not read such files. "
        f"{_complete(path, '--config GDAL_TIFF_INTERNAL_MASK YES ')}."
    )


def _says_names(text: bytes, colours: bool) -> bool:
    """Whether descriptions, tags or colours in an .aux.xml name bands."""
    described = re.findall(rb"<Description>\s*([^<\s][^<]*?)\s*</Description>", text)
    if any(not only_numbers(each.decode(errors="replace"), number) for number, each in enumerate(described, 1)):
        return True
    if colours and {each.lower() for each in re.findall(rb"<ColorInterp>\s*(\w+)", text)} - _NO_COLOURS:
        return True
    bands = b"".join(re.findall(rb"<PAMRasterBand\b.*?</PAMRasterBand>", text, re.DOTALL))
    of_file = re.sub(rb"<PAMRasterBand\b.*?</PAMRasterBand>", b"", text, flags=re.DOTALL)
    listed = [part for each in _tags(of_file, LIST_TAG) for part in re.split(r"[][(){}'\",;| ]+", each)]
    return any(map(_names_band, [*_tags(bands, BAND_TAG), *_tags(of_file, NUMBERED_TAG), *listed]))


def _tags(text: bytes, kind: re.Pattern[str]) -> list[str]:
    """Return the values of the tags of a kind."""
    found = re.findall(r"<MDI key=[\"']([^\"']*)[\"']>([^<]*)", text.decode(errors="replace"))
    return [value for key, value in found if kind.fullmatch(key)]


def _names_band(text: str) -> bool:
    return band_of_wavelength(text) is not None or bool(band_evidence(text))


def _names(path: str | Path, sidecar: Path) -> str:
    sidecar_says = f"{sidecar.name} next to it names them, but refnet does not read such files"
    return f"The bands of {path} have no names. {sidecar_says}"


def _complete(path: str | Path, assign: str = "") -> str:
    name = Path(path).name
    complete = f"{Path(path).stem}_complete.tif"
    return f"Write one complete file: `gdal_translate {assign}{shlex.quote(name)} {shlex.quote(complete)}`"


def _present(path: str | Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files of an image's name with other endings, or with further ones behind its own."""
    path = Path(path)
    for ending in endings:
        for name in (f"{path.name}{ending}", f"{path.stem}{ending}", f"{path.stem}{ending.upper()}"):
            candidate = path.with_name(name)
            if candidate.is_file():
                yield candidate
                break


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST)
    except OSError:
        return b""
