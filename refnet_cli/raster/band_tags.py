"""Description, tags and colours of a file's bands, by which its bands are identified."""

from __future__ import annotations

import re

import rasterio

from refnet_cli.sensors.band_names import BandMetadata

BAND_TAG = re.compile(
    r"(band|common|long|standard|display|short)?_?name|band(_?id)?|description|polari[sz]ation|pol|"
    r"(cent(er|re|ral)_?)?wavelength(_?(nm|um|nanometers|micrometers))?",
    re.IGNORECASE,
)
"""Band-level tags that identify the band."""
LIST_TAG = re.compile(r"bands?_?(names|list)?|descriptions|long_name|channels|polari[sz]ations", re.IGNORECASE)
"""File-level tags that identify all bands."""
NUMBERED_TAG = re.compile(r"band_(\d{1,2})", re.IGNORECASE)
"""File-level tags that identify one band."""
_FILE_TAG = re.compile(
    r"band(_?(name|id))?|long_name|common_name|polari[sz]ation|(central_?)?wavelength", re.IGNORECASE
)


def describe_bands(dataset: rasterio.DatasetReader) -> list[BandMetadata]:
    """Return the description, identifying tags and colour interpretation of each band of an open file."""
    try:
        colours = [colour.name for colour in dataset.colorinterp]
    except ValueError:  # a colour interpretation unknown to this version of rasterio
        colours = [""] * dataset.count
    if dataset.count in (3, 4) and dataset.dtypes[0] == "uint8":
        # GDAL's default for such files says nothing about the bands.
        colours = [""] * dataset.count
    of_file = _tags_of_file(dataset.tags(), dataset.count)
    return [
        BandMetadata(description, (*_tags_of_band(dataset, band), *of_file[band - 1]), colour)
        for band, description, colour in zip(dataset.indexes, dataset.descriptions, colours, strict=True)
    ]


def _tags_of_band(dataset: rasterio.DatasetReader, band: int) -> list[str]:
    texts = [text for key, text in dataset.tags(band).items() if BAND_TAG.fullmatch(key)]
    micrometres = dataset.tags(band, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM")
    return [*texts, *([f"{micrometres} um"] if micrometres else [])]


def _tags_of_file(tags: dict[str, str], count: int) -> list[list[str]]:
    """Return, for each band, the file-level tags that identify it: of a single band, or in a list of all bands."""
    texts: list[list[str]] = [[] for _ in range(count)]
    for key, text in tags.items():
        if count == 1 and _FILE_TAG.fullmatch(key):
            texts[0].append(text)
        elif (numbered := NUMBERED_TAG.fullmatch(key)) and 0 < int(numbered[1]) <= count:
            texts[int(numbered[1]) - 1].append(text)
        elif count > 1 and LIST_TAG.fullmatch(key):
            inner = text.strip(" ()[]{}")
            between = r"[,;|]" if re.search(r"[,;|]", inner) else " +"
            listed = [part.strip(" '\"") for part in re.split(between, inner)]
            if len(listed) == count:
                for band, part in zip(texts, listed, strict=True):
                    band.append(part)
    return texts
