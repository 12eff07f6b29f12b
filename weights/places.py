"""Real places for training and scoring, and their regions files.

A folder of places has one folder per place with ``about.json``, ``labels.tif``, ``s2.tif`` and ``s1.tif`` (one of the
two may be missing) and optionally ``teacher.tif``. A folder of TerraMesh samples has ``S2L2A``, ``S2L1C``, ``S1RTC``
and ``LULC``, each with one file per place. Neither is part of the project.
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

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.regions_file import read_regions

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
"""File name and country of each sample, by a short name."""
TERRAMESH_LABELS = {
    "1": "Water", "2": "Trees", "3": "Flooded vegetation", "4": "Crops", "5": "Built area", "6": "Bare ground",
    "7": "Snow/ice", "8": "Clouds", "9": "Rangeland",
}  # fmt: skip
TERRAMESH_OPTICAL, TERRAMESH_SAR = ("2", "3", "4", "8"), ("1", "2")
"""Band numbers of `OPTICAL_BANDS` and `SAR_BANDS` in the files, whose bands have no names."""
TERRAMESH_SHIFTED = {"L2A": ("433D",), "L1C": ("282D", "433D", "609U")}
"""Samples whose values contain the offset of 1000, judged by their darkest pixels: no band starts below 969 (L2A), and
the cirrus band of L1C starts above 1000. The other samples have bands that start near 0."""
COUNTRIES = {"Cambodia (Mekong)": "Cambodia"}
"""Country names used here, for longer ones in ``about.json``."""
BY_EYE = "by eye"
"""Note of places whose labels a person chose, to which the teacher's probability does not apply."""


@dataclass(frozen=True)
class Place:
    """A place with labels, seen by one or both sensors."""

    name: str
    country: str
    """Country with which the place is held out; the sea's name for places at sea."""
    group: str
    """Kind of place; `TERRAMESH` for TerraMesh samples."""
    optical: Path | None
    sar: Path | None
    labels: Path
    level: Level | None
    """Level of the optical file."""
    label_source: str
    source: str
    licence: str
    teacher: Path | None = None
    """File whose second band is the probability of the label in percent."""
    label_codes: Mapping[str, str] | None = None
    """Meanings of the label codes, if they are not those of `SCHEME`."""
    offset: int = 0
    """Offset to subtract from reflectance x 10,000."""

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Sensors with a file."""
        return (*(["optical"] if self.optical else []), *(["sar"] if self.sar else []))  # type: ignore[arg-type]

    @property
    def both(self) -> bool:
        """Whether both sensors have a file."""
        return self.optical is not None and self.sar is not None

    def alone(self, sensor: Sensor) -> Place:
        """Return the place with the files of one sensor only."""
        return replace(self, **{"sar" if sensor == "optical" else "optical": None})  # type: ignore[arg-type]


def read_places(folder: Path) -> list[Place]:
    """Return all places of a folder, sorted by name.

    Raises
    ------
    ValueError
        If there are no places, or a place's files contradict its ``about.json``.
    """
    found = [_read_place(about) for about in sorted(folder.glob("*/about.json"))]
    if not found:
        raise ValueError(f"{folder} contains no places: none of its folders has an about.json.")
    return found


def _read_place(about: Path) -> Place:
    entries: dict[str, Any] = json.loads(about.read_text())
    folder = about.parent
    files = {name: folder / f"{name}.tif" for name in ("s2", "s1", "labels", "teacher")}
    there = {name: path for name, path in files.items() if path.is_file()}
    stated = {name.lower() for name in entries["sensors"]}
    if stated != there.keys() & {"s1", "s2"} or "labels" not in there:
        raise ValueError(f"{about} states the sensors {sorted(stated)}, but the folder has {sorted(there)}.")
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
    """Return the TerraMesh samples in a folder, with optical files of the given level."""
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
    """Return the countries to hold out: those with a place that has both sensors, TerraMesh samples excluded."""
    return sorted({place.country for place in places if place.both and place.group != TERRAMESH})


def split_by_country(places: Iterable[Place], *countries: str) -> tuple[list[Place], list[Place]]:
    """Return the places outside the given countries, for training, and those inside, with one sensor or both."""
    learned: list[Place] = []
    held_out: list[Place] = []
    for place in places:
        (held_out if place.country in countries else learned).append(place)
    return learned, held_out


def scored(places: Iterable[Place]) -> list[Place]:
    """Return the places that count for a country's score: with both sensors, TerraMesh samples excluded."""
    return [place for place in places if place.both and place.group != TERRAMESH]


def regions_text(
    settings: str,
    places: Sequence[Place],
    held_out: Collection[str] = (),
    times: Mapping[str, int] | None = None,
    confidence: bool = False,
) -> str:
    """Return the text of a regions file.

    Parameters
    ----------
    settings : str
        TOML of everything except scenes; class scheme and bands are added.
    places : sequence of Place
    held_out : collection of str
        Names of the places that are used for validation only.
    times : mapping, optional
        How often a place is listed, by name; once by default. Repeated places get a number behind their name.
    confidence : bool
        Whether to weight labels by the teacher's probability, if it exists.
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
    """Return the config of a regions file's text with absolute paths."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "regions.toml"
        path.write_text(text, encoding="utf-8")
        return read_regions(path)


def label_classes(places: Iterable[Place]) -> set[int]:
    """Return the class indices of `SCHEME`, from 1, that occur in the labels of places."""
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
    """Return a line of TOML; JSON strings are valid TOML strings."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(code)} = {json.dumps(meaning)}" for code, meaning in value.items())
        return f"{key} = {{ {inner} }}"
    return f"{key} = {json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)}"
