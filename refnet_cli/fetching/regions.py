"""The regions file that trains on fetched scenes, and the tables of scenes and seasons that a batch maps."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from refnet_cli.fetching.labels import SCHEME
from refnet_cli.fetching.options import BANDS
from refnet_cli.model.weight_files import BUNDLED
from refnet_cli.system.marks import toml_mark

_BUFFERED = 4.5  # tiles along a side from which a scene can be divided into blocks with a buffer of a tile


@dataclass(frozen=True)
class Fetched:
    """A fetched scene, as the regions file and the table name it."""

    name: str
    region: str
    folder: Path
    files: tuple[str, ...]
    """Names of its files in the folder."""
    shape: tuple[int, int]
    dates: str
    """Days of the optical images."""
    clear: float
    sar: str
    """Time, orbit and direction of the SAR pass; "" without SAR."""
    place: str = ""
    """See `ScenePlan.place`."""
    labels: tuple[str, ...] = ()
    """Items of its labels."""


def regions_text(scenes: Sequence[Fetched], folder: Path, bands: Sequence[str]) -> str:
    """Return a regions file for `refnet train`; paths are relative to its folder.

    The split follows from the scenes: with several regions one is held out, else blocks within the scene. The dates of
    a place become its season if they have the same labels; else each date is a scene.
    """
    regions = list(dict.fromkeys(scene.region for scene in scenes))
    side = max(min(scene.shape) for scene in scenes)
    lines = [
        "# Trains the bundled weights further on fetched scenes: refnet train regions.toml -o runs/name",
        f'scheme = "{SCHEME}"',
    ]
    if tuple(bands) == BANDS:
        lines.append(f'init = "{BUNDLED}"')
    else:
        lines += [f"optical_bands = {json.dumps(list(bands))}", "learning_rate = 1e-3"]
    tile = min(max(int(side / _BUFFERED) // 32 * 32, 64), 256)
    lines += [*_budget(scenes), "batch = 8", f"crop = {tile}", f"tile = {tile}"]
    if len(regions) > 1:
        lines += ['split = "region"', f"fold = {json.dumps(regions[-1])}  # held out; --fold NAME holds out another"]
    else:
        lines += ['split = "blocks"', f"block = {min(2560, max(int(side * 10 / 6) // 10 * 10, 320))}"]
    seasons = {
        place: dates[0] for place, dates in places_of(scenes).items() if len({date.labels for date in dates}) == 1
    }
    for scene in scenes:
        if scene is seasons.get(scene.place, scene):
            entries = _season(scene, folder) if scene.place in seasons else _scene(scene, folder)
            texts = {key: json.dumps(value, ensure_ascii=False) for key, value in entries.items()}
            lines += ["", "[[scenes]]", *(f"{key} = {text}" for key, text in texts.items())]
    text = "\n".join(lines) + "\n"
    return f"{toml_mark(text)}\n{text}"


def _scene(scene: Fetched, folder: Path) -> dict[str, str]:
    """Return the entries of a scene in a regions file."""
    place = scene.folder.relative_to(folder).as_posix()
    prefix = "" if place == "." else f"{place}/"
    named = {"optical": "s2.tif", "sar": "s1.tif", "labels": "labels.tif"}
    files = {key: prefix + file for key, file in named.items() if file in scene.files}
    return {"name": scene.name, "region": scene.region} | files


def _season(first: Fetched, folder: Path) -> dict[str, str]:
    """Return the entries of a place with several dates in a regions file, by the first of them."""
    labels = _scene(first, folder)["labels"]
    return {"name": first.place, "region": first.region, "season": first.place, "labels": labels}


def places_of(scenes: Sequence[Fetched]) -> dict[str, list[Fetched]]:
    """Return the scenes of each place with several dates; none where places have one scene."""
    found: dict[str, list[Fetched]] = {}
    for scene in scenes:
        if scene.place:
            found.setdefault(scene.place, []).append(scene)
    return found


def seasons_text(places: Mapping[str, Sequence[Fetched]]) -> str:
    """Return a CSV table of places with several dates for `refnet batch plan`; a season is a place's folder."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("name", "region", "season", "dates", "output"))
    for place, scenes in places.items():
        days = " ".join(scene.dates for scene in scenes)
        table.writerow((place, scenes[0].region, place, days, f"{place}/lulc.tif"))
    return text.getvalue()


def _budget(scenes: Sequence[Fetched]) -> list[str]:
    """Return entries with which a training takes less than half an hour on two cores, up to a whole tile."""
    pixels = sum(scene.shape[0] * scene.shape[1] for scene in scenes)
    return ["steps = 100"] if pixels < 10_000_000 else ["steps = 150", "validate_every = 50"]


def table_text(scenes: Sequence[Fetched], folder: Path) -> str:
    """Return a CSV table of the scenes, which `refnet batch plan` takes; paths are relative to its folder.

    That of the dates of one place is its season, for `refnet predict` and a regions file.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("name", "region", "optical", "sar", "labels", "dates", "clear", "sar_pass", "output"))
    for scene in scenes:
        place = Path(os.path.relpath(scene.folder, folder)).as_posix()
        paths = [f"{place}/{file}" if file in scene.files else "" for file in ("s2.tif", "s1.tif", "labels.tif")]
        table.writerow(
            (scene.name, scene.region, *paths, scene.dates, f"{scene.clear:.4f}", scene.sar, f"{place}/lulc.tif")
        )
    return text.getvalue()
