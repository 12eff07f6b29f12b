"""From lists of scenes, as tables, STAC items or paths, to tasks."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from refnet_cli.batch.scene_tables import clean, decode, fit_row, is_table, read_rows
from refnet_cli.batch.stac_items import ItemFields, read_items, said_of_offset
from refnet_cli.batch.task import Task, check_distinct, identify
from refnet_cli.errors import ConfigError, InputMissingError, OptionsError
from refnet_cli.model.one_sensor import check_sensors
from refnet_cli.model.weight_files import find_weights, read_card
from refnet_cli.outputs.cog import BLOCK
from refnet_cli.prediction.job import Job, resolve_season
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.removed import find_removed
from refnet_cli.scene.absent import absent_sensor, single_sensor_options
from refnet_cli.scene.options import CloudMaskName, Combine
from refnet_cli.scene.season_files import SceneDate
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.offset import stac_conflict, stac_tags
from refnet_cli.sensors.sensor import MODALITIES, Modality, other_of
from refnet_cli.system.urls import is_remote, split_paths
from refnet_cli.system.words import count
from refnet_cli.tiles.window import Window

LOG = logging.getLogger(__name__)
COLUMNS = ("optical", "sar", "season", "output")
OPTION_COLUMNS = ("combine", "cloud_mask")
"""Options that a table may give for each scene; an empty cell leaves what holds for all."""
NONE = "none"
"""Template of a sensor that no scene has files of."""
ListedColumn = Literal["optical", "sar", "season"]
Dated = tuple[PredictOptions, tuple[SceneDate, ...]]
_FIELD = re.compile(r"\{([\w.-]+)\}")


@dataclass(frozen=True)
class Templates:
    """Texts in which ``{field}`` stands for what a scene says of itself; a scene's own column goes first."""

    optical: str | None = None
    """`NONE` where no scene has any."""
    sar: str | None = None
    output: str | None = None
    outputs: tuple[str, ...] = ()
    """Further outputs, as `refnet_cli.prediction.options.PredictOptions.outputs`."""
    season: str | None = None

    @property
    def listed(self) -> ListedColumn:
        """What a list of paths is of: optical files, SAR files if no scene has those, or seasons."""
        if self.optical != NONE:
            return "optical"
        return "sar" if self.sar != NONE else "season"


def read_scenes(
    text: str, folder: Path, null: bool = False, column: ListedColumn = "optical"
) -> list[dict[str, str]]:
    """Read what is said of scenes: a STAC ItemCollection, a CSV table with a header, or paths.

    Parameters
    ----------
    text : str
        The whole list. It is STAC if it begins with a brace, and a table if its first line has commas, semicolons or a
        column "optical", "sar" or "season"; else each line is a path. Of tables and paths, lines that begin with # are
        comments.
    folder : Path
        That relative paths in it are relative to.
    null : bool
        Paths end with a zero byte, as those of ``find -print0``.
    column : {"optical", "sar", "season"}
        What a list of paths names: files of a sensor, or seasons.

    Returns
    -------
    list of dict
        The fields of each scene. Of STAC items those of `refnet_cli.batch.stac_items.read_items`; of tables the
        columns; of paths the column.

    Raises
    ------
    ConfigError
        If it is empty or cannot be understood.
    """
    text = text.removeprefix("\ufeff")
    if null:
        scenes: list[dict[str, str]] = [{column: path} for path in text.split("\0") if path]
    elif text.lstrip().startswith("{"):
        scenes = list(read_items(text, folder))
    else:
        lines = clean(text, folder)
        paths = (line.strip() for line in lines if line)
        scenes = list(_read_table(lines)) if is_table(lines, folder) else [{column: path} for path in paths]
    if not scenes:
        raise ConfigError("The list of scenes is empty.")
    return scenes


def _read_table(lines: Sequence[str]) -> Iterator[dict[str, str]]:
    rows = read_rows(lines)
    _, names = next(rows, (0, []))
    known = *COLUMNS, *OPTION_COLUMNS
    options = {field.name for field in fields(PredictOptions)} - {*known}
    columns = [name.lower() if name.lower() in known else name for name in names]
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise ConfigError(f"The table has two columns {twice[0]!r}: leave one of them.")
    wrong = sorted(options & {*columns})
    for name in columns:
        if gone := find_removed({name: f"{{{name}_file}}"}):
            raise ConfigError(
                f"The table has a column {name!r}, but {gone.said}: name the column {name}_file and give --also "
                f"{shlex.quote(gone.output)} instead."
            )
    if wrong:
        raise ConfigError(f"The table has a column {wrong[0]!r}, but options hold for all scenes: give it as one.")
    for number, values in rows:
        yield fit_row(columns, values, number)


def plan(
    scenes: Sequence[Mapping[str, str]],
    templates: Templates,
    options: Mapping[str, Any],
    folder: Path,
    block: int | None = None,
) -> Iterator[Task]:
    """Make tasks of scenes; log how many lack a sensor, and STAC items that contradict themselves.

    Parameters
    ----------
    scenes : sequence of mapping
        What `read_scenes` returned.
    templates : Templates
    options : mapping
        Of `refnet_cli.prediction.options.PredictOptions`, the same for all.
    folder : Path
        That paths in columns are relative to; those in templates are relative to the working directory.
    block : int, optional
        Side of the blocks that maps are cut into, in pixels.

    Yields
    ------
    Task
        In the order of the scenes, blocks from north to south and west to east.

    Raises
    ------
    OptionsError
        If a scene lacks a field that a template names or has no files at all, its season and options contradict each
        other, or the blocks are impossible.
    WeightsError
        If a scene lacks a sensor that the weights need.
    ConfigError
        If two scenes would make the same map, or the table of a season cannot be understood.
    InputError, InputMissingError
        If the dates of a season contradict each other; or if blocks are asked for and a scene cannot be opened to see
        how large it is.
    """
    if templates.season and {templates.optical, templates.sar} - {None, NONE}:
        raise OptionsError("--season names the files of all dates: leave out --optical and --sar.")
    if block is not None and (block < BLOCK or block % BLOCK):
        raise OptionsError(f"Blocks of {block} pixels are no whole tiles of the map: give a multiple of {BLOCK}.")
    tasks = [_task(scene, scenes, templates, options, folder) for scene in scenes]
    if options.get("combine") and not any(task.options.season for task in tasks):
        raise OptionsError("--combine needs several dates, but no scene has a season: add a column season.")
    check_distinct(tasks)
    known = list(filter(None, map(_with_dates, tasks)))
    _check_sensors(known)
    _log_absent([options.absent for options, _ in known])
    _warn_of_contradictions(tasks)
    for task in tasks:
        for part in [None] if block is None else _blocks(task.options, block):
            placed = replace(task, block=part)
            yield replace(placed, id=identify(placed))


def _warn_of_contradictions(tasks: Sequence[Task]) -> None:
    for task in tasks:
        if found := stac_conflict(stac_tags(task.options.stac)):
            LOG.warning(
                f"the STAC item for {task.options.output} contradicts itself about the optical offset: "
                f"{found}. The values will decide it, unless --optical-offset does."
            )


def _with_dates(task: Task) -> Dated | None:
    """Return the options with the files of all dates, and the dates; None for a season that is not there yet."""
    try:
        return resolve_season(task.options)
    except InputMissingError:
        return None


def _check_sensors(scenes: Sequence[Dated]) -> None:
    """Refuse scenes of one sensor that their weights or options do not allow; all tasks have the same weights."""
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
            raise OptionsError(f"{what} cannot be planned with the options for all: {error}") from error


def _absences(options: PredictOptions, dates: Sequence[SceneDate]) -> dict[str, Modality | None]:
    """Return the sensor that each prediction lacks: that of a scene, and those of an ensemble's dates."""
    alone = dates if options.combine == "ensemble" else ()
    return {"": options.absent} | {f" of {one.date}": absent_sensor(one.optical, one.sar) for one in alone}


def _log_absent(found: Sequence[Modality | None]) -> None:
    for absent in MODALITIES:
        if number := found.count(absent):
            name, satellite = SENSORS[absent].name, SENSORS[other_of(absent)].satellite
            LOG.info(f"{number} of {count(len(found), 'scene')} without {name} files, mapped from {satellite} alone")


def _task(
    scene: Mapping[str, str],
    scenes: Sequence[Mapping[str, str]],
    templates: Templates,
    options: Mapping[str, Any],
    folder: Path,
) -> Task:
    season = _season(scene, templates, folder)
    optical = sar = None
    if season is None:
        optical = _sensor("optical", scene, scenes, templates, scene, folder)
        fields_ = _of_file(optical) | dict(scene)
        sar = _sensor("sar", scene, scenes, templates, fields_, folder)
    if not (optical or sar or season):
        nothing = "neither optical nor SAR files" if "season" not in scene else "neither files nor a season"
        raise OptionsError(f"The scene with {_row(scene)} has {nothing}: fill in a column of them.")
    fields_ = _of_file(optical or sar or season) | dict(scene)
    output = _fill_in("output", scene, templates.output, fields_, folder)
    further = tuple(_placed(_resolved(text, fields_)) for text in templates.outputs)
    given: dict[str, Any] = {
        name: Path(os.path.abspath(value)) if isinstance(value, Path) else value for name, value in options.items()
    }
    if str(given.get("scheme", "")).lower().endswith(".toml"):
        given["scheme"] = os.path.abspath(given["scheme"])
    if optical and given.get("optical_offset") is None and "stac" not in given:
        used = _FIELD.findall(templates.optical or "") if not scene.get("optical") else []
        given["stac"] = said_of_offset(scene, used) or None
    given |= _own_options(scene, given, season, folder)
    s2, s1 = (_inputs(text) if text else None for text in (optical, sar))
    return Task(PredictOptions(s2, s1, Path(output), outputs=further, **given))


def _own(name: str, scene: Mapping[str, str]) -> str:
    """Return a scene's value in a table's column; assets of STAC items may have any name."""
    return "" if isinstance(scene, ItemFields) else scene.get(name, "")


def _season(scene: Mapping[str, str], templates: Templates, folder: Path) -> str | None:
    """Return the season of a scene; None where it has files of its own, or the list has no seasons."""
    files = [name for name in MODALITIES if scene.get(name)]
    if not _own("season", scene):
        return None if files or templates.season is None else _fill_in("season", scene, templates.season, scene, folder)
    if files:
        raise OptionsError(
            f"The scene with {_row(scene)} has a season and {' and '.join(files)}. A season names "
            "the files of its dates: empty one of the columns."
        )
    return _fill_in("season", scene, None, scene, folder)


def _own_options(
    scene: Mapping[str, str], given: Mapping[str, Any], season: str | None, folder: Path
) -> dict[str, Any]:
    """Return the season of a scene, and its options in place of those for all."""
    combine, mask = (_own(name, scene) for name in OPTION_COLUMNS)
    if combine and (season is None or combine not in get_args(Combine)):
        why = "has no season" if season is None else f"has the combine {combine!r}"
        raise OptionsError(
            f"The scene with {_row(scene)} {why}. The column combine takes {' or '.join(get_args(Combine))}, and needs "
            "a season."
        )
    own: dict[str, Any] = {"season": season and Path(season), "combine": combine or given.get("combine")}
    if season is None:
        own["combine"] = None
    if mask:
        own["cloud_mask"] = mask if mask in get_args(CloudMaskName) else os.path.abspath(folder / mask)
    clouds = str(own.get("cloud_mask") or given.get("cloud_mask") or "")
    if season is not None and clouds and clouds not in get_args(CloudMaskName):
        raise OptionsError(
            f"The scene with {_row(scene)} has a season, but the cloud mask {clouds} is of one date. Put a mask such "
            "as SCL among the files of each date and pass --mask-clouds, or give the cloud mask omnicloudmask."
        )
    return own


def _of_file(text: str | None) -> dict[str, str]:
    """Return the fields that the first file of a scene gives; none without files."""
    if text is None:
        return {}
    place = _inputs(text)[0]
    return {
        "path": text, "name": place.name, "stem": _stem(place), "parent": str(place.parent),
        "folder": place.parent.name,
    }  # fmt: skip


def _sensor(
    what: Modality,
    scene: Mapping[str, str],
    scenes: Sequence[Mapping[str, str]],
    templates: Templates,
    known: Mapping[str, str],
    folder: Path,
) -> str | None:
    """Return the files of a sensor as `_fill_in` does; None where the list or the template says that there are none."""
    template = getattr(templates, what)
    if scene.get(what) and template == NONE:
        raise OptionsError(
            f"--{what} {NONE} says that no scene has {SENSORS[what].name} files, but the scene with {_row(scene)} has: "
            f"leave --{what} {NONE} out, or empty the column {what!r}."
        )
    if not scene.get(what):
        if template == NONE or (template is None and (what in scene or _is_complete(scene, templates))):
            return None
        if template is not None and _lacks_assets(scene, template, scenes):
            return None
    return _fill_in(what, scene, template, known, folder)


def _is_complete(scene: Mapping[str, str], templates: Templates) -> bool:
    """Whether a table names a sensor and the map, and every other column is a field that a template uses.

    Then no column can be that of the other sensor under another name.
    """
    texts = (templates.optical, templates.sar, templates.output, *templates.outputs)
    used = {field for text in texts for field in _FIELD.findall(text or "")}
    return bool(scene.get("output")) and not scene.keys() - used - {*COLUMNS, *OPTION_COLUMNS}


def _lacks_assets(scene: Mapping[str, str], template: str, scenes: Sequence[Mapping[str, str]]) -> bool:
    """Whether a STAC item has none of the assets that a template names, and another item of the list has all."""
    named = set(_FIELD.findall(template))
    there = any(named <= other.keys() for other in scenes)
    return isinstance(scene, ItemFields) and bool(named) and there and not named & scene.keys()


def _row(scene: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in scene.items() if value)


def _placed(output: str) -> str:
    kind, equals, path = output.partition("=")
    return f"{kind}={os.path.abspath(path)}" if equals else output


def _stem(path: Path) -> str:
    return re.sub(r"\.(tiff?|jp2|safe|zip|vrt|csv)$", "", path.name, flags=re.IGNORECASE)


def _fill_in(
    what: str, scene: Mapping[str, str], template: str | None, known: Mapping[str, str], folder: Path
) -> str:
    """Return a scene's own column, else what the template says; both with absolute paths."""
    if scene.get(what):
        return _absolute(what, scene[what], scene, folder)
    if template is None and what in scene:
        raise OptionsError(f"The scene with {_row(scene)} has no {what}: fill in its column {what!r}.")
    if template is None:
        none = f" Where no scene has any, give --{what} {NONE}." if what in MODALITIES else ""
        raise OptionsError(
            f"Nothing tells the {what} of the scenes: give the table a column {what!r}, or "
            f"--{'map' if what == 'output' else what} a text with fields in braces, of {_listed(known)}.{none}"
        )
    return _absolute(what, _resolved(template, known), scene, Path.cwd())


def _resolved(template: str, known: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in known:
            raise OptionsError(f"{template!r} names {{{found[1]}}}, but a scene has {_listed(known)}.")
        return known[found[1]]

    return _FIELD.sub(value, template)


def _listed(known: Mapping[str, str]) -> str:
    return ", ".join(f"{{{name}}}" for name in known)


def _absolute(what: str, text: str, scene: Mapping[str, str], folder: Path) -> str:
    one = what in ("season", "output") or os.path.exists(folder / text)  # only inputs may be several
    parts = [text] if one and text else split_paths(text)
    if not all(parts):
        none = f" A scene without any has an empty cell in a column {what!r}." if what in MODALITIES else ""
        raise OptionsError(
            f"The scene with {_row(scene)} has an empty path as its {what}: fill in the field that the path comes from."
            f"{none}"
        )
    return ",".join(part if is_remote(part) else os.path.abspath(folder / part) for part in parts)


def _inputs(text: str) -> tuple[Path, ...]:
    return tuple(map(Path, [text] if os.path.exists(text) else split_paths(text)))


def _blocks(options: PredictOptions, side: int) -> Iterator[Window]:
    card = read_card(find_weights(options.weights))
    resolved, season = resolve_season(replace(options, coreg="off"))
    with Job(resolved, card, None, None, None, season=season).open_scene(1) as scene:
        whole = Window(0, 0, *scene.grid.shape)
    return whole.pieces(side)


def read_list(source: Path | None, stdin: Any, null: bool = False) -> tuple[str, Path, str]:
    """Return the text of a list of scenes, the folder that its paths are relative to, and its encoding if guessed.

    Parameters
    ----------
    source : Path or None
        None for ``stdin``.
    stdin : file
        With a ``buffer`` of bytes.
    null : bool
        The list is of paths that end with a zero byte.

    Raises
    ------
    InputMissingError
        If it cannot be read.
    ConfigError
        If it is damaged.
    """
    folder = Path.cwd() if source is None else source.absolute().parent
    try:
        stored = stdin.buffer.read() if source is None else source.read_bytes()
    except OSError as error:
        raise InputMissingError(f"The list of scenes {source} cannot be read: {error.strerror}.") from error
    text, guessed = (os.fsdecode(stored), "") if null else decode(stored, folder)
    return text, folder, guessed
