"""What `refnet predict` says before and after the work, on a terminal and without one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refnet_cli.cli.main import commands, run
from refnet_cli.cli.predict import GROUPS
from refnet_cli.cli.prediction_text import MOST_LINES, describe_warnings
from refnet_cli.cli.terminal import ProgressBar
from refnet_cli.cli.text import count, describe_seconds, name_files
from refnet_cli.outputs.rows import PROBABILITY_NODATA, STEPS, Rows
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.prediction.report import Report
from tests.helpers.scenes import CARD, make_pair


def words(pair: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    return ["predict", "--s2", str(pair[0]), "--s1", str(pair[1]), "-o", str(out), *more]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("pair"), 100, 130)


def test_the_plan_comes_before_the_work_and_the_result_after_it(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(pair, tmp_path / "lulc.tif")) == 0
    streams = capsys.readouterr()
    assert streams.out == f"{tmp_path}/lulc.tif\n"
    lines = streams.err.splitlines()
    starts = [line.split()[0] for line in lines]
    assert starts[:3] == ["reading", "Sentinel-2", "Sentinel-1"]
    before = lines[: starts.index("refnet-base") + 1]
    assert len(before) <= MOST_LINES
    plan = "\n".join(before)
    assert "B02 B03 B04 B08, offset" in plan
    assert re.search(r"VV VH in \w+", plan)
    assert "Map         130 x 100 pixels of 10 m, EPSG:" in plan
    assert lines[-1].startswith("lulc.tif written in ")
    assert re.fullmatch(r"[\d,.]+ ha mapped, no data [\d.]+%; median probability 0\.\d\d", lines[-2])
    assert sum(float(share) for share in re.findall(r"([\d.]+)%", lines[-3])) == pytest.approx(100, abs=0.3)
    assert "optical.nodata" not in streams.err


def test_evidence_is_shown_when_asked_for_and_nothing_when_not(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(pair, tmp_path / "a.tif", "-v")) == 0
    verbose = capsys.readouterr().err
    assert "optical.nodata: " in verbose
    assert "scan: " in verbose
    assert run(words(pair, tmp_path / "a.tif", "-q")) == 0
    assert capsys.readouterr().err == ""


def test_a_sensor_without_files_is_named(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", "--s2", str(pair[0]), "-o", str(tmp_path / "a.tif")]) == 0
    assert "Sentinel-1  none given; the map is from Sentinel-2 alone" in capsys.readouterr().err


def test_decisions_are_events_in_json(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words(pair, tmp_path / "a.tif", "--log-format", "json")) == 0
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert any(entry["event"] == "decision" and entry["message"].startswith("sar.scale: ") for entry in found)


@pytest.mark.parametrize("twice", [("--s2", "--optical"), ("--sar", "--s1")])
def test_an_alias_and_its_option_are_one(twice: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", twice[0], "a.tif", twice[1], "b.tif", "-o", "x.tif"]) == 2
    assert "is given 2 times: a.tif, b.tif" in capsys.readouterr().err


def test_each_option_of_predict_has_a_group() -> None:
    import click

    command: Any = commands.commands["predict"]
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    names = [option.name for option in options if not option.hidden]
    grouped = [name for group in GROUPS.values() for name in group]
    assert sorted(grouped) == sorted(names)
    text = command.get_help(click.Context(command, info_name="refnet predict"))
    assert [line.rstrip(":") for line in text.splitlines() if re.match(r"[A-Z].*:$", line)] == list(GROUPS)


def test_more_warnings_than_lines_are_counted() -> None:
    shown, more = describe_warnings([str(number) for number in range(20)], 4)
    assert shown == [str(number) for number in range(7)]
    assert more == 13
    assert describe_warnings(["a"], 4) == (["a"], 0)


def test_the_report_so_far_comes_before_the_first_tile(pair: tuple[Path, Path], tmp_path: Path) -> None:
    seen: list[Report | int] = []
    options = PredictOptions(*pair, tmp_path / "a.tif")
    predict(options, progress=lambda done, total: seen.append(done), on_start=seen.append)
    files, network, *tiles = seen
    assert isinstance(files, Report)
    assert isinstance(network, Report)
    assert files.decisions
    assert not files.engine
    assert network.engine["device"]
    assert tiles
    assert all(isinstance(done, int) for done in tiles)


def test_progress_without_a_terminal_is_a_line_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("tiles", quiet=False) as bar:
        for done in range(1, 41):
            bar(done, 40)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert re.fullmatch(r"tiles 10% \(4 of 40\), [\d.]+ s left", lines[0])
    assert lines[-1] == "tiles 100% (40 of 40)"
    with ProgressBar("tiles", quiet=True) as bar:
        bar(40, 40)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1:00 min"), (185, "3:05 min"), (7800, "2:10 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert describe_seconds(seconds) == text


def test_counts_and_names() -> None:
    assert [count(number, "tile") for number in (0, 1, 1234)] == ["0 tiles", "1 tile", "1,234 tiles"]
    assert name_files("a/b.tif") == "b.tif"
    assert name_files([Path("x/B02.tif"), Path("x/B03.tif")]) == "B02.tif and 1 more"


def test_max_probability_is_that_of_the_likeliest_class_given_that_there_is_one() -> None:
    generator = np.random.default_rng(1)
    probabilities = generator.random((CARD.network.classes, 7, 9), np.float32)
    valid = generator.random((7, 9)) > 0.2
    found = Rows(0, probabilities, valid, CARD.scheme).layer("max_probability")
    for row, column in np.ndindex(7, 9):
        classes = probabilities[1:, row, column].astype(float)
        expected = classes.max() / classes.sum() * STEPS if valid[row, column] else PROBABILITY_NODATA
        assert int(found[row, column]) == pytest.approx(expected, abs=1.001)
        assert found[row, column] <= expected + 1e-3
