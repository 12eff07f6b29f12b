"""What a catalogue is to know of a map: a STAC Item of its files, place, date, classes and making."""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from odc.geo.geobox import GeoBox
from pyproj import CRS
from pyproj.exceptions import CRSError

from refnet_cli.errors import OptionsError
from refnet_cli.outputs.base import FileOutput
from refnet_cli.outputs.footprint import footprint
from refnet_cli.outputs.geotiff import (
    REASONS,
    ClassMap,
    CogOutput,
    Confidence,
    HalfProbabilities,
    Probabilities,
    Quality,
)
from refnet_cli.outputs.rows import CONFIDENCE, Rows
from refnet_cli.products import QUALITY, SATELLITES, ClassScheme

_EXTENSIONS = [
    f"https://stac-extensions.github.io/{extension}/schema.json"
    for extension in ("classification/v2.0.0", "file/v2.1.0", "processing/v1.2.0", "projection/v2.0.0", "raster/v2.0.0")
]
_MODEL = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
_TYPES: dict[str, tuple[str, list[str]]] = {
    ".tif": ("image/tiff; application=geotiff; profile=cloud-optimized", ["data"]),
    ".gpkg": ("application/geopackage+sqlite3", ["data"]),
    ".parquet": ("application/vnd.apache.parquet", ["data"]),
    ".fgb": ("application/vnd.flatgeobuf", ["data"]),
    ".geojson": ("application/geo+json", ["data"]),
    ".png": ("image/png", ["overview", "thumbnail"]),
    ".html": ("text/html", ["metadata"]),
    ".csv": ("text/csv", ["metadata"]),
    ".json": ("application/json", ["metadata"]),
    ".xml": ("application/xml", ["metadata"]),
    ".qml": ("application/xml", ["metadata", "style"]),
    ".sld": ("application/vnd.ogc.sld+xml", ["metadata", "style"]),
}
"""Media type and roles of files by their ending."""
_TITLES = {
    "classes": "Land cover classes", "probabilities": "Probability of each class",
    "probabilities16": "Probability of each class, finer", "confidence": "How sure the map is",
    "quality": "What was seen, and why pixels have no class", "preview": "Picture of the map",
    "style": "Style of the map",
}  # fmt: skip
_RASTERS: dict[str, type[CogOutput]] = {
    "classes": ClassMap, "probabilities": Probabilities, "probabilities16": HalfProbabilities,
    "confidence": Confidence, "quality": Quality,
}  # fmt: skip
_ENDINGS = dict.fromkeys(_RASTERS, ".tif") | {"preview": ".png", "areas": ".csv", "style": ".qml", "report": ".html"}
"""Of what outputs always are, whatever name their first file was given."""
_SHA256 = "1220"  # multihash: SHA-256 (0x12) of 32 (0x20) bytes


class StacItem(FileOutput):
    """A STAC 1.1 Item that describes the map and the files made with it.

    It has the extensions classification, file, processing, projection and raster, and, where the facts tell of the
    network, that of machine learning models. This one wants the model among the assets: the weights are, by their
    SHA-256 as a URN, for where they lie is the user's business.

    Parameters
    ----------
    path : str or Path
        Where the Item is to appear.
    grid : GeoBox
    scheme : ClassScheme
    tags : dict of str to str
    map : Path
        The class map's; its name without ending is the Item's id.
    acquired : tuple of (str, str), optional
        When the scenes were acquired, start and end in ISO 8601, UTC.
    quality : bool
        Whether the class map has a second band of quality.

    Raises
    ------
    OptionsError
        If it is not known when the scenes were acquired: an Item must have a date.
    InputError
        If the grid has no place on the Earth.
    OutputError
        If nothing can be made at that place.
    StorageError
        From `finish`, if the disk fills up.
    """

    layers: tuple[str, ...] = ()

    def __init__(
        self,
        path: str | Path,
        grid: GeoBox,
        scheme: ClassScheme,
        tags: dict[str, str],
        *,
        map: Path,
        acquired: tuple[str, str] | None,
        quality: bool = False,
    ) -> None:
        if acquired is None:
            raise OptionsError(
                "A STAC Item needs a date, and the files' names do not tell when the scenes were acquired: "
                "give --date 2020-07-01, or from when to when as --date 2020-07-01/2020-07-05."
            )
        self._map, self._acquired, self._with_quality = map, acquired, quality
        self._geometry, self._bbox = footprint(grid)
        super().__init__(path, grid, scheme, tags)

    def _start(self, folder: Path) -> None:
        """Nothing is to be opened."""

    def _put(self, rows: Rows) -> None:
        """What an Item tells of the map's pixels is in the facts."""

    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        item = {
            "type": "Feature",
            "stac_version": "1.1.0",
            "stac_extensions": _EXTENSIONS + [_MODEL] * ("network" in facts),
            "id": self._map.stem,
            "geometry": self._geometry,
            "bbox": self._bbox,
            "properties": self._properties(facts),
            "links": [],
            "assets": self._assets(facts),
        }
        result = folder / "complete.json"
        text = json.dumps(item, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        result.write_bytes(text.encode())
        return [result]

    def _properties(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        start, end = self._acquired
        interval = {"start_datetime": start, "end_datetime": end} if start != end else {}
        return {
            "title": f"Land cover map {self._map.stem}",
            "datetime": None if interval else start,
            **interval,
            **_projection(self._grid),
            **_model(self._scheme, facts),
            "processing:level": "L4",
            "processing:lineage": _lineage(self._scheme, facts),
            **({"processing:software": {"refnet": facts["version"]}} if "version" in facts else {}),
        }

    def _assets(self, facts: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        files = {"classes": [{"name": self._map.name}]} | dict(facts.get("files", {}))
        assets = {}
        for kind, entries in files.items():
            for number, entry in enumerate(entries, start=1):
                title = _TITLES.get(kind, kind.replace("_", " ").capitalize())
                place = self._map.parent / entry.get("place", entry["name"])
                href = Path(os.path.relpath(place, self.path.parent)).as_posix()
                ending = _ENDINGS.get(kind) if number == 1 else None
                asset = _asset(entry, href, title if number == 1 else f"{title}, {entry['name']}", ending)
                if number == 1 and kind in _RASTERS:
                    asset["bands"] = self._bands(kind)
                assets[kind if number == 1 else f"{kind}-{number}"] = asset
        if "network" in facts:
            weights = facts["weights"]
            assets["model"] = {
                "href": f"urn:sha256:{weights['sha256']}",
                "title": f"Weights {weights['name']}",
                "roles": ["mlm:model", "mlm:weights"],
            }
        return assets

    def _bands(self, kind: str) -> list[dict[str, Any]]:
        """Describe the bands of an output that is a raster."""
        storage = _RASTERS[kind].storage
        names: dict[str, Sequence[str]] = {
            "classes": ("land cover class", "quality")[: 1 + self._with_quality],
            "confidence": CONFIDENCE,
            "quality": ("sensors", "reason"),
        }
        classes = {
            "land cover class": _classes(self._scheme),
            "quality": _meanings(QUALITY),
            "sensors": _meanings(QUALITY),
            "reason": _meanings(REASONS),
        }
        common: dict[str, Any] = {"data_type": storage.dtype}
        if storage.nodata is not None:
            common["nodata"] = "nan" if math.isnan(storage.nodata) else storage.nodata
        common["raster:sampling"] = "area"
        if storage.scale != 1:
            common["raster:scale"] = storage.scale
        bands = [{"name": name} | common for name in names.get(kind, self._scheme.names)]
        if kind in ("classes", "quality"):
            for band in bands:
                band["classification:classes"] = classes[band["name"]]
        return bands


def _asset(entry: Mapping[str, Any], href: str, title: str, ending: str | None) -> dict[str, Any]:
    media, roles = _TYPES.get(ending or Path(entry["name"]).suffix.lower(), (None, ["metadata"]))
    asset: dict[str, Any] = {"href": quote(href if href.startswith("../") else f"./{href}"), "title": title}
    if media is not None:
        asset["type"] = media
    asset["roles"] = roles
    if "sha256" in entry:
        asset |= {"file:checksum": _SHA256 + entry["sha256"], "file:size": entry["bytes"]}
    return asset


def _projection(grid: GeoBox) -> dict[str, Any]:
    """Return the fields of the projection extension; a system is written out where no code means exactly the same."""
    crs = CRS.from_user_input(grid.crs)
    code = _code(crs)
    west, south, east, north = grid.boundingbox.bbox
    return {
        "proj:code": code,
        **({} if code else {"proj:wkt2": crs.to_wkt("WKT2_2019"), "proj:projjson": crs.to_json_dict()}),
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.affine)[:6],
        "proj:bbox": [west, south, east, north],
    }


def _code(crs: CRS) -> str | None:
    authority = crs.to_authority("EPSG") or crs.to_authority("ESRI")  # others' codes hardly any reader knows
    try:
        same = authority is not None and CRS.from_authority(*authority).equals(crs, ignore_axis_order=True)
    except CRSError:
        return None
    return ":".join(authority) if same else None


def _lineage(scheme: ClassScheme, facts: Mapping[str, Any]) -> str:
    lineage = f"Land cover in the classes of {scheme.name}, mapped by REF-Net"
    if weights := facts.get("weights"):
        lineage += f" with the weights {weights['name']} (SHA-256 {weights['sha256']})"
    if "optical" in facts and "sar" in facts:
        sensors = facts.get("sensors", [*SATELLITES])
        lineage += " from " + " and ".join(f"{SATELLITES[sensor]} {facts[sensor]}" for sensor in sensors)
    return f"{lineage}."


def _model(scheme: ClassScheme, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the network that made the map.

    Its bands are told in the inputs' names: as "bands" they would have to be bands of this Item's assets.
    """
    if "network" not in facts:
        return {}
    network, weights = facts["network"], facts["weights"]
    tile, tasks = network["tile"], ["semantic-segmentation"]
    # Of a map in another scheme than the network's, they are not what the network tells apart.
    classes = {} if facts.get("translation") else {"classification:classes": _classes(scheme)}

    def array(what: str, layers: int) -> dict[str, Any]:
        order = ["batch", what, "height", "width"]
        return {"shape": [-1, layers, tile, tile], "dim_order": order, "data_type": "float32"}

    name = re.sub("[^a-zA-Z0-9_.-]+", "-", weights["name"]).strip("_.-")
    return {
        "mlm:name": name if re.fullmatch("[a-zA-Z].+", name) else f"refnet-{name}-weights",
        "mlm:architecture": "REF-Net",
        "mlm:framework": "PyTorch",
        "mlm:tasks": tasks,
        "mlm:input": [
            {"name": f"{sensor}: {', '.join(bands)}", "bands": [], "input": array("bands", len(bands))}
            for sensor, bands in (("optical", network["optical"]), ("SAR", network["sar"]))
        ],
        "mlm:output": [
            {
                "name": "probabilities",
                "tasks": tasks,
                "result": array("classes", network["classes"]),
                **classes,
            }
        ],
    }


def _classes(scheme: ClassScheme) -> list[dict[str, Any]]:
    """Describe no data and the classes; names for machines are made of those for people."""
    classes: list[dict[str, Any]] = [{"value": 0, "name": "no-data", "title": "No data", "nodata": True}]
    taken = {"no-data"}
    for code, title, colour in zip(scheme.codes, scheme.names, scheme.colours, strict=True):
        name = _machine_name(title) or f"class-{code}"
        while name in taken:
            name += f"-{code}"
        taken.add(name)
        hint = "{:02X}{:02X}{:02X}".format(*colour)
        classes.append({"value": code, "name": name, "title": title, "color_hint": hint})
    return classes


def _machine_name(title: str) -> str:
    """Return the Latin letters and digits of a name, without accents, with hyphens between words.

    Examples
    --------
    >>> [_machine_name(title) for title in ("Urban/built-up", "Gewässer & Moore", "森林")]
    ['urban-built-up', 'gewasser-moore', '']
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")


def _meanings(meanings: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"value": number, "name": _machine_name(meaning), "title": meaning} for number, meaning in enumerate(meanings)
    ]
