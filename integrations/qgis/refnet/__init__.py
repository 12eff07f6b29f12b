"""QGIS plugin that runs refnet, a program in an environment of its own, from the Processing toolbox.

The modules `arguments`, `environment`, `messages`, `program` and `roles` import nothing of QGIS.
"""

from __future__ import annotations

from typing import Any


def classFactory(iface: Any) -> Any:
    """Return the plugin; QGIS calls this, with its interface, or None in ``qgis_process``."""
    from .plugin import RefnetPlugin

    return RefnetPlugin(iface)
