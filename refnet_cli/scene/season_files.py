"""The dates of a season: a table of scenes, or a folder of dated ones."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from datetime import date as Day
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from refnet_cli.errors import ConfigError, InputError, InputMissingError, OptionsError, RefnetError
from refnet_cli.raster.acquired import ACQUIRED
from refnet_cli.raster.raster import Raster
from refnet_cli.sensors import SENSORS
from refnet_cli.sensors.dates import acquisition_time, parse_dates
from refnet_cli.sensors.sensor import MODALITIES, Modality
from refnet_cli.system.urls import Remote, is_remote, parse_paths, split_paths

TABLE = "scenes.csv"
"""The table that ``refnet fetch`` writes into its folder."""
COLUMNS = ("date", "optical", "sar")
MOST_DATES = 255
_DATED = re.compile(r"(?<!\d)((?:19|20)\d\d)-?(\d\d)-?(\d\d)(?!\d)")
_NAMED: dict[Modality, re.Pattern[str]] = {
    "optical": re.compile(r"s2|sentinel-?2|optical", re.IGNORECASE),
    "sar": re.compile(r"s1|sentinel-?1|sar", re.IGNORECASE),
}
_TRACKS = {"A": (73, 175), "B": (27, 175), "C": (172, 175)}  # relative from absolute orbits, ESA's Sentinel-1 handbook
_ABSOLUTE = re.compile(r"\bS1([ABC])_.*?_(\d{6})_[0-9A-F]{6}_", re.IGNORECASE)
Paths = tuple[Path, ...]


class SceneDate(NamedTuple):
    """The files of one date."""

    date: str
    """Day or time in ISO 8601."""
    optical: Paths | None
    sar: Paths | None

    @property
    def span(self) -> tuple[str, str]:
        """Start and end in ISO 8601, UTC."""
        return parse_dates(self.date)

    @property
    def names(self) -> str:
        """The date and the names of its files."""
        return f"{self.date}: {' + '.join(path.name for path in (*(self.optical or ()), *(self.sar or ())))}"


def read_season(path: Path) -> tuple[SceneDate, ...]:
    """Read the dates of a season, sorted.

    Parameters
    ----------
    path : Path
        A CSV table with the columns of `COLUMNS`, whose paths are relative to it; the date may be left to the names and
        tags of the files, other columns are ignored. A folder with such a table, `TABLE`, as ``refnet fetch`` writes.
        Or a folder of products and dated folders, where each optical image takes the SAR pass nearest in time.

    Raises
    ------
    InputMissingError
        If there is nothing there.
    ConfigError
        If the table cannot be read, or a scene has no date.
    InputError
        If two scenes have the same date, a table has scenes of several regions, or there are more than `MOST_DATES`.
    """
    table = table_of_season(path)
    if table.is_file():
        found = list(_of_table(table))
    elif path.is_dir():
        found = list(_of_folder(path))
    else:
        raise InputMissingError(f"The season {path} does not exist. Pass a CSV table or a folder of dated scenes.")
    if not found:
        raise InputMissingError(
            f"The season {path} has no scene. Pass a CSV table with the columns {', '.join(COLUMNS)}, or a folder of "
            "products or of folders that are named after dates and contain s2.tif and s1.tif."
        )
    found.sort(key=lambda scene: scene.span)
    for one, other in pairwise(found):
        if one.span == other.span:
            raise InputError(f"The season {path} has two scenes of {one.date}. Keep one of them, or give their times.")
    if len(found) > MOST_DATES:
        raise InputError(f"The season {path} has {len(found)} dates (limit {MOST_DATES}). Leave some out.")
    return tuple(found)


def _of_table(path: Path) -> Iterator[SceneDate]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputMissingError(f"The season {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"The season {path} is not UTF-8 ({error.reason}). Save it as CSV in UTF-8.") from error
    head = next((line for line in text.splitlines() if line.strip()), "")
    rows = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=head.count), skipinitialspace=True)
    columns = [str(name).strip().lower() for name in rows.fieldnames or ()]
    rows.fieldnames = columns
    if not {"optical", "sar"} & {*columns}:
        raise ConfigError(f"The season {path} has the columns {', '.join(columns)}; it needs {', '.join(COLUMNS)}.")
    regions: set[str] = set()
    for row in rows:
        where = f"Line {rows.line_num} of {path}"
        if None in row or None in row.values():  # how csv names what is too much or missing
            raise ConfigError(f"{where} does not have {len(columns)} values.")
        values = {name: str(value).strip() for name, value in row.items()}
        files = {sensor: _paths(values.get(sensor, ""), path.parent) for sensor in MODALITIES}
        regions.add(values.get("region", "") or "")
        if len(regions - {""}) > 1:
            raise InputError(
                f"The season {path} has scenes of several regions, {' and '.join(sorted(regions - {''}))}; a season is "
                "of one place. Pass the table or folder of one of them, or write one for each."
            )
        if any(values.values()):
            yield _dated(values.get("date") or values.get("dates", ""), files["optical"], files["sar"], where)


def _paths(text: str, folder: Path) -> Paths | None:
    given = [part for part in split_paths(text) if part]
    found: tuple[Path, ...] = parse_paths([part if is_remote(part) else folder / part for part in given])
    return found or None


def _dated(given: str, optical: Paths | None, sar: Paths | None, where: str) -> SceneDate:
    """Return a scene with its date as it is given, or as its files tell."""
    if not (optical or sar):
        raise ConfigError(f"{where} has neither optical nor SAR files.")
    days = given.replace(";", " ").split()
    try:
        if len(days) > 1:  # refnet fetch lists the days of images that fill each other's holes
            given = f"{min(days)}/{max(days)}"
        if given:
            parse_dates(given)
    except OptionsError as error:
        raise ConfigError(f"{where}: {error}") from error
    found = given or date_of(optical or sar or ())
    if not found:
        raise ConfigError(
            f"{where} has no date, and the names and tags of its files tell none. Put the date into the file's name, "
            "such as s2_2021-06-10.tif, or list the scenes in a table with a column date."
        )
    return SceneDate(found, optical, sar)


def date_of(paths: Paths) -> str:
    """Return the date that the names of files, their tags, or the name of their folder tell; "" without one."""
    names = [path.name for path in paths] + [paths[0].parent.name]
    if found := next(filter(None, map(acquisition_time, names)), None):
        return found
    if span := tags_of(paths).get(ACQUIRED):
        return span.partition("/")[0]
    for name in names:
        for match in _DATED.finditer(name):
            try:
                return Day(*map(int, match.groups())).isoformat()
            except ValueError:
                continue
    return ""


def tags_of(paths: Paths) -> dict[str, str]:
    """Return the tags of the first file; none of what is no local raster file."""
    if isinstance(paths[0], Remote) or not paths[0].is_file():
        return {}
    try:
        raster = Raster(paths[0], "input")
    except RefnetError:  # reading it as a scene says what is wrong
        return {}
    try:
        return dict(raster.dataset.tags())
    finally:
        raster.close()


def orbit_of(paths: Paths) -> str | None:
    """Return the relative orbit of a SAR pass, from the tags that ``refnet fetch`` writes or a product's name."""
    tags = tags_of(paths)
    if orbit := tags.get("RELATIVE_ORBIT"):
        return f"{orbit} {tags.get('ORBIT_STATE', '')}".strip()
    for path in paths:
        if match := _ABSOLUTE.search(path.name):
            first, count = _TRACKS[match[1].upper()]
            return str((int(match[2]) - first) % count + 1)
    return None


def pass_of(paths: Paths) -> str:
    """Return what tells SAR passes apart: when one was acquired, or its files."""
    times = next(filter(None, (acquisition_time(path.name) for path in paths)), None)
    return tags_of(paths).get(ACQUIRED) or (times if times and "T" in times else ",".join(map(str, paths)))


def _of_folder(folder: Path) -> Iterator[SceneDate]:
    """Yield the scenes of folders that contain both sensors, and pairs of products nearest in time."""
    alone: dict[Modality, list[tuple[str, Path]]] = {sensor: [] for sensor in MODALITIES}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        inside = {sensor: _files_in(entry, sensor) for sensor in MODALITIES}
        if entry.is_dir() and entry.suffix.upper() != ".SAFE" and any(inside.values()):
            yield _dated("", inside["optical"], inside["sar"], f"The scene {entry}")
        elif entry.is_dir() or entry.suffix.lower() in (".tif", ".tiff", ".zip"):
            sensor = next((key for key in MODALITIES if _is_of(entry, key)), None)
            if sensor:
                alone[sensor].append((_dated("", (entry,), None, f"The scene {entry}").date, entry))
    yield from _paired(alone)


def _files_in(folder: Path, sensor: Modality) -> Paths | None:
    """Return the raster file of a sensor in a dated folder, if there is exactly one."""
    if not folder.is_dir():
        return None
    rasters = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".tif", ".tiff"))
    found = [path for path in rasters if _is_of(path, sensor)]
    if len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise InputError(f"The folder {folder} has {len(found)} {SENSORS[sensor].name} files: {listed}. Keep one.")
    return tuple(found) or None


def _is_of(path: Path, sensor: Modality) -> bool:
    return bool(_NAMED[sensor].match(path.name))


def _paired(alone: dict[Modality, list[tuple[str, Path]]]) -> Iterator[SceneDate]:
    passes = [(datetime.fromisoformat(parse_dates(date)[0]), path) for date, path in alone["sar"]]
    for date, path in alone["optical"]:
        when = datetime.fromisoformat(parse_dates(date)[0])
        nearest = min(passes, key=lambda one: (abs(one[0] - when), one[0]), default=None)
        yield SceneDate(date, (path,), (nearest[1],) if nearest else None)
    if not alone["optical"]:
        yield from (SceneDate(date, None, (path,)) for date, path in alone["sar"])


def table_of_season(path: Path) -> Path:
    """Return the table of a season: the file itself, or what a folder's table is named, whether or not it has one."""
    return path / TABLE if path.is_dir() else path


def files_of_season(dates: Sequence[SceneDate], sensor: Modality) -> Paths | None:
    """Return the files of a sensor of all dates, each once; None without any."""
    files = [path for scene in dates for path in getattr(scene, sensor) or ()]
    return tuple(dict.fromkeys(files)) or None
