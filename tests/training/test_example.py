"""The regions file that refnet train prints: it can be used, explains every setting, and states true defaults."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from refnet_cli.cli.main import run
from refnet_cli.system.config import read, some
from refnet_cli.system.options import texts
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.example import LEFT_OUT, STATED, make_example
from refnet_cli.training.regions_file import SHARED, _RegionsFile, read_regions
from refnet_cli.training.survey import survey
from tests.helpers.scenes import make_labelled_scene


def shown() -> Iterator[tuple[type[Any], str, str, str]]:
    """Of each setting: the class that it is of, its explanation, its name, and its line without the #."""
    top, _, table = make_example().partition("[[scenes]]")
    for kind, text in ((TrainConfig, top), (TrainScene, table)):
        for explanation, line in re.findall(r"((?:^# .+\n)*)^#?(\w+ = .+)$", text, re.MULTILINE):
            name = line.split(" = ")[0]
            yield TrainScene if name in SHARED else kind, explanation, name, line


def test_it_is_printed_without_a_regions_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--example"]) == 0
    assert capsys.readouterr().out == make_example()
    assert run(["train"]) == 2
    assert "Missing argument 'REGIONS'" in capsys.readouterr().err


def test_it_can_be_used_when_its_paths_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "regions.toml"
    path.write_text(make_example())
    config = read_regions(path)
    stated = {"scheme": "esri-io", "name": "my-region", "init": "shipped"}
    (scene,) = config.scenes
    files = {sensor: tmp_path / "north" / f"{name}.tif" for sensor, name in (("optical", "s2"), ("sar", "s1"))}
    assert scene == TrainScene(labels=tmp_path / "north" / "labels.tif", name="north", **files)  # type: ignore[arg-type]
    assert config == TrainConfig(scenes=(scene,), **stated)  # type: ignore[arg-type]
    make_labelled_scene(tmp_path / "north")
    path.write_text(make_example().replace('#split = "blocks"', 'split = "none"'))
    assert survey(read_regions(path))[0].trains


def test_every_setting_is_there_once() -> None:
    names = [(kind, name) for kind, _, name, _ in shown()]
    expected = [
        (kind, field.name) for kind in (TrainConfig, TrainScene) for field in fields(kind) if field.name not in LEFT_OUT
    ]
    assert sorted(names, key=str) == sorted(expected, key=str)


def test_every_setting_is_explained() -> None:
    for kind, explanation, name, _ in shown():
        assert len(explanation) > 5, name
        assert "`" not in explanation, name
        assert "refnet_cli" not in explanation, name
        assert texts(kind)[name], name
    assert max(map(len, make_example().splitlines())) <= 104


def test_every_line_may_be_used(tmp_path: Path) -> None:
    """It is of the right type and, but for examples of what is not set by default, the default."""
    for kind, _, name, line in shown():
        known = _RegionsFile if kind is TrainConfig else kind
        (value,) = read(some(known), tomllib.loads(line), line, tmp_path).values()
        (default,) = (field.default for field in fields(kind) if field.name == name)
        if default not in (None, "", MISSING) and name not in STATED[kind]:
            assert value == default, name
