"""The plugin for QGIS: what is packed, and the parts that need no QGIS."""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from refnet_cli.cli.main import commands
from refnet_cli.cli.qgis_parameters import COMMANDS, qgis_parameters
from refnet_cli.version import __version__

QGIS = Path(__file__).resolve().parents[2] / "integrations" / "qgis"
PLUGIN = QGIS / "refnet"


@pytest.fixture(scope="module")
def plugin() -> Iterator[Any]:
    """Return what imports a module of the plugin or the script that packs it."""
    sys.path[:0] = [str(QGIS)]
    yield importlib.import_module
    sys.path.remove(str(QGIS))


def test_parameters_are_those_of_the_commands() -> None:
    """Else: python -m refnet_cli.cli.qgis_parameters > integrations/qgis/refnet/parameters.json."""
    assert json.loads((PLUGIN / "parameters.json").read_text(encoding="utf-8")) == qgis_parameters()


def test_roles_are_of_parameters(plugin: Any) -> None:
    roles = plugin("refnet.roles")
    for command in COMMANDS:
        names = [about["name"] for about, _ in roles.parameters_of(command)]
        assert len(set(names)) == len(names)
        assert roles.ROLES[command].keys() <= set(names)
        assert not set(names) & qgis_parameters()["outputs"].keys()


def test_the_zip(plugin: Any, tmp_path: Path) -> None:
    pack = plugin("package").pack
    pack(tmp_path / "a.zip")
    pack(tmp_path / "b" / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b" / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    assert {"refnet/__init__.py", "refnet/LICENSE", "refnet/icon.png", "refnet/parameters.json"} <= files.keys()
    metadata = configparser.ConfigParser()
    metadata.read_string(files["refnet/metadata.txt"].decode())
    general = metadata["general"]
    assert all(general[name] for name in ("name", "description", "about", "author", "email", "license"))
    assert (general["version"], general["qgisminimumversion"]) == (__version__, "3.22")
    assert f"refnet/{general['icon']}" in files
    assert general.getboolean("hasprocessingprovider")
    for name, content in files.items():
        if name.endswith(".py"):
            ast.parse(content, feature_version=(3, 9))
        assert str(QGIS.parents[1]).encode() not in content


VALUES = {"flag": True, "switch": False, "integer": 3, "number": -0.5}


@pytest.mark.parametrize("command", COMMANDS)
def test_values_arrive_as_they_are(command: str, plugin: Any) -> None:
    """All options at once, read back by click's own parser."""
    described = qgis_parameters()["commands"][command]["parameters"]
    values: dict[str, Any] = {}
    for about in described:
        value = VALUES.get(about["kind"], about.get("choices", ["- a,b"])[0])
        values[about["name"]] = ["x", "-y"] if about["multiple"] else value
    words = plugin("refnet.arguments").command_words(command, values)
    assert words[:2] == ["--log-format=json", command]
    made = commands.commands[command]
    found, extra, _ = made.make_parser(click.Context(made)).parse_args(words[2:])
    assert extra == []
    names = {max(one.opts, key=len).strip("-_").replace("-", "_"): one.name for one in made.params}
    read = {name: found[names[name]] for name in values}
    as_text = {name: value if isinstance(value, bool | list) else str(value) for name, value in values.items()}
    assert read == as_text


def test_messages(plugin: Any) -> None:
    read = plugin("refnet.messages").read_message
    line = json.dumps({"level": "info", "event": "progress", "done": 5, "total": 20, "unit": "tiles"})
    assert read(line).share == 0.25
    assert read('{"level": "warning", "event": "message", "message": "m"}').level == "warning"
    assert (read("x\n").level, read("x\n").text) == ("other", "x")


def run(plugin: Any, program: str, is_cancelled: Any = lambda: False, **how: Any) -> tuple[Any, list[str]]:
    lines: list[str] = []
    done = plugin("refnet.program").run_program([sys.executable, "-c", program], lines.append, is_cancelled, **how)
    return done, lines


def test_a_program_runs(plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # as QGIS sets it on Windows
    done, lines = run(plugin, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(65)")
    assert (done.code, done.stdout, lines, done.cancelled) == (65, ["out"], ["err"], False)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
@pytest.mark.parametrize(("answer", "code"), [("sys.exit(130)", 130), ("None", -9)])
def test_cancelling_interrupts_and_then_kills(answer: str, code: int, plugin: Any) -> None:
    begin = f"import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: {answer}); "
    lines: list[str] = []
    program = plugin("refnet.program").run_program
    words = [sys.executable, "-c", begin + "print('on', file=sys.stderr); [time.sleep(0.05) for _ in range(1000)]"]
    done = program(words, lines.append, lambda: bool(lines), patience=0.5)
    assert (done.code, done.cancelled) == (code, True)


def test_which_program_runs(plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = plugin("refnet.environment")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(environment.EnvironmentProblem, match="not installed"):
        environment.find_program("", tmp_path)
    with pytest.raises(environment.EnvironmentProblem, match="is not a file"):
        environment.find_program(str(tmp_path / "gone"), tmp_path)
    installed = environment.program_in(tmp_path)
    installed.parent.mkdir()
    installed.touch(0o755)
    assert environment.find_program("", tmp_path) == installed
    with pytest.raises(environment.EnvironmentProblem, match=r"cannot be run|is not refnet"):
        environment.version_of(installed)
    assert environment.split_words("'a b[torch]==1' --pre") == ["a b[torch]==1", "--pre"]
