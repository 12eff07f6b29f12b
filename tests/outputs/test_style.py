"""Styles of the class map: what is in them, and what GDAL and QGIS make of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.outputs import OUTPUTS
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.rows import Rows
from refnet_cli.outputs.style import Style, style_warnings
from refnet_cli.outputs.verify import verify_map
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from tests.helpers.quick import examples
from tests.helpers.scenes import PlaceEngine, make_pair
from tests.outputs.test_outputs import SCHEME, TAGS, as_probabilities, quality_of, random_codes, utm_grid, write_map

HOSTILE = ClassScheme(
    "a & <b>", (3, 7, 200), ('Wälder & "Moore" <nass>', "it's ]]> \t 森林", "one\x00\x1b\ud800two"),
    ((1, 2, 3), (250, 251, 252), (9, 99, 199)),
)  # fmt: skip
SHOWN = ('Wälder & "Moore" <nass>', "it's ]]> \t 森林", "one���two")
SLD = "{http://www.opengis.net/sld}"
QGIS_PYTHON = "/usr/bin/python3"


def make_style(path: Path, scheme: ClassScheme, map: Path | None = None) -> list[Path]:
    """Write a style for a map without a class."""
    grid = utm_grid(2, 3)
    with Style(path, MapContext(map or path.with_suffix(".tif"), grid, scheme, TAGS)) as output:
        output.write(Rows(0, np.zeros((scheme.classes, 2, 3), np.float32), np.zeros((2, 3), bool), scheme))
    return output.files


def hexadecimal(scheme: ClassScheme) -> list[str]:
    return [f"#{bytes(colour).hex()}" for colour in scheme.colours]


def read_qml(path: Path) -> list[tuple[int, str, str, str]]:
    entries = ET.parse(path).findall("pipe/rasterrenderer[@type='paletted'][@band='1']/colorPalette/paletteEntry")
    told = [entry.attrib for entry in entries]
    return [(int(entry["value"]), entry["label"], entry["color"], entry["alpha"]) for entry in told]


def read_colour_map(path: Path) -> list[tuple[int, str, str]]:
    (colour_map,) = ET.parse(path).iter(f"{SLD}ColorMap")
    assert colour_map.attrib == {"type": "values"}
    return [(int(entry.attrib["quantity"]), entry.attrib["label"], entry.attrib["color"]) for entry in colour_map]


def read_pam(path: Path) -> tuple[list[str], list[list[str]]]:
    mark, band = ET.parse(path).getroot()
    assert (mark.attrib, [entry.attrib for entry in mark]) == ({"domain": "REFNET"}, [{"key": "REFNET_VERSION"}])
    assert {child.tag for child in band} == {"CategoryNames", "GDALRasterAttributeTable"}
    categories = [entry.text or "" for entry in band.findall("CategoryNames/Category")]
    return categories, [[field.text or "" for field in row] for row in band.iter("Row")]


@pytest.mark.parametrize("scheme", [*SCHEMES.values(), HOSTILE], ids=lambda scheme: scheme.name)
def test_all_three_tell_all_classes(scheme: ClassScheme, tmp_path: Path) -> None:
    qml, sld, pam = make_style(tmp_path / "lulc.qml", scheme)
    assert [file.name for file in (qml, sld, pam)] == ["lulc.qml", "lulc.sld", "lulc.tif.aux.xml"]
    names = SHOWN if scheme is HOSTILE else scheme.names
    listed = list(zip(scheme.codes, names, hexadecimal(scheme), strict=True))
    assert read_qml(qml) == [(*entry, "255") for entry in listed]
    assert read_colour_map(sld) == listed
    categories, rows = read_pam(pam)
    assert len(categories) == max(scheme.codes) + 1
    assert {code: name for code, name in enumerate(categories) if name} == {0: "no data"} | {
        code: name for code, name, _ in listed
    }
    assert rows == [
        [str(code), *map(str, colour), "255", name]
        for code, colour, name in zip(scheme.codes, scheme.colours, names, strict=True)
    ]


@settings(max_examples=examples(50), deadline=None)
@given(name=st.text(st.characters(), min_size=1))
def test_any_name_makes_xml(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    scheme = ClassScheme(name, (5,), (name,), ((1, 2, 3),))
    files = make_style(tmp_path_factory.mktemp("styles") / "lulc.qml", scheme)
    assert read_qml(files[0])[0][1] == "".join(map(as_xml_has_it, name))
    for file in files:
        ET.parse(file)


def as_xml_has_it(character: str) -> str:
    """Ask a parser of XML whether there may be such a character."""
    try:
        return ET.fromstring(f"<a>&#{ord(character)};</a>").text or ""
    except ET.ParseError:
        return "\ufffd"


def test_gdal_is_told_nothing_where_the_map_lies_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "maps")
    files = make_style(tmp_path / "look.qml", SCHEME, tmp_path / "maps" / "lulc.tif")
    assert [file.name for file in files] == ["look.qml", "look.sld"]
    files = make_style(tmp_path / "maps" / "look.qml", SCHEME, tmp_path / "link" / "lulc.tif")
    assert [file.name for file in files] == ["look.qml", "look.sld", "lulc.tif.aux.xml"]


def test_a_style_in_the_place_of_the_sld_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"end in \.qml"):
        make_style(tmp_path / "lulc.SLD", SCHEME)
    assert list(tmp_path.iterdir()) == []


def test_a_style_of_another_scheme_beside_the_map_is_told(tmp_path: Path) -> None:
    """GDAL and QGIS take it without asking, and show the new map's codes with the old one's names."""
    other = ClassScheme("other", (1,), ('<"Fish" & chips>',), ((1, 2, 3),))
    path = tmp_path / "map.tif"
    assert style_warnings(path, SCHEME) == []
    make_style(tmp_path / "map.qml", SCHEME, path)
    assert style_warnings(path, SCHEME) == []
    first, second = style_warnings(path, other)
    assert first.startswith("map.tif.aux.xml next to the map has other classes than other")
    assert second.startswith("map.qml next to")
    make_style(tmp_path / "map.qml", other, path)
    assert style_warnings(path, other) == []
    assert len(style_warnings(path, SCHEME)) == 2
    # Statistics alone, and no text at all, name nothing.
    (tmp_path / "map.tif.aux.xml").write_text("<PAMDataset><PAMRasterBand band='1'/></PAMDataset>")
    (tmp_path / "map.qml").write_bytes(bytes(range(256)))
    assert style_warnings(path, SCHEME) == []


def test_prediction_warns_of_an_earlier_maps_style(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 96, 80)
    chosen = PredictOptions(*pair, tmp_path / "map.tif", coreg="off", outputs=("style",))
    assert not [line for line in predict(chosen, PlaceEngine()).warnings if "next to" in line]
    changed = replace(chosen, outputs=(), scheme="worldcover")
    assert len([line for line in predict(changed, PlaceEngine()).warnings if "next to the map" in line]) == 2


def map_with_style(folder: Path, scheme: ClassScheme = SCHEME, quality: bool = True) -> Path:
    """Write a map with large blocks of classes, and its style."""
    path = folder / "lulc.tif"
    context = MapContext(path, utm_grid(300, 400), scheme, TAGS, quality=quality)
    codes = random_codes(30, 40).repeat(10, 0).repeat(10, 1)
    probabilities, valid = as_probabilities(codes)
    rows = Rows(0, probabilities[: scheme.classes], valid, scheme, quality=quality_of(codes))
    for kind in ("classes", "style"):
        with OUTPUTS[kind].make(path.with_suffix(OUTPUTS[kind].ending), context) as output:
            output.write(rows)
    return path


def describe(path: Path) -> dict[str, Any]:
    with rasterio.open(path) as raster:
        return {
            "tags": [raster.tags(), *(raster.tags(band) for band in raster.indexes)],
            "profile": dict(raster.profile),
            "colours": raster.colormap(1),
            "meaning": (raster.colorinterp, raster.descriptions, raster.mask_flag_enums, raster.overviews(1)),
            "pixels": raster.read().tolist(),
        }


def test_the_map_is_read_as_without_the_style(tmp_path: Path) -> None:
    """All but the names of classes is in the map itself, and stays as it is there."""
    path = map_with_style(tmp_path)
    styled = describe(path)
    path.with_name("lulc.tif.aux.xml").rename(tmp_path / "away")
    assert styled == describe(path)
    (tmp_path / "away").rename(path.with_name("lulc.tif.aux.xml"))
    assert verify_map(path)


gdalinfo = pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="gdalinfo is not installed")


@gdalinfo
@pytest.mark.parametrize("quality", [False, True])
def test_gdalinfo_lists_categories(quality: bool, tmp_path: Path) -> None:
    path = map_with_style(tmp_path, quality=quality)
    done = subprocess.run(["gdalinfo", "-json", path], capture_output=True, text=True, check=True, timeout=60)
    info = json.loads(done.stdout)
    band = info["bands"][0]
    told = subprocess.run(["gdalinfo", path], capture_output=True, text=True, check=True, timeout=60).stdout
    categories = told.split("Categories:")[1].split("Metadata:")[0].split("\n")
    # GDAL lists codes without a name too, from some version on.
    assert [line.strip() for line in categories if line.partition(":")[2].strip()] == [
        f"{code}: {name}" for code, name in zip((0, *SCHEME.codes), ("no data", *SCHEME.names), strict=True)
    ]
    entries = band["colorTable"]["entries"]
    assert [entries[code] for code in (0, *SCHEME.codes)] == [[0, 0, 0, 0], *([*each, 255] for each in SCHEME.colours)]
    assert (band["noDataValue"], band["colorInterpretation"]) == (0, "Palette")
    assert "<F>Flooded vegetation</F>" in told
    assert not any("minimum" in band for band in info["bands"])


@gdalinfo
def test_gdalinfo_lists_any_name(tmp_path: Path) -> None:
    shown = ClassScheme(HOSTILE.name, HOSTILE.codes, SHOWN, HOSTILE.colours)  # the map itself takes no surrogates
    path = map_with_style(tmp_path, shown)
    told = subprocess.run(["gdalinfo", path], capture_output=True, text=True, check=True, timeout=60).stdout
    for code, name in zip(HOSTILE.codes, SHOWN, strict=True):
        assert f"{code:>7}: {name}\n" in told


QGIS_SCRIPT = """
import json, sys
from qgis.core import Qgis, QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings, QgsRasterLayer
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

application = QgsApplication([], False)
application.initQgis()


def classes(layer):
    renderer = layer.renderer()
    listed = [[int(entry.value), entry.label, entry.color.name(), entry.color.alpha()] for entry in renderer.classes()]
    return {"type": renderer.type(), "classes": listed}


plain, qml, picture, exported = sys.argv[1:]
by_itself = QgsRasterLayer(plain, "map")
found = {"valid": by_itself.isValid(), "by itself": classes(by_itself)}
layer = QgsRasterLayer(plain, "map")
found["loaded"] = layer.loadNamedStyle(qml)[1]
found["named"] = classes(layer)
settings = QgsMapSettings()
settings.setLayers([layer])
settings.setExtent(layer.extent())
settings.setDestinationCrs(layer.crs())
settings.setOutputSize(QSize(400, 300))
settings.setBackgroundColor(QColor(0, 0, 0, 0))
job = QgsMapRendererSequentialJob(settings)
job.start()
job.waitForFinished()
job.renderedImage().save(picture)
layer.saveSldStyle(exported)
print(json.dumps(found))
del layer, by_itself, job, settings
application.exitQgis()
"""


@pytest.fixture(scope="module")
def qgis() -> None:
    command = [QGIS_PYTHON, "-c", "import qgis.core"]
    if not os.path.exists(QGIS_PYTHON) or subprocess.run(command, capture_output=True, timeout=60).returncode:
        pytest.skip(f"{QGIS_PYTHON} has no QGIS")


def ask_qgis(folder: Path, path: Path, qml: Path) -> dict[str, Any]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GDAL", "PROJ"))}
    done = subprocess.run(
        [QGIS_PYTHON, "-c", QGIS_SCRIPT, path, qml, folder / "picture.png", folder / "qgis.sld"],
        env=clean | {"QT_QPA_PLATFORM": "offscreen", "HOME": str(folder)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.usefixtures("qgis")
def test_qgis_shows_the_classes(tmp_path: Path) -> None:
    """QGIS 3.22 reads no SLD of rasters; what it writes itself is compared with ours."""
    path = map_with_style(tmp_path)
    qml = path.with_suffix(".qml")
    found = ask_qgis(tmp_path, path, qml)
    listed = list(map(list, zip(SCHEME.codes, SCHEME.names, hexadecimal(SCHEME), strict=True)))
    wanted = {"type": "paletted", "classes": [[*entry, 255] for entry in listed]}
    assert found == {"valid": True, "by itself": wanted, "loaded": True, "named": wanted}
    assert read_colour_map(tmp_path / "qgis.sld") == read_colour_map(path.with_suffix(".sld"))

    palette = np.zeros((256, 4), np.uint8)
    palette[list(SCHEME.codes)] = [(*colour, 255) for colour in SCHEME.colours]
    with Image.open(tmp_path / "picture.png") as image, rasterio.open(path) as raster:
        np.testing.assert_array_equal(np.asarray(image.convert("RGBA")), palette[raster.read(1)])


@pytest.mark.usefixtures("qgis")
def test_qgis_takes_any_name(tmp_path: Path) -> None:
    path = write_map(tmp_path / "plain.tif", utm_grid(30, 40), random_codes(30, 40))
    qml = make_style(tmp_path / "other.qml", HOSTILE, path)[0]
    found = ask_qgis(tmp_path, path, qml)
    assert [entry[:3] for entry in found["named"]["classes"]] == list(
        map(list, zip(HOSTILE.codes, SHOWN, hexadecimal(HOSTILE), strict=True))
    )
