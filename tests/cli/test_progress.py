"""Commands that may take long show how far they are, unless they are quiet; and lines fit the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from refnet_cli.cli.main import commands, run
from refnet_cli.cli.terminal import ProgressBar, print_lines, print_rows
from refnet_cli.system import log
from tests.helpers.scenes import make_pair, write
from tests.outputs.test_outputs import random_codes, utm_grid, write_map


@pytest.fixture(autouse=True)
def _lines_for_people() -> Iterator[None]:
    yield
    log.start()


def words_for(command: str, folder: Path) -> list[str]:
    """Return a command line, and make the files that it reads."""
    if command == "verify":
        return [command, str(write_map(folder / "map.tif", utm_grid(90, 80), random_codes(90, 80)))]
    if command in ("compare", "evaluate"):
        codes = np.random.default_rng(0).choice([1, 2, 5], (1, 20, 20)).astype(np.uint8)
        paths = [write(folder / f"{name}.tif", codes, (name,)) for name in ("map", "labels")]
        options = ["--scheme"] if command == "evaluate" else ["--old-scheme", "--new-scheme"]
        return [command, *map(str, paths), *(word for option in options for word in (option, "esri-io"))]
    optical, sar = make_pair(folder, 64, 64)
    return [command, "--optical", str(optical), "--sar", str(sar)]


@pytest.mark.parametrize("command", ["compare", "evaluate", "inspect", "register", "verify"])
def test_progress_of(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("compare", "predict", "train"):
        monkeypatch.setattr(f"refnet_cli.cli.{module}.SHORT", 0.0)
    words = words_for(command, tmp_path)
    assert run([*words, "--log-format", "json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    steps = [(entry["done"], entry["total"]) for entry in found if entry["event"] == "progress"]
    assert steps[-1][0] == steps[-1][1] > 0
    assert run([*words, "--log-format", "json", "-q"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["compare", "evaluate", "inspect", "register", "verify"])
def test_what_takes_no_time_shows_none(command: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    for module in ("compare", "predict", "train"):
        monkeypatch.setattr(f"refnet_cli.cli.{module}.SHORT", 1e9)
    assert run([*words_for(command, tmp_path), "--log-format", "json"]) == 0
    assert "progress" not in [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]


def test_a_bar_waits(said: list[str]) -> None:
    for after, lines in ((60.0, []), (0.0, ["rows 100% (10 of 10)"])):
        said.clear()
        with ProgressBar("rows", False, after) as bar:
            bar(10, 10)
        assert said == lines


def every_command(group: click.Group, names: str = "") -> dict[str, click.Command]:
    found = {}
    for name, command in group.commands.items():
        below = every_command(command, f"{names}{name} ") if isinstance(command, click.Group) else None
        found |= below or {f"{names}{name}": command}
    return found


def test_commands_that_log_can_be_quiet() -> None:
    """Those that only print what a file says have nothing to be quiet about."""
    options = {name: {param.name for param in command.params} for name, command in every_command(commands).items()}
    loud = {name for name, names in options.items() if "quiet" not in names}
    assert loud == {"schemes", "weights info"}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refnet_cli.cli.terminal._stdout_on_terminal", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((40, 20)))


ROWS = [("Bands", "B02 B03 B04 B08 of the optical sensor, VV VH"), ("Tile", "256 x 256")]


def test_rows_and_lines_on_a_terminal(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS)
    print_lines(["", "  short", "a line of more than forty characters is broken"])
    assert capsys.readouterr().out.splitlines() == [
        "Bands  B02 B03 B04 B08 of the optical",
        "       sensor, VV VH",
        "Tile   256 x 256",
        "",
        "  short",
        "a line of more than forty characters is",
        "  broken",
    ]


def test_rows_and_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS)
    print_lines(["a line of more than forty characters is not broken"])
    assert capsys.readouterr().out.splitlines() == [
        f"Bands  {ROWS[0][1]}", "Tile   256 x 256", "a line of more than forty characters is not broken",
    ]  # fmt: skip
