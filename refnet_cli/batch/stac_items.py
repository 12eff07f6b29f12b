"""STAC items as scenes: fields for templates, and statements about the offset of the optical files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from refnet_cli.errors import ConfigError
from refnet_cli.sensors.offset import BASELINES, FLAG, PRODUCT, RASTER
from refnet_cli.system.urls import is_remote

_NAMES = ("id", "s2:product_uri", "sentinel:product_id", "sentinel2:product_id", "title")
"""Properties that may contain ESA's name of the product."""
_SENTINEL_2 = re.compile(r"sentinel-?_?2|S2[A-D](?=[_-])", re.IGNORECASE)


class ItemFields(dict[str, str]):
    """Fields of a STAC item for templates, with the item."""

    def __init__(self, fields: Mapping[str, str], item: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self.item = item


def read_items(text: str, folder: Path) -> Iterator[ItemFields]:
    """Yield the fields of a STAC Item, or of each in an ItemCollection: id, collection, date and each asset's href.

    Raises
    ------
    ConfigError
        If the text is neither.
    """
    try:
        collection = json.loads(text)
        for item in collection["features"] if collection["type"] == "FeatureCollection" else [collection]:
            assets = {name: _href(asset["href"], folder) for name, asset in item["assets"].items()}
            date = str(item["properties"].get("datetime") or item["properties"].get("start_datetime") or "")
            about = {"id": item["id"], "collection": str(item.get("collection") or ""), "date": date[:10]}
            yield ItemFields(assets | about, item)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"The list is neither a STAC Item nor an ItemCollection ({error!r}).") from error


def _href(href: str, folder: Path) -> str:
    if href.startswith("file://"):
        return unquote(urlsplit(href).path)
    return href if is_remote(href) or href.startswith("/") else str(folder / href)


def stated_offset(scene: Mapping[str, str], used: Iterable[str]) -> dict[str, str]:
    """Return the metadata about the offset of a scene's optical files, in the form of `SceneOptions.stac`.

    Parameters
    ----------
    scene : mapping of str to str
        `ItemFields` of a STAC item, or a row of a table. Columns of a table with names of STAC properties count.
    used : iterable of str
        Fields in the template of the optical files. An item's metadata are valid for its own assets only.

    Raises
    ------
    ConfigError
        If the assets of an item have different offsets.
    """
    if not isinstance(scene, ItemFields):
        return {name: value for name, value in scene.items() if name.endswith((FLAG, BASELINES[0])) and value}
    assets = [asset for name, asset in scene.item["assets"].items() if name in set(used)]
    if not assets:
        return {}
    stated = {name: _as_text(value) for name, value in scene.item["properties"].items() if value is not None}
    said = {name: value for name, value in stated.items() if name.endswith((FLAG, BASELINES[0]))}
    if not any(name.endswith(BASELINES[0]) for name in said) and _is_sentinel_2(scene.item):
        names = {name: text for name, text in (stated | {"id": scene["id"]}).items() if name in _NAMES}
        said |= {name: value for name, value in stated.items() if name == BASELINES[1]}
        said |= {name: text for name, text in names.items() if PRODUCT.search(text)}
    originals = [_is_original(asset) for asset in assets]
    if any(originals) and any(name.endswith(FLAG) for name in said):
        if not all(originals):
            raise ConfigError(
                f"The optical assets of {scene['id']} are partly ESA's JPEG 2000 and partly GeoTIFF, which may have "
                "different offsets. Take all from one kind."
            )
        said = {name: value for name, value in said.items() if not name.endswith(FLAG)}
    offsets = sorted({f"{offset:g}" for asset in assets for offset in _raster_offsets(asset)})
    if len(offsets) > 1 and not any(name.endswith(FLAG) for name in said):
        raise ConfigError(
            f"The optical assets of {scene['id']} have different offsets by its {RASTER} ({', '.join(offsets)}). Take "
            "those with one offset, or pass --optical-offset if the metadata are wrong."
        )
    return said | ({RASTER: offsets[0]} if len(offsets) == 1 else {})


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_sentinel_2(item: Mapping[str, Any]) -> bool:
    properties = item["properties"]
    about = item["id"], item.get("collection"), properties.get("platform"), properties.get("constellation")
    return any(_SENTINEL_2.search(str(text)) for text in about if text)


def _is_original(asset: Mapping[str, Any]) -> bool:
    """Return whether an asset is ESA's original JPEG 2000, from which nobody has removed the offset."""
    return "jp2" in str(asset.get("type")) or urlsplit(str(asset["href"])).path.lower().endswith(".jp2")


def _raster_offsets(asset: Mapping[str, Any]) -> Iterator[float]:
    """Yield the offsets of an asset's bands in stored values, from ``raster:bands``, ``bands`` or the asset itself."""
    for band in (*_bands(asset, "raster:bands"), *_bands(asset, "bands"), asset):
        scale = band.get("scale", band.get("raster:scale"))
        offset = band.get("offset", band.get("raster:offset"))
        # Other scales belong to other quantities, such as water vapour.
        if _is_number(scale) and _is_number(offset) and math.isclose(scale, 1e-4):
            yield round(offset / scale, 3) + 0.0


def _bands(asset: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    bands = asset.get(name)
    return [band for band in bands if isinstance(band, dict)] if isinstance(bands, list) else []


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
