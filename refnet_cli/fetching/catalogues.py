"""Catalogues: where scenes and labels are found, and what their files contain.

A new catalogue is one entry in `CATALOGUES`, or a TOML file with the same fields.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.errors import ConfigError, InputMissingError, OptionsError
from refnet_cli.sensors import sentinel1, sentinel2
from refnet_cli.system.config import read, read_toml

Offset = Literal["baseline", "declared", "none"]
"""How the offset of optical values is known:

``baseline``
    1000 since processing baseline 04.00, which the item states; the files contain it.
``declared``
    The item declares scale and offset of each asset, and the files contain the offset.
``none``
    The files contain no offset.
"""


@dataclass(frozen=True)
class OpticalCollection:
    """A collection of Sentinel-2 scenes of one level with a file per band."""

    collection: str
    assets: dict[str, str]
    """Name of the asset of each band."""
    scl: str
    """Name of the asset with the scene classification, which a collection of L1C needs too."""
    offset: Offset = "baseline"
    nodata: int = 0
    first_date: str = ""
    """Date from which the collection is complete; "" if it is."""
    level: Literal["L1C", "L2A"] = "L2A"
    """Level of its scenes; items whose names say another are refused."""

    def __post_init__(self) -> None:
        _check_bands(self.assets, sentinel2.BANDS)


@dataclass(frozen=True)
class SarCollection:
    """A collection of terrain-corrected Sentinel-1 scenes, in linear power, with a file per polarisation."""

    collection: str
    assets: dict[str, str]
    """Name of the asset of each polarisation."""
    nodata: float = -32768.0

    def __post_init__(self) -> None:
        _check_bands(self.assets, sentinel1.BANDS)


@dataclass(frozen=True)
class LabelCollection:
    """A collection of land-cover maps, one for each year."""

    scheme: str
    """Class scheme of the codes in the files."""
    collection: str = ""
    asset: str = ""
    template: str = ""
    """For maps without a catalogue: a URL with ``{year}``, ``{version}`` and ``{tile}``, where a tile covers 3 x 3
    degrees and is named by its south-western corner, such as N39E012."""
    versions: dict[str, str] = field(default_factory=dict)
    """For a template: the version of each year."""

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigError(f"scheme is {self.scheme!r}; known are {_list(SCHEMES)}.")
        if bool(self.collection and self.asset) == bool(self.template and self.versions):
            raise ConfigError("labels need either collection and asset, or template and versions.")


@dataclass(frozen=True)
class Catalogue:
    """A STAC API, and what its collections contain."""

    title: str
    url: str
    """Root of the API."""
    hosts: tuple[str, ...] = ()
    """Hosts of the files, each as HOST or HOST:PORT, besides that of the API."""
    sign: Literal["none", "sas"] = "none"
    """``sas``: files need a token of their blob container, see `refnet_cli.fetching.signing`."""
    token_url: str = ""
    """For ``sas``: URL to which /ACCOUNT/CONTAINER is appended."""
    optical: OpticalCollection | None = None
    sar: SarCollection | None = None
    labels: dict[str, LabelCollection] = field(default_factory=dict)
    """Land-cover maps by the name that ``--labels`` takes."""
    connect_seconds: float = 10.0
    silent_seconds: float = 60.0
    """Seconds without an answer after which a request is repeated."""
    retries: int = 6

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise ConfigError(f"url is {self.url!r}; it must be an http or https URL.")
        if (self.sign == "sas") != bool(self.token_url):
            raise ConfigError("sign = \"sas\" and token_url need each other.")
        for name, least, most in (("connect_seconds", 0.1, 600), ("silent_seconds", 0.1, 600), ("retries", 0, 20)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from {least} to {most}.")


def _check_bands(assets: Iterable[str], known: Iterable[str]) -> None:
    unknown = [band for band in assets if band not in known]
    if unknown or not assets:
        raise ConfigError(f"assets has the bands {', '.join(unknown) or 'none'}; known are {_list(known)}.")


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


_S2_BANDS = tuple(band for band in sentinel2.BANDS if band != "B10")
_WORLDCOVER_URL = (
    "https://esa-worldcover.s3.eu-central-1.amazonaws.com/{version}/{year}/map/"
    "ESA_WorldCover_10m_{year}_{version}_{tile}_Map.tif"
)
CATALOGUES: dict[str, Catalogue] = {
    "planetary-computer": Catalogue(
        title="Microsoft Planetary Computer",
        url="https://planetarycomputer.microsoft.com/api/stac/v1",
        hosts=(
            "sentinel2l2a01.blob.core.windows.net", "sentinel1euwestrtc.blob.core.windows.net",
            "ai4edataeuwest.blob.core.windows.net",
        ),
        sign="sas",
        token_url="https://planetarycomputer.microsoft.com/api/sas/v1/token",
        optical=OpticalCollection("sentinel-2-l2a", {band: band for band in _S2_BANDS}, "SCL"),
        sar=SarCollection("sentinel-1-rtc", {"VV": "vv", "VH": "vh", "HH": "hh", "HV": "hv"}),
        labels={
            "worldcover": LabelCollection("worldcover", "esa-worldcover", "map"),
            "io-lulc": LabelCollection("esri-io", "io-lulc-annual-v02", "data"),
        },
    ),
    "earth-search": Catalogue(
        title="Earth Search by Element 84",
        url="https://earth-search.aws.element84.com/v1",
        hosts=(
            "e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com", "esa-worldcover.s3.eu-central-1.amazonaws.com",
        ),
        optical=OpticalCollection(
            "sentinel-2-c1-l2a",
            {
                "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge1", "B06": "rededge2",
                "B07": "rededge3", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B11": "swir16", "B12": "swir22",
            },
            "scl",
            offset="declared",
            first_date="2023-01-01",
        ),
        labels={
            "worldcover": LabelCollection(
                "worldcover", template=_WORLDCOVER_URL, versions={"2020": "v100", "2021": "v200"}
            ),
        },
    ),
}  # fmt: skip
"""Catalogues by the name that ``--source`` takes."""


def choose_catalogue(source: str) -> Catalogue:
    """Return the catalogue that a user names.

    Parameters
    ----------
    source : str
        A key of `CATALOGUES`; the URL of a STAC API with the collections and assets of Planetary Computer, whose
        files lie on the same host and need no token; or the path of a TOML file with the fields of `Catalogue`. The
        entry ``base`` of such a file names the catalogue whose fields it changes.

    Raises
    ------
    OptionsError
        If it is none of these.
    InputMissingError, ConfigError
        If the file cannot be read or is invalid.
    """
    if source in CATALOGUES:
        return CATALOGUES[source]
    if re.match(r"https?://", source, re.IGNORECASE):
        return replace(
            CATALOGUES["planetary-computer"], title=urlsplit(source).netloc.rpartition("@")[2], url=source.rstrip("/"),
            hosts=(), sign="none", token_url="",
        )  # fmt: skip
    if recorded := re.fullmatch(r"(.+\.toml) sha256:[0-9a-f]+", source):
        raise OptionsError(f"These items were planned with the catalogue file {recorded[1]}. Pass it as --source.")
    if not source.endswith(".toml"):
        raise OptionsError(
            f"--source {source} is unknown. Give one of {_list(CATALOGUES)}, the URL of a STAC API, or a TOML file "
            "(.toml) that describes a catalogue."
        )
    return read_catalogue(Path(source))


def recorded_source(source: str) -> str:
    """Return what files record of a source: of a TOML file its name and a checksum, not where it lies.

    Raises
    ------
    InputMissingError
        If the file cannot be read.
    """
    if not source.endswith(".toml") or re.match(r"https?://", source, re.IGNORECASE):
        return source
    try:
        content = Path(source).read_bytes()
    except OSError as error:
        raise InputMissingError(f"{source} cannot be read: {error.strerror}.") from error
    return f"{Path(source).name} sha256:{hashlib.sha256(content).hexdigest()[:16]}"


def read_catalogue(path: Path) -> Catalogue:
    """Read a catalogue from a TOML file; see `choose_catalogue` for the errors."""
    entries = read_toml(path)
    base = entries.pop("base", None)
    if base is not None and base not in CATALOGUES:
        raise ConfigError(f"{path}: base is {base!r}; known are {_list(CATALOGUES)}.")
    start = _without_nothing(asdict(CATALOGUES[base])) if base else {"title": path.stem}
    if entries.get("sign") == "none":
        start["token_url"] = ""
    if "token_url" in entries:
        start["sign"] = "sas"
    return read(Catalogue, _merge(start, entries), path, path.parent)


def _without_nothing(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with the entries of another one on top of it; tables inside are merged too."""
    merged = dict(below)
    for name, value in above.items():
        inside = merged.get(name)
        both = isinstance(inside, Mapping) and isinstance(value, Mapping) and name != "assets"
        merged[name] = _merge(inside, value) if both else value  # type: ignore[arg-type]  # both are tables
    return merged
