"""Train weights/refnet-base.safetensors, and score its recipe on held-out countries.

    python weights/make_base.py FOLDER --places PLACES --terramesh TERRAMIND [STEP ...]

keeps everything in FOLDER and resumes after an interruption. The steps (all of them by default):

landscapes    simulate scenes with signatures measured around the world (landscapes.py)
pretrained    train on the simulated scenes only
COUNTRY       fine-tune on the real places outside one country, with fewer steps, and score its places
forest        score a random forest on the same places (forest.py, which needs scikit-learn)
final         fine-tune on all real places
finish        write the weights, with temperature, scores and sources in the card; needs all other steps

A country's step needs the step ``pretrained`` only, so several can run in parallel. Training resumes from its last
checkpoint, and the forest from the last country. To repeat a step, remove its results: ``FOLDER/pretrained``;
``FOLDER/without-COUNTRY`` and the scores of the country in ``FOLDER/scores``; ``FOLDER/final``; ``FOLDER/forest.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from places import Place, label_classes, read_places, read_terramesh, regions_text, split_by_country
from score import pool_folds, score_fold, score_sample, score_terramesh

from refnet_cli.model.weights import load_weights, save_weights
from refnet_cli.prediction.drift import LEVELS
from refnet_cli.system import log
from refnet_cli.system.atomic import replacing
from refnet_cli.training.fit import fit
from refnet_cli.training.regions_file import read_regions

LOG = logging.getLogger("refnet_cli.weights")
HERE = Path(__file__).resolve().parent
NAME = "refnet-base"
SEEDS, COUNT, SIZE = {"a": 300_000, "b": 310_000}, 200, 256
HELD_OUT = 16
"""Landscapes of the first seed that are used for validation only."""
REHEARSED = 60
"""Landscapes of each seed that are mixed with the real places."""
FOLDS = {
    "Austria": "282D", "Belgium": None, "Canada": "609U", "Finland": "38D", "Germany": None, "Ireland": "637U",
    "Lithuania": "433D", "Portugal": None,
}  # fmt: skip
"""Held-out countries, and the TerraMesh sample that is held out with each."""
CLASS_WEIGHTS = (
    '{ Water = 1, Trees = 1.5, "Flooded vegetation" = 0.5, Crops = 1, "Built area" = 1, "Bare ground" = 0.1, '
    '"Snow/ice" = 0.5, Clouds = 1, Rangeland = 0.25 }'
)
"""Classes are sampled equally often, and weighted by their frequency in the places."""
SETTINGS = f"""
name = "{NAME}"
licence = "Apache-2.0"
encoder = "mobilenetv4_conv_small"
width = 32
tile = 256
sampling = "classes"
jitter = 0.1
haze = 0.1
shift = 1.0
clip = 1.0
device = "cpu"
batch = 8
crop = 96
checkpoint_every = 250
workers = 1
"""
PRETRAINING = """
sar_gain = 2.0
sar_slope = 1.0
sar_looks = 4.0
mix = 0.3
modality_dropout = 0.3
steps = 3000
learning_rate = 2e-3
warmup = 100
ema = 0.995
validate_every = 1000
"""
FINE_TUNING = f"""
sar_gain = 1.0
sar_slope = 0.5
gaps = 0.3
mix = 0.5
modality_dropout = 0.3
balance = "regions"
class_weights = {CLASS_WEIGHTS}
label_smoothing = 0.05
learning_rate = 1e-3
warmup = 50
ema = 0.99
split = "none"
"""
FOLD_STEPS, FINAL_STEPS = 500, 1500
NOTICE = (
    "Trained on about a hundred small places, most of them in Europe, and on simulated scenes: look at the map and its "
    "confidence before you rely on it."
)


class WeightsBuilder:
    """What the steps share.

    Parameters
    ----------
    folder : Path
        Folder of all results.
    places, terramesh : Path
        Folders of real places; see places.py.
    """

    def __init__(self, folder: Path, places: Path, terramesh: Path) -> None:
        self.folder, self._data, self._terramesh = folder, places, terramesh
        self._places = [place for place in read_places(places) if label_classes([place])]
        self._samples = read_terramesh(terramesh)
        self.places = [*self._places, *self._samples]
        folder.mkdir(parents=True, exist_ok=True)

    def landscapes(self) -> None:
        """Simulate the scenes for pretraining."""
        for part, seed in SEEDS.items():
            folder = self.folder / f"landscapes-{part}"
            if not (folder / "regions.toml").exists():
                options = ["--pixels", self._data / "pixels.npz", "--seed", seed, "--count", COUNT, "--size", SIZE]
                command = [sys.executable, HERE / "landscapes.py", folder, *options]
                subprocess.run([str(word) for word in command], check=True)

    def pretrained(self) -> Path:
        """Train on simulated scenes."""
        return self._train("pretrained", PRETRAINING, [], self.simulated(COUNT, HELD_OUT))

    def fold(self, country: str) -> None:
        """Fine-tune without a country, and score its places."""
        if not self._missing_scores(country):
            return
        scores = self.folder / "scores"
        sample = FOLDS[country]
        learned, _ = split_by_country(self.places, country)
        learned = [place for place in learned if place.name != sample]
        weights = self._fine_tune(f"without-{country}", FOLD_STEPS, learned)
        score_fold(weights, self._places, country, scores)
        if sample:
            found = score_terramesh(weights, self._terramesh, sample, label_classes(learned))
            with replacing(scores / f"terramesh-{sample}.json") as temporary:
                temporary.write_text(json.dumps(found, indent=1))

    def _missing_scores(self, country: str) -> list[Path]:
        """Return the missing files of a country's step."""
        sample = FOLDS[country]
        names = [country, *([f"terramesh-{sample}"] if sample else [])]
        paths = [self.folder / "scores" / f"{name}.json" for name in names]
        return [path for path in paths if not path.exists()]

    def forest(self) -> None:
        """Score a random forest on the same places."""
        command = [HERE / "forest.py", self._data, self.folder / "forest", "--terramesh", self._terramesh]
        subprocess.run([sys.executable, *map(str, command)], check=True)

    def final(self) -> Path:
        """Fine-tune on all real places."""
        return self._fine_tune("final", FINAL_STEPS, self.places)

    def finish(self) -> None:
        """Write the weights with their scores.

        Raises
        ------
        SystemExit
            If a score is missing.
        """
        missing = [country for country in FOLDS if self._missing_scores(country)]
        missing += [] if (self.folder / "forest.json").exists() else ["forest"]
        if missing:
            raise SystemExit(f"The scores of these steps are missing: {', '.join(missing)}. Run them first.")
        scores = pool_folds(self.folder / "scores", self._places, self.folder / "forest.json")
        scores["terramesh"] = {
            sample: json.loads((self.folder / "scores" / f"terramesh-{sample}.json").read_text())
            for sample in FOLDS.values() if sample
        }  # fmt: skip
        net, card = load_weights(self.final())
        temperature, path = scores["calibration"]["temperature"], HERE / f"{NAME}.safetensors"
        # Overlapping tiles blend probabilities, which depend on the temperature.
        save_weights(net, replace(card, temperature=temperature), path)
        scores["sample_data"] = score_sample(path)
        training = card.training | {
            "pretraining": " ".join(PRETRAINING.split()),
            "data": self._describe_data(),
            "scenes": {name: role for name, role in card.training["scenes"].items() if "landscape" not in name},
            "decisions": {},
            "scene_options": {},
            LEVELS: sorted({place.level for place in self._places if place.level}),  # not stated in the files
        }
        made = replace(card, training=training, scores=scores, notice=NOTICE, temperature=temperature)
        save_weights(net, made, path)

    def _describe_data(self) -> list[str]:
        """Return one line per source: number of places, source and licence."""
        counts: dict[tuple[str, str], int] = {}
        for place in self.places:
            key = place.source, place.licence
            counts[key] = counts.get(key, 0) + 1
        lines = [f"{count} places of {source}; {licence}" for (source, licence), count in counts.items()]
        return [*lines, f"{COUNT * len(SEEDS)} simulated scenes of landscapes.py, from statistics of pixels.npz"]

    def _fine_tune(self, name: str, steps: int, places: Sequence[Place]) -> Path:
        return self._train(name, self.fine_tuning(steps), places, self.simulated(REHEARSED))

    def fine_tuning(self, steps: int) -> str:
        """Return the settings of a training that starts from the pretrained network."""
        return f'{FINE_TUNING}steps = {steps}\ninit = "{self.pretrained()}"\n'

    def _train(self, name: str, settings: str, places: Sequence[Place], simulated: str) -> Path:
        """Train in a folder, unless it is finished, and return the weights."""
        folder = self.folder / name
        weights, regions = folder / f"{NAME}.safetensors", folder / "regions.toml"
        text = regions_text(SETTINGS + settings, places, confidence=True) + simulated
        if not weights.exists():
            folder.mkdir(exist_ok=True)
            regions.write_text(text, encoding="utf-8")
            fit(read_regions(regions), folder)
        elif regions.exists() and regions.read_text(encoding="utf-8") != text:
            LOG.warning(
                f"{weights} was trained with other settings or on other places. To train again, remove {folder}."
            )
        return weights

    def simulated(self, count: int, held_out: int = 0) -> str:
        """Return tables of simulated scenes, with offset and scale stated, however unusual the values are."""
        return "".join(
            _simulated_table(self.folder / f"landscapes-{part}" / f"scene-{number:03}", part, number, held_out)
            for part in SEEDS for number in range(count)
        )  # fmt: skip


def _simulated_table(folder: Path, part: str, number: int, held_out: int) -> str:
    files = {"optical": "s2", "sar": "s1", "labels": "labels"}
    lines = [
        "\n[[scenes]]",
        f'name = "landscape-{part}-{number}"',
        'region = "landscapes"',
        f'split = "{"validation" if part == "a" and number < held_out else "train"}"',
        *(f'{key} = "{folder / file}.tif"' for key, file in files.items()),
        "optical_offset = 0",
        'sar_scale = "power"',
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="one of the steps above; all by default")
    parser.add_argument("--places", type=Path, required=True, help="folder of the real places")
    parser.add_argument("--terramesh", type=Path, required=True, help="folder of the TerraMesh samples")
    given = parser.parse_args()
    log.start()
    maker = WeightsBuilder(given.folder.resolve(), given.places.resolve(), given.terramesh.resolve())
    steps: dict[str, Any] = {"landscapes": maker.landscapes, "pretrained": maker.pretrained}
    steps |= {country: lambda country=country: maker.fold(country) for country in FOLDS}
    steps |= {"forest": maker.forest, "final": maker.final, "finish": maker.finish}
    unknown = [step for step in given.steps if step not in steps]
    if unknown:
        parser.error(f"unknown step {', '.join(unknown)}; use {', '.join(steps)}")
    for step in given.steps or steps:
        steps[step]()


if __name__ == "__main__":
    main()
