"""What a catalogue says of a scene, reduced to what is needed and checked; and the same in items.json."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import shapely

from refnet_cli.errors import InputError, RefnetError
from refnet_cli.fetching.area import cut_at_antimeridian
from refnet_cli.fetching.catalogues import LabelCollection, OpticalCollection, SarCollection
from refnet_cli.sensors.dates import acquisition_time
from refnet_cli.sensors.offset import BASELINES, OFFSET, PRODUCT, parse_baseline

_OFFSET_BASELINE = 4
_HOURS = 36  # between the date in an item's id and the date that it states


class ItemError(InputError):
    """An item of a catalogue that cannot be used."""


@dataclass(frozen=True)
class SceneItem:
    """An item of a catalogue.

    Parameters
    ----------
    id : str
    collection : str
    acquired : str
        Start of the acquisition in ISO 8601, UTC; of a land-cover map, of its year.
    hrefs : dict of str to str
        Unsigned URL of each band's file.
    footprint : dict
        Outline in longitude and latitude, as GeoJSON.
    tile : str
        MGRS tile, or the like, of an optical scene; "" if unknown.
    baseline : str
        Processing baseline of an optical scene.
    offset : float
        What is subtracted from its stored values.
    cloud : float or None
        Its cloud cover in percent, over its whole tile.
    orbit : int or None
        Relative orbit of a SAR scene.
    direction : str
        "ascending" or "descending".
    """

    id: str
    collection: str
    acquired: str
    hrefs: dict[str, str]
    footprint: dict[str, Any] = field(default_factory=dict)
    tile: str = ""
    baseline: str = ""
    offset: float = 0.0
    cloud: float | None = None
    orbit: int | None = None
    direction: str = ""
    stated: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What it states of the grid of each band's file: ``epsg``, ``shape`` and ``transform``, as far as it does."""

    @property
    def day(self) -> str:
        """Day of the acquisition, UTC."""
        return self.acquired[:10]

    @property
    def when(self) -> datetime:
        """Start of the acquisition."""
        return datetime.fromisoformat(self.acquired.replace("Z", "+00:00"))

    @property
    def shape(self) -> Any:
        """The footprint as a shapely geometry, cut at 180 degrees; None if there is none."""
        if not self.footprint:
            return None
        found = shapely.make_valid(shapely.geometry.shape(self.footprint))
        west, _, east, _ = found.bounds
        if found.geom_type == "Polygon" and east - west > 180:  # crosses 180 degrees without being cut there
            found = shapely.transform(found, lambda points: points + (points[:, :1] < 0) * [360.0, 0.0])
            return cut_at_antimeridian(found)
        return found


def read_optical(raw: Mapping[str, Any], about: OpticalCollection, bands: tuple[str, ...]) -> SceneItem:
    """Read an item of Sentinel-2.

    Raises
    ------
    ItemError
        If something is missing or contradictory that the pixels depend on.
    """
    item, properties, acquired = _common(raw, about.collection)
    _check_level(item, properties, about.level)
    hrefs = {band: _href(raw, about.assets.get(band, band)) for band in bands} | {"SCL": _href(raw, about.scl)}
    baseline = _baseline(item, properties)
    tile = next((str(properties[name]) for name in ("s2:mgrs_tile", "grid:code") if properties.get(name)), "")
    found = re.search(r"(?<![A-Z0-9])T?(\d{1,2}[C-X][A-Z]{2})(?![A-Z0-9])", f"{tile} {item}")
    assets = {band: about.assets.get(band, band) for band in bands} | {"SCL": about.scl}
    return SceneItem(
        item, about.collection, acquired, hrefs, _footprint(raw), found[1] if found else "", baseline,
        _offset(raw, about, baseline, bands, properties), _number(properties.get("eo:cloud_cover")),
        stated=_stated(raw, assets),
    )  # fmt: skip


def read_sar(raw: Mapping[str, Any], about: SarCollection, bands: tuple[str, ...]) -> SceneItem:
    """Read an item of Sentinel-1; see `read_optical`."""
    item, properties, acquired = _common(raw, about.collection)
    hrefs = {band: _href(raw, about.assets.get(band, band)) for band in bands}
    orbit, direction = _number(properties.get("sat:relative_orbit")), properties.get("sat:orbit_state")
    if orbit is None or direction not in ("ascending", "descending"):
        raise ItemError(f"{item} does not state its relative orbit and pass direction.")
    return SceneItem(
        item, about.collection, acquired, hrefs, _footprint(raw), orbit=int(orbit), direction=str(direction),
        stated=_stated(raw, {band: about.assets.get(band, band) for band in bands}),
    )  # fmt: skip


def read_labels(raw: Mapping[str, Any], about: LabelCollection) -> SceneItem:
    """Read an item of a land-cover map; see `read_optical`."""
    item, _, acquired = _common(raw, about.collection)
    return SceneItem(
        item, about.collection, acquired, {"labels": _href(raw, about.asset)}, _footprint(raw),
        stated=_stated(raw, {"labels": about.asset}),
    )  # fmt: skip


def _common(raw: Mapping[str, Any], collection: str) -> tuple[str, Mapping[str, Any], str]:
    """Return an item's id, properties and time."""
    item, properties = raw.get("id"), raw.get("properties")
    if not isinstance(item, str) or not item.isprintable() or not isinstance(properties, Mapping) or len(item) > 300:
        raise ItemError("An item has no id or no properties.")
    if raw.get("collection") not in (None, collection):
        raise ItemError(f"{item} belongs to the collection {raw['collection']!r}, not {collection}.")
    text = properties.get("datetime") or properties.get("start_datetime")
    try:
        when = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        raise ItemError(f"{item} has no date.") from None
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    named = acquisition_time(item)
    if named:
        other = datetime.fromisoformat(named.replace("Z", "+00:00"))
        other = other if other.tzinfo else other.replace(tzinfo=UTC)
        if abs((when - other).total_seconds()) > _HOURS * 3600:
            raise ItemError(f"{item} states the date {when.date()}, which contradicts its name.")
    return item, properties, when.isoformat(timespec="seconds").replace("+00:00", "Z")


def _href(raw: Mapping[str, Any], name: str) -> str:
    assets = raw.get("assets")
    asset = assets.get(name) if isinstance(assets, Mapping) else None
    href = asset.get("href") if isinstance(asset, Mapping) else None
    if not isinstance(href, str) or not href:
        raise ItemError(f"{raw.get('id')} has no asset {name}.")
    return href


def _stated(raw: Mapping[str, Any], assets: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return what an item states of the grids of its files, by band."""
    found = {}
    for band, name in assets.items():
        about = {**raw["properties"], **raw["assets"][name]}
        shape, transform = about.get("proj:shape"), about.get("proj:transform")
        code = re.fullmatch(r"EPSG:(\d+)", str(about.get("proj:code")))
        epsg = int(code[1]) if code else about.get("proj:epsg")
        stated: dict[str, Any] = {}
        if isinstance(epsg, int):
            stated["epsg"] = epsg
        if sides := _numbers(shape, 2):
            stated["shape"] = [int(side) for side in sides]
        if numbers := _numbers(transform, 6):
            stated["transform"] = numbers
        if stated:
            found[band] = stated
    return found


def _numbers(value: Any, count: int) -> list[float]:
    """Return the first numbers of a list; none if it is no list of at least so many numbers."""
    found = [number for one in value if (number := _number(one)) is not None] if isinstance(value, list) else []
    return found[:count] if len(found) >= count and len(found) == len(value) else []


def _footprint(raw: Mapping[str, Any]) -> dict[str, Any]:
    geometry = raw.get("geometry")
    if geometry is None:
        return {}
    try:
        shape = shapely.geometry.shape(geometry)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, shapely.errors.GEOSException):
        return {}
    if shape.is_empty or shape.geom_type not in ("Polygon", "MultiPolygon"):
        return {}
    found: dict[str, Any] = shapely.geometry.mapping(shape)
    return {"type": found["type"], "coordinates": found["coordinates"]}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _check_level(item: str, properties: Mapping[str, Any], level: str) -> None:
    """Refuse an item whose id, product or product type has another level than its collection."""
    names = [item, *(str(properties.get(name)) for name in ("s2:product_uri", "s2:product_type"))]
    other = {found[1] for name in names if (found := re.search(r"MSI(?:L)?(1C|2A)", name))} - {level[1:]}
    if other:
        raise ItemError(
            f"{item} is of level L{min(other)}, but its collection of level {level}: state level in the TOML file of "
            "the source."
        )


def _baseline(item: str, properties: Mapping[str, Any]) -> str:
    """Return the processing baseline of an item; "" if it states none.

    Raises
    ------
    ItemError
        If it states several that differ in what the offset depends on.
    """
    stated = [str(value) for name, value in properties.items() if name.endswith(BASELINES) and value]
    names = [item, *(str(value) for name, value in properties.items() if name.endswith(("product_uri", "product_id")))]
    named = [found[1] for found in map(PRODUCT.search, names) if found]
    kinds = {major >= _OFFSET_BASELINE for text in (*stated, *named) if (major := parse_baseline(text)) is not None}
    if len(kinds) > 1:
        raise ItemError(
            f"{item} states several processing baselines ({', '.join(dict.fromkeys((*stated, *named)))}), with and "
            "without the offset of 1000."
        )
    return next((text for text in (*stated, *named) if parse_baseline(text) is not None), "")


def _offset(
    raw: Mapping[str, Any],
    about: OpticalCollection,
    baseline: str,
    bands: tuple[str, ...],
    properties: Mapping[str, Any],
) -> float:
    """Return what is subtracted from an item's stored values.

    Raises
    ------
    ItemError
        If the item does not tell it, or contradicts itself.
    """
    item = raw.get("id")
    if about.offset == "none":
        return 0.0
    major = parse_baseline(baseline) if baseline else None
    by_baseline = None if major is None else OFFSET if major >= _OFFSET_BASELINE else 0.0
    applied = {
        str(value).lower() in ("true", "1") for name, value in properties.items() if name.endswith("boa_offset_applied")
    }
    if about.offset == "baseline":
        if by_baseline is None:
            raise ItemError(f"{item} does not state its processing baseline, on which the offset depends.")
        if True in applied:
            raise ItemError(f"{item} states that its offset was removed, which its collection does not do.")
        return by_baseline
    declared = {_declared(raw, about.assets.get(band, band)) for band in bands}
    if len(declared) != 1:
        raise ItemError(f"{item} declares different offsets of its bands: {', '.join(map(str, sorted(declared)))}.")
    (found,) = declared
    if by_baseline is not None and by_baseline != found:
        raise ItemError(
            f"{item} declares the offset {found:g}, but its processing baseline is {baseline} (offset {by_baseline:g})."
        )
    if True in applied and found:
        raise ItemError(f"{item} states that its offset was removed, but declares one of {found:g}.")
    return found


def _declared(raw: Mapping[str, Any], name: str) -> float:
    """Return the offset that an asset declares, as what is subtracted from its stored values."""
    asset = raw["assets"][name]
    bands = asset.get("raster:bands") or asset.get("bands") or [asset]
    band = bands[0] if isinstance(bands, list) and isinstance(bands[0], Mapping) else {}
    scale = _number(band.get("scale", band.get("raster:scale")))
    offset = _number(band.get("offset", band.get("raster:offset")))
    if scale is None or offset is None or abs(scale - 1e-4) > 1e-9:
        raise ItemError(f"{raw.get('id')} does not declare the scale 0.0001 and an offset of its asset {name}.")
    return round(-offset / scale, 6) + 0.0


def usable(raw: Mapping[str, Any], read: Any, *arguments: Any) -> tuple[SceneItem | None, str]:
    """Return an item, or None and why it cannot be used."""
    try:
        return read(raw, *arguments), ""
    except ItemError as error:
        return None, str(error)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RefnetError) as error:
        return None, f"{raw.get('id')!a} is malformed ({type(error).__name__})."
