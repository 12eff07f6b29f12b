"""Leave-one-region-out validation: train one fold per held-out region, and tabulate the scores.

Each fold has its own folder with a record of its settings. Finished folds are not trained again, and interrupted ones
resume.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import logging
import re
import unicodedata
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from refnet_cli.errors import OptionsError, RefnetError
from refnet_cli.evaluation.scores import score
from refnet_cli.model.card import Card
from refnet_cli.model.weight_files import read_card
from refnet_cli.system.atomic import replacing, write_text_atomic
from refnet_cli.system.lock import WorkFolder
from refnet_cli.system.log import context
from refnet_cli.system.marks import MARK, check_replaceable
from refnet_cli.training.calibration import fit_temperature, measure_calibration
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.distributed import started_processes
from refnet_cli.training.fit import fit
from refnet_cli.training.held_out import HeldOut
from refnet_cli.training.identity import describe_settings
from refnet_cli.training.result import TrainResult
from refnet_cli.training.run import Progress
from refnet_cli.training.store.store import FOLDER, temporary_store
from refnet_cli.types import Int64
from refnet_cli.version import __version__

LOG = logging.getLogger(__name__)
TABLE, DETAILS = "folds.csv", "folds.json"
RECORD, PIXELS = "fold.json", "held-out.npz"
"""Files of each fold: its settings, and held-out pixels to fit the temperatures of other folds."""
MOST_PIXELS = 50_000  # maximum number of held-out pixels stored per fold
POOLED = "(pooled)"
_LONGEST = 150  # maximum bytes of a region in a folder name; file systems allow 255
_CHOSEN = (
    "scores are those of each fold's best validation by mean IoU; with more than one validation they are optimistic"
)


@dataclass(frozen=True)
class Fold:
    """A finished training with one region held out."""

    region: str
    weights: Path
    card: Card
    held_out: HeldOut | None
    """Up to 50,000 of the region's labelled pixels; None if it has none."""

    @property
    def matrix(self) -> Int64:
        """Confusion matrix of the region with all classes of the scheme, shape (classes, classes)."""
        names = self.card.scheme.names
        matrix = np.zeros((len(names),) * 2, np.int64)
        if scores := self.card.scores.get("validation"):
            indexes = [names.index(name) for name in scores["labelled"]]
            matrix[np.ix_(indexes, indexes)] = scores["confusion_matrix"]
        return matrix


def fit_folds(
    configs: Mapping[str, TrainConfig],
    folder: str | Path,
    progress: Callable[[Progress], None] | None = None,
    stopping: Callable[[], bool] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train with each region held out in turn, and write ``folds.csv`` and ``folds.json``.

    Each fold has its own folder ``fold-REGION``. When called again with the same configs, finished folds are skipped
    and interrupted ones resume.

    Parameters
    ----------
    configs : mapping of str to TrainConfig
        Config of each fold by region, see `refnet_cli.training.regions_file.read_folds`.
    folder : str or Path
        Created if missing.
    progress, stopping, overwrite
        See `refnet_cli.training.fit.fit`.

    Returns
    -------
    dict
        Content of ``folds.json``.

    Raises
    ------
    TryAgainError
        If ``stopping`` requested a stop.
    RefnetError
        If scenes, options or the folder are not usable.
    """
    if started_processes() > 1:
        raise OptionsError("--folds trains the folds one after another in one process. Start it without torchrun.")
    folder = Path(folder)
    folders = name_folders(folder, list(configs))
    own = [path / name for path in folders.values() for name in (RECORD, PIXELS)]
    check_replaceable([folder / TABLE, folder / DETAILS, *own], overwrite)
    folds = []

    def resumable() -> bool:
        return any(any(path.glob("checkpoints/step-*.pt")) for path in folders.values())

    own_store = all(config.cache is None for config in configs.values())
    store = temporary_store(folder / FOLDER, resumable) if own_store else nullcontext()
    with WorkFolder(folder / "folds") as work_folder, store:
        for warning in work_folder.warnings:
            LOG.warning(warning)
        for region, config in configs.items():
            settings = _settings_of(config)  # before the training, during which files may change
            with context(fold=region):
                fold = _read_fold(region, config, folders[region], settings)
                if fold is None:
                    shared = replace(config, cache=config.cache or folder / FOLDER)
                    result = fit(shared, folders[region], progress, stopping, overwrite)
                    fold = _write_fold(region, config, folders[region], result, settings)
                else:
                    LOG.info("finished before, not trained again")
            folds.append(fold)
        details = _describe(folds)
        write_text_atomic(folder / TABLE, _table(details))
        write_text_atomic(folder / DETAILS, json.dumps({MARK: __version__} | details, indent=2))
    return details


def name_folders(folder: Path, regions: list[str]) -> dict[str, Path]:
    """Return the folder of each fold, named after its region; unsuitable characters become ``_``.

    Raises
    ------
    OptionsError
        If two regions would share a folder, also on case-insensitive file systems.

    Examples
    --------
    >>> name_folders(Path("out"), ["north/east"])["north/east"].name
    'fold-north_east'
    """
    named = {region: f"fold-{_safe_name(region)}" for region in regions}
    for name in named.values():
        same = [other for other, theirs in named.items() if theirs.casefold() == name.casefold()]
        if len(same) > 1:
            raise OptionsError(
                f"The regions {' and '.join(map(repr, same))} would share the folder {folder / name}. Rename one "
                "region in the regions file."
            )
    return {region: folder / name for region, name in named.items()}


def _safe_name(region: str) -> str:
    safe = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", region))
    return safe.encode()[:_LONGEST].decode(errors="ignore")


def _settings_of(config: TrainConfig) -> str:
    """Return a digest of everything that a fold depends on: settings, and size and time of the label files."""
    files = []
    for scene in config.scenes:
        for given in (scene.labels, scene.confidence):
            for path in _parts_of(given) if isinstance(given, Path) else ():
                about = path.stat()
                files.append((str(path), about.st_size, about.st_mtime_ns))
    text = json.dumps([describe_settings(config.resolved()), config.name, files], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _parts_of(path: Path) -> list[Path]:
    """Return a file if it exists; for a Shapefile all of its files, because the classes are in the .dbf."""
    if path.suffix.lower() == ".shp":
        return sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))
    return [path] if path.exists() else []


def _read_fold(region: str, config: TrainConfig, folder: Path, settings: str) -> Fold | None:
    """Read a finished fold; None if it is unfinished or was trained with other settings."""
    weights = folder / f"{config.name}.safetensors"
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        card = read_card(weights)
        if (record["settings"], record["sha256"]) != (settings, card.sha256):
            return None
        with (folder / PIXELS).open("rb") as file, np.load(file) as pixels:
            held_out = HeldOut(pixels["logits"], pixels["labels"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, RefnetError):
        return None
    return Fold(region, weights, card, held_out if len(held_out.labels) else None)


def _write_fold(region: str, config: TrainConfig, folder: Path, result: TrainResult, settings: str) -> Fold:
    """Write the files of a finished fold, the record last."""
    classes = result.card.network.classes
    logits, labels = result.held_out or HeldOut(np.empty((0, classes), np.float32), np.empty(0, np.uint8))
    kept = np.random.default_rng(config.seed).permutation(len(labels))[:MOST_PIXELS]
    held_out = HeldOut(logits[kept], labels[kept])
    with replacing(folder / PIXELS) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {MARK: np.array(__version__), **held_out._asdict()}
        np.savez(file, **arrays)
    record = {MARK: __version__, "region": region, "settings": settings, "sha256": result.card.sha256}
    write_text_atomic(folder / RECORD, json.dumps(record, indent=2))
    return Fold(region, result.weights, result.card, held_out if len(kept) else None)


def _describe(folds: list[Fold]) -> dict[str, Any]:
    """Return the scores of each fold and of all together, and the calibration with the other folds' temperature."""
    names = folds[0].card.scheme.names
    temperatures = [_temperature_of_others(fold, folds) for fold in folds]
    rows = {}
    for fold, temperature in zip(folds, temperatures, strict=True):
        calibration = fold.card.scores.get("calibration", {})
        rows[fold.region] = {
            "weights": f"{fold.weights.parent.name}/{fold.weights.name}",
            **_scores(fold.matrix, names),
            "temperature": calibration.get("temperature"),
            "ece": calibration.get("ece_after"),
            "temperature_of_others": temperature,
            "ece_with_temperature_of_others": _error([(fold, temperature)]),
        }
    pooled = _scores(np.sum([fold.matrix for fold in folds], axis=0), names)
    pooled["ece_with_temperature_of_others"] = _error(list(zip(folds, temperatures, strict=True)))
    return {
        "split": "region",
        "chosen": _CHOSEN,
        "calibration": f"at most {MOST_PIXELS:,} pixels per region",
        "classes": list(names),
        "folds": rows,
        "pooled": pooled,
    }


def _scores(matrix: Int64, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the scores of a confusion matrix; without pixels, only their number."""
    if not matrix.any():
        return {"pixels": 0}
    return score(matrix, names).to_dict()


def _temperature_of_others(fold: Fold, folds: list[Fold]) -> float | None:
    """Return the temperature fitted to the held-out pixels of the other folds; None if they have too few."""
    others = [other.held_out for other in folds if other is not fold and other.held_out]
    if not others:
        return None
    logits, labels = (np.concatenate(arrays) for arrays in zip(*others, strict=True))
    found = fit_temperature(logits, labels)
    return found.temperature if found else None


def _error(folds: list[tuple[Fold, float | None]]) -> float | None:
    """Return the expected calibration error of folds that have pixels and a temperature; None if there are none."""
    known = [(fold.held_out, temperature) for fold, temperature in folds if fold.held_out and temperature]
    if not known:
        return None
    logits = np.concatenate([held_out.logits / np.float32(temperature) for held_out, temperature in known])
    labels = np.concatenate([held_out.labels for held_out, _ in known])
    return measure_calibration(logits, labels, 1.0)[1]


def _table(details: dict[str, Any]) -> str:
    """Return a CSV with one row per region and a pooled row; unknown values are empty."""
    scores = ("overall_accuracy", "balanced_accuracy", "mean_iou")
    calibration = ("temperature", "ece", "temperature_of_others", "ece_with_temperature_of_others")
    rows = []
    for region, found in [*details["folds"].items(), (POOLED, details["pooled"])]:
        row = {"region": region, "labelled_pixels": found["pixels"]}
        row |= {name: found.get(name) for name in (*scores, *calibration)}
        labelled = found.get("labelled", {})
        row |= {
            f"recall {name}": found["recall"][name] if labelled.get(name) else None for name in details["classes"]
        }
        rows.append(row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
