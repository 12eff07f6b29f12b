"""Draws docs/pictures/qgis.png: QGIS with the plugin's dialog and the map of the sample scene.

    mkdir -p /tmp/qgis/profiles/default/python/plugins
    unzip -q build/refnet-qgis.zip -d /tmp/qgis/profiles/default/python/plugins
    REFNET="$(command -v refnet)" PICTURE=docs/pictures/qgis.png \
        xvfb-run -s '-screen 0 1360x800x24' qgis --nologo --profiles-path /tmp/qgis --code docs/draw_qgis.py

It runs in the Python of QGIS, and opens what a user opens.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qgis.core import QgsApplication, QgsProject, QgsRasterLayer, QgsSettings
from qgis.PyQt.QtCore import Qt, QTimer
from qgis.PyQt.QtWidgets import QApplication
from qgis.utils import iface, loadPlugin, startPlugin

ROOT = Path(__file__).resolve().parents[1] if "__file__" in globals() else Path.cwd()
PICTURE = Path(os.environ["PICTURE"]).resolve()
WIDTH, HEIGHT = 1360, 800
STEP = 500  # milliseconds between looks at whether something is there
FOLDER = Path(tempfile.mkdtemp(prefix="sample_"))  # QGIS writes statistics next to the files that it opens


def guarded(done: Callable[[], None]) -> Callable[[], None]:
    """Return a function that leaves QGIS when the given one fails, instead of waiting for nobody."""

    def run() -> None:
        try:
            done()
        except Exception:
            traceback.print_exc()
            os._exit(1)

    return run


def later(milliseconds: int, done: Callable[[], None]) -> None:
    """Call a function after a while."""
    QTimer.singleShot(milliseconds, guarded(done))


def load(name: str, title: str) -> QgsRasterLayer:
    """Open an image of the sample scene."""
    path = shutil.copy(ROOT / "sample_data" / name, FOLDER / name)
    layer = QgsRasterLayer(str(path), title)
    QgsProject.instance().addMapLayer(layer)
    return layer


def begin() -> None:
    """Load plugin and images, and open the dialog."""
    import processing

    QgsSettings().setValue("refnet/program", os.environ["REFNET"])
    for plugin in ("processing", "refnet"):
        if plugin not in __import__("qgis.utils").utils.plugins:
            assert loadPlugin(plugin), plugin
            assert startPlugin(plugin), plugin
    for dock in iface.mainWindow().findChildren(__import__("qgis.PyQt.QtWidgets").PyQt.QtWidgets.QDockWidget):
        if dock.objectName() != "Layers":
            dock.hide()
    window = iface.mainWindow()
    window.showNormal()
    window.setGeometry(0, 0, WIDTH, HEIGHT)
    sar, optical = load("s1.tif", "s1"), load("s2.tif", "s2")
    iface.zoomToActiveLayer()
    given = {"optical": optical, "sar": sar, "output": str(FOLDER / "lulc.tif")}
    dialog = processing.createAlgorithmDialog("refnet:predict", given)
    dialog.setGeometry(690, 190, 660, 560)
    dialog.show()
    later(4000, lambda: follow(dialog))


def follow(dialog: Any) -> None:
    """Run the algorithm, and wait for the map."""
    dialog.runAlgorithm()
    later(STEP, lambda: wait(dialog))


def wait(dialog: Any) -> None:
    """Look whether the map is there."""
    maps = [layer for layer in QgsProject.instance().mapLayers().values() if "lulc" in layer.source()]
    if not maps:
        later(STEP, lambda: wait(dialog))
        return
    for layer in QgsProject.instance().mapLayers().values():
        node = QgsProject.instance().layerTreeRoot().findLayer(layer.id())
        node.setExpanded(layer in maps)
    iface.setActiveLayer(maps[0])
    canvas = iface.mapCanvas()
    canvas.setExtent(maps[0].extent())
    canvas.refresh()
    later(5000, draw)


def draw() -> None:
    """Write the picture of the screen, and leave."""
    QgsApplication.processEvents()
    grabbed = QApplication.primaryScreen().grabWindow(0).scaledToWidth(WIDTH, Qt.SmoothTransformation)
    assert grabbed.save(str(PICTURE)), PICTURE
    shutil.rmtree(FOLDER)
    os._exit(0)  # without the question of what to do with the project


later(6000, begin)
