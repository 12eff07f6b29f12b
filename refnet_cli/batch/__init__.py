"""Many scenes: planned as tasks, mapped one after the other or in workers, and put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from refnet_cli.system.lazy import public

if TYPE_CHECKING:
    from refnet_cli.batch.run import run_remotely as run_remotely


def __getattr__(name: str) -> Any:
    if name != "run_remotely":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return public(name, f"{__name__}.run")
