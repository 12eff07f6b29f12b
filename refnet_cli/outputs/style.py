"""Styles of the class map for QGIS and map servers, and class names for GDAL."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.rows import Rows
from refnet_cli.system.marks import MARK, XML_MARK
from refnet_cli.version import __version__

_SLD, _OGC = "http://www.opengis.net/sld", "http://www.opengis.net/ogc"
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CATEGORIES = re.compile("<CategoryNames.*?</CategoryNames>", re.DOTALL)
_CATEGORY = re.compile("<Category>([^<]*)</Category>|<Category ?/>")
_ENTRY = re.compile("<paletteEntry[^>]*>")
_MOST_XML = 1 << 20  # most characters of a style that are read
_INTEGER, _TEXT = 0, 2  # GDAL's GDALRATFieldType
# GDAL's GDALRATFieldUsage: value, colour component, class name.
_COLUMNS = {
    "Value": (_INTEGER, 5), "Red": (_INTEGER, 6), "Green": (_INTEGER, 7), "Blue": (_INTEGER, 8), "Alpha": (_INTEGER, 9),
    "Class": (_TEXT, 2),
}  # fmt: skip


class Style(FileOutput):
    """A QGIS style of the class map, with styles for other programs next to it.

    QGIS loads a style with the map's name and the extension ``.qml`` automatically. A Styled Layer Descriptor
    (``.sld``), for GeoServer and others, is written next to it. If the style is in the map's folder, GDAL's
    ``<map>.aux.xml`` is written too, with the classes as category names and as a raster attribute table. No data is
    transparent.

    Parameters
    ----------
    path : str or Path
        Path of the QGIS style.
    context : MapContext
        Characters of class names that XML forbids become U+FFFD.

    Raises
    ------
    OptionsError
        If the style has the path of the Styled Layer Descriptor.
    OutputError
        If a file cannot be created there.
    StorageError
        From `finish`, if the disk is full.
    """

    ending = ".qml"
    suffixes = (".qml",)
    title = "Style of the map"
    media: ClassVar = {
        ".qml": ("application/xml", ("metadata", "style")),
        ".sld": ("application/vnd.ogc.sld+xml", ("metadata", "style")),
        ".xml": ("application/xml", ("metadata",)),
    }
    layers = ()

    @staticmethod
    def companions(path: Path, map: Path) -> list[Path]:
        """Return the paths of the Styled Layer Descriptor and of GDAL's file, given those of the style and the map."""
        made = [path.parent / f"{path.stem}.sld"]
        if os.path.realpath(path.parent) == os.path.realpath(map.parent):
            made.append(path.parent / f"{map.name}.aux.xml")
        return made

    def __init__(self, path: str | Path, context: MapContext) -> None:
        if Path(path).suffix.lower() == ".sld":
            raise OptionsError(f"{path} must end in .qml, for QGIS. The .sld is written next to it.")
        super().__init__(path, context)

    def _start(self, folder: Path) -> None:
        """Open nothing: the styles are written at the end."""

    def _put(self, rows: Rows) -> None:
        """Ignore the rows: styles contain all classes of the scheme."""

    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        documents = [_qgis(self._scheme), _sld(self._scheme), _gdal(self._scheme)]
        made = []
        for file, document in zip(self.files, documents, strict=False):
            ET.indent(document)
            result = folder / f"complete{file.suffix}"
            # GDAL cannot parse a file that begins with an XML declaration; UTF-8 needs none.
            text = ET.tostring(document, "utf-8", xml_declaration=False) + b"\n"
            result.write_bytes(text if document.tag == "PAMDataset" else text + XML_MARK)
            made.append(result)
        return made


def style_warnings(map: Path, scheme: ClassScheme) -> list[str]:
    """Return warnings about style files next to a map that make GDAL or QGIS show wrong classes.

    An earlier map's style is such a file, if this map has another class scheme, or other codes for the same classes,
    and was written without a style. A user's style that names all of the scheme's codes correctly is not.

    Parameters
    ----------
    map : Path
        The class map at its final path.
    scheme : ClassScheme
        The map's class scheme.
    """
    warnings = []
    for name, mark in ((f"{map.name}.aux.xml", "<CategoryNames"), (f"{map.stem}.qml", "<paletteEntry")):
        try:
            with map.with_name(name).open(encoding="utf-8", errors="replace") as file:
                text = file.read(_MOST_XML)
        except OSError:
            continue
        if mark in text and not _named_in(text) >= {(code, name) for code, name, _ in _classes(scheme)}:
            warnings.append(
                f"{name} next to the map has other classes than {scheme.name}; GDAL or QGIS would show those. "
                "Add --output style, or remove the file."
            )
    return warnings


def _named_in(text: str) -> set[tuple[int, str]]:
    """Return the codes and their names in GDAL's categories or QGIS's palette."""
    block = _CATEGORIES.search(text)
    found = dict(enumerate(_CATEGORY.findall(block[0]))) if block else {}
    for entry in _ENTRY.findall(text):
        value, label = re.search(r'\bvalue="(\d{1,9})"', entry), re.search(r'\blabel="([^"]*)"', entry)
        if value and label:
            found[int(value[1])] = label[1]
    return {(code, html.unescape(name)) for code, name in found.items()}


def _plain(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


def _classes(scheme: ClassScheme) -> list[tuple[int, str, tuple[int, int, int]]]:
    return [
        (code, _plain(name), colour)
        for code, name, colour in zip(scheme.codes, scheme.names, scheme.colours, strict=True)
    ]


def _qgis(scheme: ClassScheme) -> ET.Element:
    style = ET.Element("qgis", version="3.22.0", styleCategories="Symbology")
    pipe = ET.SubElement(style, "pipe")
    renderer = ET.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1", nodataColor=""
    )
    palette = ET.SubElement(renderer, "colorPalette")
    for code, name, colour in _classes(scheme):
        ET.SubElement(palette, "paletteEntry", value=str(code), color=_hex(colour), alpha="255", label=name)
    return style


def _sld(scheme: ClassScheme) -> ET.Element:
    """Return a Styled Layer Descriptor 1.0 with GeoServer's ``type="values"``: unlisted values are transparent."""
    style = ET.Element("StyledLayerDescriptor", {"version": "1.0.0", "xmlns": _SLD, "xmlns:ogc": _OGC})
    layer = ET.SubElement(style, "NamedLayer")
    ET.SubElement(layer, "Name").text = _plain(scheme.name)
    user = ET.SubElement(layer, "UserStyle")
    ET.SubElement(user, "Name").text = _plain(scheme.name)
    rule = ET.SubElement(ET.SubElement(user, "FeatureTypeStyle"), "Rule")
    symbolizer = ET.SubElement(rule, "RasterSymbolizer")
    channel = ET.SubElement(ET.SubElement(symbolizer, "ChannelSelection"), "GrayChannel")
    ET.SubElement(channel, "SourceChannelName").text = "1"
    colours = ET.SubElement(symbolizer, "ColorMap", type="values")
    for code, name, colour in _classes(scheme):
        ET.SubElement(colours, "ColorMapEntry", color=_hex(colour), quantity=str(code), label=name, opacity="1")
    return style


def _gdal(scheme: ClassScheme) -> ET.Element:
    """Return GDAL's auxiliary metadata: the class names, and nothing that the GeoTIFF itself holds."""
    dataset = ET.Element("PAMDataset")
    # GDAL keeps this entry when it adds statistics; it would drop a comment.
    mark = ET.SubElement(ET.SubElement(dataset, "Metadata", domain="REFNET"), "MDI", key=MARK)
    mark.text = __version__
    band = ET.SubElement(dataset, "PAMRasterBand", band="1")
    names = {0: "no data"} | {code: name for code, name, _ in _classes(scheme)}
    categories = ET.SubElement(band, "CategoryNames")
    for code in range(max(names) + 1):
        ET.SubElement(categories, "Category").text = names.get(code, "")
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (title, (kind, usage)) in enumerate(_COLUMNS.items()):
        column = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, value in (("Name", title), ("Type", kind), ("Usage", usage)):
            ET.SubElement(column, tag).text = str(value)
    for index, (code, name, colour) in enumerate(_classes(scheme)):
        row = ET.SubElement(table, "Row", index=str(index))
        for value in (code, *colour, 255, name):
            ET.SubElement(row, "F").text = str(value)
    return dataset


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
