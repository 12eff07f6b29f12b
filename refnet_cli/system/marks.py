"""Recognise refnet's own output files: only these are replaced without ``--overwrite``.

Every output carries a mark, the version that wrote it, in the metadata of its format. A mark holds no time, so that
equal inputs still give equal bytes. CSV tables have no metadata: they are recognised by their header and by the type of
each column. No format's library is needed, because this check runs before these libraries are imported.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from refnet_cli.errors import OutputError, WeightsError
from refnet_cli.system.atomic import check_distinct_paths, check_ending, check_folder
from refnet_cli.system.onnx_metadata import is_onnx, read_metadata
from refnet_cli.version import __version__

MARK = "REFNET_VERSION"
"""Name of the mark; its value is the version."""
XML_MARK = f"<!-- {MARK} {__version__} -->\n".encode()
"""Last line of an XML file."""
JOURNAL_MARK = b"refnet journal "
"""First bytes of journals and block files; the version follows."""
GEOPACKAGE_TIME = "2000-01-01T00:00:00.000Z"
"""The time of the last change that refnet's GeoPackages state."""
_TABLES = (
    ("class_code", "class_name", "hectares", "share"),
    ("zone", "class_code", "class_name", "hectares", "share"),
    ("old_code", "old_name", "new_code", "new_name", "hectares", "share"),
    ("zone", "old_code", "old_name", "new_code", "new_name", "hectares", "share"),
    ("step", "loss", "auxiliary_loss", "learning_rate"),
    ("step", "overall_accuracy", "balanced_accuracy", "mean_iou", "mean_f1", "kappa"),
    ("region", "labelled_pixels", "overall_accuracy", "balanced_accuracy", "mean_iou", "temperature"),
    ("name", "region", "optical", "sar", "labels", "dates", "clear", "sar_pass", "output"),
    ("name", "region", "season", "dates", "output"),
)
"""Columns of the tables."""
_LAST = ("kappa", "temperature")
"""Last columns before those of the classes."""
_TEXTS = {"class_name", "old_name", "new_name", "zone", "region", "name", "optical", "sar", "labels", "dates",
          "sar_pass", "season", "output"}  # fmt: skip
_SIDECAR = re.compile(r'\{\s*"id": "[0-9a-f]{16}",\s*"files": \[')  # a finished task's sidecar, even if truncated
_MOST = 64 * 2**20  # most bytes of a file that are read
_GDAL_METADATA, _BLOCK_OFFSETS, _BLOCK_SIZES = 42112, 324, 325  # TIFF's tags
_TIFF_TYPES = {3: "H", 4: "I", 16: "Q"}
_LISTED = 3  # most files that a message names


def check_replaceable(outputs: Iterable[Path | None], overwrite: bool) -> None:
    """Refuse to replace files that refnet did not write.

    Empty files may be replaced. Folders and devices are not checked here.

    Parameters
    ----------
    outputs : iterable of Path or None
        None stands for a file that was not requested.
    overwrite : bool
        Whether any file may be replaced.

    Raises
    ------
    OutputError
        If such files exist; the message names them.
    """
    if overwrite:
        return
    found = [str(path) for path in outputs if path is not None and path.is_file() and not is_refnet_output(path)]
    if found:
        listed = ", ".join(found[:_LISTED]) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
        raise OutputError(
            f"{listed} would be replaced, but refnet did not write this file, or another program has changed it. "
            "Choose another name, or pass --overwrite to replace it. (Some files of refnet 0.1 carry no mark.)"
        )


def check_output(
    output: Path, endings: Sequence[str], what: str, inputs: Iterable[Path | None], overwrite: bool, remedy: str = ""
) -> None:
    """Check that an output file can be written, and that it replaces neither an input nor a foreign file.

    Parameters
    ----------
    output : Path
    endings, what, remedy
        See `refnet_cli.system.atomic.check_ending`.
    inputs : iterable of Path or None
        Files that are read; None stands for a file that is not given.
    overwrite : bool
        Whether any file may be replaced.

    Raises
    ------
    OptionsError, OutputError
        If one of these checks fails.
    """
    check_ending(output, endings, what, remedy)
    check_distinct_paths([output], list(inputs))
    check_replaceable([output], overwrite)
    check_folder(output)


def is_refnet_output(path: Path) -> bool:
    """Return whether a file is empty or an unmodified output of refnet.

    A GeoTIFF that another program changed or rewrote no longer counts as one, nor does a GeoPackage with added layers
    or edited polygons. Edited numbers in a table are not detected.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
            return not start or any(known(path, file, start) for known in _FORMATS)
    except (OSError, ValueError, WeightsError, struct.error, sqlite3.Error, zipfile.BadZipFile, RecursionError,
            OverflowError):  # fmt: skip
        return False


def has_new_cog_layout(file: BinaryIO) -> bool:
    """Return whether a TIFF file has the layout of a new Cloud Optimized GeoTIFF of GDAL; most changes break it."""
    file.seek(0)
    head = file.read(512)
    return b"LAYOUT=IFDS_BEFORE_DATA\n" in head and b"KNOWN_INCOMPATIBLE_EDITION=NO\n" in head


def _is_geotiff(path: Path, file: BinaryIO, start: bytes) -> bool:
    if start[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or not has_new_cog_layout(file):
        return False
    marked = f'name="{MARK}"'.encode() in bytes(_tiff_tag(file, start, _GDAL_METADATA))
    return marked and _is_without_gaps(file, start)


def _is_without_gaps(file: BinaryIO, start: bytes) -> bool:
    """Return whether the blocks are contiguous up to the end, each with its size before and four bytes behind it.

    GDAL overwrites a block in place if its new data is smaller, and the header still calls the file unchanged.
    """
    places = zip(_tiff_tag(file, start, _BLOCK_OFFSETS), _tiff_tag(file, start, _BLOCK_SIZES), strict=True)
    blocks = sorted((offset, size) for offset, size in places if size)
    if not blocks:
        return True
    ends = [offset + size + 4 for offset, size in blocks]
    # A truncated file is still refnet's.
    return ends[-1] >= file.seek(0, os.SEEK_END) and ends[:-1] == [offset - 4 for offset, _ in blocks[1:]]


def _tiff_tag(file: BinaryIO, start: bytes, needed: int) -> tuple[int, ...]:
    """Return the numbers or bytes of a tag in the first directory of a TIFF file, or () if the tag is missing."""
    order, big = "<" if start[:2] == b"II" else ">", 43 in start[2:4]
    count, entry, at = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    (directory,) = struct.unpack_from(order + ("Q" if big else "I"), start, at)
    file.seek(directory)
    (entries,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
    size = struct.calcsize(order + entry)
    table = file.read(min(entries, 4096) * size)
    for place in range(0, len(table), size):
        tag, kind, length, value = struct.unpack_from(order + entry, table, place)
        if tag == needed:
            numbers = f"{order}{length}{_TIFF_TYPES.get(kind, 'B')}"
            if struct.calcsize(numbers) > len(value):
                file.seek(*struct.unpack(order + ("Q" if big else "I"), value))
                value = file.read(min(struct.calcsize(numbers), _MOST))
            return struct.unpack_from(numbers, value)
    return ()


def _is_png(path: Path, file: BinaryIO, start: bytes) -> bool:
    """Return whether a PNG file has the mark in a text chunk before its pixels."""
    if not start.startswith(b"\x89PNG"):
        return False
    place = 8
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return False
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"tEXt", b"iTXt") and file.read(len(MARK) + 1) == f"{MARK}\0".encode():
            return True
        if kind in (b"IDAT", b"IEND"):
            return False
        place += length + 12


def _is_geopackage(path: Path, file: BinaryIO, start: bytes) -> bool:
    """Return whether a GeoPackage has the mark, and neither user layers or styles nor edited polygons.

    GDAL, and so QGIS, records the time of an edit. Other programs' SQL statements may not.
    """
    if start != b"SQLite format 3\0":
        return False
    uri = f"file:{quote(os.fsencode(os.path.abspath(path)))}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        changes = database.execute("SELECT last_change FROM gpkg_contents").fetchall()
        texts = database.execute("SELECT metadata FROM gpkg_metadata").fetchall()
    return bool(changes == [(GEOPACKAGE_TIME,)] and any(MARK in str(text) for (text,) in texts))


def _is_flatgeobuf(path: Path, file: BinaryIO, start: bytes) -> bool:
    if not start.startswith(b"fgb"):
        return False
    (size,) = struct.unpack_from("<I", start, 8)
    file.seek(12)
    return f'"{MARK}"'.encode() in file.read(min(size, _MOST))


def _is_parquet(path: Path, file: BinaryIO, start: bytes) -> bool:
    if not start.startswith(b"PAR1"):
        return False
    end = file.seek(-8, os.SEEK_END)
    (size,) = struct.unpack("<I4x", file.read(8))
    file.seek(max(end - size, 0))
    return MARK.encode() in file.read(min(size, _MOST))


def _is_archive(path: Path, file: BinaryIO, start: bytes) -> bool:
    """Return whether a file is a quicklook, which is a NumPy archive."""
    if not start.startswith(b"PK\3\4"):
        return False
    with zipfile.ZipFile(path) as archive:
        return f"{MARK}.npy" in archive.namelist()


def _is_weights(path: Path, file: BinaryIO, start: bytes) -> bool:
    if is_onnx(path):
        return "refnet" in read_metadata(path)
    size = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or size > _MOST:
        return False
    file.seek(8)
    return "refnet" in json.loads(file.read(size)).get("__metadata__", {})


def _is_journal(path: Path, file: BinaryIO, start: bytes) -> bool:
    return start.startswith(JOURNAL_MARK)


def _is_text(path: Path, file: BinaryIO, start: bytes) -> bool:
    """Return whether a file is refnet's markup, JSON, table, task list or checksum."""
    if b"\0" in start:
        return False
    file.seek(0)
    text = file.read(_MOST).decode("utf-8", errors="surrogateescape")
    return any(known(text) for known in (_is_markup, _is_json, _is_task_list, _is_table, _is_checksum, _is_toml))


def _is_markup(text: str) -> bool:
    ends = rf"<!-- {MARK} \S+ -->\s*\Z"
    inside = rf'\A<!DOCTYPE html>.*?<meta name="{MARK}"|\A<PAMDataset>.*?<MDI key="{MARK}"'
    return text.startswith("<") and re.search(f"{ends}|{inside}", text, re.DOTALL) is not None


def _is_json(text: str) -> bool:
    if not text.startswith("{"):
        return False
    if _SIDECAR.match(text):
        return True
    try:
        found = json.loads(text)
    except ValueError:
        return False

    def inside(*keys: str) -> bool:
        part: Any = found
        for key in keys:
            part = part.get(key) if isinstance(part, dict) else None
        return part is not None

    return (
        inside(MARK)
        or inside("tags", MARK)
        or inside("properties", "processing:software", "refnet")
    )


def _is_task_list(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        tasks = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return False
    return all(
        isinstance(task, dict) and {"id", "output"} <= task.keys() and {"optical", "sar"} & task.keys()
        for task in tasks
    )


def _is_table(text: str) -> bool:
    rows = list(csv.DictReader(text.splitlines()))
    columns = tuple(text.splitlines()[0].split(","))
    if not any(columns == known or (known[-1] in _LAST and columns[: len(known)] == known) for known in _TABLES):
        return False
    return all(
        name is not None and (name in _TEXTS or (value is not None and _is_number(value)))
        for row in rows for name, value in row.items()
    )  # fmt: skip


def _is_number(text: str) -> bool:
    try:
        float(text or "0")
    except ValueError:
        return False
    return True


def toml_mark(text: str) -> str:
    """Return the first line of a TOML file with this text below it: the mark, and a checksum that edits break."""
    return f"# {MARK} {__version__} {zlib.crc32(text.encode()):08x}"


def _is_toml(text: str) -> bool:
    head, _, below = text.partition("\n")
    found = re.fullmatch(rf"# {MARK} \S+ ([0-9a-f]{{8}})", head)
    return found is not None and int(found[1], 16) == zlib.crc32(below.encode(errors="surrogateescape"))


def _is_checksum(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}  [^\n]+\n", text) is not None


_FORMATS: tuple[Callable[[Path, BinaryIO, bytes], bool], ...] = (
    _is_geotiff, _is_png, _is_geopackage, _is_flatgeobuf, _is_parquet, _is_archive, _is_journal, _is_weights, _is_text,
)  # fmt: skip
