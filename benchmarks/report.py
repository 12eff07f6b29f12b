"""Write results as a table, and as JSON with the machine and the versions."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import rasterio
import torch

from benchmarks.measure import Row
from refnet_cli.version import __version__

COLUMNS = ("what", "measured", "ratio", "over", "bar", "kept")


def describe_machine() -> dict[str, Any]:
    """Return the properties of the machine that affect times."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "usable_cores": cores,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found[1] if found else platform.processor()


def versions() -> dict[str, str]:
    """Return the versions of Python, refnet and the relevant libraries by name."""
    libraries = {name: version(name) for name in ("torch", "timm", "numba", "numpy", "rasterio")}
    gdal: str = rasterio.__gdal_version__
    return {"python": platform.python_version(), "refnet": __version__, **libraries, "gdal": gdal}


def to_json(benchmark: str, settings: dict[str, Any], rows: Sequence[Row], **more: Any) -> str:
    """Return the results as a JSON document.

    Parameters
    ----------
    benchmark : str
        Name of the benchmark on the command line.
    settings : dict
        Options of the run; only the last component of paths is written.
    rows : sequence of dict
    **more
        Further entries of the document.
    """
    document = {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "machine": describe_machine(),
        "versions": versions(),
        **more,
        "results": rows,
    }
    return json.dumps(document, indent=2, default=_last_name)


def _last_name(path: Path) -> str:
    return path.name


def to_table(rows: Sequence[Row]) -> str:
    """Return the results as a plain-text table."""
    lines = [COLUMNS, *([_cell(row, column) for column in COLUMNS] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(row: Row, column: str) -> str:
    if column == "measured":
        units = (("seconds", "{:.4g} s"), ("megabytes", "{:.0f} MB"), ("difference", "{:.2g}"))
        return " ".join(text.format(row[measure]) for measure, text in units if measure in row)
    if column == "over" and "failed" in row:
        return f"failed: {row['failed']}"
    if column == "ratio":
        return f"{row['ratio']:.3g}" if "ratio" in row else ""
    if column == "kept":
        return {True: "yes", False: "NO", None: ""}[row.get("kept")]
    return str(row.get(column, ""))
