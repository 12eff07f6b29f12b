"""The regions file: a training config and its scenes in TOML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refnet_cli.classes.scheme_files import read_scheme, with_ignored
from refnet_cli.errors import ConfigError, OptionsError, WeightsError
from refnet_cli.model.encoders import read_encoders
from refnet_cli.system.config import read_table, read_toml
from refnet_cli.training.config import TrainConfig, TrainScene


def read_regions(path: str | Path, options: Mapping[str, Any] | None = None) -> TrainConfig:
    """Read a regions file.

    Parameters
    ----------
    path : str or Path
        TOML file with the fields of `TrainConfig`, and one ``[[scenes]]`` table (see `TrainScene`) per scene. Paths are
        relative to the file. ``scheme`` may be a table, see `read_scheme`.
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
    entries = read_toml(path)
    scenes = _pop_scenes(entries, path)
    try:
        if isinstance(entries.get("scheme"), dict):
            scheme, ignored = read_scheme(entries.pop("scheme"))
            tables = [table for table in scenes if "label_codes" in table]
            for table in [entries, *tables] if ignored else []:
                table["label_codes"] = with_ignored(scheme, table.get("label_codes"), ignored)
            chosen: dict[str, Any] = {"scheme": scheme}
        else:
            chosen = {}
        if "encoder_weights" in entries:
            chosen["encoder_weights"] = read_encoders(entries.pop("encoder_weights"), path)
        made = tuple(_read_scene(scene, number, path) for number, scene in enumerate(scenes))
        return TrainConfig(scenes=made, **chosen | read_table(TrainConfig, entries, path) | dict(options or {}))
    except (OptionsError, WeightsError, TypeError) as error:
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
    tables = _pop_scenes(read_toml(path), path)
    try:
        known = _regions_to_hold_out([_read_scene(table, number, path) for number, table in enumerate(tables)])
    except (OptionsError, WeightsError, TypeError) as error:
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


def _pop_scenes(entries: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """Remove the [[scenes]] tables from the entries, and return them."""
    tables = entries.pop("scenes", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{path}: scenes must be [[scenes]] tables.")
    return tables


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


def _read_scene(table: dict[str, Any], number: int, path: Path) -> TrainScene:
    values = {"name": f"scene-{number}"} | read_table(TrainScene, table, path)
    missing = [name for name in ("labels",) if name not in values]
    missing += ["optical or sar"] if not values.keys() & {"optical", "sar"} else []
    if missing:
        raise OptionsError(f"{values['name']} (scene {number + 1} in the file) lacks {', '.join(missing)}.")
    return TrainScene(**values)
