"""Draws docs/pictures/qgis.png: QGIS with the plugin's dialog, and the map of the sample scene behind it.

    plugins=/tmp/qgis/profiles/default/python/plugins
    make qgis-plugin && mkdir -p $plugins /tmp/sample && unzip -qo build/refnet-qgis.zip -d $plugins
    cp sample_data/s?.tif /tmp/sample
    refnet predict --optical /tmp/sample/s2.tif --sar /tmp/sample/s1.tif -o /tmp/sample/lulc.tif -o style
    SAMPLE=/tmp/sample PICTURE=docs/pictures/qgis.png \
        xvfb-run -a -s '-screen 0 1360x800x24' qgis --nologo --profiles-path /tmp/qgis --code docs/draw_qgis.py

It runs in the Python of QGIS. The map is made before, so that it takes less than a minute.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

from qgis.core import QgsProject, QgsRasterLayer, QgsRectangle
from qgis.PyQt.QtCore import QTimer
from qgis.PyQt.QtWidgets import QApplication, QDockWidget
from qgis.utils import iface, loadPlugin, plugins, startPlugin

SAMPLE, PICTURE = Path(os.environ["SAMPLE"]), Path(os.environ["PICTURE"]).resolve()
WIDTH, HEIGHT = 1360, 800


def later(milliseconds: int, done: Callable[[], None]) -> None:
    """Call a function after a while; leave QGIS if it fails, as nobody sees its messages."""

    def run() -> None:
        try:
            done()
        except Exception:  # Qt would go on after an exception, and QGIS would never end
            traceback.print_exc()
            os._exit(1)

    QTimer.singleShot(milliseconds, run)


def load(name: str) -> QgsRasterLayer:
    """Open a file of the sample, with the style next to it."""
    layer = QgsRasterLayer(str(SAMPLE / f"{name}.tif"), name)
    if not layer.isValid():
        raise FileNotFoundError(layer.source())
    QgsProject.instance().addMapLayer(layer)
    QgsProject.instance().layerTreeRoot().findLayer(layer.id()).setExpanded(name == "lulc")
    return layer


def show() -> None:
    """Open layers and dialog, and have the screen drawn when they are there."""
    for name in ("processing", "refnet"):
        if name not in plugins and not (loadPlugin(name) and startPlugin(name)):
            raise ImportError(name)
    import processing

    window = iface.mainWindow()
    for dock in window.findChildren(QDockWidget):
        dock.setVisible(dock.objectName() == "Layers")
    window.showNormal()
    window.setGeometry(0, 0, WIDTH, HEIGHT)
    sar, optical, made = (load(name) for name in ("s1", "s2", "lulc"))
    iface.setActiveLayer(made)
    given = {"optical": optical, "sar": sar, "output": str(SAMPLE / "lulc_new.tif")}
    dialog = processing.createAlgorithmDialog("refnet:predict", given)
    dialog.setGeometry(720, 170, 630, 600)
    dialog.show()
    later(3000, lambda: move(made))


def move(made: QgsRasterLayer) -> None:
    """Have the map lie to the left of the dialog; QGIS has zoomed to the first layer by now."""
    seen = made.extent()
    left, right = seen.xMinimum() - 0.1 * seen.width(), seen.xMinimum() + 2.55 * seen.width()
    iface.mapCanvas().setExtent(QgsRectangle(left, seen.yMinimum(), right, seen.yMaximum()))
    iface.mapCanvas().refresh()
    later(6000, draw)


def draw() -> None:
    """Write the picture of the screen, and leave without the question of what to do with the project."""
    if not QApplication.primaryScreen().grabWindow(0).save(str(PICTURE)):
        raise OSError(PICTURE)
    os._exit(0)


later(5000, show)
