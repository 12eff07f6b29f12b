"""What a random forest makes of the real places: the score that a network must beat.

``python weights/forest.py PLACES OUT --terramesh TERRAMESH`` writes OUT.json and OUT.md, and again after each step. The
forest has 100 trees and sees each pixel's bands and their means over 5 x 5 pixels. It learns from 2,000 labelled pixels
of each place outside the country that is held out, and is scored on all labelled pixels of that country which both
sensors saw.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from places import (
    TERRAMESH,
    Place,
    countries,
    divide,
    read_config,
    read_places,
    read_terramesh,
    regions_text,
    scored,
)
from pooled import NAMES, accuracy_of, shown, summarise
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from refnet_cli.evaluation.evaluate import confusion_matrix
from refnet_cli.sampling import Region
from refnet_cli.tiling import Window

TREES, PIXELS, NEIGHBOURHOOD, SEED = 100, 2000, 5, 0
SENSORS = {"both": slice(None), "optical": slice(0, 4), "sar": slice(4, 6)}
CLASSES = len(NAMES)

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]


class Pixels(NamedTuple):
    """Labelled pixels of a place that both sensors saw."""

    features: Float32
    """Shape (n, 6, 2): each band's value and its mean over the neighbourhood."""
    labels: UInt8
    """Class indexes from 1, shape (n,)."""


def say(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")


def read_pixels(places: Sequence[Place]) -> dict[str, Pixels]:
    """Read places as refnet does, so that forest and network are scored on the same pixels."""
    config = read_config(regions_text("", places))
    found = {}
    for scene in config.scenes:
        with Region.open(scene, config) as region:
            patch, labels = region.read(Window(0, 0, *region.pair.grid.shape))
        bands = np.concatenate([patch.optical, patch.sar])
        features = np.stack([bands, neighbourhood_means(bands)])
        found[scene.name] = Pixels(features[:, :, labels > 0].transpose(2, 1, 0), labels[labels > 0])
    return found


def neighbourhood_means(bands: Float32) -> Float32:
    """Return means over 5 x 5 pixels of what is finite there, NaN where nothing is, for bands (B, H, W)."""
    known = np.isfinite(bands)
    size = (0, NEIGHBOURHOOD, NEIGHBOURHOOD)
    total = ndimage.uniform_filter(np.where(known, bands, 0).astype(np.float64), size, mode="constant")
    share = ndimage.uniform_filter(known.astype(np.float64), size, mode="constant")
    least = 0.5 / NEIGHBOURHOOD**2
    means: Float32 = np.divide(total, share, out=np.full(bands.shape, np.nan), where=share > least).astype(np.float32)
    return means


def draw(pixels: Pixels) -> Pixels:
    """Draw at most `PIXELS` of a place."""
    count = len(pixels.labels)
    chosen = np.random.default_rng(SEED).choice(count, min(PIXELS, count), replace=False)
    return Pixels(pixels.features[chosen], pixels.labels[chosen])


def plant(places: Iterable[Pixels], bands: slice) -> RandomForestClassifier:
    """Train a forest on pixels drawn from places, with some of the bands."""
    drawn = [draw(pixels) for pixels in places]
    features = np.concatenate([pixels.features[:, bands].reshape(len(pixels.labels), -1) for pixels in drawn])
    forest = RandomForestClassifier(TREES, random_state=SEED, n_jobs=1)
    return forest.fit(features, np.concatenate([pixels.labels for pixels in drawn]))


def count(forest: RandomForestClassifier, pixels: Pixels, bands: slice) -> NDArray[np.int64]:
    """Confusion matrix of a place, shape (classes, classes)."""
    if not len(pixels.labels):
        return np.zeros((CLASSES, CLASSES), np.int64)
    predicted = forest.predict(pixels.features[:, bands].reshape(len(pixels.labels), -1))
    return confusion_matrix(pixels.labels, predicted.astype(np.uint8), CLASSES + 1)


def score_countries(places: Sequence[Place], known: dict[str, Pixels], sensors: str, more: bool) -> dict[str, Any]:
    """Score a forest on each country by what the others, and perhaps TerraMesh, teach it.

    Returns confusion matrices by place.
    """
    matrices = {}
    for country in countries(places):
        learned, held_out = divide(places, country)
        teachers = [place for place in learned if place.name in known and (more or place.group != TERRAMESH)]
        forest = plant([known[place.name] for place in teachers], SENSORS[sensors])
        for place in scored(held_out):
            matrices[place.name] = count(forest, known[place.name], SENSORS[sensors])
        say(f"{sensors}, TerraMesh {more}: {country} of {len(teachers)} places")
    return matrices


def score_terramesh(places: Sequence[Place], known: dict[str, Pixels]) -> dict[str, Any]:
    """Score a forest on each TerraMesh sample by all other places of other countries.

    Returns for each ``overall_accuracy`` of all labelled pixels, ``overall_accuracy_of_known`` of those whose class the
    forest has seen, and ``matrix``.
    """
    found = {}
    for place in places:
        if place.group != TERRAMESH:
            continue
        learned, _ = divide(places, place.country)
        forest = plant([known[other.name] for other in learned if other.name in known], SENSORS["both"])
        matrix = count(forest, known[place.name], SENSORS["both"])
        found[place.name] = {
            "overall_accuracy": accuracy_of(matrix, range(1, CLASSES + 1)),
            "overall_accuracy_of_known": accuracy_of(matrix, forest.classes_.tolist()),
            "matrix": matrix.tolist(),
        }
        say(f"TerraMesh {place.name}")
    return found


def describe(found: dict[str, Any]) -> str:
    """Return the scores as Markdown."""
    lines = [
        "# Random forest, left-out countries", "",
        "| forest | overall | balanced | mean over places | mean IoU |", "|---|---|---|---|---|",
    ]  # fmt: skip
    variants = {name: entry["scores"] for name, entry in found.items() if "scores" in entry}
    for name, scores in variants.items():
        lines.append(f"| {name} | {_row(scores['pooled'])} |")
    for name, scores in variants.items():
        classes = list(scores["pooled"]["recall"])
        lines += [
            "", f"## {name}", "", f"Balanced accuracy over: {', '.join(scores['balanced_classes'])}.", "",
            "| country | pixels | overall | balanced | mean over places | mean IoU | recall: "
            + " | ".join(classes) + " |",
            "|" + "---|" * (6 + len(classes)),
        ]  # fmt: skip
        for country, entry in {**scores["by_country"], "pooled": scores["pooled"]}.items():
            recalls = (shown(entry["recall"].get(name)) for name in classes)
            lines.append(f"| {country} | {entry['pixels']} | {_row(entry)} | {' | '.join(recalls)} |")
        ious = (shown(scores["pooled"]["iou"][name]) for name in classes)
        lines.append(f"| pooled IoU | | | | | | {' | '.join(ious)} |")
    if "terramesh" in found:
        lines += ["", "## TerraMesh, each without places of its country", "", "| place | overall | of known classes |"]
        lines += ["|---|---|---|"]
        for place, entry in found["terramesh"].items():
            numbers = (shown(entry[key]) for key in ("overall_accuracy", "overall_accuracy_of_known"))
            lines.append(f"| {place} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def _row(entry: dict[str, Any]) -> str:
    keys = ("overall_accuracy", "balanced_accuracy", "mean_over_places", "mean_iou")
    return " | ".join(shown(entry[key]) for key in keys)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Score a random forest on left-out countries.")
    parser.add_argument("places", type=Path)
    parser.add_argument("out", type=Path, help="path without ending; .json and .md are added")
    parser.add_argument("--terramesh", type=Path, required=True, help="folder of the TerraMesh samples")
    arguments = parser.parse_args()
    places = [place for place in read_places(arguments.places.resolve()) if place.both]
    places += read_terramesh(arguments.terramesh.resolve())
    known = read_pixels(places)
    say(f"{len(known)} places, {sum(len(pixels.labels) for pixels in known.values())} labelled pixels")
    country = {place.name: place.country for place in places}
    found: dict[str, Any] = {}

    def keep(name: str, matrices: dict[str, Any]) -> None:
        scores = summarise(matrices, country)
        found[name] = {"scores": scores, "matrices": {place: matrix.tolist() for place, matrix in matrices.items()}}
        write()

    def write() -> None:
        arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1))
        arguments.out.with_suffix(".md").write_text(describe(found))

    keep("both sensors", score_countries(places, known, "both", False))
    found["terramesh"] = score_terramesh(places, known)
    write()
    keep("both sensors, TerraMesh too", score_countries(places, known, "both", True))
    keep("Sentinel-2 only", score_countries(places, known, "optical", False))
    keep("Sentinel-1 only", score_countries(places, known, "sar", False))


if __name__ == "__main__":
    main()
