"""Score a random forest on the real places, as the baseline that a network must beat.

``python weights/forest.py PLACES OUT --terramesh TERRAMESH`` writes OUT.json and OUT.md, and resumes after an
interruption. The forest has 100 trees; its features are each pixel's bands and their means over 5 x 5 pixels. It is
trained on 2,000 labelled pixels of each place outside the held-out country, and scored on all labelled pixels of that
country which both sensors saw.
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
    read_config,
    read_places,
    read_terramesh,
    regions_text,
    scored,
    split_by_country,
)
from pooled import NAMES, accuracy_of, format_score, summarise
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from refnet_cli.evaluation.scores import confusion_matrix
from refnet_cli.system.atomic import replacing
from refnet_cli.tiles.window import Window
from refnet_cli.training.dataset import SceneFiles

TREES, PIXELS, NEIGHBOURHOOD, SEED = 100, 2000, 5, 0
SENSORS = {"both": slice(None), "optical": slice(0, 4), "sar": slice(4, 6)}
CLASSES = len(NAMES)

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]


class Pixels(NamedTuple):
    """Labelled pixels of a place that both sensors saw."""

    features: Float32
    """Each band's value and its mean over the neighbourhood, shape (n, 6, 2)."""
    labels: UInt8
    """Class indices from 1, shape (n,)."""


def say(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")


def read_pixels(places: Sequence[Place]) -> dict[str, Pixels]:
    """Read places by refnet's own code, so that forest and network are scored on the same pixels."""
    config = read_config(regions_text("", places))
    found = {}
    for scene in config.scenes:
        with SceneFiles.open(scene, config) as region:
            patch, labels = region.read(Window(0, 0, *region.pair.grid.shape))
        bands = np.concatenate([patch.optical, patch.sar])
        features = np.stack([bands, neighbourhood_means(bands)])
        found[scene.name] = Pixels(features[:, :, labels > 0].transpose(2, 1, 0), labels[labels > 0])
    return found


def neighbourhood_means(bands: Float32) -> Float32:
    """Return means of bands (B, H, W) over the finite values in 5 x 5 pixels, NaN where there are none."""
    known = np.isfinite(bands)
    size = (0, NEIGHBOURHOOD, NEIGHBOURHOOD)
    total = ndimage.uniform_filter(np.where(known, bands, 0).astype(np.float64), size, mode="constant")
    share = ndimage.uniform_filter(known.astype(np.float64), size, mode="constant")
    least = 0.5 / NEIGHBOURHOOD**2
    means: Float32 = np.divide(total, share, out=np.full(bands.shape, np.nan), where=share > least).astype(np.float32)
    return means


def draw(pixels: Pixels) -> Pixels:
    """Return at most `PIXELS` random pixels of a place."""
    count = len(pixels.labels)
    chosen = np.random.default_rng(SEED).choice(count, min(PIXELS, count), replace=False)
    return Pixels(pixels.features[chosen], pixels.labels[chosen])


def train_forest(places: Iterable[Pixels], bands: slice) -> RandomForestClassifier:
    """Train a forest on random pixels of places, with a subset of the bands."""
    drawn = [draw(pixels) for pixels in places]
    features = np.concatenate([pixels.features[:, bands].reshape(len(pixels.labels), -1) for pixels in drawn])
    forest = RandomForestClassifier(TREES, random_state=SEED, n_jobs=1)
    return forest.fit(features, np.concatenate([pixels.labels for pixels in drawn]))


def count(forest: RandomForestClassifier, pixels: Pixels, bands: slice) -> NDArray[np.int64]:
    """Return the confusion matrix of a place, shape (classes, classes)."""
    if not len(pixels.labels):
        return np.zeros((CLASSES, CLASSES), np.int64)
    predicted = forest.predict(pixels.features[:, bands].reshape(len(pixels.labels), -1))
    return confusion_matrix(pixels.labels, predicted.astype(np.uint8), CLASSES + 1)


def score_country(
    country: str, places: Sequence[Place], known: dict[str, Pixels], sensors: str, more: bool
) -> dict[str, NDArray[np.int64]]:
    """Score a forest on a country, trained on the others and optionally on TerraMesh.

    Returns confusion matrices by place.
    """
    learned, held_out = split_by_country(places, country)
    teachers = [place.name for place in learned if place.name in known and (more or place.group != TERRAMESH)]
    forest = train_forest([known[name] for name in teachers], SENSORS[sensors])
    return {place.name: count(forest, known[place.name], SENSORS[sensors]) for place in scored(held_out)}


def score_terramesh(place: Place, places: Sequence[Place], known: dict[str, Pixels]) -> dict[str, Any]:
    """Score a forest on a TerraMesh sample, trained on all places of other countries.

    Returns ``overall_accuracy`` of all labelled pixels, ``overall_accuracy_of_known`` of those whose class is in the
    training data, and ``matrix``.
    """
    learned, _ = split_by_country(places, place.country)
    forest = train_forest([known[other.name] for other in learned if other.name in known], SENSORS["both"])
    matrix = count(forest, known[place.name], SENSORS["both"])
    return {
        "overall_accuracy": accuracy_of(matrix, range(1, CLASSES + 1)),
        "overall_accuracy_of_known": accuracy_of(matrix, forest.classes_.tolist()),
        "matrix": matrix.tolist(),
    }


class Results:
    """Scores in a JSON file, written with their tables after every forest, and read when a run resumes.

    Parameters
    ----------
    out : Path
        Path without extension.
    places : sequence of Place
    known : dict
        Pixels of the places; stored scores of other pixels are dropped.
    """

    def __init__(self, out: Path, places: Sequence[Place], known: dict[str, Pixels]) -> None:
        self._out, self._places, self._known = out, places, known
        path = out.with_suffix(".json")
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def matrices(self, variant: str) -> dict[str, NDArray[np.int64]]:
        """Return the confusion matrices of a variant, by place."""
        stored = self.found.get(variant, {}).get("matrices", {})
        return {name: np.array(matrix, np.int64) for name, matrix in stored.items() if self._same(name, matrix)}

    def _same(self, name: str, matrix: list[list[int]]) -> bool:
        labels = self._known[name].labels if name in self._known else np.empty(0, np.uint8)
        return np.array_equal(np.sum(matrix, axis=1), np.bincount(labels, minlength=CLASSES + 1)[1:])

    def score_variant(self, variant: str, sensors: str, more: bool) -> None:
        """Score a variant of the forest on all countries without scores."""
        matrices = self.matrices(variant)
        country = {place.name: place.country for place in self._places}
        for held_out in countries(self._places):
            if not matrices.keys() >= {place.name for place in scored(split_by_country(self._places, held_out)[1])}:
                matrices |= score_country(held_out, self._places, self._known, sensors, more)
                stored = {name: matrix.tolist() for name, matrix in matrices.items()}
                self._keep(variant, {"scores": summarise(matrices, country), "matrices": stored})
                say(f"{variant}: {held_out}")

    def score_samples(self) -> None:
        """Score a forest on each TerraMesh sample without a score."""
        stored = self.found.get("terramesh", {})
        done = {name: entry for name, entry in stored.items() if self._same(name, entry["matrix"])}
        for place in self._places:
            if place.group == TERRAMESH and place.name not in done:
                done[place.name] = score_terramesh(place, self._places, self._known)
                self._keep("terramesh", done)
                say(f"TerraMesh: {place.name}")

    def _keep(self, name: str, entry: dict[str, Any]) -> None:
        self.found[name] = entry
        with replacing(self._out.with_suffix(".json")) as temporary:  # hours of computation
            temporary.write_text(json.dumps(self.found, indent=1))
        self._out.with_suffix(".md").write_text(describe(self.found))


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
            recalls = (format_score(entry["recall"].get(name)) for name in classes)
            lines.append(f"| {country} | {entry['pixels']} | {_row(entry)} | {' | '.join(recalls)} |")
        ious = (format_score(scores["pooled"]["iou"][name]) for name in classes)
        lines.append(f"| pooled IoU | | | | | | {' | '.join(ious)} |")
    if "terramesh" in found:
        lines += ["", "## TerraMesh, each without places of its country", "", "| place | overall | of known classes |"]
        lines += ["|---|---|---|"]
        for place, entry in found["terramesh"].items():
            numbers = (format_score(entry[key]) for key in ("overall_accuracy", "overall_accuracy_of_known"))
            lines.append(f"| {place} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def _row(entry: dict[str, Any]) -> str:
    keys = ("overall_accuracy", "balanced_accuracy", "mean_over_places", "mean_iou")
    return " | ".join(format_score(entry[key]) for key in keys)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Score a random forest on held-out countries.")
    parser.add_argument("places", type=Path)
    parser.add_argument("out", type=Path, help="path without extension; .json and .md are added")
    parser.add_argument("--terramesh", type=Path, required=True, help="folder of the TerraMesh samples")
    arguments = parser.parse_args()
    places = [place for place in read_places(arguments.places.resolve()) if place.both]
    places += read_terramesh(arguments.terramesh.resolve())
    known = read_pixels(places)
    say(f"{len(known)} places, {sum(len(pixels.labels) for pixels in known.values())} labelled pixels")
    results = Results(arguments.out, places, known)
    results.score_variant("both sensors", "both", False)
    results.score_samples()
    results.score_variant("Sentinel-2 only", "optical", False)
    results.score_variant("Sentinel-1 only", "sar", False)
    results.score_variant("both sensors, TerraMesh too", "both", True)


if __name__ == "__main__":
    main()
