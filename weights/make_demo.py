"""Make weights/refnet-demo.safetensors: simulate scenes, train three times, and write the scores into the card.

``python weights/make_demo.py FOLDER`` keeps scenes and checkpoints in FOLDER and goes on where it was interrupted.
The network is trained in two stages with both sensors. To compare, the first stage is run two more times the same way
with one sensor's input set to its mean.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from refnet_cli.card import read_card
from refnet_cli.cli import run
from refnet_cli.weights import load_weights, save_weights

HERE = Path(__file__).resolve().parent
SAMPLE = HERE.parent / "sample_data"
SEED, TRAINING, VALIDATION = 100_000, 36, 4
SETTINGS = """
name = "refnet-demo"
licence = "Apache-2.0"
notice = "These are demonstration weights, trained on simulated scenes only: do not rely on maps of real places."
scheme = "esri-io"
optical_bands = ["B02", "B03", "B04", "B08"]
sar_bands = ["VV", "VH"]
encoder = "mobilenetv4_conv_small_050"
width = 32
tile = 256
"""
# Small crops first, many at a time; then whole tiles, so that it matters less where a tile begins.
STAGES = (
    "steps = 450\nbatch = 8\ncrop = 128\nlearning_rate = 1e-3\n",
    "steps = 300\nbatch = 2\ncrop = 256\nlearning_rate = 5e-4\n",
)
SCENE = """
[[scenes]]
name = "{name}"
optical = "{folder}/s2.tif"
sar = "{folder}/s1.tif"
labels = "{folder}/labels.tif"
split = "{split}"
"""


def make_scenes(folder: Path) -> str:
    """Simulate the scenes, unless they are there, and return the tables of them and of the sample scene."""
    count = TRAINING + VALIDATION
    if not (folder / "regions.toml").exists():
        command = [sys.executable, str(SAMPLE / "simulate.py"), str(folder), "--seed", str(SEED), "--count", str(count)]
        subprocess.run(command, check=True)
    names = [f"scene-{number:03}" for number in range(count)]
    tables = [
        SCENE.format(name=name, folder=folder / name, split="train" if number < TRAINING else "validation")
        for number, name in enumerate(names)
    ]
    return "".join(tables) + SCENE.format(name="sample_data", folder=SAMPLE, split="validation")


def train(folder: Path, scenes: str, options: list[str], stages: int) -> Path:
    """Train stage after stage in ``folder``, but for those that are finished, and return the last one's weights."""
    weights = None
    for number, stage in enumerate(STAGES[:stages], start=1):
        place = folder / f"stage-{number}"
        place.mkdir(parents=True, exist_ok=True)
        init = f'init = "{weights}"\n' if weights else ""
        (place / "regions.toml").write_text(SETTINGS + stage + init + scenes)
        weights = place / "refnet-demo.safetensors"
        if not weights.exists():
            code = run(["train", str(place / "regions.toml"), "-o", str(place), *options])
            if code:
                sys.exit(code)
    return place / "refnet-demo.safetensors"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Make the demonstration weights.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    scenes = make_scenes(folder)
    runs = {"both": [], "sar_only": ["--without", "optical"], "optical_only": ["--without", "sar"]}
    trained = {name: train(folder / name, scenes, options, 1) for name, options in runs.items()}
    trained["both_stages"] = train(folder / "both", scenes, [], len(STAGES))
    scores = {name: read_card(weights).scores["validation"] for name, weights in trained.items()}
    net, card = load_weights(trained["both_stages"])
    by_scene = {name: dict(score["overall_accuracy_by_scene"]) for name, score in scores.items()}
    sample = {name: accuracies.pop("sample_data") for name, accuracies in by_scene.items()}
    others = {name: sum(accuracies.values()) / len(accuracies) for name, accuracies in by_scene.items()}
    training = card.training | {
        "stages": [" ".join(stage.split()) for stage in STAGES],
        "data": f"{TRAINING} scenes of sample_data/simulate.py --seed {SEED} --count {TRAINING + VALIDATION}",
        "single_sensors": "both, sar_only and optical_only are compared after stage one: the same network trained "
        "and predicted the same way, with both sensors, or with the other one's input set to its mean",
    }
    table = {"sample_data": sample, "mean_of_other_simulated_scenes": others}
    scored = {"overall_accuracy_of_scenes_never_trained_on": table} | card.scores
    save_weights(net, replace(card, training=training, scores=scored), HERE / "refnet-demo.safetensors")


if __name__ == "__main__":
    main()
