"""When a file was acquired, as its tag says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refnet_cli.errors import OptionsError, RefnetError
from refnet_cli.raster.raster import Raster
from refnet_cli.sensors.dates import parse_dates
from refnet_cli.system.urls import Remote

ACQUIRED = "ACQUIRED"
"""Tag with the first and last acquisition time of a file, separated by a slash."""


def tagged_acquisition(paths: Sequence[str | Path]) -> tuple[str, str] | None:
    """Return when a sensor's only file was acquired according to its tag `ACQUIRED`; None if that says nothing."""
    if len(paths) != 1 or isinstance(paths[0], Remote) or not Path(paths[0]).is_file():
        return None
    try:
        raster = Raster(paths[0], "input")
    except RefnetError:  # reading it as a scene says what is wrong
        return None
    try:
        return parse_dates(raster.dataset.tags().get(ACQUIRED, ""))
    except OptionsError:
        return None
    finally:
        raster.close()
