"""Compare schedules of trainings that start from weights, on ground that these weights did not learn from.

    python -m benchmarks.fine_tuning FOLDER [RUN ...] --places PLACES --terramesh TERRAMESH --weights WEIGHTS

Of Lithuania every fourth place is learned from. WEIGHTS have seen neither Lithuania nor 433D, as those of
``weights/make_base.py`` in the folder without-Lithuania. The sample scene starts from the bundled weights. A run is
CASE/SCHEDULE/SEED; all of them by default. Runs that are finished are not repeated. The table at the end has the mean
IoU and overall accuracy of the held-out ground at the start, at the best and at the last step.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import rasterio
from rasterio.windows import Window

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "weights"))
from places import Place, read_config, read_places, read_terramesh, regions_text

from refnet_cli.system.atomic import replacing
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.fit import fit
from refnet_cli.training.regions_file import read_regions

ROOT = Path(__file__).resolve().parents[1]
SIDES = {"433D": 64, "Lithuania": 128}
"""Side of crops and tiles in pixels, which is also the distance between what is learned from and what is scored."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "default": {},
    "README": {"learning_rate": 5e-4, "warmup": 0, "clip": 1e9},
    "sample": {"learning_rate": 1e-3, "warmup": 10, "clip": 1.0},
    "gentle": {"learning_rate": 1e-4},
}
"""Settings by name, README's without clipping; steps are those that refnet chooses, so that all take the same time."""


def cut_in_half(place: Place, folder: Path) -> list[Place]:
    """Write the left and the right half of a place's files, and return them as places."""
    halves = []
    for number, side in enumerate(("left", "right")):
        files: dict[str, Any] = {}
        for kind in ("optical", "sar", "labels"):
            files[kind] = folder / f"{side}-{kind}.tif"
            with rasterio.open(getattr(place, kind)) as file:
                width = file.width // 2
                window = Window(number * width, 0, width, file.height)
                profile = {key: file.profile[key] for key in ("driver", "dtype", "nodata", "count", "crs")}
                profile |= {"width": width, "height": file.height, "transform": file.window_transform(window)}
                with rasterio.open(files[kind], "w", **profile) as half:
                    half.write(file.read(window=window))
                    half.descriptions = file.descriptions
        halves.append(replace(place, name=side, **files))
    return halves


def make_cases(folder: Path, places: Path, terramesh: Path, weights: Path) -> dict[str, TrainConfig]:
    """Return the trainings to compare, by name, without a schedule."""
    folder.mkdir(parents=True, exist_ok=True)
    town = next(place for place in read_terramesh(terramesh) if place.name == "433D")
    own = [place for place in read_places(places) if place.country == "Lithuania" and place.both]
    made = {
        "433D": replace(read_config(regions_text("", cut_in_half(town, folder), ("right",))), init=weights),
        "Lithuania": replace(
            read_config(regions_text("", own, [place.name for number, place in enumerate(own) if number % 4])),
            init=weights,
        ),
    }
    made = {name: replace(config, crop=SIDES[name], tile=SIDES[name]) for name, config in made.items()}
    unset: dict[str, Any] = dict.fromkeys(("steps", "learning_rate", "warmup", "clip"))
    return made | {"sample": replace(read_regions(ROOT / "sample_data" / "regions.toml"), **unset)}


def run(config: TrainConfig, schedule: Mapping[str, Any], seed: int, folder: Path) -> dict[str, str]:
    """Train, unless that was done, and return the scores of the start, the best and the last step."""
    if not (folder / "done").exists():
        fit(replace(config, **schedule, seed=seed), folder)
        with replacing(folder / "done") as temporary:
            temporary.touch()
    rows = list(csv.DictReader((folder / "validations.csv").open()))
    best = max(rows, key=lambda row: float(row["mean_iou"]))
    shown = {"start": rows[0], "best": best, "last": rows[-1]}
    return {"step": best["step"], "steps": rows[-1]["step"]} | {
        f"{when} {score}": f"{float(row[score]):.3f}"
        for when, row in shown.items()
        for score in ("mean_iou", "overall_accuracy")
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="*", metavar="CASE/SCHEDULE/SEED")
    for name in ("places", "terramesh", "weights"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args(arguments)
    places, terramesh = given.places.resolve(), given.terramesh.resolve()
    cases = make_cases(given.folder / "data", places, terramesh, given.weights.resolve())
    runs = given.runs or ["/".join(parts) for parts in product(cases, SCHEDULES, "01")]
    for number, name in enumerate(runs):
        case, schedule, seed = name.split("/")
        scores = run(cases[case], SCHEDULES[schedule], int(seed), given.folder / name.replace("/", "-"))
        if not number:
            print("| run | " + " | ".join(scores) + " |\n" + "|---" * (1 + len(scores)) + "|")
        print(f"| {name} | " + " | ".join(scores.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
