"""Real places to learn from and to score on, and the regions files that name them.

A folder of places has one folder a place with ``about.json``, ``labels.tif``, ``s2.tif`` and ``s1.tif`` (one of the two
may be missing) and perhaps ``teacher.tif``. A folder of TerraMesh samples has ``S2L2A``, ``S2L1C``, ``S1RTC`` and
``LULC`` with one file a place each. Neither is part of the project.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio

from refnet_cli.products import SCHEMES
from refnet_cli.regions import TrainConfig, read_regions

Sensor = Literal["optical", "sar"]
Level = Literal["L1C", "L2A"]

SCHEME = "esri-io"
OPTICAL_BANDS = ("B02", "B03", "B04", "B08")
SAR_BANDS = ("VV", "VH")
TERRAMESH = "TerraMesh"
TERRAMESH_PLACES = {
    "282D": ("282D_485L_3_3", "Brazil"), "38D": ("38D_378R_2_3", "Tanzania"), "433D": ("433D_629L_3_1", "Chile"),
    "609U": ("609U_541L_3_0", "Canada"), "637U": ("637U_59R_1_3", "Denmark"),
}  # fmt: skip
"""Short name: the files' name, and the country in which the file lies."""
TERRAMESH_LABELS = {
    "1": "Water", "2": "Trees", "3": "Flooded vegetation", "4": "Crops", "5": "Built area", "6": "Bare ground",
    "7": "Snow/ice", "8": "Clouds", "9": "Rangeland",
}  # fmt: skip
TERRAMESH_OPTICAL, TERRAMESH_SAR = ("2", "3", "4", "8"), ("1", "2")
"""Numbers of `OPTICAL_BANDS` and `SAR_BANDS` in the files, which do not name their bands."""
TERRAMESH_SHIFTED = {"L2A": ("433D",), "L1C": ("282D", "433D", "609U")}
"""Places whose values hold the offset of 1000, by their darkest pixels: no band of these begins below 969 (L2A), and
the cirrus band of L1C begins above 1000. The others have bands that begin near 0."""
COUNTRIES = {"Cambodia (Mekong)": "Cambodia"}
"""What countries are called here, where ``about.json`` says more."""
BY_EYE = "by eye"
"""In the notes of a place whose labels a person chose, so that the teacher's probability says nothing of them."""


@dataclass(frozen=True)
class Place:
    """A place with labels, seen by one or both sensors."""

    name: str
    country: str
    """What it is held out with; the sea's name for places at sea."""
    group: str
    """Kind of place, `TERRAMESH` for those samples."""
    optical: Path | None
    sar: Path | None
    labels: Path
    level: Level | None
    """Of the optical file."""
    label_source: str
    source: str
    licence: str
    teacher: Path | None = None
    """File whose second band is the probability of the label in percent."""
    label_codes: Mapping[str, str] | None = None
    """What the labels' codes mean, where they are not those of `SCHEME`."""
    offset: int = 0
    """Number to subtract from reflectance x 10,000."""

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Those that saw it."""
        return (*(["optical"] if self.optical else []), *(["sar"] if self.sar else []))  # type: ignore[arg-type]

    @property
    def both(self) -> bool:
        """Whether both sensors saw it."""
        return self.optical is not None and self.sar is not None

    def alone(self, sensor: Sensor) -> Place:
        """Return the place as seen by one sensor."""
        return replace(self, **{"sar" if sensor == "optical" else "optical": None})  # type: ignore[arg-type]


def read_places(folder: Path) -> list[Place]:
    """Read all places of a folder, in the order of their names.

    Raises
    ------
    ValueError
        If there is none, or one's files are not what its ``about.json`` says.
    """
    found = [_read_place(about) for about in sorted(folder.glob("*/about.json"))]
    if not found:
        raise ValueError(f"{folder} has no place: no folder in it has an about.json.")
    return found


def _read_place(about: Path) -> Place:
    entries: dict[str, Any] = json.loads(about.read_text())
    folder = about.parent
    files = {name: folder / f"{name}.tif" for name in ("s2", "s1", "labels", "teacher")}
    there = {name: path for name, path in files.items() if path.is_file()}
    stated = {name.lower() for name in entries["sensors"]}
    if stated != there.keys() & {"s1", "s2"} or "labels" not in there:
        raise ValueError(f"{about} states the sensors {sorted(stated)}; the folder has {sorted(there)}.")
    judged = BY_EYE in entries.get("notes", "")
    return Place(
        name=entries["id"],
        country=COUNTRIES.get(entries["country"], entries["country"]),
        group=entries["group"],
        optical=there.get("s2"),
        sar=there.get("s1"),
        labels=there["labels"],
        level=entries["level"],
        label_source=entries["label_source"],
        source=entries["source"],
        licence=entries["licence"],
        teacher=None if judged else there.get("teacher"),
    )


def read_terramesh(folder: Path, level: Level = "L2A") -> list[Place]:
    """Return the TerraMesh samples in a folder, with optical files of a level."""
    return [
        Place(
            name=name,
            country=country,
            group=TERRAMESH,
            optical=folder / f"S2{level}" / f"{file}.tif",
            sar=folder / "S1RTC" / f"{file}.tif",
            labels=folder / "LULC" / f"{file}.tif",
            level=level,
            label_source="esri",
            source="IBM/terramind examples (TerraMesh)",
            licence="CC BY-SA 4.0",
            label_codes=TERRAMESH_LABELS,
            offset=1000 if name in TERRAMESH_SHIFTED[level] else 0,
        )
        for name, (file, country) in TERRAMESH_PLACES.items()
    ]


def countries(places: Iterable[Place]) -> list[str]:
    """Return the countries to hold out: those with a place that both sensors saw, without the TerraMesh samples'."""
    return sorted({place.country for place in places if place.both and place.group != TERRAMESH})


def divide(places: Iterable[Place], *countries: str) -> tuple[list[Place], list[Place]]:
    """Return the places outside some countries, to learn from, and all those in them, of one sensor or both."""
    learned: list[Place] = []
    held_out: list[Place] = []
    for place in places:
        (held_out if place.country in countries else learned).append(place)
    return learned, held_out


def scored(places: Iterable[Place]) -> list[Place]:
    """Return those of the places that count for a country's score: both sensors saw them, and not TerraMesh's."""
    return [place for place in places if place.both and place.group != TERRAMESH]


def regions_text(
    settings: str,
    places: Sequence[Place],
    held_out: Collection[str] = (),
    times: Mapping[str, int] | None = None,
    confidence: bool = False,
) -> str:
    """Return a regions file.

    Parameters
    ----------
    settings : str
        TOML of all that is not a scene; class scheme and bands are added to it.
    places : sequence of Place
    held_out : collection of str
        Names of the places that are only scored.
    times : mapping, optional
        How often a place is listed, by name; by default once. Of several, each has a number behind its name.
    confidence : bool
        The teacher's probability weighs the labels where there is one.
    """
    head = {"scheme": SCHEME, "optical_bands": OPTICAL_BANDS, "sar_bands": SAR_BANDS}
    tables = [settings.strip(), *(_entry(key, value) for key, value in head.items())]
    for place in places:
        count = (times or {}).get(place.name, 1)
        split = "validation" if place.name in held_out else "train"
        for number in range(count):
            name = place.name if count == 1 else f"{place.name}-{number}"
            tables += ["", _scene_table(place, name, split, confidence)]
    return "\n".join(tables) + "\n"


def read_config(text: str) -> TrainConfig:
    """Read a regions file's text, whose paths are absolute."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "regions.toml"
        path.write_text(text, encoding="utf-8")
        return read_regions(path)


def label_classes(places: Iterable[Place]) -> set[int]:
    """Return the class indexes of `SCHEME`, from 1, that the labels of places have."""
    scheme, found = SCHEMES[SCHEME], set()
    index = {name: 1 + number for number, name in enumerate(scheme.names)}
    own = {str(code): name for code, name in scheme.by_code.items()}
    for place in places:
        meaning = place.label_codes or own
        with rasterio.open(place.labels) as file:
            found |= {index[meaning[str(code)]] for code in np.unique(file.read(1)).tolist() if code}
    return found


def _scene_table(place: Place, name: str, split: str, confidence: bool) -> str:
    entries: dict[str, Any] = {"name": name, "region": place.country, "split": split}
    if place.optical:
        entries |= {"optical": place.optical, "optical_scale": "dn", "optical_offset": place.offset}
        entries |= {"optical_bands": TERRAMESH_OPTICAL} if place.group == TERRAMESH else {}
    if place.sar:
        entries |= {"sar": place.sar, "sar_scale": "db"}
        entries |= {"sar_bands": TERRAMESH_SAR} if place.group == TERRAMESH else {}
        entries |= {} if place.optical else {"grid": place.labels}  # SAR alone may be in degrees
    entries["labels"] = place.labels
    if place.label_codes:
        entries["label_codes"] = place.label_codes
    if confidence and place.teacher:
        entries |= {"confidence": place.teacher, "confidence_band": 2}
    return "\n".join(["[[scenes]]", *(_entry(key, value) for key, value in entries.items())])


def _entry(key: str, value: Any) -> str:
    """Return a line of TOML; strings of JSON are strings of TOML too."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(code)} = {json.dumps(meaning)}" for code, meaning in value.items())
        return f"{key} = {{ {inner} }}"
    return f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)}"
