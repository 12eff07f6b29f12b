"""`refnet schemes`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refnet_cli.classes.crosswalk import CROSSWALKS
from refnet_cli.classes.schemes import SCHEMES
from refnet_cli.cli.main import run


def test_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schemes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[name, str(len(made.codes))] for name, made in SCHEMES.items()]
    assert run(["schemes", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == [*SCHEMES]


@pytest.mark.parametrize("name", SCHEMES)
def test_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    scheme = SCHEMES[name]
    assert run(["schemes", name]) == 0
    first, *lines, to, since = capsys.readouterr().out.splitlines()
    assert first == f"{name}: {len(scheme.codes)} classes, 0 is no data"
    shown = [line.split(maxsplit=2) for line in lines]
    assert {int(code): label for code, _, label in shown} == scheme.by_code
    assert [bytes.fromhex(colour[1:]) for _, colour, _ in shown] == [bytes(colour) for colour in scheme.colours]
    assert run(["schemes", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {(name, other) for other in found["crosswalks_to"]} == {pair for pair in CROSSWALKS if pair[0] == name}
    assert {(other, name) for other in found["crosswalks_from"]} == {pair for pair in CROSSWALKS if pair[1] == name}
    assert all(other in to for other in found["crosswalks_to"])
    assert all(other in since for other in found["crosswalks_from"])


def test_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Crosswalks are of the schemes that refnet knows, not of another one of that name."""
    path = tmp_path / "own.toml"
    path.write_text('name = "esri-io"\n[classes]\n7 = { name = "Bog", colour = "#102030" }\n')
    assert run(["schemes", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "esri-io: 1 class, 0 is no data", "   7  #102030  Bog",
        "Maps to    no other scheme", "Maps from  no other scheme",
    ]  # fmt: skip


def test_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schemes", "esri"]) == 64
    assert "choose one of dfc2020, " in capsys.readouterr().err
