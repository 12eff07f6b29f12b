"""Stamps of files: by which the store knows that a scene's files are those that an entry was made from.

A stamp is a file's path, size, times of change of its content and of its entry in the file system, and a digest of
samples of its content. Programs can set the first time back, as ``cp -p`` does, but not the second.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[str, int, int, int, str]
"""Path, size in bytes, times of change of content and of entry in nanoseconds, and digest of the samples."""
SAMPLES, SAMPLE = 8, 4096  # per file, and its size in bytes


class Stamps:
    """Makes the stamps of files; lists each folder once."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def of_inputs(self, paths: Iterable[Path]) -> list[Stamp]:
        """Return the stamps of a scene's files, with those next to them that have the same name but for the ending.

        Such files hold georeferences, names of bands, or parts of Shapefiles. Of folders, all files count.

        Raises
        ------
        OSError
            If a file is missing or unreadable.
        """
        found: set[Path] = set()
        for path in paths:
            resolved = path.resolve()
            if resolved.is_dir():
                found.update(file for file in resolved.rglob("*") if file.is_file())
            else:
                found.update([resolved, *self._neighbours(resolved)])
        return [stamp(path) for path in sorted(found)]

    def _neighbours(self, path: Path) -> list[Path]:
        """Return the files of the same folder whose name begins as that of the file, up to the first dot."""
        if path.parent not in self._listed:
            by_name: dict[str, list[str]] = {}
            with os.scandir(path.parent) as entries:
                for entry in entries:
                    if entry.is_file():
                        by_name.setdefault(entry.name.partition(".")[0], []).append(entry.name)
            self._listed[path.parent] = by_name
        return [path.parent / name for name in self._listed[path.parent].get(path.name.partition(".")[0], [])]


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file.

    Raises
    ------
    OSError
        If it is missing or unreadable.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        last = max(about.st_size - SAMPLE, 0)
        for start in sorted({last * number // (SAMPLES - 1) for number in range(SAMPLES)}):
            file.seek(start)
            digest.update(file.read(SAMPLE))
    return str(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns, digest.hexdigest()


def unchanged(stamps: Iterable[Iterable[object]]) -> bool:
    """Return whether all files still have their stamps.

    Raises
    ------
    OSError
        If a file cannot be read, although it is there.
    """
    try:
        return all(stamp(Path(str(given[0]))) == given for given in map(tuple, stamps))
    except FileNotFoundError:
        return False
