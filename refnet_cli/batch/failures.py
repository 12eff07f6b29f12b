"""The reason why a task failed, in a file next to its output until the output is made.

The file, such as ``north.tif.failed.json``, is written atomically. It does not affect whether a task counts as
finished. If it cannot be written, for example on a full disk, the failure is still reported.
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
    """The exit code that ``refnet predict`` would have."""
    message: str
    window: tuple[int, int, int, int] | None = None
    """Row, column, height and width of the pixels that cannot be used, if they made the task fail."""


def failure_path(path: Path) -> Path:
    """Return the path of the file that says why an output is missing."""
    return path.with_name(f"{path.name}.failed.json")


def record_failure(path: Path, failure: Failure) -> None:
    """Write the failure of a task with this output, unless refnet did not write the file that would be replaced."""
    file = failure_path(path)
    with suppress(OSError, RefnetError):
        if not file.exists() or is_refnet_output(file):
            write_text_atomic(file, json.dumps({MARK: __version__} | asdict(failure), indent=2))


def forget_failure(path: Path) -> None:
    """Remove the file of `record_failure`, after the output was made."""
    file = failure_path(path)
    with suppress(OSError):
        if file.exists() and is_refnet_output(file):
            file.unlink()


def read_failure(path: Path) -> Failure | None:
    """Return the last failure of the task with this output; None without one, or if its file is damaged."""
    try:
        found: dict[str, Any] = json.loads(failure_path(path).read_text(encoding="utf-8"))
        window = found["window"] and tuple(map(int, found["window"]))
        return Failure(int(found["code"]), str(found["message"]), window)
    except (OSError, ValueError, KeyError, TypeError):
        return None
