"""Make weights from places all over the world: fetch, check, train, evaluate and publish, in one command.

    python weights/world/make_world.py FOLDER --dry-run          what it takes; hours on a GPU are not known
    python weights/world/make_world.py FOLDER --small            60 places, to try
    python weights/world/make_world.py FOLDER                    600 places

keeps everything in FOLDER. Called again it goes on where it was; a step's name at the end runs that step alone. The
steps:

fetch      images of two seasons and two land-cover maps, see world_scenes.py. Several --source give scenes of each
check      drop what cannot be learned from, with reasons (checked.csv), draw contact sheets (sheets/), and write the
           regions files of the held-out scenes. Look at the sheets, write names to strike out into FOLDER/dropped.txt,
           and run the steps from here on again
train      train on the kept scenes outside the held-out regions; one region in eight chooses the best step and the
           temperature. With several GPUs: torchrun --nproc-per-node 4 weights/world/make_world.py FOLDER train
evaluate   score the held-out regions by class and by continent, with both sensors and with each alone; with --sample
           also accuracies and areas from a probability sample, see world_sample.py
finish     write refnet-world.safetensors with its card, refnet-world.onnx and scores.md

README.md next to this file says what was tried.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from world_check import check_scene, draw_sheets, read_kept, write_checks
from world_sample import Sample, SampleMap, sample_page
from world_scenes import AGREEMENT, LABELS, Fetcher, Scene, read_places

from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.engines.torch_engine import TorchEngine, choose_device
from refnet_cli.errors import RefnetError
from refnet_cli.evaluation.scores import confusion_matrix, score
from refnet_cli.export.onnx_model import export_onnx
from refnet_cli.model.weights import load_weights, save_weights
from refnet_cli.prediction.stream import predict_rows
from refnet_cli.system import log
from refnet_cli.system.atomic import write_text_atomic
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.dataset import SceneFiles
from refnet_cli.training.fit import fit
from refnet_cli.training.regions_file import read_regions
from refnet_cli.training.rehearsal import rehearse
from refnet_cli.training.split_advice import survey_or_advise
from refnet_cli.types import UInt8

Counts = NDArray[np.int64]

LOG = logging.getLogger("refnet_cli.weights")
HERE = Path(__file__).resolve().parent
NAME, SCHEME = "refnet-world", "esri-io"
STEPS = ("fetch", "check", "train", "evaluate", "finish")
VALIDATED = 8
"""One in so many regions outside the held-out ones is for validation."""
REQUESTS = 24
"""Requests of a scene on a catalogue with one date a season, see README.md."""
CORES = 2
"""Threads with which `--dry-run` times training steps."""
MOST_FAILED = 0.25
"""Largest share of the scenes that may be missing."""
TITLES = {"both": "both sensors", "optical": "Sentinel-2 alone", "sar": "Sentinel-1 alone"}
SENSORS = {"both": ("optical", "sar"), "optical": ("optical",), "sar": ("sar",)}
SETTINGS = """
name = "{name}"
licence = "Apache-2.0"
scheme = "{scheme}"
encoder = "{encoder}"
{encoder_weights}width = {width}
tile = {tile}
crop = {crop}
batch = {batch}
steps = {steps}
sampling = "classes"
balance = "regions"
jitter = 0.1
haze = 0.03
sar_gain = 1.0
gaps = 0.3
mix = 0.3
modality_dropout = 0.3
label_smoothing = 0.05
shift = 1.0
clip = 1.0
ema = 0.99
learning_rate = 1e-3
warmup = {warmup}
validate_every = {validate_every}
checkpoint_every = {checkpoint_every}
split = "region"
"""
SOURCES = (
    "Copernicus Sentinel-2 and Sentinel-1 images; contains modified Copernicus Sentinel data",
    "labels of ESA WorldCover (CC BY 4.0), which count fully where Impact Observatory / Esri 10 m Annual Land Cover "
    "(CC BY 4.0) agrees",
    "places drawn with the Koeppen-Geiger map of Rubel et al. 2016, Natural Earth (public domain) and GeoNames "
    "(CC BY 4.0)",
)
NOTICE = (
    "Labels are those of land-cover maps, whose errors it has learned too. Look at the map and its confidence before "
    "you rely on it."
)


@dataclass(frozen=True)
class Training:
    """The network and how long it learns."""

    encoder: str = "mobilenetv4_conv_small"
    encoder_weights: str = "imagenet"
    """"" for none."""
    width: int = 32
    tile: int = 256
    batch: int = 16
    steps: int = 20_000

    @property
    def crop(self) -> int:
        """Pixels of a crop's side: places of 256 pixels have room for several."""
        return min(self.tile, 224)

    def settings(self) -> str:
        """Return the head of the regions file."""
        weights = f'encoder_weights = "{self.encoder_weights}"\n' if self.encoder_weights else ""
        return SETTINGS.format(
            name=NAME, scheme=SCHEME, encoder=self.encoder, encoder_weights=weights, width=self.width, tile=self.tile,
            crop=self.crop, batch=self.batch, steps=self.steps, warmup=max(self.steps // 40, 1),
            validate_every=max(self.steps // 10, 1), checkpoint_every=max(min(self.steps // 20, 500), 1),
        )  # fmt: skip


class WorldBuilder:
    """What the steps share.

    Parameters
    ----------
    folder : Path
        Folder of all results.
    fetcher : Fetcher
    training : Training
    sample : Sample or None
        Reference classes in the held-out places.
    """

    def __init__(self, folder: Path, fetcher: Fetcher, training: Training, sample: Sample | None = None) -> None:
        self.folder, self.fetcher, self.training, self.sample = folder, fetcher, training, sample
        self.checked, self.scores = folder / "checked.csv", folder / "scores.json"
        self.weights = folder / f"{NAME}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def kept(self) -> list[Scene]:
        """Scenes that the check keeps."""
        names = read_kept(self.checked)
        return [scene for scene in self.fetcher.scenes() if scene.name in names]

    def fetch(self) -> None:
        """Fetch images and labels.

        Raises
        ------
        SystemExit
            If too much is missing.
        """
        path = self.folder / "failed.json"
        if any(not scene.complete for scene in self.fetcher.scenes()) and not path.is_file():
            failed: dict[str, str] = {}
            for (part, _, _, _), report in zip(self.fetcher.parts(), self.fetcher.run(), strict=True):
                failed |= {f"{name}_{part.name}": why for name, why in report.failed.items()}
                if report.error is not None and report.error.exit_code == 75:
                    raise SystemExit(f"{report.error}\nRun the same command again: what was fetched is kept.")
            scenes = self.fetcher.scenes()
            if len(failed) > MOST_FAILED * len(scenes):
                reasons = "\n".join(f"{name}: {why}" for name, why in list(failed.items())[:5])
                raise SystemExit(f"{len(failed)} of {len(scenes)} scenes failed (limit {MOST_FAILED:.0%}):\n{reasons}")
            self.fetcher.compare_labels()
            write_text_atomic(path, json.dumps(failed, indent=1))
        self.fetcher.compare_labels()

    def check(self) -> None:
        """Check the scenes and draw contact sheets."""
        failed = json.loads(path.read_text()) if (path := self.folder / "failed.json").is_file() else {}
        listed = self.folder / "dropped.txt"
        dropped = listed.read_text(encoding="utf-8").split() if listed.is_file() else []
        scenes = self.fetcher.scenes()
        checks = [check_scene(scene, failed, dropped) for scene in scenes]
        write_checks(self.checked, checks)
        sheets = draw_sheets(self.folder / "sheets", scenes, checks)
        for check in checks:
            if not check.kept:
                LOG.info(f"dropped {check.scene}: {check.reason}")
        kept = sum(check.kept for check in checks)
        LOG.info(f"{kept} of {len(checks)} scenes are kept; look at {len(sheets)} sheets in {self.folder / 'sheets'}")
        self.__dict__.pop("kept", None)
        scenes = [scene for scene in self.kept if scene.place.held_out]
        for used, sensors in SENSORS.items():
            text = f'scheme = "{SCHEME}"\nsplit = "none"\ntile = {self.training.tile}\n'
            text += "".join(scene_table(scene, self.folder, "validation", sensors) for scene in scenes)
            self._write_regions(self._held_out(used).name, text)

    def train(self) -> None:
        """Train on the kept scenes outside the held-out regions."""
        scenes = [scene for scene in self.kept if not scene.place.held_out]
        regions = sorted({scene.place.region for scene in scenes})
        validation = set(regions[VALIDATED // 2 :: VALIDATED]) or set(regions[-1:])
        if len(regions) < 2:
            raise SystemExit(f"{len(regions)} regions are left to learn from; at least 2 are needed.")
        tables = [
            scene_table(scene, self.folder, "validation" if scene.place.region in validation else "train")
            for scene in scenes
        ]
        text = (self.training.settings() + "".join(tables)).lstrip()
        path, trained = self.folder / "regions.toml", self.folder / "trained"
        done = (trained / f"{NAME}.safetensors").is_file()
        if done and path.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{trained} was trained on other scenes or settings. To train again, remove it.")
        if not done:
            write_text_atomic(path, text)
            fit(read_regions(path), trained)

    def evaluate(self) -> None:
        """Score the held-out regions, on pixels on which both maps agree."""
        weights = self.folder / "trained" / f"{NAME}.safetensors"
        scenes = [scene for scene in self.kept if scene.place.held_out]
        if not scenes:
            raise SystemExit("No scene of a held-out region is kept, so nothing can be scored.")
        net, card = load_weights(weights)
        engine = TorchEngine(net, card, choose_device("auto"))
        names = SCHEMES[SCHEME].names
        found: dict[str, Any] = {}
        first, located = self._locate(scenes)
        for used in SENSORS:
            config = read_regions(self._held_out(used))
            maps = SampleMap(self.sample, located, SCHEMES[SCHEME]) if self.sample else None
            matrices = []
            for scene, entry in zip(scenes, config.scenes, strict=True):
                matrix, predicted, grid = count_scene(entry, config, engine)
                matrices.append(matrix)
                if maps and scene in first:
                    maps.add(scene.place.name, grid, predicted)
            continents: dict[str, Counts] = {}
            for scene, matrix in zip(scenes, matrices, strict=True):
                continents[scene.place.continent] = continents.get(scene.place.continent, 0) + matrix
            found[used] = {
                "pooled": score(np.sum(matrices, axis=0), names).to_dict(),
                "continents": {
                    name: score(matrix, names).to_dict() for name, matrix in sorted(continents.items()) if matrix.any()
                },
            }
            if maps:
                found[used]["sample"] = maps.to_dict()
                if "refused" in found[used]["sample"]:
                    LOG.warning(f"{TITLES[used]}: no estimates. {found[used]['sample']['refused']}")
        found["regions"] = sorted({scene.place.region for scene in scenes})
        found["scenes"] = len(scenes)
        write_text_atomic(self.scores, json.dumps(found, indent=1))

    def _locate(self, scenes: Sequence[Scene]) -> tuple[list[Scene], list[tuple[str, int, int]]]:
        """Return the first scene of each place, in which the sample is looked up, and where its points lie."""
        if not self.sample:
            return [], []
        first = {scene.place.name: scene for scene in reversed(scenes)}
        grids = {}
        for name, scene in first.items():
            with rasterio.open(scene.folder / "s2.tif") as file:
                grids[name] = GeoBox(file.shape, file.transform, file.crs)
        places = [place for place in self.fetcher.places if place.held_out]
        return list(first.values()), self.sample.locate(grids, places, self.fetcher.side)

    def finish(self) -> None:
        """Write the weights with their card, the ONNX model and the page of scores."""
        scores = json.loads(self.scores.read_text())
        net, card = load_weights(self.folder / "trained" / f"{NAME}.safetensors")
        kept = [scene for scene in self.kept if not scene.place.held_out]
        places = f"{len(kept)} scenes of {len({scene.place.name for scene in kept})} places of 2.56 km"
        training = card.training | {"data": [places, *SOURCES]}
        held_out = {used: scores[used]["pooled"] for used in SENSORS}
        known = card.scores | {"held-out regions": held_out}
        if sampled := {used: scores[used]["sample"] for used in SENSORS if "sample" in scores[used]}:
            known |= {"probability sample": sampled}
        made = replace(card, training=training, scores=known, notice=NOTICE)
        save_weights(net, made, self.weights)
        export_onnx(self.weights, self.weights.with_suffix(".onnx"), overwrite=True)
        write_text_atomic(self.folder / "scores.md", scores_page(scores, card.temperature))
        LOG.info(f"wrote {self.weights}, {self.weights.with_suffix('.onnx').name} and scores.md")

    def _held_out(self, used: str) -> Path:
        """Return the regions file of the held-out scenes."""
        return self.folder / f"held-out-{used}.toml"

    def _write_regions(self, name: str, text: str) -> Path:
        path = self.folder / name
        write_text_atomic(path, text.lstrip())
        return path


def scene_table(scene: Scene, folder: Path, split: str, sensors: Sequence[str] = ("optical", "sar")) -> str:
    """Return the table of a scene for a regions file; held-out scenes are scored where both maps agree."""
    files = {"optical": "s2.tif", "sar": "s1.tif"}
    entries: dict[str, Any] = {"name": scene.name, "region": scene.place.region, "split": split}
    place = scene.folder.relative_to(folder).as_posix()
    entries |= {sensor: f"{place}/{files[sensor]}" for sensor in sensors}
    entries |= {"labels": f"{place}/labels.tif", "confidence": f"{place}/{AGREEMENT}"}
    if split == "validation":
        entries["confidence_band"] = 2
    return "\n[[scenes]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())


def count_scene(entry: TrainScene, config: TrainConfig, engine: TorchEngine) -> tuple[Counts, UInt8, GeoBox]:
    """Map a scene with the tiles of ``refnet predict``; return its confusion matrix, map of class indexes and grid."""
    classes = engine.card.scheme.classes
    matrix = np.zeros((classes - 1,) * 2, np.int64)
    with SceneFiles.open(entry, config) as files:
        height, width = files.pair.grid.shape
        whole = np.zeros((height, width), np.uint8)
        tiling = Tiling.of(height, width, engine.card.tile)
        for rows in predict_rows(files.pair, engine, tiling):
            labels = files.labels.read(Window(rows.row, 0, *rows.valid.shape))
            predicted = np.where(rows.valid, 1 + np.asarray(rows.probabilities)[1:].argmax(0), 0).astype(np.uint8)
            matrix += confusion_matrix(labels, predicted, classes)
            whole[rows.row : rows.row + len(predicted)] = predicted
        return matrix, whole, files.pair.grid


def scores_page(scores: dict[str, Any], temperature: float) -> str:
    """Return the scores as a page of Markdown."""
    pooled = {used: scores[used]["pooled"] for used in SENSORS}
    lines = [
        f"# {NAME}: scores", "",
        f"Of {scores['scenes']} scenes in regions that were held out whole: {', '.join(scores['regions'])}. Scored are "
        f"{pooled['both']['pixels']:,} pixels on which {LABELS[0]} and {LABELS[1]} agree, so these scores flatter: "
        "where two maps agree, the ground is easy. These scores are no area-adjusted estimates. "
        f"The temperature is {temperature:.3f}, fitted to other regions.", "",
        "| | overall | balanced | mean IoU |", "|---|---|---|---|",
    ]  # fmt: skip
    for used, found in pooled.items():
        lines.append(f"| {TITLES[used]} | {_row(found)} |")
    lines += ["", "| class | labelled pixels | recall | precision | IoU |", "|---|---|---|---|---|"]
    found = pooled["both"]
    for name, pixels in found["labelled"].items():
        values = (found[key].get(name, 0.0) for key in ("recall", "precision", "iou"))
        lines.append(f"| {name} | {pixels:,} | {' | '.join(f'{value:.3f}' for value in values)} |")
    lines += ["", "| continent | labelled pixels | overall | balanced | mean IoU |", "|---|---|---|---|---|"]
    for name, found in scores["both"]["continents"].items():
        lines.append(f"| {name} | {found['pixels']:,} | {_row(found)} |")
    if sampled := {used: scores[used]["sample"] for used in SENSORS if "sample" in scores[used]}:
        lines += sample_page(sampled, TITLES)
    return "\n".join(lines) + "\n"


def _row(found: dict[str, Any]) -> str:
    return " | ".join(f"{found[key]:.3f}" for key in ("overall_accuracy", "balanced_accuracy", "mean_iou"))


def describe_costs(fetcher: Fetcher, training: Training) -> list[str]:
    """Return what making the weights takes; asks each source for two places of each belt and season.

    Raises
    ------
    RefnetError
        If a source does not answer.
    """
    scenes = fetcher.scenes()
    planned = [scene["bytes"] for report in fetcher.run(dry_run=2) for scene in report.scenes]
    lines = [f"{len(fetcher.places)} places, {len(scenes)} scenes"]
    if planned:
        mean = sum(planned) / len(planned)
        lines.append(
            f"to fetch: about {mean * len(scenes) / 1e9:.1f} GB, at most {mean / 1e6:.1f} MB a scene (planned for "
            f"{len(planned)} scenes)"
        )
    seconds = step_seconds(training)
    lines += [
        f"requests: about {REQUESTS * len(scenes):,} ({REQUESTS} a scene, counted on a catalogue on one machine with "
        "one date a season; each further date to choose from takes some more)",
        f"training: {training.steps:,} steps of {training.batch} crops of {training.crop}. On two cores "
        f"{seconds:.1f} s a step, {seconds * training.steps / 3600:.0f} hours (timed here, without "
        "validations)",
        "hours on a GPU: not known, because this training was never measured on one",
    ]  # fmt: skip
    return lines


def step_seconds(training: Training) -> float:
    """Return the seconds of a training step on two cores of this machine, timed on the sample scene."""
    sample = HERE.parents[1] / "sample_data"
    files = {"optical": "s2.tif", "sar": "s1.tif", "labels": "labels.tif"}
    scene = "".join(f"{key} = {json.dumps(str(sample / file))}\n" for key, file in files.items())
    head = replace(training, encoder_weights="").settings().replace('split = "region"', 'split = "none"')
    head += 'device = "cpu"\n'
    torch.set_num_threads(CORES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "regions.toml"
        path.write_text(f"{head}\n[[scenes]]\n{scene}", encoding="utf-8")
        config = read_regions(path)
        return rehearse(config, survey_or_advise(config)).step_seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="one of the steps above; all by default")
    parser.add_argument("--places", type=Path, default=HERE / "places.csv", help="table of places")
    parser.add_argument("--small", action="store_true", help="only the small set of places")
    parser.add_argument("--side", type=float, default=2560.0, help="metres of a place's side [2560]")
    parser.add_argument("--source", action="append", help="see refnet fetch; may be repeated [planetary-computer]")
    parser.add_argument("--allow-host", action="append", default=[], help="see refnet fetch; may be repeated")
    parser.add_argument("--year", type=int, default=2021, help="year of the images [2021]")
    parser.add_argument("--workers", type=int, default=4, help="places that are fetched at the same time [4]")
    defaults = Training()
    parser.add_argument("--encoder", default=defaults.encoder, help=f"[{defaults.encoder}]")
    parser.add_argument("--encoder-weights", default=defaults.encoder_weights, help='"" for none [imagenet]')
    parser.add_argument("--width", type=int, default=defaults.width, help=f"[{defaults.width}]")
    parser.add_argument("--tile", type=int, default=defaults.tile, help=f"[{defaults.tile}]")
    parser.add_argument("--batch", type=int, default=defaults.batch, help=f"[{defaults.batch}]")
    parser.add_argument("--train-steps", type=int, default=defaults.steps, help=f"[{defaults.steps}]")
    parser.add_argument("--sample", type=Path, help="probability sample in the held-out places, see README.md")
    parser.add_argument("--dry-run", action="store_true", help="only say what it takes; hours on a GPU are not known")
    given = parser.parse_intermixed_args(arguments)
    if unknown := [step for step in given.steps if step not in STEPS]:
        parser.error(f"unknown step {', '.join(unknown)}; use {', '.join(STEPS)}")
    log.start()
    folder = given.folder.resolve()
    fetcher = Fetcher(
        folder, tuple(read_places(given.places, given.small)), tuple(given.source or ["planetary-computer"]),
        given.year, given.side, tuple(given.allow_host), given.workers,
    )  # fmt: skip
    training = Training(
        given.encoder, given.encoder_weights, given.width, given.tile, given.batch, given.train_steps
    )
    try:
        if given.dry_run:
            sys.stdout.write("\n".join(describe_costs(fetcher, training)) + "\n")
            return
        sample = Sample.read(given.sample, SCHEMES[SCHEME]) if given.sample else None
        builder = WorldBuilder(folder, fetcher, training, sample)
        for step in given.steps or STEPS:
            LOG.info(f"step {step}")
            getattr(builder, step)()
    except RefnetError as error:
        sys.exit(f"{error}\nThe same command goes on from here.")


if __name__ == "__main__":
    main()
