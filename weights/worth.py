"""Ablation study of the default weights' recipe, on three held-out countries.

    python weights/worth.py FOLDER --places PLACES --terramesh TERRAMIND [VARIANT ...]

starts from the pretrained network that make_base.py keeps in FOLDER and trains 500 steps with each of two seeds: once
with the recipe, and once per option with that option off (or on, if the recipe does not use it). It writes
``FOLDER/worth.json`` and a table. Finished variants are skipped, and several variants can run in parallel.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from make_base import NAME, REHEARSED, SETTINGS, WeightsBuilder
from places import regions_text, scored, split_by_country
from pooled import format_score, summarise
from score import WITHOUT, score_places

from refnet_cli.model.weights import load_weights
from refnet_cli.training.fit import fit
from refnet_cli.training.regions_file import read_regions

LEFT_OUT = ("Austria", "Canada", "Ireland")
STEPS, SEEDS = 500, (0, 1)
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "no jitter": {"jitter": 0.0},
    "no haze": {"haze": 0.0},
    "no sar_gain": {"sar_gain": 0.0},
    "no sar_slope": {"sar_slope": 0.0},
    "sar_looks = 4": {"sar_looks": 4.0},
    "no shift": {"shift": 0.0},
    "no gaps": {"gaps": 0.0},
    "no mix": {"mix": 0.0},
    "no modality_dropout": {"modality_dropout": 0.0},
    "no balance": {"balance": None},
    "no label_smoothing": {"label_smoothing": 0.0},
}
"""Settings of each variant that differ from the recipe."""
SHOWN = ("overall_accuracy", "balanced_accuracy", "mean_over_places")


def measure(maker: WeightsBuilder, variant: str, seed: int) -> None:
    """Train one variant with one seed and score it, unless its scores exist."""
    folder = maker.folder / "worth" / f"{variant.replace(' ', '-')}-{seed}"
    done = folder / "scores.json"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    learned, held_out = split_by_country(maker.places, *LEFT_OUT)
    settings = SETTINGS + maker.fine_tuning(STEPS) + f"seed = {seed}\n"
    text = regions_text(settings, learned, confidence=True) + maker.simulated(REHEARSED)
    (folder / "regions.toml").write_text(text, encoding="utf-8")
    config = read_regions(folder / "regions.toml", VARIANTS[variant])
    if not (folder / f"{NAME}.safetensors").exists():
        fit(config, folder)
    net, card = load_weights(folder / f"{NAME}.safetensors")
    country = {place.name: place.country for place in held_out}
    scores = {
        sensors: summarise(score_places(net, card, scored(held_out), without)[0], country)["pooled"]
        for sensors, without in WITHOUT.items()
    }
    done.write_text(json.dumps(scores, indent=1), encoding="utf-8")


def table(maker: WeightsBuilder) -> str:
    """Return a Markdown table of all finished variants: mean of the seeds, and half of their difference."""
    lines = [
        f"Held out: {', '.join(LEFT_OUT)}; {STEPS} steps; mean of seeds {SEEDS} and half of their difference.",
        "",
        f"| variant | {' | '.join(score.replace('_', ' ') for score in SHOWN)} | Sentinel-2 alone | Sentinel-1 alone |",
        "|" + "---|" * (3 + len(SHOWN)),
    ]  # fmt: skip
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        paths = [maker.folder / "worth" / f"{variant.replace(' ', '-')}-{seed}" / "scores.json" for seed in SEEDS]
        if not all(path.exists() for path in paths):
            continue
        scores = found[variant] = [json.loads(path.read_text()) for path in paths]
        keys = [("both", score) for score in SHOWN] + [("optical", SHOWN[0]), ("sar", SHOWN[0])]
        numbers = [[each[sensors][score] for each in scores] for sensors, score in keys]
        pairs = [(float(np.mean(pair)), abs(pair[0] - pair[1]) / 2) for pair in numbers]
        cells = [f"{format_score(mean)} ({format_score(spread)})" for mean, spread in pairs]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    (maker.folder / "worth.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Measure the effect of each option of the recipe.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--places", type=Path, required=True, help="folder of the real places")
    parser.add_argument("--terramesh", type=Path, required=True, help="folder of the TerraMesh samples")
    given = parser.parse_args()
    unknown = set(given.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"unknown variant {', '.join(sorted(unknown))}; use {', '.join(VARIANTS)}")
    maker = WeightsBuilder(given.folder.resolve(), given.places.resolve(), given.terramesh.resolve())
    for variant in given.variants or VARIANTS:
        for seed in SEEDS:
            measure(maker, variant, seed)
    sys.stdout.write(table(maker))


if __name__ == "__main__":
    main()
