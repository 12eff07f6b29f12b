"""The file next to a result that lists its files and says that they are complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from refnet_cli.system.atomic import write_text_atomic
from refnet_cli.version import __version__


def sidecar_path(path: Path) -> Path:
    """Return the path of a result's sidecar."""
    return path.with_name(f"{path.name}.json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Read a sidecar; None if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_sidecar(path: Path, identity: str, files: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write the sidecar of a result. This must be the last step of a task.

    Parameters
    ----------
    path : Path
        The result.
    identity : str
        See `refnet_cli.batch.identity.identify`.
    files : list of dict
        Path, size in bytes and SHA-256 of each file.
    about : dict
        Further entries.

    Raises
    ------
    OutputError, StorageError
        If the sidecar cannot be written.
    """
    write_text_atomic(sidecar_path(path), json.dumps({"id": identity, "files": files} | about, indent=2))


def other_version(found: dict[str, Any] | None, *, exactly: bool = False) -> str | None:
    """Return the version of refnet that wrote a sidecar, if the maps of that version differ from those of this one.

    Versions with the same first two numbers make the same maps.

    Parameters
    ----------
    found : dict or None
        The sidecar.
    exactly : bool
        Whether any other version counts. This is so for blocks, whose records and tags name one version.
    """
    report = found.get("report") if found else None
    version = str(report.get("version", "")) if isinstance(report, dict) else ""
    numbers = None if exactly else 2
    return version if version and version.split(".")[:numbers] != __version__.split(".")[:numbers] else None
