"""Score weights on real places, mapped as by ``refnet predict``.

A fold holds out one country. `score_fold` maps its places and stores confusion matrices and log-probabilities;
`pool_folds` pools all folds into one table, next to the forest of forest.py.

    python weights/score.py fold WEIGHTS PLACES FOLDER --country Austria
    python weights/score.py pool PLACES FOLDER --forest forest.json
    python weights/score.py terramesh WEIGHTS TERRAMESH 282D
    python weights/score.py sample WEIGHTS
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from places import (
    SCHEME,
    Place,
    Sensor,
    read_config,
    read_places,
    read_terramesh,
    regions_text,
    scored,
    split_by_country,
)
from pooled import NAMES, accuracy_of, format_score, summarise

from refnet_cli.engines.torch_engine import TorchEngine
from refnet_cli.evaluation.scores import confusion_matrix
from refnet_cli.model.card import Card
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import load_weights
from refnet_cli.outputs.rows import LOW
from refnet_cli.prediction.low_confidence import LOW_CONFIDENCE, describe_shares
from refnet_cli.prediction.stream import predict_rows
from refnet_cli.system.atomic import replacing
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.training.calibration import Calibration, fit_temperature, measure_calibration
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.dataset import SceneFiles

SAMPLE = Path(__file__).resolve().parent.parent / "sample_data"
WITHOUT: dict[str, Sensor | None] = {"both": None, "optical": "sar", "sar": "optical"}
"""The sensor that is blanked, by the sensors that are used."""
FITTED = 5000  # most pixels of a place to which a temperature is fitted
LEAST = 1e-30  # lower limit of probabilities before the logarithm
THINNED = 16  # one in so many mapped pixels of a place, labelled or not, enters the share of low confidence

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Counts = NDArray[np.int64]


class Mapped(NamedTuple):
    """A place with labels and the network's prediction."""

    labels: UInt8
    """Class indices, 0 for no label, shape (H, W)."""
    predicted: UInt8
    """Predicted class indices, 0 for no data, shape (H, W)."""
    probabilities: Float32
    """Class probabilities, shape (K, H, W)."""

    @property
    def confidence(self) -> Float32:
        """Probability of the predicted class, shape (H, W)."""
        found: Float32 = self.probabilities[1:].max(0)
        return found

    @property
    def matrix(self) -> Counts:
        """Confusion matrix, shape (K - 1, K - 1)."""
        return confusion_matrix(self.labels, self.predicted, len(self.probabilities))

    @property
    def accuracy(self) -> float | None:
        """Overall accuracy; None without labelled pixels."""
        matrix = self.matrix
        return float(np.trace(matrix) / matrix.sum()) if matrix.any() else None


class MovedTiling(Tiling):
    """A tiling that starts half a tile further up and left than `Tiling`."""

    def _starts(self, size: int) -> list[int]:
        first = super()._starts(size)[0] - self.tile // 2
        step = self.tile - self.overlap
        end = size + self.overlap // 2 if size > self.tile else size
        return [*range(first, max(end - self.overlap, first + 1), step)]


def say(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")


def without_sensor(card: Card, without: Sensor | None) -> Card:
    """Return the card with a sensor marked as absent."""
    return replace(card, training=card.training | {"without": without})


def map_region(region: SceneFiles, engine: TorchEngine, moved: bool = False) -> Mapped:
    """Map a place with the tiles of ``refnet predict``, or with tiles moved by half a tile."""
    card = engine.card
    height, width = region.pair.grid.shape
    tiling = (MovedTiling if moved else Tiling).of(height, width, card.tile)
    probabilities = np.zeros((card.network.classes, height, width), np.float32)
    predicted = np.zeros((height, width), np.uint8)
    for rows in predict_rows(region.pair, engine, tiling):
        found = np.asarray(rows.probabilities)
        here = slice(rows.row, rows.row + found.shape[1])
        probabilities[:, here] = found
        predicted[here] = np.where(rows.valid, 1 + found[1:].argmax(0), 0)
    labels = np.where(predicted, region.labels.read(Window(0, 0, height, width)), 0).astype(np.uint8)
    return Mapped(labels, predicted, probabilities)


def map_scenes(net: REFNet, card: Card, config: TrainConfig, moved: bool = False) -> Iterator[tuple[str, Mapped]]:
    """Yield the name and the map of each scene of a config."""
    engine = TorchEngine(net, card)
    for scene in config.scenes:
        with SceneFiles.open(scene, config) as region:
            yield scene.name, map_region(region, engine, moved)


class Pixels(NamedTuple):
    """Log-probabilities of a place's pixels, and their labels."""

    logs: Float32
    """Log-probabilities of the labelled pixels, shape (n, K)."""
    labels: UInt8
    """Labels of these pixels, shape (n,)."""
    thinned: Float32
    """Log-probabilities of one in `THINNED` mapped pixels, labelled or not, shape (m, K)."""

    def low_confidence(self, temperature: float) -> float:
        """Return the share of low-confidence pixels at a temperature."""
        powers = np.exp(self.thinned[:, 1:] / temperature)
        return float((powers.max(1) < LOW * powers.sum(1)).mean())


def score_places(
    net: REFNet, card: Card, places: Sequence[Place], without: Sensor | None = None
) -> tuple[dict[str, Counts], dict[str, Pixels]]:
    """Map places and compare the maps with their labels.

    Parameters
    ----------
    net, card : REFNet, Card
        The network; its card's temperature is ignored.
    places : sequence of Place
    without : str, optional
        Sensor to blank. Pixels that both sensors saw are scored in any case.

    Returns
    -------
    matrices : dict
        Confusion matrix of each place, labels by row and predictions by column.
    pixels : dict
        Pixels of each place.
    """
    matrices, pixels = {}, {}
    seeing = replace(without_sensor(card, without), temperature=1.0)
    for name, mapped in map_scenes(net, seeing, read_config(regions_text("", places))):
        known = mapped.labels > 0
        matrices[name] = mapped.matrix
        logs = np.log(np.maximum(mapped.probabilities, LEAST)).astype(np.float32)
        pixels[name] = Pixels(logs[:, known].T, mapped.labels[known], logs[:, mapped.predicted > 0].T[::THINNED])
    return matrices, pixels


def score_fold(weights: Path, places: Sequence[Place], country: str, folder: Path) -> None:
    """Score weights on their held-out country, and store the results for `pool_folds` in a folder.

    Writes ``COUNTRY.json`` (confusion matrices by sensors and place) and ``COUNTRY.npz`` (log-probabilities and labels
    by place, with both sensors).
    """
    net, card = load_weights(weights)
    _, held_out = split_by_country(places, country)
    found: dict[str, Any] = {"country": country, "weights": str(weights)}
    kept: dict[str, NDArray[Any]] = {}
    for sensors, without in WITHOUT.items():
        matrices, pixels = score_places(net, card, scored(held_out), without)
        found[sensors] = {name: matrix.tolist() for name, matrix in matrices.items()}
        if without is None:
            kept = {f"{kind}/{name}": array for name, each in pixels.items() for kind, array in each._asdict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{country}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **kept)  # type: ignore[arg-type]
    with replacing(folder / f"{country}.json") as temporary:
        temporary.write_text(json.dumps(found))


class Fold(NamedTuple):
    """Results of `score_fold` for a country."""

    matrices: dict[str, dict[str, Counts]]
    """Confusion matrices by sensors and place."""
    pixels: dict[str, Pixels]
    """Pixels by place."""


def read_folds(folder: Path) -> dict[str, Fold]:
    """Return the stored results of `score_fold`, by country."""
    folds = {}
    for path in sorted(folder.glob("*.json")):
        entries = json.loads(path.read_text())
        if "country" not in entries:
            continue
        matrices = {
            sensors: {name: np.array(matrix, np.int64) for name, matrix in entries[sensors].items()}
            for sensors in WITHOUT
        }
        with np.load(path.with_suffix(".npz")) as kept:
            pixels = {
                name: Pixels(*(kept[f"{kind}/{name}"] for kind in Pixels._fields)) for name in matrices["both"]
            }
        folds[entries["country"]] = Fold(matrices, pixels)
    return folds


def fit_on(folds: Iterable[Fold]) -> Calibration | None:
    """Fit a temperature to the pixels of folds, at most `FITTED` of each place."""
    logs, labels = [], []
    random = np.random.default_rng(0)
    for fold in folds:
        for pixels in fold.pixels.values():
            chosen = random.permutation(len(pixels.labels))[:FITTED]
            logs.append(pixels.logs[chosen])
            labels.append(pixels.labels[chosen])
    return fit_temperature(np.concatenate(logs), np.concatenate(labels)) if logs else None


def calibration_of(folds: Mapping[str, Fold]) -> dict[str, Any]:
    """Return the calibration error of each country, with the temperature fitted on the others, and of all.

    ``pooled`` is the error over the pixels of all countries, each with its own fold's temperature. ``uncalibrated`` is
    the same with a temperature of 1. ``temperature`` is fitted on all countries together. ``low_confidence`` describes
    the shares of low-confidence pixels at that temperature; see `describe_shares`.
    """
    by_country, scaled, plain, labels = {}, [], [], []
    for country, fold in folds.items():
        fitted = fit_on(other for name, other in folds.items() if name != country)
        temperature = fitted.temperature if fitted else 1.0
        logs, wanted = (np.concatenate(arrays) for arrays in list(zip(*fold.pixels.values(), strict=True))[:2])
        error = measure_calibration(logs, wanted, temperature)[1]
        by_country[country] = {"temperature": temperature, "expected_calibration_error": error}
        scaled.append((logs / temperature).astype(np.float32))
        plain.append(logs)
        labels.append(wanted)
    wanted = np.concatenate(labels)
    whole = fit_on(folds.values())
    temperature = whole.temperature if whole else 1.0
    shares = [pixels.low_confidence(temperature) for fold in folds.values() for pixels in fold.pixels.values()]
    return {
        "by_country": by_country,
        "pooled": measure_calibration(np.concatenate(scaled), wanted, 1.0)[1],
        "uncalibrated": measure_calibration(np.concatenate(plain), wanted, 1.0)[1],
        "temperature": temperature,
        LOW_CONFIDENCE: describe_shares(shares),
    }


def pool_folds(folder: Path, places: Sequence[Place], forest: Path | None = None) -> dict[str, Any]:
    """Return the pooled scores of all folds of a folder.

    Returns
    -------
    dict
        ``both``, ``optical`` and ``sar``: scores from `summarise`; ``calibration``; and ``forest``: the scores of a
        forest on the same places.

    Raises
    ------
    ValueError
        If the forest was not scored on the same pixels.
    """
    folds = read_folds(folder)
    country = {place.name: place.country for place in places}
    found: dict[str, Any] = {"countries": sorted(folds)}
    for sensors in WITHOUT:
        matrices = {name: matrix for fold in folds.values() for name, matrix in fold.matrices[sensors].items()}
        found[sensors] = summarise(matrices, country)
    found["calibration"] = calibration_of(folds)
    if forest:
        found["forest"] = _score_forest(forest, folds, country)
    return found


def _score_forest(path: Path, folds: Mapping[str, Fold], country: Mapping[str, str]) -> dict[str, Any]:
    stored = json.loads(path.read_text())["both sensors"]["matrices"]
    own = {name: matrix for fold in folds.values() for name, matrix in fold.matrices["both"].items()}
    matrices = {name: np.array(stored[name], np.int64) for name in own}
    other = [name for name in own if (own[name].sum(1) != matrices[name].sum(1)).any()]
    if other:
        raise ValueError(f"{path} has scores of other pixels for {', '.join(other)}. Run forest.py again.")
    return summarise(matrices, country)


def score_terramesh(weights: Path, terramesh: Path, name: str, known: Collection[int]) -> dict[str, Any]:
    """Score weights on a TerraMesh sample that is not in their training data.

    Parameters
    ----------
    weights, terramesh : Path
        Weights, and the folder of the samples.
    name : str
        Name of the sample.
    known : collection of int
        Class indices, from 1, in the weights' training data.

    Returns
    -------
    dict
        ``L2A`` and ``L1C``, each with ``both``, ``optical`` and ``sar``: overall accuracy over all labelled pixels and
        over those of known classes; ``same_class``: by sensors, the share of pixels with the same class at both levels.
    """
    net, card = load_weights(weights)
    found: dict[str, Any] = {"L2A": {}, "L1C": {}, "same_class": {}}
    for sensors, without in WITHOUT.items():
        maps = {}
        for level in ("L2A", "L1C"):
            place = [place for place in read_terramesh(terramesh, level) if place.name == name]
            [(_, mapped)] = map_scenes(net, without_sensor(card, without), read_config(regions_text("", place)))
            found[level][sensors] = {
                "overall_accuracy": mapped.accuracy,
                "overall_accuracy_of_known": accuracy_of(mapped.matrix, known),
            }
            maps[level] = mapped.predicted
        if sensors != "sar":
            found["same_class"][sensors] = share_alike(maps["L2A"], maps["L1C"])
    return found


def share_alike(first: UInt8, second: UInt8) -> float:
    """Return the share of the pixels with data in both maps that have the same class in both."""
    known = (first > 0) & (second > 0)
    return float((first == second)[known].mean())


def score_sample(weights: Path) -> dict[str, Any]:
    """Score weights on the sample scene.

    Returns
    -------
    dict
        ``both``, ``optical`` and ``sar``: overall accuracy; ``recall`` by class with both sensors;
        ``changed_by_moved_tiles``: share of the pixels that change their class when tiles move by half a tile.
    """
    net, card = load_weights(weights)
    files = {"optical": "s2", "sar": "s1", "labels": "labels"}
    paths = "".join(f'{kind} = "{SAMPLE / file}.tif"\n' for kind, file in files.items())
    config = read_config(f'scheme = "{SCHEME}"\n[[scenes]]\nname = "sample"\n{paths}')
    found: dict[str, Any] = {}
    maps = {}
    for sensors, without in WITHOUT.items():
        [(_, maps[sensors])] = map_scenes(net, without_sensor(card, without), config)
        found[sensors] = maps[sensors].accuracy
    [(_, moved)] = map_scenes(net, card, config, moved=True)
    found["recall"] = summarise({"sample": maps["both"].matrix}, {"sample": ""})["pooled"]["recall"]
    found["changed_by_moved_tiles"] = 1 - share_alike(maps["both"].predicted, moved.predicted)
    return found


def describe(found: Mapping[str, Any]) -> str:
    """Return the scores of `pool_folds` as Markdown, next to the forest's."""
    methods = {name: found[key] for key, name in
               {"both": "both sensors", "optical": "Sentinel-2 only", "sar": "Sentinel-1 only",
                "forest": "forest, both sensors"}.items() if key in found}  # fmt: skip
    lines = ["| | overall | balanced | mean over places | mean IoU |", "|---|---|---|---|---|"]
    for name, scores in methods.items():
        keys = ("overall_accuracy", "balanced_accuracy", "mean_over_places", "mean_iou")
        lines.append(f"| {name} | {' | '.join(format_score(scores['pooled'][key]) for key in keys)} |")
    lines += ["", f"Balanced over {', '.join(found['both']['balanced_classes'])}.", ""]
    lines += ["| class | labelled | " + " | ".join(f"recall, {name}" for name in methods) + " | IoU, both sensors |"]
    lines += ["|" + "---|" * (3 + len(methods))]
    pooled = found["both"]["pooled"]
    for name in (name for name in NAMES if name in pooled["recall"]):
        recalls = " | ".join(format_score(scores["pooled"]["recall"].get(name)) for scores in methods.values())
        lines.append(f"| {name} | {pooled['labelled'][name]} | {recalls} | {format_score(pooled['iou'][name])} |")
    lines += ["", "| country | pixels | " + " | ".join(methods) + " | temperature | calibration error |"]
    lines += ["|" + "---|" * (4 + len(methods))]
    for country, entry in found["both"]["by_country"].items():
        scores = " | ".join(format_score(each["by_country"][country]["overall_accuracy"]) for each in methods.values())
        own = found["calibration"]["by_country"][country]
        numbers = " | ".join(map(format_score, own.values()))
        lines.append(f"| {country} | {entry['pixels']} | {scores} | {numbers} |")
    calibration = found["calibration"]
    pooled_error, plain = format_score(calibration["pooled"]), format_score(calibration["uncalibrated"])
    temperature = format_score(calibration["temperature"])
    lines += ["", f"Calibration error of all: {pooled_error}; with a temperature of 1: {plain}."]
    lines += [f"Temperature of all: {temperature}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Score weights on real places.")
    commands = parser.add_subparsers(dest="command", required=True)
    fold = commands.add_parser("fold", help="score weights on their held-out country")
    for name in ("weights", "places", "folder"):
        fold.add_argument(name, type=Path)
    fold.add_argument("--country", action="append", required=True)
    pool = commands.add_parser("pool", help="pool the scores of all folds in a folder")
    for name in ("places", "folder"):
        pool.add_argument(name, type=Path)
    pool.add_argument("--forest", type=Path, help="JSON of forest.py")
    terramesh = commands.add_parser("terramesh", help="score weights on a TerraMesh sample")
    for name in ("weights", "terramesh"):
        terramesh.add_argument(name, type=Path)
    terramesh.add_argument("name")
    commands.add_parser("sample", help="score weights on the sample scene").add_argument("weights", type=Path)
    given = parser.parse_args()
    if given.command == "fold":
        for country in given.country:
            score_fold(given.weights, read_places(given.places.resolve()), country, given.folder)
        return
    if given.command == "pool":
        found = pool_folds(given.folder, read_places(given.places.resolve()), given.forest)
        say(describe(found))
    elif given.command == "terramesh":
        every = range(1, len(NAMES) + 1)
        found = score_terramesh(given.weights, given.terramesh.resolve(), given.name, every)
    else:
        found = score_sample(given.weights)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
