"""Make weights/refnet-small.safetensors, and score it on places that it has not seen.

``python weights/make_small.py FOLDER --real TERRAMIND`` keeps scenes and trainings in FOLDER and goes on where it was
interrupted; TERRAMIND is the folder of the TerraMesh samples (README.md next to this file). First a network learns from
simulated scenes, which know nothing of the real places. It then goes on with real places: with all of them for the
bundled weights, and once for each place without that place, for the scores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from refnet_cli.model.weights import load_weights, save_weights
from refnet_cli.training.fit import fit
from refnet_cli.training.regions_file import read_regions
from refnet_cli.training.survey import survey
from refnet_cli.training.validation import validate

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parent / "sample_data"
NAME = "refnet-small"
SEED, COUNT, HELD_OUT, SIZE = 200_000, 320, 20, 384
PLACES = {
    "282D": "282D_485L_3_3", "38D": "38D_378R_2_3", "433D": "433D_629L_3_1", "609U": "609U_541L_3_0",
    "637U": "637U_59R_1_3",
}  # fmt: skip
LABELS = {
    1: "Water", 2: "Trees", 3: "Flooded vegetation", 4: "Crops", 5: "Built area", 6: "Bare ground", 7: "Snow/ice",
    8: "Clouds", 9: "Rangeland",
}  # fmt: skip
"""What TerraMesh's codes mean, which are not Esri's own."""
SCORED = ("282D", "38D", "433D", "637U")  # 609U is all snow, which no other place has
LEFT, RIGHT = 130, 138  # columns up to which to learn, and from which on to score
REHEARSED, TIMES = 40, 4  # simulated scenes among the real ones, and how often each of these is listed
SETTINGS = """
name = "refnet-small"
licence = "Apache-2.0"
notice = "Trained on simulated scenes and five small real places: look at the map before you rely on it."
scheme = "esri-io"
optical_bands = ["B02", "B03", "B04", "B08"]
sar_bands = ["VV", "VH"]
encoder = "mobilenetv4_conv_small_050"
width = 32
tile = 256
sampling = "classes"
jitter = 0.1
clip = 1.0
device = "cpu"
"""
PRETRAINING = """
steps = 1600
batch = 8
crop = 128
learning_rate = 2e-3
warmup = 50
modality_dropout = 0.2
validate_every = 400
"""
FINE_TUNING = """
steps = 150
batch = 4
crop = 192
learning_rate = 3e-4
warmup = 20
modality_dropout = 0.2
split = "none"
"""
IN_PLACE = """
steps = 300
batch = 8
crop = 96
learning_rate = 1e-3
warmup = 20
split = "none"
"""
SCENE = """
[[scenes]]
name = "{name}"
optical = "{optical}"
sar = "{sar}"
labels = "{labels}"
split = "{split}"
"""


def say(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"{line}\n")


def simulated(folder: Path, numbers: Iterable[int], split: str) -> str:
    """Tables of simulated scenes, whose files are what the simulation says, however untypical their values."""
    return "".join(
        SCENE.format(
            name=f"simulated-{number}", split=split,
            **{kind: folder / "simulated" / f"scene-{number:03}" / f"{file}.tif"
               for kind, file in (("optical", "s2"), ("sar", "s1"), ("labels", "labels"))},
        )
        + 'sar_scale = "power"\noptical_offset = 0\n'
        for number in numbers
    )  # fmt: skip


def real(terramind: Path, places: Iterable[str], split: str, labels: Path | None = None, times: int = 1) -> str:
    """Tables of real places, each as often as said; with labels from another folder, if one is given."""
    return "".join(
        SCENE.format(
            name=place if times == 1 else f"{place}-{time}", split=split,
            optical=terramind / "S2L2A" / f"{PLACES[place]}.tif", sar=terramind / "S1RTC" / f"{PLACES[place]}.tif",
            labels=(labels or terramind / "LULC") / f"{PLACES[place]}.tif",
        )
        + f"label_codes = {{ {', '.join(f'{code} = {json.dumps(name)}' for code, name in LABELS.items())} }}\n"
        for place in places for time in range(times)
    )  # fmt: skip


def train(folder: Path, settings: str, scenes: str, init: Path | None = None) -> Path:
    """Train in a folder, unless that is done, and return the weights."""
    weights = folder / f"{NAME}.safetensors"
    if not weights.exists():
        folder.mkdir(parents=True, exist_ok=True)
        begin = f'init = "{init}"\n' if init else ""
        (folder / "regions.toml").write_text(SETTINGS + settings + begin + scenes)
        fit(read_regions(folder / "regions.toml"), folder, tell=say)
    return weights


def score_weights(folder: Path, weights: Path, scenes: str, classes: Iterable[int]) -> dict[str, dict[str, float]]:
    """Scores with both sensors, and with one of them blanked.

    ``overall_accuracy`` and ``mean_iou`` are of all labelled pixels; ``overall_accuracy_of_known`` is of those whose
    class, by its index, is among ``classes``, where there are any.
    """
    net, card = load_weights(weights)
    (folder / "scored.toml").write_text(SETTINGS + scenes)
    config = read_regions(folder / "scored.toml")
    scored = [scene for scene in survey(config) if scene.scored]
    found = {}
    for sensors, without in (("both", None), ("optical_only", "sar"), ("sar_only", "optical")):
        blinded = replace(card, training=card.training | {"without": without})
        scores = validate(net, blinded, scored, config).scores
        known = [name for name in scores.labelled if 1 + card.scheme.names.index(name) in classes]
        right = sum(scores.recall[name] * scores.labelled[name] for name in known)
        found[sensors] = {"overall_accuracy": scores.overall_accuracy, "mean_iou": scores.mean_iou}
        labelled = sum(scores.labelled[name] for name in known)
        if labelled:
            found[sensors]["overall_accuracy_of_known"] = right / labelled
    return found


def classes_of(labels: Path, places: Iterable[str]) -> set[int]:
    """Class indexes among the labels of places; TerraMesh's codes are the indexes."""
    found: set[int] = set()
    for place in places:
        with rasterio.open(labels / f"{PLACES[place]}.tif") as file:
            found.update(np.unique(file.read(1)).tolist())
    return found - {0}


def cut_labels(terramind: Path, folder: Path, columns: slice) -> Path:
    """Write the labels of all places with nothing outside some columns."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PLACES.values():
        with rasterio.open(terramind / "LULC" / f"{name}.tif") as labels:
            kept = np.zeros(labels.shape, np.uint8)
            kept[:, columns] = labels.read(1)[:, columns]
            with rasterio.open(folder / f"{name}.tif", "w", **labels.profile) as file:
                file.write(kept, 1)
    return folder


def make(folder: Path, terramind: Path) -> None:
    """Simulate, train and score; then write the weights with their scores."""
    if not (folder / "simulated" / "regions.toml").exists():
        options = ["--varied", "--seed", str(SEED), "--count", str(COUNT), "--size", str(SIZE)]
        subprocess.run([sys.executable, SAMPLE / "simulate.py", folder / "simulated", *options], check=True)
    pretrained = train(
        folder / "pretrained", PRETRAINING,
        simulated(folder, range(HELD_OUT, COUNT), "train") + simulated(folder, range(HELD_OUT), "validation"),
    )  # fmt: skip
    rehearsed = simulated(folder, range(HELD_OUT, HELD_OUT + REHEARSED), "train")
    everywhere = terramind / "LULC"
    scores: dict[str, Any] = {"leave_one_place_out": {}, "pretrained_only": {}}
    for place in PLACES:
        others = [other for other in PLACES if other != place]
        scenes = real(terramind, others, "train", times=TIMES) + rehearsed
        fold = train(folder / f"without-{place}", FINE_TUNING, scenes, pretrained)
        held_out, known = real(terramind, [place], "validation"), classes_of(everywhere, others)
        scores["leave_one_place_out"][place] = score_weights(folder, fold, held_out, known)
        scores["pretrained_only"][place] = score_weights(folder, pretrained, held_out, known)
    for method in ("leave_one_place_out", "pretrained_only"):
        by_place = [scores[method][place]["both"]["overall_accuracy_of_known"] for place in SCORED]
        scores[method]["mean_of_four"] = float(np.mean(by_place))
    left = cut_labels(terramind, folder / "left", slice(0, LEFT))
    right = cut_labels(terramind, folder / "right", slice(RIGHT, None))
    columns = train(folder / "columns", IN_PLACE, real(terramind, PLACES, "train", left), pretrained)
    scores["columns"] = score_weights(
        folder, columns, real(terramind, PLACES, "validation", right), classes_of(left, PLACES)
    )  # fmt: skip
    whole = train(folder / "whole", FINE_TUNING, real(terramind, PLACES, "train", times=TIMES) + rehearsed, pretrained)
    finish(folder, whole, scores)


def finish(folder: Path, weights: Path, scores: dict[str, Any]) -> None:
    """Score the weights on scenes that they never saw, and write them with all scores."""
    sample = SCENE.format(
        name="sample_data", split="validation",
        **{kind: SAMPLE / f"{file}.tif" for kind, file in (("optical", "s2"), ("sar", "s1"), ("labels", "labels"))},
    )  # fmt: skip
    scores["sample_data"] = score_weights(folder, weights, sample, ())
    scores["held_out_simulated_scenes"] = score_weights(
        folder, weights, simulated(folder, range(HELD_OUT), "validation"), ()
    )  # fmt: skip
    net, card = load_weights(weights)
    training = card.training | {
        "pretraining": " ".join(PRETRAINING.split()),
        "data": f"{COUNT - HELD_OUT} scenes of sample_data/simulate.py --varied --seed {SEED} --count {COUNT} "
        f"--size {SIZE}, then the five places and {REHEARSED} of these scenes",
        "scenes": {name: role for name, role in card.training["scenes"].items() if not name.startswith("simulated")},
        "decisions": {},
    }
    save_weights(net, replace(card, training=training, scores=scores), HERE / f"{NAME}.safetensors")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Make the bundled weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--real", type=Path, required=True, help="folder of the TerraMesh samples")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    make(arguments.folder.resolve(), arguments.real.resolve())


if __name__ == "__main__":
    main()
