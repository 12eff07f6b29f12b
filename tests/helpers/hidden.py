"""Run refnet where libraries seem not to be installed: ``python -m tests.helpers.hidden torch,timm doctor``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any


class Without:
    """A finder of modules that passes over some, and over the distributions they come in."""

    def __init__(self, finder: Any, hidden: list[str]) -> None:
        self._finder = finder
        self._hidden = hidden

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in self._hidden else self._finder.find_spec(name, path, target)

    def find_distributions(self, context: Any) -> Iterable[Any]:
        for found in getattr(self._finder, "find_distributions", lambda _: [])(context):
            if found.metadata["Name"] not in self._hidden:
                yield found


def hide(names: list[str]) -> None:
    """Hide libraries, and those that need them, from all that is imported from now on."""
    with suppress(ImportError):  # some library imports it, and then it would add a finder of its own
        import importlib_metadata  # noqa: F401
    sys.meta_path[:] = [Without(finder, names) for finder in sys.meta_path]


if __name__ == "__main__":
    hide(sys.argv[1].split(","))
    from refnet_cli.cli.main import run

    sys.exit(run(sys.argv[2:]))
