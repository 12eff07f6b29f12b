"""Scenes to map as lines of JSON, what identifies them, and what tells that they are done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from refnet_cli.batch.failures import failure_path
from refnet_cli.errors import ConfigError, InputMissingError, RefnetError, WeightsError
from refnet_cli.model.weight_files import find_weights, read_card
from refnet_cli.prediction.job import MapBlock
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.removed import REMOVED_OPTIONS, find_removed
from refnet_cli.scene.options import as_paths
from refnet_cli.scene.season_files import SceneDate, files_of_season, read_season, table_of_season
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.atomic import write_text_atomic
from refnet_cli.system.config import read, some
from refnet_cli.system.options import names
from refnet_cli.system.urls import Remote
from refnet_cli.tiles.window import Window
from refnet_cli.version import __version__

_OWN = (*MODALITIES, "season", "output")
"""Options that each task has its own of."""


@dataclass(frozen=True)
class Task:
    """One scene, or one block of one, that is mapped as a whole or not at all."""

    options: PredictOptions
    block: Window | None = None
    """Of the map's grid."""
    id: str = field(default="", compare=False)
    """What it had when it was planned."""

    @property
    def path(self) -> Path:
        """The file that it makes: the map, or the shard of a block."""
        if self.block is None:
            return self.options.output
        row, column = self.block[:2]
        folder = self.options.output.with_name(f"{self.options.output.name}.blocks")
        return folder / f"{row:06d}-{column:06d}.shard"

    @property
    def sidecar(self) -> Path:
        """The file that is written last and tells that it is done."""
        return sidecar_path(self.path)

    @property
    def map_block(self) -> MapBlock | None:
        """What `refnet_cli.prediction.predict.predict` is to make of the map, if not all."""
        return None if self.block is None else MapBlock(self.block, self.path)

    def to_line(self) -> str:
        """Return it as a line of JSON."""
        options = {
            name: value
            for name, value in self.options.to_dict().items()
            if name not in _OWN and value != _DEFAULTS[name]
        }
        return json.dumps(
            {
                "id": self.id,
                **{
                    sensor: [_as_given(path) for path in as_paths(given)]
                    for sensor in MODALITIES
                    if (given := getattr(self.options, sensor)) is not None
                },
                **({"season": str(self.options.season)} if self.options.season else {}),
                "output": str(self.options.output),
                "refnet": __version__,
                **({"block": list(self.block)} if self.block else {}),
                **({"options": options} if options else {}),
            }
        )

    @classmethod
    def from_line(cls, line: str, source: Path) -> Task:
        """Read a line of JSON; relative paths are relative to the folder of the file that it comes from.

        Raises
        ------
        ConfigError
            If it is none.
        """
        where = f"{source} has a line that is no task, {line.strip()[:200]}"
        try:
            entries = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}.") from error
        _refuse_removed(entries, source)
        found = read(_Line, entries, where, source.parent)
        if not found.refnet and found.options.get("scheme") == "esri-io":
            raise ConfigError(
                f"{source} was planned by refnet 0.1, whose scheme esri-io had other codes: plan again with "
                f"`refnet batch plan SCENES -o {source}`. "
                "The codes of 0.1 are the scheme terramesh now."
            )
        files = {name: getattr(found, name) for name in _OWN}
        try:
            return cls(PredictOptions(**files | found.options), Window(*found.block) if found.block else None, found.id)
        except WeightsError as error:
            raise ConfigError(f"{source} cannot be used: {error}") from error


@dataclass(frozen=True)
class _Line:
    """A line of a list of tasks."""

    output: Path
    optical: Path | tuple[Path, ...] | None = None
    sar: Path | tuple[Path, ...] | None = None
    season: Path | None = None
    id: str = ""
    refnet: str = ""
    """The version that planned it; refnet 0.1 did not say."""
    block: tuple[int, int, int, int] | None = None
    options: some(PredictOptions) = field(default_factory=dict)  # type: ignore[valid-type]  # made here

    def __post_init__(self) -> None:
        if self.optical is None and self.sar is None and self.season is None:
            raise ConfigError("it has neither optical nor sar.")
        if self.season is not None and (self.optical is not None or self.sar is not None):
            raise ConfigError("it has a season, which names all files, and optical or sar.")
        if empty := [name for name in ("optical", "sar") if getattr(self, name) == ()]:
            raise ConfigError(f"{empty[0]} is empty: name its files, or leave it out for a map without them.")
        if own := {*_OWN} & self.options.keys():
            raise ConfigError(f"options: {own.pop()} is no option.")
        if self.block and not min(self.block) >= 0 < min(self.block[2:]):
            raise ConfigError("a block is a row, a column, a height and a width.")


def _refuse_removed(entries: Any, source: Path) -> None:
    """Refuse options and outputs that are gone, with what replaces them."""
    options = entries.get("options") if isinstance(entries, dict) else None
    if not isinstance(options, dict):
        return
    outputs = options.get("outputs")
    if gone := find_removed(options, outputs if isinstance(outputs, list) else ()):
        instead = f'"outputs": [{json.dumps(gone.output)}]'
        raise ConfigError(f"{source}: {gone.said}: give {instead} instead, or plan again.")


_IDENTIFYING = names(PredictOptions, "pixels", "elsewhere", "files")
_SINCE_0_2 = {entry.name for entry in fields(PredictOptions) if entry.metadata["since"]}
"""Left out of ids where they have their defaults, so that sidecars of 0.1 still hold."""
_DEFAULTS = {
    entry.name: None if entry.default is MISSING else list(entry.default) if entry.default == () else entry.default
    for entry in fields(PredictOptions)
}


def _as_given(path: Path) -> str:
    return path.url if isinstance(path, Remote) else str(path)


def sidecar_path(path: Path) -> Path:
    """Return the file that tells that a result is complete."""
    return path.with_name(f"{path.name}.json")


def read_tasks(source: Path) -> list[Task]:
    """Read a file of tasks, a line each.

    Raises
    ------
    InputMissingError
        If it cannot be read.
    ConfigError
        If a line is no task, or two make the same file.
    """
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputMissingError(f"The tasks {source} cannot be read: {error}.") from error
    tasks = [Task.from_line(line, source.absolute()) for line in lines if line.strip()]
    check_distinct(tasks)
    return tasks


def check_distinct(tasks: Iterable[Task]) -> None:
    """Raise a ConfigError if two tasks make the same file, or what they make is, or lies in, what any of them reads."""
    seen: set[Path] = set()
    maps: dict[Path, Path] = {}
    read: set[Path] = set()
    for task in tasks:
        if (path := _plain(task.path)) in seen:
            raise ConfigError(f"Two tasks make {task.path}: give each scene an output of its own.")
        seen.add(path)
        inputs = _inputs_of(task.options, _dates_of(task.options))
        read.update(_plain(path) for path in inputs if not isinstance(path, Remote))
        if task.options.season:
            read.add(_plain(table_of_season(task.options.season)))
        output = _plain(task.options.output)
        for place in map(_plain, task.options.output_paths.values()):
            if maps.setdefault(place, output) != output:
                raise ConfigError(f"Two tasks make {place}: give each scene outputs of its own.")
    sidecars = {place for output in maps.values() for place in (sidecar_path(output), failure_path(output))}
    for place in (*maps, *sidecars):
        if place in maps and place in sidecars:
            raise ConfigError(
                f"{place} is to tell that a map is done, or why it is not, and can be no output: choose another place."
            )
        if place in read:
            raise ConfigError(f"The tasks write {place}, which one of them reads: choose another place.")
        if folder := next((folder for folder in place.parents if folder in read), None):
            raise ConfigError(
                f"The tasks write {place} into {folder}, which is read as a whole, and would take it for changed: "
                "choose a place outside of it."
            )


def _plain(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _dates_of(options: PredictOptions) -> tuple[SceneDate, ...]:
    """Return the dates of a season; none without one, or where it cannot be read, which running the task explains."""
    try:
        return read_season(options.season) if options.season else ()
    except RefnetError:
        return ()


def _inputs_of(options: PredictOptions, dates: Sequence[SceneDate]) -> list[Path]:
    """Return the files and folders that are read, but for the weights and the table of a season."""
    scheme = Path(options.scheme) if options.scheme and options.scheme.lower().endswith(".toml") else None
    inputs = [
        *as_paths(options.optical), *as_paths(options.sar), options.grid, options.zones, scheme, options.cloud_file,
        *(path for sensor in MODALITIES for path in files_of_season(dates, sensor) or ()),
    ]  # fmt: skip
    return [path for path in inputs if path is not None]


def identify(task: Task) -> str:
    """Return what a result depends on as 16 characters: inputs and their state, weights, options, place.

    Of a season these are its dates and the state of their files, not that of its table.

    Raises
    ------
    InputMissingError, WeightsError
        If the weights cannot be read.
    """
    options, dates = task.options, _dates_of(task.options)
    plain = {
        name: value
        for name, value in options.to_dict().items()
        if name in _IDENTIFYING and not (name in _SINCE_0_2 and value == _DEFAULTS[name])
    }
    about = plain | dict.fromkeys(REMOVED_OPTIONS) | {
        "weights": sha256_of_weights(find_weights(options.weights)),
        "states": [_state(path) for path in _inputs_of(options, dates)],
        "block": task.block,
    }
    if options.season:
        about["dates"] = [
            [scene.date, *([_as_given(path) for path in as_paths(files)] for files in (scene.optical, scene.sar))]
            for scene in dates
        ]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def sha256_of_weights(weights: Path) -> str:
    """Return what the weights' card says about them; the card is read again only where the file has changed.

    Raises
    ------
    InputMissingError, WeightsError
        If they cannot be read.
    """
    return _read_sha256(weights, str(_state(weights)))


@cache
def _read_sha256(weights: Path, _state: str) -> str:
    return read_card(weights).sha256


def _state(path: Path) -> Any:
    """Size and time of change of a file, or of all in a folder; nothing of what is not there, or not on a disk."""
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


def is_done(task: Task, identity: str) -> bool:
    """Tell whether a sidecar says that the task's files are complete, and they are there in the size it says."""
    found = read_sidecar(task.sidecar)
    if found is None or found.get("id") != identity:
        return False
    try:
        sizes = {Path(file["path"]): file["bytes"] for file in found["files"]}
        return task.path in sizes and all(path.stat().st_size == size for path, size in sizes.items())
    except (OSError, KeyError, TypeError):
        return False


def is_finished(task: Task, identity: str) -> bool:
    """Tell whether a task is done, or the map that it is a block of, which no longer needs it."""
    return is_done(task, identity) or is_merged(task)


def is_merged(task: Task) -> bool:
    """Tell whether a task is a block of a map that is done."""
    whole = replace(task, block=None)
    return task.block is not None and is_done(whole, identify(whole))


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Read a sidecar; None where there is none, or no whole one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def other_version(found: dict[str, Any] | None, *, exactly: bool = False) -> str | None:
    """Return the version of refnet that made the files a sidecar lists, if its maps differ from those of this one.

    Versions whose first two numbers are the same make the same maps.

    Parameters
    ----------
    found : dict or None
        The sidecar.
    exactly : bool
        Whether any other version counts, as for blocks: each record in them, and the map's tags, name one version.
    """
    report = found.get("report") if found else None
    version = str(report.get("version", "")) if isinstance(report, dict) else ""
    numbers = None if exactly else 2
    return version if version and version.split(".")[:numbers] != __version__.split(".")[:numbers] else None


def write_sidecar(path: Path, identity: str, files: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Tell that a result is complete; must be the last thing that is done for it.

    Raises
    ------
    OutputError, StorageError
        If it cannot be written.
    """
    write_text_atomic(sidecar_path(path), json.dumps({"id": identity, "files": files} | about, indent=2))
