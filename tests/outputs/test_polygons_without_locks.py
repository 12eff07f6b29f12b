"""Polygons on a drive without POSIX locks, such as CIFS: the same files as elsewhere; and such inputs are explained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from tests.helpers.batches import environment
from tests.helpers.scenes import PlaceEngine, make_pair
from tests.helpers.shims import NO_POSIX_LOCKS, compile_shim

PROGRAM = """
import sys
from pathlib import Path
from refnet_cli.errors import InputError
from refnet_cli.prediction.predict import predict
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.raster.vectors import VectorFile
from tests.helpers.scenes import PlaceEngine
optical, sar, output = map(Path, sys.argv[1:])
for kind in ("gpkg", "fgb"):
    polygons = output.with_suffix("." + kind)
    predict(PredictOptions(optical, sar, output, outputs=(f"polygons={polygons}",), coreg="off"), PlaceEngine())
try:
    VectorFile.open(output.with_suffix(".gpkg"), "zones", None, "--zones-layer")
except InputError as refusal:
    print(refusal)
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gpkg", "fgb"])
def test_the_files_are_those_of_other_drives(kind: str, written: Path, tmp_path: Path) -> None:
    pair = written / "s2.tif", written / "s1.tif"
    polygons = tmp_path / f"map.{kind}"
    predict(PredictOptions(*pair, tmp_path / "map.tif", outputs=(f"polygons={polygons}",), coreg="off"), PlaceEngine())
    assert (written / f"map.{kind}").read_bytes() == polygons.read_bytes()


def test_a_geopackage_that_cannot_be_locked_is_refused_with_what_to_do(written: Path) -> None:
    said = (written / "said").read_text()
    assert "database is locked" in said
    assert "copy the file to a local disk" in said
    assert "sqlite3" not in said
    assert len(said) < 400


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what is made where no file can be locked, and what is said of a GeoPackage to read."""
    folder = tmp_path_factory.mktemp("drive")
    (folder / "shim.c").write_text(NO_POSIX_LOCKS)
    shim = compile_shim(folder / "shim.c", folder)
    pair = make_pair(folder, 40, 60)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *pair, folder / "map.tif"], capture_output=True, text=True, timeout=300,
        env=environment(LD_PRELOAD=shim, SQLITE_BUSY_TIMEOUT=200),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout)
    return folder
