"""What the result of a task depends on: inputs and their state, weights, options and block."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from refnet_cli.batch.task import DEFAULTS, Task, path_as_given
from refnet_cli.errors import RefnetError
from refnet_cli.model.weight_files import find_weights, read_card
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.removed import REMOVED_OPTIONS
from refnet_cli.scene.options import as_paths
from refnet_cli.scene.season_files import SceneDate, files_of_season, read_season
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.options import names
from refnet_cli.system.urls import Remote

_IDENTIFYING = names(PredictOptions, "pixels", "elsewhere", "files")
_SINCE_0_2 = {entry.name for entry in fields(PredictOptions) if entry.metadata["since"]}
"""Left out of ids where they have their defaults, so that sidecars of 0.1 remain valid."""


def identify(task: Task) -> str:
    """Return a checksum, 16 characters, of all that the result of a task depends on.

    Of a season, its dates and the state of their files count, but not the state of its table.

    Raises
    ------
    InputMissingError, WeightsError
        If the weights cannot be read.
    """
    options, dates = task.options, dates_of(task.options)
    plain = {
        name: value
        for name, value in options.to_dict().items()
        if name in _IDENTIFYING and not (name in _SINCE_0_2 and value == DEFAULTS[name])
    }
    about = (
        plain
        | dict.fromkeys(REMOVED_OPTIONS)
        | {
            "weights": sha256_of_weights(find_weights(options.weights)),
            "states": [_state(path) for path in inputs_of(options, dates)],
            "block": task.block,
        }
    )
    if options.season:
        about["dates"] = [
            [scene.date, *([path_as_given(path) for path in as_paths(files)] for files in (scene.optical, scene.sar))]
            for scene in dates
        ]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def dates_of(options: PredictOptions) -> tuple[SceneDate, ...]:
    """Return the dates of a season; none without a season.

    None are returned either if the season cannot be read: running the task reports the error.
    """
    try:
        return read_season(options.season) if options.season else ()
    except RefnetError:
        return ()


def inputs_of(options: PredictOptions, dates: Sequence[SceneDate]) -> list[Path]:
    """Return the files and folders that a task reads, except the weights and the table of a season."""
    scheme = Path(options.scheme) if options.scheme and options.scheme.lower().endswith(".toml") else None
    inputs = [
        *as_paths(options.optical), *as_paths(options.sar), options.grid, options.zones, scheme, options.cloud_file,
        *(path for sensor in MODALITIES for path in files_of_season(dates, sensor) or ()),
    ]  # fmt: skip
    return [path for path in inputs if path is not None]


def sha256_of_weights(weights: Path) -> str:
    """Return the SHA-256 in the card of weights; the card is read again only if the file has changed.

    Raises
    ------
    InputMissingError, WeightsError
        If the weights cannot be read.
    """
    return _read_sha256(weights, str(_state(weights)))


@cache
def _read_sha256(weights: Path, _state: str) -> str:
    return read_card(weights).sha256


def _state(path: Path) -> Any:
    """Return size and modification time of a file, or of all files in a folder; None if it is missing or remote."""
    if isinstance(path, Remote):
        return None
    try:
        if path.is_dir():
            inside = sorted(entry for entry in path.rglob("*") if entry.is_file())
            return [[str(entry.relative_to(path)), *_state(entry)] for entry in inside]
        state = os.stat(path)
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]
