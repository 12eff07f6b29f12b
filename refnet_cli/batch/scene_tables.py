"""Lists of scenes in the forms that spreadsheets and people write: encodings, separators, comments, quotes."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from refnet_cli.errors import ConfigError

SEPARATORS = ",;\t"
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def decode(stored: bytes, folder: Path) -> tuple[str, str]:
    """Decode a list of scenes: UTF-8, UTF-16, or an encoding of Windows or of a file system.

    Parameters
    ----------
    stored : bytes
        The contents of the list.
    folder : Path
        The folder of relative paths in the list.

    Returns
    -------
    text : str
    guessed : str
        The encoding, if it was guessed; else empty.

    Raises
    ------
    ConfigError
        If the list is damaged.
    """
    encoding = next((name for mark, name in _MARKS.items() if stored.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in stored[:2]:
        encoding = "utf-16-be" if stored[:1] == b"\0" else "utf-16-le"
    try:
        return stored.decode(encoding), ""
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ConfigError(f"The list of scenes is damaged: it begins as {encoding}, but {error}.") from error
    try:
        text, guessed = stored.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        text, guessed = stored.decode("latin-1"), "Latin-1"
    as_named = stored.decode("utf-8", errors="surrogateescape")
    lines = [(line, raw) for line, raw in zip(text.splitlines(), as_named.splitlines(), strict=False) if line != raw]
    if is_table(clean(text, folder), folder) or any(os.path.exists(folder / line) for line, _ in lines):
        return text, guessed
    return as_named, ""  # names of files in the encoding of their file system


def clean(text: str, folder: Path) -> list[str]:
    """Split a list into lines. Comments and rows without values become empty lines.

    A header that begins with # is not a comment.
    """
    stored = text.splitlines()
    lines = [_clean_line(line, folder) for line in stored]
    first = next((number for number, line in enumerate(lines) if line), None)
    if first is None or not re.search(f"[{SEPARATORS}]", lines[first]):
        return lines
    for number in range(first, -1, -1):
        line = re.sub(r'^(\s*"?\s*)#\s*(?=\w)', r"\1", stored[number])
        names = {name.strip('" \xa0').lower() for name in re.split(f"[{SEPARATORS}]", line)}
        sensors = {"optical", "sar", "season"} & names
        if len(sensors) > 1 or (sensors and (number == first or "output" in names)):
            lines[number] = line
            break
    return lines


def _clean_line(line: str, folder: Path) -> str:
    # A column may have the name #, and a file name may begin with it. Spreadsheets quote comments with commas.
    bare = line.strip(f'{SEPARATORS}" \xa0')
    comment = rf'\s*#(?!\s*[{SEPARATORS}])|\s*"\s*#(?:[^"]|"")*"[{SEPARATORS}\s]*$'
    return "" if not bare or (re.match(comment, line) and not os.path.exists(folder / bare)) else line


def is_table(lines: Sequence[str], folder: Path) -> bool:
    """Return whether a list is a table, not paths, by its first line that is not empty."""
    head = next(filter(None, lines), "")
    named = re.search(rf'[{SEPARATORS}]|^\s*"?\s*(?:optical|sar|season)\s*"?\s*$', head, re.IGNORECASE)
    return bool(named) and not os.path.exists(folder / head)


def read_rows(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the rows with values, each with its line number. Cells are stripped.

    Raises
    ------
    ConfigError
        If quotes are not balanced.
    """
    first = next(number for number, line in enumerate(lines) if line)
    declared = re.fullmatch(rf'"?sep=(.)"?[{SEPARATORS} ]*', lines[first])  # a line of Excel
    first += bool(declared)
    head = next(filter(None, lines[first:]), "")
    separator = declared[1] if declared else max(SEPARATORS, key=head.count)
    rows = csv.reader(io.StringIO(_trim("\n".join(lines[first:]), separator)), delimiter=separator, strict=True)
    try:
        for cells in rows:
            values = [cell.strip() for cell in cells]
            if any(values):
                yield first + rows.line_num, values
    except csv.Error as error:
        raise ConfigError(f"The table cannot be read at line {first + rows.line_num}: {error}.") from error


def _trim(text: str, separator: str) -> str:
    """Remove blanks around quoted cells. With them, csv takes the quotes for text, or raises an error."""
    blanks = "[ \xa0]" if separator == "\t" else "[ \t\xa0]"
    border = re.escape(separator)
    return re.sub(rf'(^|[{border}\n]){blanks}*("(?:[^"]|"")*"){blanks}*(?=[{border}\n]|$)', r"\1\2", text)


def fit_row(columns: Sequence[str], values: Sequence[str], number: int) -> dict[str, str]:
    """Return a row's values by column.

    Raises
    ------
    ConfigError
        If the row, on line ``number``, has too few or too many values, or a value in a column without a name.
    """
    if len(values) < len(columns) or any(values[len(columns) :]):
        raise ConfigError(f"Line {number} of the table does not have the {len(columns)} columns of the first line.")
    unnamed = [value for name, value in zip(columns, values, strict=False) if value and not name]
    if unnamed:
        raise ConfigError(f"Line {number} of the table has {unnamed[0]!r} in a column without a name. Name the column.")
    return {name: value for name, value in zip(columns, values, strict=False) if name}
