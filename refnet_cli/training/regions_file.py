"""The regions file: a training config and its scenes in TOML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from refnet_cli.classes.scheme_files import SchemeTable, with_ignored
from refnet_cli.errors import ConfigError, OptionsError, WeightsError
from refnet_cli.model.encoders import ENCODERS, IMAGENET, EncoderTable
from refnet_cli.raster.vectors import VECTORS
from refnet_cli.scene.absent import options_that_need
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.season_files import read_season
from refnet_cli.sensors.sensor import MODALITIES
from refnet_cli.system.config import read, read_toml, some
from refnet_cli.training.config import TrainConfig, TrainScene

_OF_ONE_SCENE = ("stac", "bounds", "grid", "cloud_mask")
_OF_VECTORS = ("label_field", "label_layer")
SHARED = (
    *(
        field.name for field in fields(SceneOptions)
        if field.name not in (*_OF_ONE_SCENE, *(other.name for other in fields(TrainConfig)))
    ),
    *_OF_VECTORS,
)  # fmt: skip
"""Options of scenes that may stand once at the top of the file; ``optical_bands`` there are those of the network."""


def read_regions(path: str | Path, options: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a regions file.

    Parameters
    ----------
    path : str or Path
        TOML file with the fields of `TrainConfig`, and one ``[[scenes]]`` table (see `TrainScene`) per scene. The
        options in `SHARED` may stand above the scenes, for all scenes without their own. Paths are relative to the
        file. ``scheme`` may be a table, see `SchemeTable`.
    options : mapping, optional
        Fields of `TrainConfig` that override those of the file.

    Raises
    ------
    InputMissingError
        If the file does not exist.
    ConfigError
        If it is not valid TOML, or has unknown or invalid entries.
    """
    path = Path(path)
    values = _read(path)
    try:
        if isinstance(table := values.get("scheme"), SchemeTable):
            values |= _use(table, **values)
        return TrainConfig(**values | dict(options or {}))
    except (OptionsError, WeightsError) as error:
        raise ConfigError(f"{path}: {error}") from error


def read_folds(path: str | Path, folds: str, options: Mapping[str, Any] | None = None) -> dict[str, TrainConfig]:
    """Read the configs of a leave-one-region-out validation from a regions file.

    Parameters
    ----------
    path, options
        See `read_regions`.
    folds : str
        ``all``, or region names separated by commas. A region whose scenes all have ``split = "train"`` is always for
        training, and not part of ``all``.

    Returns
    -------
    dict
        Config of each fold by its held-out region, in the order of the scenes.

    Raises
    ------
    OptionsError
        If a region cannot be held out.
    InputMissingError, ConfigError
        See `read_regions`.
    """
    path, options = Path(path), dict(options or {})
    if options.get("split", "region") != "region":
        raise OptionsError(f"--folds holds out regions, but split is {options['split']!r}. Remove one of them.")
    try:
        known = _regions_to_hold_out(_read(path)["scenes"])
    except OptionsError as error:
        raise ConfigError(f"{path}: {error}") from error
    chosen = known if folds == "all" else [folds] if folds in known else [name.strip() for name in folds.split(",")]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise OptionsError(
            f"{path} has no region {', '.join(map(repr, unknown)) or 'at all'} to hold out. Regions that can be held "
            f'out (no scene with split = "train"): {", ".join(known) or "none"}.'
        )
    named = [name for name in known if name in chosen]
    return {name: read_regions(path, options | {"split": "region", "fold": name}) for name in named}


@dataclass(frozen=True)
class _RegionsFile(TrainConfig):
    """What a regions file may say; two things in other ways than Python does."""

    scheme: str | SchemeTable = ""  # type: ignore[assignment]
    encoder_weights: Literal[IMAGENET, *ENCODERS] | Path | EncoderTable | None = None  # type: ignore[assignment, valid-type]


def _read(path: Path) -> dict[str, Any]:
    """Read the entries of a regions file; scenes without a name are numbered."""
    entries = read_toml(path)
    tables = entries.setdefault("scenes", [])
    if isinstance(tables, list):
        shared = {name: entries.pop(name) for name in SHARED if name in entries}
        named = [
            {"name": f"scene-{number}"} | table if isinstance(table, dict) else table
            for number, table in enumerate(tables)
        ]
        dated = [each for table in named for each in _dates_of(table, path)]
        entries["scenes"] = [
            _suitable(shared, table) | table if isinstance(table, dict) else table for table in dated
        ]
    return read(some(_RegionsFile), entries, path, path.parent)


def _dates_of(table: Any, path: Path) -> list[Any]:
    """Return a scene for each date of a table with ``season``, in one region; other tables as they are.

    ``season`` is what `read_season` reads, relative to the regions file, or a list of tables with ``date``, ``optical``
    and ``sar``.
    """
    if not isinstance(table, dict) or "season" not in table:
        return [table]
    season, name = table["season"], str(table["name"])
    where = f"{path}: {name}"
    if given := {"optical", "sar", "dates"} & table.keys():
        listed = ", ".join(sorted(given))
        raise ConfigError(f"{where} has season and {listed}, but a season names the files of all dates. Remove one.")
    if isinstance(season, str):
        scenes = read_season((path.parent / season).absolute())
        files = [(scene.date, {"optical": scene.optical, "sar": scene.sar}) for scene in scenes]
        dated = [(date, {key: [*map(str, paths)] for key, paths in both.items() if paths}) for date, both in files]
    elif isinstance(season, list) and season and all(isinstance(one, dict) and "date" in one for one in season):
        dated = [(str(one["date"]), {key: value for key, value in one.items() if key != "date"}) for one in season]
    else:
        raise ConfigError(f"{where}: season must be a file, a folder, or a list of tables with date, optical and sar.")
    days = [date for date, _ in dated]
    if twice := {date for date in days if days.count(date) > 1}:
        raise ConfigError(f"{where} has the date {twice.pop()} twice. Keep one of them.")
    rest = {key: value for key, value in table.items() if key != "season"}
    return [{"region": name} | rest | files | {"name": f"{name} {date}", "dates": len(dated)} for date, files in dated]


def _suitable(shared: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shared options that apply to a scene: not those of a sensor that it lacks."""
    unsuitable = {name for sensor in MODALITIES if sensor not in table for name in options_that_need(sensor)}
    if Path(str(table.get("labels"))).suffix.lower() not in VECTORS:
        unsuitable.update(_OF_VECTORS)
    return {name: value for name, value in shared.items() if name not in unsuitable}


def _use(
    table: SchemeTable, scenes: Sequence[TrainScene], label_codes: dict[str, str] | None = None, **_: Any
) -> dict[str, Any]:
    """Return the entries that a class scheme of a regions file changes: itself, and what labels' codes stand for."""
    scheme, ignored = table.scheme, table.ignored
    return {
        "scheme": scheme,
        "label_codes": with_ignored(scheme, label_codes, ignored),
        "scenes": [
            scene if scene.label_codes is None
            else replace(scene, label_codes=with_ignored(scheme, scene.label_codes, ignored))
            for scene in scenes
        ],
    }  # fmt: skip


def _regions_to_hold_out(scenes: Sequence[TrainScene]) -> list[str]:
    """Return the names of the regions in which no scene is fixed to training.

    Raises
    ------
    OptionsError
        If a scene is fixed to validation, or only some scenes of a region are fixed to training.
    """
    marks: dict[str, set[str | None]] = {}
    for scene in scenes:
        if scene.split == "validation":
            raise OptionsError(
                f'{scene.name} has split = "validation", so every fold would score it. With --folds, remove its split, '
                "or the scene."
            )
        marks.setdefault(scene.region_name, set()).add(scene.split)
    if mixed := [region for region, found in marks.items() if len(found) > 1]:
        raise OptionsError(
            f'Some scenes of {", ".join(mixed)} have split = "train", so the region cannot be held out as a whole. Set '
            "it for all of the region's scenes or for none, or move these scenes to another region."
        )
    return [region for region, found in marks.items() if found == {None}]
