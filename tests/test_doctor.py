"""What `refnet doctor` says, for people and for programs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from refnet_cli.card import default_weights
from refnet_cli.cli import commands, run
from refnet_cli.doctor import examine
from refnet_cli.scan import SCANS, choose_scan


def test_it_names_what_will_be_used() -> None:
    found = examine()
    assert found.scans["cpu"]["chosen"] == choose_scan("cpu").name
    assert list(found.scans["cpu"]["missing"]) == list(SCANS)
    assert found.libraries["torch"]
    assert found.weights["path"] == str(default_weights())
    text = "\n".join(found.lines())
    assert f"selective scan on cpu: cpu ({choose_scan('cpu').reason})" in text
    assert all(name in text for name in SCANS)


def test_programs_get_the_same_as_people() -> None:
    result = CliRunner().invoke(commands, ["doctor", "--json"])
    assert json.loads(result.stdout) == json.loads(json.dumps(examine().to_dict()))


def test_an_environment_that_asks_for_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFNET_SCAN", "mamba")
    assert run(["doctor"]) == 69
    assert "CUDA devices only" in capfd.readouterr().err
