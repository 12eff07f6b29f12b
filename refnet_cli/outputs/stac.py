"""STAC Item of a map: its files, footprint, date, classes and provenance."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from odc.geo.geobox import GeoBox
from pyproj import CRS
from pyproj.exceptions import CRSError

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import OptionsError
from refnet_cli.outputs.base import FileOutput, Media
from refnet_cli.outputs.cog import CogOutput
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.footprint import footprint
from refnet_cli.outputs.rows import Rows
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.sensor import MODALITIES

if TYPE_CHECKING:
    from pystac import Asset

_EXTENSIONS = [
    f"https://stac-extensions.github.io/{extension}/schema.json"
    for extension in ("classification/v2.0.0", "file/v2.1.0", "processing/v1.2.0", "projection/v2.0.0", "raster/v2.0.0")
]
_MODEL = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
_UNKNOWN: Media = (None, ("metadata",))
_SHA256 = "1220"  # multihash: SHA-256 (0x12) of 32 (0x20) bytes


class StacItem(FileOutput):
    """A STAC 1.1 Item that describes the map and the files made with it.

    The Item uses the extensions classification, file, processing, projection and raster. If the facts describe the
    network, it also uses the machine learning model extension, which requires the model as an asset: a URN with the
    SHA-256 of the weights, because their location is private to the user.

    Parameters
    ----------
    path : str or Path
        Path of the Item.
    context : MapContext
        The map's name without its extension is the Item's id.

    Raises
    ------
    OptionsError
        If the acquisition date is unknown: an Item must have one.
    InputError
        If the grid's coordinates cannot be converted to WGS 84.
    OutputError
        If the file cannot be created there.
    StorageError
        From `finish`, if the disk is full.
    """

    ending = ".stac.json"
    suffixes = (".json", ".geojson")
    layers = ()
    own_options = ("date",)

    def __init__(self, path: str | Path, context: MapContext) -> None:
        if context.acquired is None:
            raise OptionsError(
                "A STAC Item needs a date, and the file names do not state when the scenes were acquired. "
                "Pass --date 2020-07-01, or a range as --date 2020-07-01/2020-07-05."
            )
        self._map, self._acquired, self._with_quality = context.map, context.acquired, context.quality
        self._geometry, self._bbox = footprint(context.grid)
        super().__init__(path, context)

    def _start(self, folder: Path) -> None:
        """Open nothing: the Item is written at the end."""

    def _put(self, rows: Rows) -> None:
        """Ignore the rows: the Item describes the map by its facts."""

    def _complete(self, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
        from pystac import Item

        start, end = map(datetime.fromisoformat, self._acquired)
        item = Item(
            id=self._map.stem,
            geometry=self._geometry,
            bbox=self._bbox,
            datetime=start if start == end else None,
            start_datetime=None if start == end else start,
            end_datetime=None if start == end else end,
            properties=self._properties(facts),
            stac_extensions=_EXTENSIONS + [_MODEL] * ("network" in facts),
            assets=self._assets(facts),
        )
        result = folder / "complete.json"
        text = json.dumps(item.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        result.write_bytes(text.encode())
        return [result]

    def _properties(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "title": f"Land cover map {self._map.stem}",
            **_projection(self._grid),
            **_model(self._scheme, facts),
            "processing:level": "L4",
            "processing:lineage": _lineage(self._scheme, facts),
            **({"processing:software": {"refnet": facts["version"]}} if "version" in facts else {}),
        }

    def _assets(self, facts: Mapping[str, Any]) -> dict[str, Asset]:
        from pystac import Asset

        from refnet_cli.outputs import OUTPUTS  # this class is one of them

        files = {"classes": [{"name": self._map.name}]} | dict(facts.get("files", {}))
        assets = {}
        for kind, entries in files.items():
            output = OUTPUTS.get(kind, FileOutput)
            title = output.title or kind.capitalize()
            usual = next(iter(output.media.values()), _UNKNOWN)
            for number, entry in enumerate(entries, start=1):
                place = self._map.parent / entry.get("place", entry["name"])
                href = Path(os.path.relpath(place, self.path.parent)).as_posix()
                media = output.media.get(Path(entry["name"]).suffix.lower(), usual if number == 1 else _UNKNOWN)
                asset = _asset(entry, href, title if number == 1 else f"{title}, {entry['name']}", media)
                if number == 1 and issubclass(output, CogOutput):
                    asset.extra_fields["bands"] = self._bands(output)
                assets[kind if number == 1 else f"{kind}-{number}"] = asset
        if "network" in facts:
            weights = facts["weights"]
            assets["model"] = Asset(
                f"urn:sha256:{weights['sha256']}", f"Weights {weights['name']}", roles=["mlm:model", "mlm:weights"]
            )
        return assets

    def _bands(self, output: type[CogOutput]) -> list[dict[str, Any]]:
        """Return the fields of a raster output's bands."""
        storage = output.storage
        common: dict[str, Any] = {"data_type": "uint8"}
        if storage.nodata is not None:
            common["nodata"] = storage.nodata
        common["raster:sampling"] = "area"
        if storage.scale != 1:
            common["raster:scale"] = storage.scale
        return [
            {"name": name} | common | ({} if values is None else {"classification:classes": _classes_of(values)})
            for name, values in output.bands(self._scheme, self._with_quality, self._dates)
        ]


def _asset(entry: Mapping[str, Any], href: str, title: str, media: Media) -> Asset:
    from pystac import Asset

    kind, roles = media
    about = {"file:checksum": _SHA256 + entry["sha256"], "file:size": entry["bytes"]} if "sha256" in entry else {}
    return Asset(quote(href if href.startswith("../") else f"./{href}"), title, None, kind, list(roles), about)


def _projection(grid: GeoBox) -> dict[str, Any]:
    """Return the fields of the projection extension; a coordinate system without an exact code is given as WKT."""
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
    authority = crs.to_authority("EPSG") or crs.to_authority("ESRI")  # few readers know other authorities
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
        sensors = facts.get("sensors", MODALITIES)
        lineage += " from " + " and ".join(f"{SENSORS[sensor].satellite} {facts[sensor]}" for sensor in sensors)
    return f"{lineage}."


def _model(scheme: ClassScheme, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the machine learning model extension.

    The inputs' names list the bands: in "bands" they would have to be bands of this Item's assets.
    """
    if "network" not in facts:
        return {}
    network, weights = facts["network"], facts["weights"]
    tile, tasks = network["tile"], ["semantic-segmentation"]
    # The classes of a map in another scheme are not the network's.
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
    """Return the entries for no data and the classes; machine names are derived from the titles."""
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
    """Return a title in lower-case Latin letters and digits, without accents, with hyphens between words.

    Examples
    --------
    >>> [_machine_name(title) for title in ("Urban/built-up", "Gewässer & Moore", "森林")]
    ['urban-built-up', 'gewasser-moore', '']
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub("[^a-z0-9]+", "-", plain).strip("-")


def _classes_of(values: ClassScheme | Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries for the values of a band."""
    if isinstance(values, ClassScheme):
        return _classes(values)
    return [
        {"value": number, "name": _machine_name(meaning), "title": meaning} for number, meaning in enumerate(values)
    ]
