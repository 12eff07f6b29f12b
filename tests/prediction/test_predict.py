"""The whole program: maps on the optical grid, holes, refusals, memory."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rio_cogeo.cogeo import cog_validate

from refnet_cli.cli.main import run
from refnet_cli.engines.torch_engine import load_torch_engine
from refnet_cli.errors import InputError, OptionsError, StorageError
from refnet_cli.evaluation.evaluate import evaluate
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.model.weights import save_weights
from refnet_cli.outputs.base import write_sidecar
from refnet_cli.outputs.cog import ClassMap
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.prediction.stream import predict_rows
from refnet_cli.scene.blocks import read_tile
from refnet_cli.scene.pair import ScenePair
from refnet_cli.tiles.tiling import Tiling
from refnet_cli.tiles.window import Window
from tests.helpers.batches import FreeEngine
from tests.helpers.once import once
from tests.helpers.programs import ROOT, refnet
from tests.helpers.quick import few
from tests.helpers.real_data import PLACES, each_source
from tests.helpers.scenes import CARD, PlaceEngine, grid_of, make_pair, write

SAMPLE = ROOT / "sample_data"


def options(pair: tuple[Path, Path], **changes: object) -> PredictOptions:
    return replace(PredictOptions(*pair, output=pair[0].with_name("lulc.tif")), **changes)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.mark.parametrize(
    ("height", "width"),
    few([(1, 1), (5, 300), (100, 90), (128, 128), (129, 257), (300, 401)], (1, 1), (5, 300), (129, 257)),
)
@pytest.mark.parametrize("overlap", [0, 33, 64])
def test_the_map_is_the_engines_answer_pixel_for_pixel(tmp_path: Path, height: int, width: int, overlap: int) -> None:
    pair = make_pair(tmp_path, height, width)
    engine = PlaceEngine()
    report = predict(options(pair, overlap=overlap), engine)
    with rasterio.open(pair[0]) as file:
        optical = file.read()
    with rasterio.open(report.output) as file:
        assert grid_of(Path(report.output)) == grid_of(pair[0])
        codes = np.array([CARD.scheme.codes[i] for i in range(4)])
        assert np.array_equal(file.read(1), codes[optical.argmax(0)])
    assert engine.calls == report.tiles["run"] == len(Tiling.of(height, width, 128, overlap))
    assert report.valid_share == 1
    assert sum(report.areas_hectares.values()) == pytest.approx(height * width / 100, rel=2e-3)


def test_holes_are_nodata_and_empty_tiles_are_not_run(tmp_path: Path) -> None:
    def punch(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[:, :, :250] = 0
        sar[:, 40:60, 300:320] = np.nan

    pair = make_pair(tmp_path, 256, 512, holes=punch)
    report = predict(options(pair), PlaceEngine())
    found = read(Path(report.output)) > 0
    assert not found[:, :250].any()
    assert not found[40:60, 300:320].any()
    assert found[:, 322:].all()
    assert report.valid_share == pytest.approx(found.mean())
    assert report.tiles["skipped"] > 0


def test_probabilities_and_validity_come_once_for_each_row(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 201, 130)
    with ScenePair.open(*pair, CARD.optical.bands, CARD.sar.bands) as scene:
        tiling = Tiling(201, 130, 128)
        rows = list(predict_rows(scene, PlaceEngine(), tiling))
        assert [r.row for r in rows] == list(np.cumsum([0, *(len(r.valid) for r in rows[:-1])]))
        assert sum(len(r.valid) for r in rows) == 201
        assert np.concatenate([r.probabilities for r in rows], 1).sum(0) == pytest.approx(1, abs=1e-5)


def test_tiles_have_no_data_beyond_the_grid(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 70, 50)
    with ScenePair.open(*pair, CARD.optical.bands, CARD.sar.bands) as scene:
        whole = scene.read(Window(0, 0, 70, 50))
        tile = read_tile(scene, Window(-20, -3, 110, 56))
        padding = ((0, 0), (20, 20), (3, 3))
        for found, inside in zip(tile, whole, strict=True):
            np.testing.assert_array_equal(found, np.pad(inside, padding, constant_values=np.nan))


def test_sensors_that_never_meet_are_refused(tmp_path: Path) -> None:
    def part(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[:, :, :100] = 0
        sar[:, :, 95:] = np.nan

    pair = make_pair(tmp_path, 64, 200, holes=part)
    with pytest.raises(InputError, match="no pixel with data from both sensors"):
        predict(options(pair), PlaceEngine())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s1.tif", "s2.tif"]


def test_a_single_output_may_be_a_text(tmp_path: Path) -> None:
    pair = tmp_path / "s2.tif", tmp_path / "s1.tif"
    assert options(pair, outputs="areas") == options(pair, outputs=("areas",))
    assert list(options(pair, outputs="areas").output_paths) == ["classes", "areas"]


def test_output_that_is_an_input_is_refused_through_links_too(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 64, 64)
    (tmp_path / "soft.tif").symlink_to(pair[1])
    (tmp_path / "hard.tif").hardlink_to(pair[0])
    before = pair[0].read_bytes(), pair[1].read_bytes()
    for name in ("s1.tif", "s2.tif", "soft.tif", "hard.tif"):
        with pytest.raises(OptionsError, match="is the same file as"):
            predict(options(pair, output=tmp_path / name), PlaceEngine())
    with pytest.raises(OptionsError, match="is the same file as"):
        predict(options(pair, outputs=(f"confidence={tmp_path / 'lulc.tif'}",)), PlaceEngine())
    assert (pair[0].read_bytes(), pair[1].read_bytes()) == before


def test_an_engine_that_fails_leaves_the_old_map(tmp_path: Path) -> None:
    class Failing(PlaceEngine):
        def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
            if self.calls > 3:
                raise RuntimeError("lightning")
            return super().predict(optical, sar)

    pair = make_pair(tmp_path, 300, 300)
    (tmp_path / "lulc.tif").write_text("old")
    with pytest.raises(RuntimeError, match="lightning"):
        predict(options(pair, outputs=(f"preview={tmp_path / 'p.png'}",), overwrite=True), Failing())
    assert (tmp_path / "lulc.tif").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lulc.tif", "s1.tif", "s2.tif"]


def test_equal_calls_make_equal_files(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 150, 140, sar_pixel=14)
    first = Path(predict(options(pair, output=tmp_path / "a.tif"), PlaceEngine()).output)
    engine = PlaceEngine()
    engine.batch = 1
    second = Path(predict(options(pair, output=tmp_path / "b.tif", batch=1), engine).output)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("sar_pixel", few([10, 14], 14))
def test_same_bytes_for_any_number_of_threads(tmp_path: Path, sar_pixel: float) -> None:
    class BothEngine(PlaceEngine):
        """One whose answer depends on SAR too."""

        def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
            shares = super().predict(optical, sar)
            shares[:, 1] *= 2 + sar[:, 0] / 30
            shares[:, 2] *= 2 + sar[:, 1] / 30
            return shares

    def punch(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[:3] = 2000
        sar[0, 100:140, 200:260] = np.nan

    pair = make_pair(tmp_path, 520, 280, sar_pixel, punch)
    made, counted = set(), []
    for threads in (1, 2, 5):
        report = predict(options(pair, outputs=(f"preview={tmp_path / 'p.png'}",), read_threads=threads), BothEngine())
        files = Path(report.output).read_bytes() + (tmp_path / "p.png").read_bytes()
        made.add(hashlib.sha256(files).hexdigest())
        counted.append((report.counts, report.tiles, report.areas_hectares, report.valid_share))
    assert len(made) == 1
    assert counted[0] == counted[1] == counted[2]


def test_impossible_numbers_of_threads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="threads"):
        options((tmp_path / "a.tif", tmp_path / "b.tif"), read_threads=0)


@pytest.mark.long
@pytest.mark.parametrize("threads", few([1, 3], 3))
def test_damage_found_in_a_thread_is_the_same_error_and_leaves_nothing(tmp_path: Path, threads: int) -> None:
    pair = make_pair(tmp_path, 2000, 600)
    with rasterio.open(pair[0]) as file:
        offset = int(file.get_tag_item("BLOCK_OFFSET_1_5", "TIFF", bidx=1))
    content = bytearray(pair[0].read_bytes())
    content[offset : offset + 64] = b"\xff" * 64
    pair[0].write_bytes(content)
    before = threading.active_count()
    with pytest.raises(InputError, match=r"s2\.tif is damaged: band \d is unreadable in rows 1024") as caught:
        predict(options(pair, read_threads=threads), PlaceEngine())
    assert type(caught.value) is InputError
    assert threading.active_count() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s1.tif", "s2.tif"]


@pytest.mark.parametrize("error", few([RuntimeError, KeyboardInterrupt, SystemExit], RuntimeError, KeyboardInterrupt))
def test_whatever_stops_the_network_stops_the_threads(tmp_path: Path, error: type[BaseException]) -> None:
    class Stopped(PlaceEngine):
        def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
            if self.calls > 8:
                raise error
            return super().predict(optical, sar)

    pair = make_pair(tmp_path, 600, 300, sar_pixel=14)
    before = threading.active_count(), open_files(tmp_path)
    with pytest.raises(error):
        predict(options(pair, outputs=(f"preview={tmp_path / 'p.png'}",), read_threads=3, coreg="off"), Stopped())
    assert (threading.active_count(), open_files(tmp_path)) == before
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} - {"s1.tif", "s2.tif"}
    # What a signal interrupts is gone on with.
    kept = {".lulc.tif.refnet", ".lulc.tif.refnet/lock", ".lulc.tif.refnet/journal"}
    assert left == (set() if error is RuntimeError else kept)


def test_an_output_that_fails_stops_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: ClassMap, codes: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ClassMap, "_put", fail)
    pair = make_pair(tmp_path, 2000, 100)
    engine, before = PlaceEngine(), threading.active_count()
    with pytest.raises(StorageError, match="Free some space"):
        predict(options(pair, overlap=0), engine)
    assert engine.calls < 12
    assert threading.active_count() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s1.tif", "s2.tif"]


def test_rows_that_are_given_up_end_the_reading(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 900, 130)
    before = threading.active_count(), open_files(tmp_path)
    with ScenePair.open(*pair, CARD.optical.bands, CARD.sar.bands, read_threads=2) as scene:
        rows = predict_rows(scene, PlaceEngine(), Tiling(900, 130, 128))
        assert next(rows).row == 0
        rows.close()
    assert (threading.active_count(), open_files(tmp_path)) == before


def open_files(folder: Path) -> int:
    """How many files of a folder this process has open."""
    links = Path("/proc/self/fd")
    return sum(str(folder) in os.readlink(link) for link in links.iterdir() if link.is_symlink())


MEMORY = """
import re, sys
from pathlib import Path
from typing import Any
sys.path.insert(0, {root!r})
from refnet_cli.outputs import cog as geotiff
from refnet_cli.raster import gdal
from refnet_cli.prediction.predict import predict
from refnet_cli.prediction.options import PredictOptions
from tests.helpers.scenes import PlaceEngine
# GDAL's cache of blocks has a bound of its own, which small scenes do not reach.
gdal._LOCAL["GDAL_CACHEMAX"] = geotiff._GDAL["GDAL_CACHEMAX"] = 2**22
folder = Path(sys.argv[1])
# Nor does the search for a shift, which keeps what 400 windows say at most.
predict(PredictOptions(folder / "s2.tif", folder / "s1.tif", folder / "lulc.tif", coreg="off"), PlaceEngine())
# Not resource.getrusage, whose peak is inherited from the process that started this one.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024)
"""


def peak_memory(folder: Path, height: int, width: int) -> float:
    """MB that a free engine's prediction takes in a process of its own."""
    folder.mkdir()
    make_pair(folder, height, width, sar_pixel=20)
    script = MEMORY.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.long
def test_memory_grows_with_the_width_only(tmp_path: Path) -> None:
    tall, wide = peak_memory(tmp_path / "tall", 6000, 6000), peak_memory(tmp_path / "wide", 3000, 6000)
    assert tall < 1500
    assert abs(tall - wide) < 0.15 * wide


def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    # Less than 8 bytes are kept of each of the 3.6 million pixels more.
    short = peak_memory(tmp_path / "short", 3000, 600)
    grown = peak_memory(tmp_path / "tall", 9000, 600) - short
    if grown >= 29:  # on a busy machine a peak may be a megabyte higher by chance
        grown = peak_memory(tmp_path / "again", 9000, 600) - short
    assert grown < 29


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Report of the documented command on the sample scene."""

    def make(folder: Path) -> dict[str, object]:
        words = ("--optical", "sample_data/s2.tif", "--sar", "sample_data/s1.tif", "-o", folder / "lulc.tif")
        done = refnet("predict", *words, "-o", "preview", "--json", seconds=600)
        assert done.returncode == 0, done.stderr
        notice = read_card(default_weights()).notice
        assert notice
        assert notice in done.stderr
        return json.loads(done.stdout)

    return once(tmp_path_factory, "sample", make)


def test_accuracy_on_the_sample_scene(made: dict[str, object]) -> None:
    scores = evaluate(str(made["output"]), SAMPLE / "labels.tif")
    sample = read_card(default_weights()).scores["sample_data"]
    assert scores.overall_accuracy == pytest.approx(sample["both"], abs=0.002)
    assert scores.overall_accuracy > 0.5
    for sensor in ("optical", "sar"):
        assert scores.overall_accuracy > sample[sensor]


def test_accuracy_on_a_real_place(shared: Path, tmp_path: Path) -> None:
    """The bundled weights know this place; they are to make sense of it, from its files as they lie there."""
    terramind, name = shared / "data" / "terramind", "282D_485L_3_3.tif"
    scenes = terramind / "S2L2A" / name, terramind / "S1RTC" / name
    predict(PredictOptions(*scenes, tmp_path / "map.tif", device="cpu", scheme="terramesh"))  # as the labels
    assert evaluate(tmp_path / "map.tif", terramind / "LULC" / name).overall_accuracy > 0.8


def test_the_samples_map_is_a_cog_on_the_optical_grid(made: dict[str, object]) -> None:
    valid, errors, warned = cog_validate(str(made["output"]), strict=True)
    assert (valid, errors, warned) == (True, [], [])
    assert grid_of(Path(str(made["output"]))) == grid_of(SAMPLE / "s2.tif")


def test_the_report_is_complete(made: dict[str, object]) -> None:
    assert made["options"]["overlap"] == 64
    assert made.keys() >= {"grid", "decisions", "tiles", "valid_share", "areas_hectares", "seconds", "output"}
    assert {d["what"] for d in made["decisions"]} >= {"optical.offset", "sar.scale", "optical.bands", "sar.bands"}
    assert Path(made["files"]["preview"][0]["path"]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_where_the_tiles_lie_hardly_matters() -> None:
    """Of two equally likely classes anything tips the scales, so that the surer half of the pixels is held closer."""
    changed, valid, lead = shift_tiles(default_weights())
    stated = read_card(default_weights()).scores["sample_data"]["changed_by_moved_tiles"]
    assert changed[valid].mean() == pytest.approx(stated, abs=0.005)
    assert stated < 0.15
    sure = valid & (lead >= np.median(lead[valid]))
    assert changed[sure].mean() < 0.02


def shift_tiles(weights: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the sample's map changes as tiles shift by half, where it has data, and how far the first class leads."""
    engine = load_torch_engine(weights, "cpu")
    tile = engine.card.tile
    with ScenePair.open(SAMPLE / "s2.tif", SAMPLE / "s1.tif", engine.card.optical.bands, engine.card.sar.bands) as pair:
        height, width = pair.grid.shape

        class Shifted(Tiling):
            def _starts(self, size: int) -> list[int]:
                half = self.tile // 2
                return list(range(-half - self.overlap // 2, size - self.overlap // 2, self.tile - self.overlap))

        found = []
        for tiling in (Tiling(height, width, tile, tile // 4), Shifted(height, width, tile, tile // 4)):
            rows = list(predict_rows(pair, engine, tiling))
            found.append(np.concatenate([r.probabilities for r in rows], axis=1)[1:])
        valid = np.concatenate([r.valid for r in rows])
    original, shifted = found
    lead = np.subtract(*np.sort(original, axis=0)[[-1, -2]])
    return original.argmax(0) != shifted.argmax(0), valid, lead


@pytest.mark.parametrize(("data", "place"), each_source(PLACES[1:2], PLACES, pytest.mark.long), indirect=["data"])
def test_pairs_of_a_data_set(data: Path, tmp_path: Path, place: str) -> None:
    optical, sar = (data / "terramind" / kind / f"{place}.tif" for kind in ("S2L2A", "S1RTC"))
    out = tmp_path / "lulc.tif"
    assert run(["predict", "--optical", str(optical), "--sar", str(sar), "-o", str(out), "-q"]) == 0
    assert cog_validate(str(out), strict=True)[0]
    assert grid_of(out) == grid_of(optical)
    assert (read(out) > 0).mean() > 0.98


@pytest.mark.long
@pytest.mark.parametrize(
    ("data", "level", "date"),
    each_source([("s2a", 1)], product(("s2a", "s2c"), (0, 1)), pytest.mark.long),
    indirect=["data"],
)
def test_band_files_stacked(data: Path, tmp_path: Path, level: str, date: int) -> None:
    scene = sorted((data / "ssl4eo" / level / "0000200").iterdir())[date]
    radar = sorted((data / "ssl4eo" / "s1" / "0000200").iterdir())[date]

    def stack(files: list[Path], out: Path) -> Path:
        with rasterio.open(files[0]) as first:
            bands = np.stack([read(file) for file in files])
            names = tuple(file.stem for file in files)
            return write(out, bands, names, first.transform, first.crs.to_string(), first.nodata)

    optical = stack([scene / f"{band}.tif" for band in ("B2", "B3", "B4", "B8")], tmp_path / "s2.tif")
    sar = stack([radar / "VV.tif", radar / "VH.tif"], tmp_path / "s1.tif")
    out = tmp_path / "lulc.tif"
    assert run(["predict", "--optical", str(optical), "--sar", str(sar), "-o", str(out), "-q"]) == 0
    assert cog_validate(str(out), strict=True)[0]
    assert grid_of(out) == grid_of(optical)
    assert 0.9 < (read(out) > 0).mean() <= 1


@pytest.mark.parametrize("threshold", few([0.0, 0.55, 0.57, 0.99], 0.57, 0.99))
def test_pixels_below_the_threshold_have_no_data_in_all_that_counts_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    def punch(optical: np.ndarray, sar: np.ndarray) -> None:
        optical[:, :, :50] = 0

    pair = make_pair(tmp_path, 200, 300, holes=punch)
    chosen = options(pair, threshold=threshold, coreg="off", outputs=("report",))
    report = predict(chosen, PlaceEngine())
    share = (read(chosen.output) > 0).mean()
    assert report.valid_share == pytest.approx(share)
    assert sum(report.areas_hectares.values()) == pytest.approx(share * 600, rel=2e-3)
    (shown,) = re.findall(r"Valid pixels</dt><dd>(?:<bdi>)?([^<]+)<", (tmp_path / "lulc_report.html").read_text())
    assert shown == f"{100 * share:.1f} %"
    assert any("threshold of 0.99" in warning for warning in report.warnings) == (not share)
    monkeypatch.setattr("refnet_cli.prediction.predict.load", lambda options, weights: FreeEngine())
    words = [*map(str, ("predict", "--optical", pair[0], "--sar", pair[1], "-o", tmp_path / "b.tif"))]
    assert run([*words, "--threshold", str(threshold), "--overlap", "32"]) == 0
    assert f"no data {(read(tmp_path / 'b.tif') == 0).mean():.1%};" in capfd.readouterr().err


def test_a_threshold_counts_alike_in_a_run_that_was_interrupted(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 520, 100)
    chosen = options(pair, threshold=0.57, coreg="off")
    report = predict(chosen, Mortal())
    assert 0.1 < report.valid_share < 0.9
    with pytest.raises(SystemExit):
        predict(chosen, Mortal(2))
    again = predict(chosen, Mortal())
    assert again.resumed_rows
    assert again.valid_share == report.valid_share


def test_paths_may_be_texts(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 64, 64)
    texts = PredictOptions(
        str(pair[0]), [str(pair[1])], output=str(tmp_path / "a.tif"), grid=str(pair[0]), outputs=["quality"],
        coreg="off",
    )  # type: ignore[arg-type]  # fmt: skip
    assert texts == PredictOptions(
        pair[0], (pair[1],), output=tmp_path / "a.tif", grid=pair[0], outputs=["quality"], coreg="off",
    )  # type: ignore[arg-type]  # fmt: skip
    report = predict(texts, PlaceEngine())
    assert report.output == str(tmp_path / "a.tif")
    assert {path.name for path in tmp_path.glob("a*")} == {"a.tif", "a_quality.tif"}
    with pytest.raises(InputError, match="A path is empty"):
        PredictOptions("", pair[1], tmp_path / "a.tif")  # type: ignore[arg-type]


class Mortal(PlaceEngine):
    """Ends the program at its n-th batch."""

    def __init__(self, end: int | None = None) -> None:
        super().__init__()
        self.end, self.batches = end, 0

    def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
        if self.batches == self.end:
            raise SystemExit(143)
        self.batches += 1
        return super().predict(optical, sar)


@pytest.mark.parametrize(
    ("missing", "every"),
    few([("nodata", 5), ("nodata", 1), ("use-other", 1)], ("nodata", 5)),
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, missing: Any, every: int) -> None:
    """Wherever it is interrupted, also again and again; what was finished is not computed twice."""
    pair = make_pair(tmp_path, 520, 300, sar_pixel=14)
    chosen = options(pair, outputs=(f"preview={tmp_path / 'p.png'}",), missing=missing, coreg="off")
    whole = Mortal()
    report = predict(chosen, whole)
    wanted, picture = chosen.output.read_bytes(), (tmp_path / "p.png").read_bytes()
    resumed = set()
    for end in range(0, whole.batches, every):
        chosen.output.unlink()
        with pytest.raises(SystemExit):
            predict(chosen, Mortal(end))
        assert not chosen.output.exists()
        again = Mortal()
        found = predict(chosen, again)
        assert chosen.output.read_bytes() == wanted
        assert (tmp_path / "p.png").read_bytes() == picture
        assert (found.areas_hectares, found.valid_share) == (report.areas_hectares, report.valid_share)
        passed = sum(start + 128 <= found.resumed_rows for start in Tiling(520, 300, 128, 32).row_starts)
        assert again.batches == whole.batches - 2 * passed  # a row has four tiles, a batch three
        resumed.add(found.resumed_rows)
    assert len(resumed) > 1
    chosen.output.unlink()
    deaths = 0
    while not chosen.output.exists():  # each goes on where the one before died
        with suppress(SystemExit):
            predict(chosen, Mortal(6))
        deaths += 1
    assert deaths > 2
    assert chosen.output.read_bytes() == wanted
    assert not list(tmp_path.glob(".*"))


@pytest.mark.long
def test_where_more_memory_is_free_than_before_a_run_keeps_to_the_batch_it_had(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 520, 300, sar_pixel=14)
    chosen = options(pair, coreg="auto")
    few, many, fewest = Mortal(7), Mortal(), Mortal()
    few.batch, many.batch, fewest.batch = 2, 3, 1
    with pytest.raises(SystemExit):
        predict(chosen, few)
    report = predict(chosen, many)
    assert report.resumed_rows > 0
    assert many.batch == 2
    chosen.output.unlink()
    with pytest.raises(SystemExit):
        predict(chosen, Mortal(7))
    assert predict(chosen, fewest).renewed


def test_other_inputs_or_options_begin_anew_and_say_so(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 520, 200, sar_pixel=14)
    chosen = options(pair, coreg="off")

    def interrupted() -> None:
        with pytest.raises(SystemExit):
            predict(chosen, Mortal(3))

    interrupted()
    found = predict(replace(chosen, resume=False), Mortal())
    assert (found.resumed_rows, found.renewed) == (0, False)
    interrupted()
    found = predict(replace(chosen, overlap=16), Mortal())
    assert (found.resumed_rows, found.renewed) == (0, True)
    interrupted()
    os.utime(pair[0], ns=(1, 1))
    found = predict(chosen, Mortal())
    assert (found.resumed_rows, found.renewed) == (0, True)
    interrupted()
    found = predict(replace(chosen, read_threads=3, checksum=True), Mortal())
    assert found.resumed_rows > 0
    assert (tmp_path / "lulc.tif.sha256").read_text() == f"{found.sha256}  lulc.tif\n"
    assert hashlib.sha256(chosen.output.read_bytes()).hexdigest() == found.sha256


@pytest.mark.parametrize("bundled", [False, pytest.param(True, marks=pytest.mark.long)], ids=["small", "bundled"])
def test_a_network_goes_on_to_the_same_bytes(tmp_path: Path, bundled: bool) -> None:
    """With batches of several tiles, whose arithmetic may depend on who is next to whom."""
    pair = make_pair(tmp_path, 600, 260, sar_pixel=14)
    weights = default_weights() if bundled else tmp_path / "small.safetensors"
    if not bundled:
        torch.manual_seed(0)
        save_weights(REFNet(CARD.network), replace(CARD, tile=128), weights)
    chosen = options(pair, weights=weights, batch=3, coreg="off")
    predict(chosen)
    wanted = chosen.output.read_bytes()

    def stop(done: int, total: int) -> None:
        if done >= 0.7 * total:
            raise SystemExit(130)

    with pytest.raises(SystemExit):
        predict(chosen, progress=stop)
    assert predict(chosen).resumed_rows > 0
    assert chosen.output.read_bytes() == wanted


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = make_pair(tmp_path, 530, 300, sar_pixel=14)
    chosen = options(pair, checksum=True, coreg="off")
    predict(chosen, PlaceEngine())
    assert run(["verify", str(chosen.output)]) == 0
    assert "SHA-256" in capsys.readouterr().out
    whole, wanted = chosen.output.read_bytes(), read(chosen.output)
    (tmp_path / "lulc.tif.sha256").unlink()
    assert run(["verify", str(chosen.output)]) == 0
    random = np.random.default_rng(0)
    for place in random.integers(3000, len(whole) - 8, 12):
        content = bytearray(whole)
        content[place] ^= 255
        (tmp_path / "lulc.tif").write_bytes(content)
        code = run(["verify", str(chosen.output)])
        # Without the file next to it, a byte of a tag or between blocks may go unnoticed, but none of a pixel.
        assert code == 65 or np.array_equal(read(chosen.output), wanted), place
        write_sidecar(chosen.output, hashlib.sha256(whole).hexdigest())
        assert run(["verify", str(chosen.output)]) == 65, place
        (tmp_path / "lulc.tif.sha256").unlink()
    for path, code in ((pair[0], 65), (tmp_path / "none.tif", 66)):
        assert run(["verify", str(path)]) == code


@pytest.mark.long
def test_neither_batch_nor_threads_change_a_class(tmp_path: Path) -> None:
    """Kernels may differ in the last bit; on the sample scene no class changed with batches of 1 to 5 tiles."""
    scene = PredictOptions(
        SAMPLE / "s2.tif", SAMPLE / "s1.tif", tmp_path / "a.tif", coreg="off",
        bounds=("240000", "6199440", "241920", "6203280"), deterministic=True,
    )  # fmt: skip
    maps = []
    for batch, threads in ((1, 1), (4, 3)):
        predict(replace(scene, batch=batch, read_threads=threads))
        maps.append(read(scene.output))
    assert np.count_nonzero(maps[1] != maps[0]) <= 2  # of 73,728


@pytest.mark.parametrize("side", [1400, 700])
def test_damage_may_be_masked_up_to_a_twentieth(tmp_path: Path, side: int) -> None:
    pair = make_pair(tmp_path, side, side)
    with rasterio.open(pair[0]) as file:
        place = int(file.get_tag_item("BLOCK_OFFSET_1_1", "TIFF", bidx=1))
    content = bytearray(pair[0].read_bytes())
    content[place : place + 64] = b"\xff" * 64
    pair[0].write_bytes(content)
    chosen = options(pair, on_read_error="mask", coreg="off")
    if side == 700:  # of which a block of 256 x 256 is an eighth
        with pytest.raises(InputError, match=r"is unreadable \(limit 5%\)"):
            predict(chosen, PlaceEngine())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["s1.tif", "s2.tif"]
    else:
        report = predict(chosen, PlaceEngine())
        hole = read(chosen.output) == 0
        assert hole[256:512, 256:512].all()
        assert hole.sum() == report.counts["optical_unreadable"] < 2 * 256**2
        assert any("unreadable there" in warning for warning in report.warnings)
