"""The residual shift of a scene pair: estimated from files, drawn, written, applied."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image
from pyproj import Geod

from refnet_cli.cli.main import run
from refnet_cli.cli.text import describe_shift
from refnet_cli.errors import InputError
from refnet_cli.raster.georeference import pixel_metres
from refnet_cli.scene.coregistration import PairShift, Picture, find_shift
from refnet_cli.scene.options import SceneOptions
from refnet_cli.scene.pair import ScenePair
from refnet_cli.scene.registration import NEGLIGIBLE, Piece, Shift, Vector
from refnet_cli.tiles.window import Window
from tests.helpers.scenes import CARD, PLACE, grid_of, make_pair, write

ACCEPTED = Shift(1.5, -2.25, True, "As wanted.", 0.3, 0.9, 0.05, 0.1, 1, (Vector(64, 80, 1.5, -2.25, 0.3),))


def answering(shift: Shift) -> Any:
    """A search that reads what it is given and finds what it is told to find."""

    def estimate(pieces: Iterable[Piece]) -> Shift:
        for piece in pieces:
            assert piece.optical.shape[1:] == piece.sar.shape[1:]
        return shift

    return estimate


def ramp_pair(folder: Path) -> tuple[Path, Path]:
    """SAR in power whose VV tells the column and whose VH tells the row, ten pixels beyond the grid on each side."""
    rows, columns = np.mgrid[-10:138, -10:138] + 0.5
    power = np.stack([1 + (columns + 50) / 1000, 1 + (rows + 50) / 1000]).astype(np.float32)
    optical = np.random.default_rng(0).integers(100, 900, (4, 128, 128)).astype(np.uint16)
    return (
        write(folder / "s2.tif", optical, CARD.optical.bands),
        write(folder / "s1.tif", power, ("VV", "VH"), PLACE @ Affine.translation(-10, -10), nodata=None),
    )


@pytest.mark.parametrize(
    ("coreg", "shift", "moved"),
    [
        ("check", ACCEPTED, (0, 0)),
        ("auto", ACCEPTED, (1.5, -2.25)),
        ("require", ACCEPTED, (1.5, -2.25)),
        ("auto", Shift(1.5, -2.25, False, "Not certain.", 0.1, 0.1, 1, 2, 20, ()), (0, 0)),
        ("auto", Shift(math.nan, math.nan, False, "Nothing.", math.nan, 0, 0, 0, 0, ()), (0, 0)),
    ],
)
def test_an_accepted_shift_moves_sar_by_just_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coreg: Any, shift: Shift, moved: tuple[float, float]
) -> None:
    monkeypatch.setattr("refnet_cli.scene.pair.estimate_shift", answering(shift))
    options = SceneOptions(sar_scale="power", coreg=coreg)
    with ScenePair.open(*ramp_pair(tmp_path), CARD.optical.bands, ["VV", "VH"], options) as pair:
        level = pair.read(Window(20, 20, 80, 80)).sar.astype(np.float64)
        (found,) = (decision for decision in pair.decisions if decision.what == "coreg")
        warned = bool(pair.warnings)
    place = (10 ** (level / 10) - 1) * 1000 - 50
    rows, columns = np.mgrid[20:100, 20:100] + 0.5
    # What lies at a column of the SAR image comes to lie further right by the shift.
    np.testing.assert_allclose(place[0] + moved[0], columns, atol=2e-3)
    np.testing.assert_allclose(place[1] + moved[1], rows, atol=2e-3)
    assert found.value["applied"] == (moved != (0, 0))
    assert found.value["accepted"] == shift.accepted
    assert warned == (shift.accepted and moved == (0, 0))


def test_require_fails_without_a_certain_shift(tmp_path: Path) -> None:
    options = SceneOptions(coreg="require")
    with pytest.raises(InputError, match=r"--coreg require .*windows"):
        ScenePair.open(*make_pair(tmp_path, 120, 120), CARD.optical.bands, ["VV", "VH"], options)


def test_metres_and_lines_are_true(tmp_path: Path) -> None:
    """On a UTM grid of 10 m, and on one in degrees far from the equator, where a column is half a row wide."""
    flat = write(tmp_path / "a.tif", np.ones((1, 100, 100), np.uint16), ("B03",))
    polar = write(
        tmp_path / "b.tif", np.ones((1, 100, 100), np.uint16), ("B03",), Affine(1e-4, 0, 20, 0, -1e-4, 60), "EPSG:4326"
    )
    for path, across, down in ((flat, 10 / 0.9996, 10 / 0.9996), (polar, 5.58, 11.14)):
        found = PairShift(ACCEPTED, grid_of(path), ())
        assert pixel_metres(found.grid) == pytest.approx((across, down), rel=2e-3)
        found.write_geojson(tmp_path / "shift.geojson")
        (feature,) = json.loads((tmp_path / "shift.geojson").read_text())["features"]
        (lon, lat), (lon2, lat2) = feature["geometry"]["coordinates"]
        length = Geod(ellps="WGS84").inv(lon, lat, lon2, lat2)[2]
        assert length == pytest.approx(math.hypot(1.5 * across, 2.25 * down), rel=2e-3)
        assert lat2 > lat  # up, since the rows become fewer
        assert found.to_dict()["metres"] == pytest.approx([1.5 * across, -2.25 * down], rel=2e-3)


@pytest.mark.parametrize("data", ["simulated", "real"], indirect=True)
def test_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = "433D_629L_3_1.tif"
    optical, sar = (str(data / "terramind" / folder / place) for folder in ("S2L2A", "S1RTC"))
    plot, lines = tmp_path / "shift.png", tmp_path / "shift.geojson"
    assert run(["register", "--optical", optical, "--sar", sar, "--plot", str(plot), "--geojson", str(lines)]) == 0
    text = capsys.readouterr().out
    assert re.match(r"accepted: SAR must move [\d.]+ m east, [\d.]+ m south \(", text)
    assert run(["register", "--optical", optical, "--sar", sar, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"({found['columns']:.2f} columns, {found['rows']:.2f} rows)" in text
    assert len(found["vectors"]) == found["windows"] == len(json.loads(lines.read_text())["features"])
    picture = np.asarray(Image.open(plot).convert("RGB")).astype(int)
    blue = np.abs(picture - (0, 114, 178)).sum(axis=2) < 30
    before, after = (half.sum() for half in np.array_split(blue[: 4 * len(blue) // 5], 2, axis=1))
    assert before > 300
    if math.hypot(found["columns"], found["rows"]) > NEGLIGIBLE:
        assert after < before / 2  # shorter arrows
    grey = np.ptp(picture, axis=2) == 0
    assert len(np.unique(picture[grey])) > 100  # of the optical image


def test_unknown_shift_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    optical, sar = make_pair(tmp_path, 64, 64)
    assert run(["register", "--optical", str(optical), "--sar", str(sar), "--plot", str(tmp_path / "q.png")]) == 0
    assert capsys.readouterr().out.startswith("unknown: ")
    assert (tmp_path / "q.png").stat().st_size > 1000
    found = find_shift(optical, sar)
    assert found.to_dict()["metres"] is None
    assert found.move == ""


def test_a_shift_that_does_not_matter_is_called_so() -> None:
    grid = GeoBox((100, 100), PLACE, "EPSG:32633")
    for columns, said in ((0.3, "too little to matter"), (3.8, "--coreg auto moves it")):
        shift = replace(ACCEPTED, columns=columns, rows=-0.25)
        first, *_, last = describe_shift(PairShift(shift, grid, ()))
        assert first.endswith(f"m east, 2.5 m north ({columns:.2f} columns, 0.25 rows)")
        assert said in last


def test_the_picture_has_what_was_compared(tmp_path: Path) -> None:
    """All of a small scene; of a large one every so many pixels of some blocks, in their places."""
    optical, sar = make_pair(tmp_path, 70, 90)
    picture = find_shift(optical, sar).picture
    assert picture is not None
    with rasterio.open(optical) as file:
        np.testing.assert_allclose(picture, file.read([2, 3, 4]).mean(axis=0))
    small = Picture(1500, 2100)
    rows, columns = np.mgrid[512:1024, 1024:1536].astype(np.float32)
    small.add(Piece(512, 1024, np.stack([rows, columns]), rows[None]))
    assert small.values.shape == (500, 700)
    known = np.isfinite(small.values)
    assert known.sum() == 171 * 170
    row, column = np.argwhere(known)[-1]
    assert small.values[row, column] == (3 * row + 3 * column) / 2
