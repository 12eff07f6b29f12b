"""The regions file that trains on fetched scenes, and the table of scenes that a batch maps."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
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


def regions_text(scenes: Sequence[Fetched], folder: Path, bands: Sequence[str]) -> str:
    """Return a regions file for `refnet train`; paths are relative to its folder.

    The split follows from the scenes: with several regions one is held out, else blocks within the scene.
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
    for scene in scenes:
        place = scene.folder.relative_to(folder).as_posix()
        prefix = "" if place == "." else f"{place}/"
        entries = {"name": scene.name, "region": scene.region}
        named = {"optical": "s2.tif", "sar": "s1.tif", "labels": "labels.tif"}
        entries |= {key: prefix + file for key, file in named.items() if file in scene.files}
        texts = {key: json.dumps(value, ensure_ascii=False) for key, value in entries.items()}
        lines += ["", "[[scenes]]", *(f"{key} = {text}" for key, text in texts.items())]
    text = "\n".join(lines) + "\n"
    return f"{toml_mark(text)}\n{text}"


def _budget(scenes: Sequence[Fetched]) -> list[str]:
    """Return entries with which a training takes less than half an hour on two cores, up to a whole tile."""
    pixels = sum(scene.shape[0] * scene.shape[1] for scene in scenes)
    return ["steps = 100"] if pixels < 10_000_000 else ["steps = 150", "validate_every = 50"]


def table_text(scenes: Sequence[Fetched], folder: Path) -> str:
    """Return a CSV table of the scenes, which `refnet batch plan` takes; paths are relative to its folder."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("name", "region", "optical", "sar", "labels", "dates", "clear", "sar_pass", "output"))
    for scene in scenes:
        place = scene.folder.relative_to(folder).as_posix()
        paths = [f"{place}/{file}" if file in scene.files else "" for file in ("s2.tif", "s1.tif", "labels.tif")]
        table.writerow(
            (scene.name, scene.region, *paths, scene.dates, f"{scene.clear:.4f}", scene.sar, f"{place}/lulc.tif")
        )
    return text.getvalue()
