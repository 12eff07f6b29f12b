"""The plugin in QGIS, with `qgis_process` and PyQGIS; skipped where there is no QGIS."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from refnet_cli.model.weight_files import verify
from tests.fetching.harness import FILES, Site
from tests.helpers.programs import ROOT, environment, refnet
from tests.helpers.stac_items import DATES, berlin
from tests.helpers.stac_servers import RUSTAC, catalogue, store, write_source

PROGRAM = shutil.which("qgis_process.bin") or shutil.which("qgis_process")  # the first is Debian's, without a wrapper
pytestmark = [pytest.mark.long, pytest.mark.skipif(PROGRAM is None, reason="QGIS is not installed")]
PLUGINS = Path("profiles", "default", "python", "plugins")
Done = subprocess.CompletedProcess[str]


@dataclass
class Qgis:
    """QGIS with a profile of its own, in which the plugin is enabled; `refnet` on the path is this checkout.

    Parameters
    ----------
    folder : Path
    """

    folder: Path

    def run(self, *words: object, path: str | None = None) -> Done:
        """Run ``qgis_process``; ``path`` is in place of the variable PATH."""
        assert PROGRAM is not None
        return self._run([PROGRAM, *map(str, words)], path)

    def python(self, program: str, *words: object) -> Done:
        """Run a program with the Python of QGIS, which is the system's; the plugin can be imported."""
        found = Path("/usr/bin/python3")
        if not found.exists() or self._run([str(found), "-c", "import qgis.core"], None).returncode:
            pytest.skip("the Python of QGIS is not /usr/bin/python3")
        return self._run([str(found), "-c", program, *map(str, words)], None)

    def _run(self, words: list[str], path: str | None) -> Done:
        env = {name: value for name, value in environment().items() if not name.startswith("PYTHON")}
        env |= {
            "QT_QPA_PLATFORM": "offscreen",
            "QGIS_CUSTOM_CONFIG_PATH": str(self.folder),
            "XDG_RUNTIME_DIR": str(self.folder),
            "PYTHONPATH": str(self.folder / PLUGINS),
            "PATH": path or f"{self.folder}{os.pathsep}/usr/bin{os.pathsep}/bin",
        }
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def qgis(tmp_path_factory: pytest.TempPathFactory) -> Qgis:
    folder = tmp_path_factory.mktemp("qgis")
    shutil.copytree(ROOT / "integrations" / "qgis" / "refnet", folder / PLUGINS / "refnet")
    program = folder / "refnet"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {sys.executable} -m refnet_cli "$@"\n')
    program.chmod(0o755)
    made = Qgis(folder)
    enabled = made.run("plugins", "enable", "refnet")
    assert enabled.returncode == 0, enabled.stderr
    return made


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a part of the sample scene."""
    folder = tmp_path_factory.mktemp("sample")
    for name in ("s2", "s1", "labels"):
        with rasterio.open(ROOT / "sample_data" / f"{name}.tif") as whole:
            part = Window(0, 0, 200, 200)  # at the corner, so that the transform stays
            profile = whole.profile | {"width": 200, "height": 200}
            with rasterio.open(folder / f"{name}.tif", "w", **profile) as made:
                made.write(whole.read(window=part))
                made.descriptions = whole.descriptions
                made.update_tags(**whole.tags())
    return folder


@pytest.fixture(scope="module")
def mapped(qgis: Qgis, sample: Path) -> Path:
    """Return the map that the algorithm makes."""
    given = [f"--optical={sample / 's2.tif'}", f"--sar={sample / 's1.tif'}", f"--output={sample / 'lulc.tif'}"]
    done = qgis.run("run", "refnet:predict", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    return sample / "lulc.tif"


def test_the_algorithms_are_listed(qgis: Qgis) -> None:
    done = qgis.run("list")
    for command in ("predict", "train", "evaluate", "fetch", "compare"):
        assert f"refnet:{command}" in done.stdout, done.stderr


def test_the_map_is_that_of_the_command(mapped: Path, sample: Path) -> None:
    files = ["--optical", sample / "s2.tif", "--sar", sample / "s1.tif", "-o", sample / "command.tif"]
    done = refnet("predict", *files)
    assert done.returncode == 0, done.stderr
    with rasterio.open(mapped) as ours, rasterio.open(sample / "command.tif") as theirs:
        assert np.array_equal(ours.read(), theirs.read())
        assert (ours.transform, ours.crs, ours.nodata) == (theirs.transform, theirs.crs, theirs.nodata)


def test_wrong_input_fails_with_the_message_of_the_command(qgis: Qgis, sample: Path) -> None:
    done = qgis.run("run", "refnet:predict", f"--optical={sample / 's1.tif'}", f"--output={sample / 'wrong.tif'}")
    command = refnet("predict", "--optical", sample / "s1.tif", "-o", sample / "wrong.tif")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert command.returncode != 0
    assert f"(refnet predict: exit code {command.returncode})" in said
    assert command.stderr.splitlines()[-1].removeprefix("refnet: ") in said
    assert not (sample / "wrong.tif").exists()


def test_without_the_program_it_says_what_to_do(qgis: Qgis, sample: Path) -> None:
    given = [f"--optical={sample / 's2.tif'}", f"--output={sample / 'none.tif'}"]
    done = qgis.run("run", "refnet:predict", *given, path="/usr/bin:/bin")
    assert done.returncode != 0
    assert "Install it under Settings > Options > refnet" in done.stdout + done.stderr


def test_a_map_is_scored(qgis: Qgis, mapped: Path, sample: Path) -> None:
    report = sample / "scores.json"
    given = [f"--map={mapped}", f"--labels={sample / 'labels.tif'}", f"--json={report}"]
    done = qgis.run("run", "refnet:evaluate", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    command = refnet("evaluate", mapped, sample / "labels.tif", "--json")
    assert json.loads(report.read_text()) == json.loads(command.stdout)


def test_two_maps_are_compared(qgis: Qgis, mapped: Path, sample: Path) -> None:
    other = shutil.copy(mapped, sample / "newer.tif")
    changed = sample / "change.tif"
    report = sample / "change.json"
    words = [f"--old={mapped}", f"--new={other}", f"--output={changed}", f"--json={report}"]
    done = qgis.run("run", "refnet:compare", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert changed.exists()
    json.loads(report.read_text())


def test_weights_are_trained(qgis: Qgis, sample: Path) -> None:
    regions = sample / "regions.toml"
    regions.write_text(
        'name = "corner"\nscheme = "esri-io"\nencoder = "test_resnet"\nwidth = 16\nbatch = 1\ncrop = 64\ntile = 64\n'
        'split = "none"\n[[scenes]]\noptical = "s2.tif"\nsar = "s1.tif"\nlabels = "labels.tif"\n'
    )
    done = qgis.run("run", "refnet:train", f"--regions={regions}", f"--output={sample / 'run'}", "--steps=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(sample / "run" / "corner.safetensors").training["steps"] == 2


def test_a_place_is_fetched(qgis: Qgis, tmp_path: Path) -> None:
    pytest.importorskip("pystac_client", reason="the extra [fetch] is not installed")
    if not RUSTAC:
        pytest.skip("rustac is not installed")
    with store(tmp_path / "files") as files:
        world = berlin(tmp_path / "files", files.url)
        with catalogue(world.items, tmp_path / "catalogue") as front:
            source = write_source(tmp_path / "source.toml", front.url, [files.host])
            site = Site(world, files, front, source, tmp_path)
            site.fetch(tmp_path / "command", "--bands", "B02,B03,B04,B08")
            given = {
                "area": tmp_path / "command.geojson", "dates": DATES, "source": source, "bands": "B02,B03,B04,B08",
                "allow_host": f"{files.host},{front.host}", "output": tmp_path / "qgis",
            }  # fmt: skip
            done = qgis.run("run", "refnet:fetch", *(f"--{name}={value}" for name, value in given.items()))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in FILES[:4]:
        assert (tmp_path / "qgis" / name).read_bytes() == (tmp_path / "command" / name).read_bytes()


LOADED = """
import json, sys
from qgis.core import QgsApplication, QgsProcessingContext, QgsProcessingFeedback, QgsRasterLayer
from qgis.core import QgsSingleBandGrayRenderer
application = QgsApplication([], False)
application.initQgis()
from refnet.algorithm import ShownAsMade
layer = QgsRasterLayer(sys.argv[1], "map")
layer.setRenderer(QgsSingleBandGrayRenderer(layer.dataProvider(), 1))
ShownAsMade().postProcessLayer(layer, QgsProcessingContext(), QgsProcessingFeedback())
shown = layer.renderer()
classes = {one.value: one.label for one in shown.classes()} if shown.type() == "paletted" else {}
print(json.dumps([shown.type(), classes, [label for label, _ in shown.legendSymbologyItems()]]))
import os; sys.stdout.flush(); os._exit(0)  # QGIS may crash as it ends
"""


def test_a_loaded_map_has_names_and_colours_of_classes(qgis: Qgis, mapped: Path) -> None:
    done = qgis.python(LOADED, mapped)
    assert done.returncode == 0, done.stderr
    kind, classes, legend = json.loads(done.stdout.splitlines()[-1])
    assert kind == "paletted"
    with rasterio.open(mapped) as opened:
        present = set(np.unique(opened.read(1)).tolist()) - {opened.nodata}
    assert present <= {float(code) for code in classes}
    assert legend == list(classes.values())
    assert all(name.strip() and not name.isdigit() for name in legend)


PRESSED = """
import json, os, sys
from pathlib import Path
from qgis.PyQt.QtWidgets import QApplication
from qgis.core import QgsApplication
application = QgsApplication([], True)
application.initQgis()
from refnet import options_page, environment
def install(folder, package, python, report, is_cancelled):
    report("Collecting numpy", 0.5)
    program = environment.program_in(Path(folder))
    program.parent.mkdir(parents=True)
    program.symlink_to(sys.argv[1])
    return environment.version_of(program)
options_page.install = install
page = options_page.OptionsPageFactory().createWidget(None)
page.button.click()
label = page.button.text()
while options_page.OptionsPage._task is not None:
    application.processEvents()
print(json.dumps([label, page.button.text(), page.state.text()]))
sys.stdout.flush(); os._exit(0)
"""


def test_the_button_of_the_options_installs(qgis: Qgis) -> None:
    """With a stand-in for pip: packages of gigabytes are not for a test."""
    done = qgis.python(PRESSED, qgis.folder / "refnet")
    assert done.returncode == 0, done.stderr
    during, after, state = json.loads(done.stdout.splitlines()[-1])
    assert (during, after) == ("Cancel", "Install")
    assert state.startswith("refnet ")
    assert "environment" in state


IN_BACKGROUND = """
import json, sys
from qgis.PyQt.QtCore import QEventLoop
from qgis.core import (
    QgsApplication, QgsProcessingAlgRunnerTask, QgsProcessingContext, QgsProcessingFeedback,
    QgsProcessingOutputLayerDefinition, QgsProject,
)
application = QgsApplication([], True)
application.initQgis()
from refnet.provider import RefnetProvider
registry = QgsApplication.processingRegistry()
registry.addProvider(RefnetProvider())
context, feedback, loop = QgsProcessingContext(), QgsProcessingFeedback(), QEventLoop()
context.setProject(QgsProject.instance())
output = QgsProcessingOutputLayerDefinition(sys.argv[2], QgsProject.instance())
algorithm = registry.algorithmById("refnet:predict")
task = QgsProcessingAlgRunnerTask(algorithm, {"optical": sys.argv[1], "output": output}, context, feedback)
task.executed.connect(lambda *_: loop.quit())
QgsApplication.taskManager().addTask(task)
loop.exec_()
loaded = context.layersToLoadOnCompletion()
print(json.dumps({path: [one.outputName, one.postProcessor() is not None] for path, one in loaded.items()}))
import os; sys.stdout.flush(); os._exit(0)
"""


def test_the_map_of_a_dialog_is_loaded(qgis: Qgis, sample: Path) -> None:
    """Dialogs run algorithms in a thread, from which QGIS takes the list of layers to load."""
    done = qgis.python(IN_BACKGROUND, sample / "s2.tif", sample / "background.tif")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {str(sample / "background.tif"): ["output", True]}
