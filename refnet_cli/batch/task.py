"""A task of a batch, one scene or one block of a scene, and its line of JSON."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from refnet_cli.batch.sidecar import sidecar_path
from refnet_cli.errors import ConfigError, WeightsError
from refnet_cli.prediction.job import MapBlock
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.removed import find_removed
from refnet_cli.scene.options import as_paths
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.config import read, some
from refnet_cli.system.urls import Remote
from refnet_cli.tiles.window import Window
from refnet_cli.version import __version__

_OWN = (*MODALITIES, "season", "output")
"""Options that differ between tasks; they are entries of the line itself."""
DEFAULTS = {
    entry.name: None if entry.default is MISSING else list(entry.default) if entry.default == () else entry.default
    for entry in fields(PredictOptions)
}
"""Defaults of `PredictOptions`, as JSON has them."""


@dataclass(frozen=True)
class Task:
    """One scene, or one block of a scene. Its result is complete or absent."""

    options: PredictOptions
    block: Window | None = None
    """Block of the map's grid; None for the entire map."""
    id: str = field(default="", compare=False)
    """The task's identity when it was planned; see `refnet_cli.batch.identity.identify`."""

    @property
    def path(self) -> Path:
        """The file that the task writes: the map, or a block's file."""
        if self.block is None:
            return self.options.output
        row, column = self.block[:2]
        folder = self.options.output.with_name(f"{self.options.output.name}.blocks")
        return folder / f"{row:06d}-{column:06d}.shard"

    @property
    def sidecar(self) -> Path:
        """The file that is written last and says that the result is complete."""
        return sidecar_path(self.path)

    @property
    def map_block(self) -> MapBlock | None:
        """The block in the form that `refnet_cli.prediction.predict.predict` takes; None for the entire map."""
        return None if self.block is None else MapBlock(self.block, self.path)

    def to_line(self) -> str:
        """Return the task as a line of JSON."""
        options = {
            name: value
            for name, value in self.options.to_dict().items()
            if name not in _OWN and value != DEFAULTS[name]
        }
        return json.dumps(
            {
                "id": self.id,
                **{
                    sensor: [path_as_given(path) for path in as_paths(given)]
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
        """Read a task from a line of JSON.

        Parameters
        ----------
        line : str
        source : Path
            The file of the line. Relative paths are relative to its folder.

        Raises
        ------
        ConfigError
            If the line is not a task.
        """
        where = f"{source} has a line that is not a task, {line.strip()[:200]}"
        try:
            entries = json.loads(line)
        except ValueError as error:
            raise ConfigError(
                f"{where}: {error}. Make tasks from a list of scenes with `refnet batch plan SCENES -o tasks.jsonl`."
            ) from error
        _refuse_removed(entries, source)
        found = read(_Line, entries, where, source.parent)
        if not found.refnet and found.options.get("scheme") == "esri-io":
            raise ConfigError(
                f"{source} was planned by refnet 0.1, whose scheme esri-io had other codes (now the scheme terramesh). "
                f"Plan again with `refnet batch plan SCENES -o {source}`."
            )
        files = {name: getattr(found, name) for name in _OWN}
        try:
            return cls(PredictOptions(**files | found.options), Window(*found.block) if found.block else None, found.id)
        except WeightsError as error:
            raise ConfigError(f"{source} cannot be used: {error}") from error


@dataclass(frozen=True)
class _Line:
    """A line of a file of tasks."""

    output: Path
    optical: Path | tuple[Path, ...] | None = None
    sar: Path | tuple[Path, ...] | None = None
    season: Path | None = None
    id: str = ""
    refnet: str = ""
    """The version that planned the task; empty from refnet 0.1."""
    block: tuple[int, int, int, int] | None = None
    options: some(PredictOptions) = field(default_factory=dict)  # type: ignore[valid-type]  # made here

    def __post_init__(self) -> None:
        if self.optical is None and self.sar is None and self.season is None:
            raise ConfigError("it has neither optical nor sar.")
        if self.season is not None and (self.optical is not None or self.sar is not None):
            raise ConfigError("it has a season, which names all files, and also optical or sar.")
        if empty := [name for name in ("optical", "sar") if getattr(self, name) == ()]:
            raise ConfigError(f"{empty[0]} is empty. Name its files, or remove it for a map without them.")
        if own := {*_OWN} & self.options.keys():
            raise ConfigError(f"options: {own.pop()} is not an option.")
        if self.block and not min(self.block) >= 0 < min(self.block[2:]):
            raise ConfigError("block must be a row, a column, a height and a width.")


def _refuse_removed(entries: Any, source: Path) -> None:
    """Refuse removed options and outputs, and name the replacement."""
    options = entries.get("options") if isinstance(entries, dict) else None
    if not isinstance(options, dict):
        return
    outputs = options.get("outputs")
    if removed := find_removed(options, outputs if isinstance(outputs, list) else ()):
        instead = f'"outputs": [{json.dumps(removed.output)}]'
        raise ConfigError(f"{source}: {removed.said}. Write {instead} instead, or plan again.")


def path_as_given(path: Path) -> str:
    """Return a path or URL as text."""
    return path.url if isinstance(path, Remote) else str(path)
