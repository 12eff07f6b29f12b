"""Make tasks from a list of scenes, templates and options."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from refnet_cli.batch.identity import identify
from refnet_cli.batch.scene_list import COLUMNS, OPTION_COLUMNS
from refnet_cli.batch.stac_items import ItemFields, stated_offset
from refnet_cli.batch.task import Task
from refnet_cli.batch.task_list import check_distinct
from refnet_cli.batch.templates import (
    NONE,
    Templates,
    describe_row,
    fields_in,
    fields_of_file,
    fill_in,
    input_paths,
    resolve_output,
)
from refnet_cli.errors import InputMissingError, OptionsError
from refnet_cli.model.one_sensor import check_sensors
from refnet_cli.model.weight_files import find_weights, read_card
from refnet_cli.outputs.cog import BLOCK
from refnet_cli.prediction.job import Job, resolve_season
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.scene.absent import absent_sensor, single_sensor_options
from refnet_cli.scene.options import CloudMaskName, Combine, as_paths
from refnet_cli.scene.season_files import SceneDate
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.offset import stac_conflict, stac_tags
from refnet_cli.sensors.sensor import MODALITIES, Modality, other_of
from refnet_cli.system.urls import is_remote
from refnet_cli.system.words import count
from refnet_cli.tiles.window import Window

LOG = logging.getLogger(__name__)
Scene = Mapping[str, str]
"""Values of a scene by column; see `refnet_cli.batch.scene_list.read_scenes`."""
Dated = tuple[PredictOptions, tuple[SceneDate, ...]]


def plan(
    scenes: Sequence[Scene],
    templates: Templates,
    options: Mapping[str, Any],
    folder: Path,
    block: int | None = None,
) -> Iterator[Task]:
    """Make tasks from scenes. Log scenes of one sensor, and contradictions in STAC items.

    Parameters
    ----------
    scenes : sequence of mapping
        See `refnet_cli.batch.scene_list.read_scenes`.
    templates : Templates
    options : mapping
        Options of `refnet_cli.prediction.options.PredictOptions` for all scenes.
    folder : Path
        The folder of relative paths in columns. Those of templates are relative to the working directory.
    block : int, optional
        Side of the blocks into which maps are divided, in pixels; a multiple of `refnet_cli.outputs.cog.BLOCK`.

    Yields
    ------
    Task
        In the order of the scenes; blocks from north to south and west to east.

    Raises
    ------
    OptionsError
        If a scene has no files or lacks a field of a template, if its season and options contradict each other, or if
        the size of blocks is wrong.
    WeightsError
        If a scene lacks a sensor that the weights need.
    ConfigError
        If two scenes have the same output, or the table of a season cannot be understood.
    InputError, InputMissingError
        If the dates of a season contradict each other, or a scene to divide into blocks cannot be opened.
    """
    if templates.season and {templates.optical, templates.sar} - {None, NONE}:
        raise OptionsError("--season names the files of all dates. Remove --optical and --sar.")
    if block is not None and (block < BLOCK or block % BLOCK):
        raise OptionsError(
            f"The side of blocks is {block} pixels and must be a multiple of {BLOCK}."
        )
    tasks = [_task(scene, scenes, templates, options, folder) for scene in scenes]
    if options.get("combine") and not any(task.options.season for task in tasks):
        raise OptionsError("--combine needs several dates, but no scene has a season. Add a column season.")
    check_distinct(tasks)
    known = list(filter(None, map(_with_dates, tasks)))
    _check_sensors(known)
    _log_absent([options.absent for options, _ in known])
    _warn_of_contradictions(tasks)
    _warn_of_missing(tasks)
    for task in tasks:
        for window in [None] if block is None else _blocks(task.options, block):
            planned = replace(task, block=window)
            yield replace(planned, id=identify(planned))


def _task(
    scene: Scene, scenes: Sequence[Scene], templates: Templates, options: Mapping[str, Any], folder: Path
) -> Task:
    season = _season(scene, templates, folder)
    optical = sar = None
    if season is None:
        optical = _sensor("optical", scene, scenes, templates, scene, folder)
        sar = _sensor("sar", scene, scenes, templates, fields_of_file(optical) | dict(scene), folder)
    if not (optical or sar or season):
        nothing = "neither optical nor SAR files" if "season" not in scene else "neither files nor a season"
        raise OptionsError(f"The scene with {describe_row(scene)} has {nothing}. Fill in one of these columns.")
    known = fields_of_file(optical or sar or season) | dict(scene)
    output = fill_in("output", scene, templates.output, known, folder)
    further = tuple(resolve_output(text, known) for text in templates.outputs)
    given: dict[str, Any] = {
        name: Path(os.path.abspath(value)) if isinstance(value, Path) else value for name, value in options.items()
    }
    if str(given.get("scheme", "")).lower().endswith(".toml"):
        given["scheme"] = os.path.abspath(given["scheme"])
    if optical and given.get("optical_offset") is None and "stac" not in given:
        used = [] if scene.get("optical") else fields_in(templates.optical)
        given["stac"] = stated_offset(scene, used) or None
    given |= _own_options(scene, given, season, folder)
    s2, s1 = (input_paths(text) if text else None for text in (optical, sar))
    return Task(PredictOptions(s2, s1, Path(output), outputs=further, **given))


def _sensor(
    sensor: Modality,
    scene: Scene,
    scenes: Sequence[Scene],
    templates: Templates,
    known: Mapping[str, str],
    folder: Path,
) -> str | None:
    """Return the files of a sensor; None if the list or the template says that there are none."""
    template = getattr(templates, sensor)
    if scene.get(sensor) and template == NONE:
        raise OptionsError(
            f"--{sensor} {NONE} says that no scene has {SENSORS[sensor].name} files, but the scene with "
            f"{describe_row(scene)} has. Remove --{sensor} {NONE}, or empty the column {sensor!r}."
        )
    if not scene.get(sensor):
        if template == NONE or (template is None and (sensor in scene or _is_complete(scene, templates))):
            return None
        if template is not None and _lacks_assets(scene, template, scenes):
            return None
    return fill_in(sensor, scene, template, known, folder)


def _is_complete(scene: Scene, templates: Templates) -> bool:
    """Return whether a table has a column of a sensor and the map, and templates use all other columns.

    Then no column can contain the files of the other sensor under another name.
    """
    texts = (templates.optical, templates.sar, templates.output, *templates.outputs)
    used = {field for text in texts for field in fields_in(text)}
    return bool(scene.get("output")) and not scene.keys() - used - {*COLUMNS, *OPTION_COLUMNS}


def _lacks_assets(scene: Scene, template: str, scenes: Sequence[Scene]) -> bool:
    """Return whether a STAC item has none of the assets in a template, and another item of the list has all."""
    named = set(fields_in(template))
    present = any(named <= other.keys() for other in scenes)
    return isinstance(scene, ItemFields) and bool(named) and present and not named & scene.keys()


def _season(scene: Scene, templates: Templates, folder: Path) -> str | None:
    """Return the season of a scene; None if it has files of its own, or the list has no seasons."""
    files = [name for name in MODALITIES if scene.get(name)]
    if not _own(scene, "season"):
        return None if files or templates.season is None else fill_in("season", scene, templates.season, scene, folder)
    if files:
        raise OptionsError(
            f"The scene with {describe_row(scene)} has a season and {' and '.join(files)}. A season names "
            "the files of its dates. Empty one of the columns."
        )
    return fill_in("season", scene, None, scene, folder)


def _own(scene: Scene, name: str) -> str:
    """Return a scene's value in a column of a table. STAC items have no columns, and assets with any names."""
    return "" if isinstance(scene, ItemFields) else scene.get(name, "")


def _own_options(scene: Scene, given: Mapping[str, Any], season: str | None, folder: Path) -> dict[str, Any]:
    """Return the season of a scene, and its own options, which replace those of all scenes."""
    combine, mask = (_own(scene, name) for name in OPTION_COLUMNS)
    if combine and (season is None or combine not in get_args(Combine)):
        why = "has no season" if season is None else f"has the combine {combine!r}"
        raise OptionsError(
            f"The scene with {describe_row(scene)} {why}. The column combine takes {' or '.join(get_args(Combine))}, "
            "and needs a season."
        )
    own: dict[str, Any] = {"season": season and Path(season), "combine": combine or given.get("combine")}
    if season is None:
        own["combine"] = None
    if mask:
        own["cloud_mask"] = mask if mask in get_args(CloudMaskName) else os.path.abspath(folder / mask)
    clouds = str(own.get("cloud_mask") or given.get("cloud_mask") or "")
    if season is not None and clouds and clouds not in get_args(CloudMaskName):
        raise OptionsError(
            f"The scene with {describe_row(scene)} has a season, but the cloud mask {clouds} is of one date. Put a "
            "mask such as SCL among the files of each date and pass --mask-clouds, or use the cloud mask omnicloudmask."
        )
    return own


def _with_dates(task: Task) -> Dated | None:
    """Return the options with the files of all dates, and the dates; None if the season does not exist yet."""
    try:
        return resolve_season(task.options)
    except InputMissingError:
        return None


def _check_sensors(scenes: Sequence[Dated]) -> None:
    """Refuse scenes of one sensor that their weights or options do not allow. All tasks have the same weights."""
    lacking = [(options, found) for options, dates in scenes if any((found := _absences(options, dates)).values())]
    if not lacking:
        return
    card = read_card(find_weights(lacking[0][0].weights))
    for options, absences in lacking:
        what = f"The scene for {options.output}"
        for date, absent in absences.items():
            check_sensors(card, absent, f"{what}{date}")
        try:
            single_sensor_options(options.scene, options.absent)
        except OptionsError as error:
            raise OptionsError(f"{what} cannot be planned with the options of all scenes: {error}") from error


def _absences(options: PredictOptions, dates: Sequence[SceneDate]) -> dict[str, Modality | None]:
    """Return the absent sensor of each prediction: of the scene, and of each date of an ensemble."""
    alone = dates if options.combine == "ensemble" else ()
    return {"": options.absent} | {f" of {one.date}": absent_sensor(one.optical, one.sar) for one in alone}


def _log_absent(found: Sequence[Modality | None]) -> None:
    for absent in MODALITIES:
        if number := found.count(absent):
            name, satellite = SENSORS[absent].name, SENSORS[other_of(absent)].satellite
            LOG.info(f"{number} of {count(len(found), 'scene')} without {name} files, mapped from {satellite} alone")


def _warn_of_contradictions(tasks: Sequence[Task]) -> None:
    for task in tasks:
        if found := stac_conflict(stac_tags(task.options.stac)):
            LOG.warning(
                f"the STAC item of {task.options.output} contradicts itself about the optical offset: {found}. The "
                "offset is determined from the values unless --optical-offset is passed."
            )


def _warn_of_missing(tasks: Sequence[Task]) -> None:
    """Warn about files that do not exist. They may be made before the tasks run."""
    files = [[*as_paths(task.options.optical), *as_paths(task.options.sar)] for task in tasks]
    missing = [[path for path in own if not (is_remote(path) or path.exists())] for own in files]
    if lacking := list(filter(None, missing)):
        LOG.warning(f"{count(len(lacking), 'scene')} of {len(tasks)} without all files; {lacking[0][0]} does not exist")


def _blocks(options: PredictOptions, side: int) -> Iterator[Window]:
    card = read_card(find_weights(options.weights))
    resolved, season = resolve_season(replace(options, coreg="off"))
    with Job(resolved, card, None, None, None, season=season).open_scene(1) as scene:
        full = Window(0, 0, *scene.grid.shape)
    return full.pieces(side)
