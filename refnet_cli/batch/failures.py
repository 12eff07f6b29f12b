"""Why a task failed, in a file next to what it was to make, until it is made.

The file, ``north.tif.failed.json``, appears whole or not at all, and says nothing about whether a task is done. Where
it cannot be written, as on a full disk, the failure that it is about is still reported.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refnet_cli.errors import RefnetError
from refnet_cli.system.atomic import write_text_atomic
from refnet_cli.system.marks import MARK, is_refnet_output
from refnet_cli.version import __version__


@dataclass(frozen=True)
class Failure:
    """The last failure of a task."""

    code: int
    """As the exit code of ``refnet predict`` would be."""
    message: str
    window: tuple[int, int, int, int] | None = None
    """Row, column, height and width of the pixels that cannot be used, where they made the task fail."""


def failure_path(path: Path) -> Path:
    """Return the file that says why a result is missing."""
    return path.with_name(f"{path.name}.failed.json")


def record_failure(path: Path, failure: Failure) -> None:
    """Keep the failure of a task that makes a file, unless it cannot be written or a file of others is in its place."""
    place = failure_path(path)
    with suppress(OSError, RefnetError):
        if not place.exists() or is_refnet_output(place):
            write_text_atomic(place, json.dumps({MARK: __version__} | asdict(failure), indent=2))


def forget_failure(path: Path) -> None:
    """Remove what `record_failure` kept, now that the file is made."""
    place = failure_path(path)
    with suppress(OSError):
        if place.exists() and is_refnet_output(place):
            place.unlink()


def read_failure(path: Path) -> Failure | None:
    """Return the last failure of the task that makes a file; None where there is none, or no whole one."""
    try:
        found: dict[str, Any] = json.loads(failure_path(path).read_text(encoding="utf-8"))
        window = found["window"] and tuple(map(int, found["window"]))
        return Failure(int(found["code"]), str(found["message"]), window)
    except (OSError, ValueError, KeyError, TypeError):
        return None
