"""GeoPackage on CIFS, where POSIX locks fail: the polygons are written all the same."""

from __future__ import annotations

from pathlib import Path

import pyogrio
import pytest

from tests.helpers.batches import ROOT, environment, refnet
from tests.helpers.shims import compile_shim


@pytest.mark.long  # tests/outputs/test_polygons_without_locks.py is quick
@pytest.mark.parametrize("number", [11, 37])
def test_polygons_are_written(shared: Path, tmp_path: Path, number: int) -> None:
    case = shared / "cases" / "geopackage-without-locks"
    shim = compile_shim(case / "fsx.c", tmp_path)
    words = ["predict", "--optical", case / "s2.tif", "--sar", case / "s1.tif", "--coreg", "off", "-q"]
    words += ["--weights", ROOT / "weights" / "refnet-base.onnx"]  # starts sooner than torch
    env = environment(LD_PRELOAD=shim, PLOCK=number, DIRSYNC=22)
    done = refnet(*words, "-o", "map.tif", "-o", "polygons", cwd=tmp_path, env=env)
    assert (done.code, done.err) == (0, "")
    assert done.out.split() == ["map.tif", "map_polygons.gpkg"]
    assert pyogrio.read_info(tmp_path / "map_polygons.gpkg")["features"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [shim.name, "map.tif", "map_polygons.gpkg"]
