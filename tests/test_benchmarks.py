"""The benchmarks run, and their results are whole: the figures are another matter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import report, scan, scene, tile, train
from benchmarks.__main__ import main
from benchmarks.measure import Row, compare, hold, medians
from benchmarks.networks import make_network
from refnet_cli import cli
from refnet_cli.card import REFNetConfig

TINY = REFNetConfig(encoder="test_resnet", width=16)


def check(rows: list[Row]) -> None:
    """Every row measures something; ratios and bars agree with the numbers beside them."""
    assert rows
    for row in rows:
        assert sum(measure in row for measure in ("seconds", "megabytes", "difference")) == 1, row
        if "seconds" in row:
            assert row["seconds"] > 0
            assert row["ratio"] == pytest.approx(row["seconds"] / row["other_seconds"])
            assert row["over"]
        if "bar" in row:
            measure, at, bound, limit = row["bar"].split()
            assert (at, float(limit)) == ("at", row["limit"])
            kept = row[measure] <= row["limit"] if bound == "most" else row[measure] >= row["limit"]
            assert row["kept"] is kept
    assert len(report.to_table(rows).splitlines()) == 1 + len(rows)


def bars(rows: list[Row]) -> set[str]:
    return {row["bar"] for row in rows if "bar" in row}


def test_actions_are_taken_in_turn() -> None:
    done: list[str] = []
    taken = medians({name: lambda name=name: done.append(name) for name in "abc"}, repeats=2)  # type: ignore[misc]
    assert done == list("abcabc")
    assert list(taken) == list("abc")


@pytest.mark.parametrize(("megabytes", "kept"), [(10.0, True), (10.5, False)])
def test_a_bar_is_kept_or_not(megabytes: float, kept: bool) -> None:
    assert hold({"megabytes": megabytes}, "megabytes", at_most=10)["kept"] is kept
    assert hold({"megabytes": -megabytes}, "megabytes", at_least=-10)["kept"] is kept


def test_a_bar_that_is_not_kept_shows_in_the_table() -> None:
    rows = [hold(compare("a", 3.0, "b", 2.0), "ratio", at_most=1), compare("c", 1.0, "b", 2.0)]
    assert [line.split()[-1] for line in report.to_table(rows).splitlines()] == ["kept", "NO", "b"]


def test_results_are_json_with_machine_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    main(["scan", "--levels", "5", "--repeats", "1"])
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document.keys() == {"benchmark", "date", "settings", "machine", "versions", "results"}
    assert document["benchmark"] == "scan"
    assert document["settings"] == {"repeats": 1, "device": "cpu", "levels": [5]}
    assert {"processor", "usable_cores", "memory_gb", "torch_threads"} < document["machine"].keys()
    assert {"python", "refnet", "torch", "numba", "gdal"} < document["versions"].keys()
    assert {"level 5, loop forward", "level 5, cpu forward+backward"} < {row["what"] for row in document["results"]}
    check(document["results"])
    assert report.to_table(document["results"]) == captured.err.rstrip("\n")


@pytest.mark.parametrize(
    "arguments",
    [["scan", "--repeats", "0"], ["train", "--steps", "many"], ["scan", "--levels", "6"], ["scene", "--sizes", "huge"]],
)
def test_impossible_settings_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_the_first_level_is_held_to_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "TILE", 32)
    rows = scan.run(repeats=1, levels=[1])
    check(rows)
    assert bars(rows) == {"ratio at most 0.6", "ratio at most 2.5", "ratio at least 10"}


def test_tiles_are_measured_over_their_arithmetic() -> None:
    rows = tile.measure_tiles("tiny", make_network(TINY), 64, 2, repeats=1, scans=["cpu", "torch", "loop"])
    check(rows)
    assert [row["over"] for row in rows] == ["floor"] * 3
    for row in rows:
        assert row["other_seconds"] == pytest.approx(row["gigaflop"] / row["gigaflop_per_second"])


def test_arithmetic_grows_with_the_pixels() -> None:
    net = make_network(TINY)
    assert tile.count_flop(net, 128) == pytest.approx(4 * tile.count_flop(net, 64), rel=0.01)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read as Linux tells it")
def test_the_memory_of_a_forward_pass_is_measured() -> None:
    assert 1 < tile.measure_peak(TINY, 256)["megabytes"] < 1500


def test_training_steps_are_measured() -> None:
    rows = train.run(steps=2, config=TINY, batch=2, side=64)
    check(rows)
    assert bars(rows) == {"ratio at least 4", "difference at most 0.001"}
    assert rows[-1]["kept"]
    assert 0 < rows[-2]["difference"] < 0.01  # a rounding apart is apart
    for row in rows[:2]:
        assert row["other_seconds"] == pytest.approx(row["gigaflop"] / row["gigaflop_per_second"])


def test_every_kernel_trains_on_the_same() -> None:
    first, again, other = (train.make_batch(TINY, 2, 64, step) for step in (0, 0, 1))
    assert first.optical.shape == (2, 3, 64, 64)
    assert first.sar.shape == (2, 2, 64, 64)
    assert first.optical.equal(again.optical)
    assert first.labels.equal(again.labels)
    assert not first.optical.equal(other.optical)
    assert 0 < int(first.labels.min()) <= int(first.labels.max()) < TINY.classes


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read as Linux tells it")
def test_a_small_scene_is_measured(tmp_path: Path) -> None:
    rows = scene.measure_free(tmp_path, 512, repeats=1)
    check(rows)
    assert bars(rows) == {"ratio at most 2", "megabytes at most 2000"}
    assert 0 < rows[1]["megabytes"] < 2000


def test_the_network_alone_is_measured(tmp_path: Path) -> None:
    row = scene.measure_network(tmp_path, 256, repeats=1)
    check([row])
    assert bars([row]) == {"ratio at most 1.15"}


def test_start_up_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here without the processes that are what takes the time."""
    codes = []

    def run_here(command: list[str], **how: object) -> None:
        assert command[:3] == [sys.executable, "-m", "refnet_cli"]
        codes.append(cli.run(command[3:]))

    monkeypatch.setattr(scene.subprocess, "run", run_here)
    row = scene.measure_start(tmp_path, repeats=2)
    assert codes == [0, 0, 0]
    check([row])
    assert bars([row]) == {"seconds at most 6"}
