"""What QGIS loads: the provider, and a page of the options."""

from __future__ import annotations

from typing import Any

from qgis.core import QgsApplication
from qgis.PyQt.QtGui import QIcon
from qgis.PyQt.QtWidgets import QAction

from .algorithm import ICON
from .provider import RefnetProvider

MENU = "refnet"


class RefnetPlugin:
    """The plugin.

    Parameters
    ----------
    iface : QgisInterface or None
        None in ``qgis_process``.
    """

    def __init__(self, iface: Any) -> None:
        self._iface = iface
        self._provider: RefnetProvider | None = None
        self._actions: list[QAction] = []
        self._page: Any = None

    def initProcessing(self) -> None:
        """Add the provider; all that ``qgis_process`` needs."""
        self._provider = RefnetProvider()
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self) -> None:
        """Add the provider, the page of options, and entries of the menu of plugins."""
        from .options_page import TITLE, OptionsPageFactory

        self.initProcessing()
        self._page = OptionsPageFactory()
        self._iface.registerOptionsWidgetFactory(self._page)
        self._add("Map land cover ...", self._map)
        self._add("Settings ...", lambda: self._iface.showOptionsDialog(currentPage=TITLE))

    def _add(self, text: str, done: Any) -> None:
        action = QAction(QIcon(ICON), text, self._iface.mainWindow())
        action.triggered.connect(done)
        self._iface.addPluginToMenu(MENU, action)
        self._actions.append(action)

    def _map(self) -> None:
        import processing

        processing.execAlgorithmDialog("refnet:predict")

    def unload(self) -> None:
        """Remove all that was added."""
        if self._provider is not None:
            QgsApplication.processingRegistry().removeProvider(self._provider)
        if self._page is not None:
            self._iface.unregisterOptionsWidgetFactory(self._page)
        for action in self._actions:
            self._iface.removePluginMenu(MENU, action)
