"""The provider of refnet's algorithms in the Processing toolbox."""

from __future__ import annotations

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithm import ICON, RefnetAlgorithm
from .roles import ABOUT


class RefnetProvider(QgsProcessingProvider):
    """Commands of refnet."""

    def id(self) -> str:
        """Return what names of algorithms begin with."""
        return "refnet"

    def name(self) -> str:
        """Return its name in the toolbox."""
        return "refnet"

    def longName(self) -> str:
        """Return its name in full."""
        return "refnet: land cover from Sentinel-1 and Sentinel-2"

    def icon(self) -> QIcon:
        """Return the plugin's icon."""
        return QIcon(ICON)

    def supportedOutputRasterLayerExtensions(self) -> list[str]:
        """Return the endings of maps."""
        return ["tif", "tiff"]

    def supportedOutputVectorLayerExtensions(self) -> list[str]:
        """Return the endings of polygons."""
        return [ending.lstrip(".") for ending in ABOUT["outputs"]["polygons"]["endings"]]

    def supportsNonFileBasedOutput(self) -> bool:
        """Say that results are files."""
        return False

    def loadAlgorithms(self) -> None:
        """Add an algorithm for each command."""
        for command in ABOUT["commands"]:
            self.addAlgorithm(RefnetAlgorithm(command))
