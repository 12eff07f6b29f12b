"""Batches of scenes: planned as tasks, run in one or many processes, and merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refnet_cli.system.lazy import public

if TYPE_CHECKING:
    from refnet_cli.batch.clusters import run_remotely as run_remotely


def __getattr__(name: str) -> Any:
    if name != "run_remotely":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return public(name, f"{__name__}.clusters")
