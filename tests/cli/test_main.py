"""The command line: help, exit codes, what goes to which stream."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rasterio.transform import Affine

from refnet_cli import __all__
from refnet_cli.cli import main as cli
from refnet_cli.cli import terminal
from refnet_cli.cli.main import commands, run
from refnet_cli.prediction.options import PredictOptions
from tests.helpers.programs import ROOT, refnet
from tests.helpers.scenes import make_pair, write
from tests.helpers.small_models import write_model


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_pair(tmp_path, 64, 64)


def refuse(capfd: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> tuple[int, str]:
    """Exit code and message of a prediction that must leave nothing behind."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code = run(["predict", *map(str, arguments)])
    streams = capfd.readouterr()
    assert streams.out == ""
    assert "Traceback" not in streams.err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    return code, streams.err[max(streams.err.find("refnet: "), 0) :].strip()


def test_bad_calls(capfd: pytest.CaptureFixture[str], tmp_path: Path, pair: tuple[Path, Path]) -> None:
    optical, sar = pair
    out = tmp_path / "lulc.tif"
    elsewhere = Affine(10, 0, 300_000, 0, -10, 4_300_000)
    far = write(tmp_path / "far.tif", np.full((2, 9, 9), 0.1, np.float32), ("VV", "VH"), elsewhere)
    one = write(tmp_path / "one.tif", np.full((1, 64, 64), 0.1, np.float32), ("VV",))
    cases = [
        ((tmp_path / "none.tif", sar, out), 66, "none.tif does not exist"),
        ((optical, far, out), 65, "not overlap"),
        ((optical, one, out), 65, "VH"),
        ((optical, sar, sar), 64, "is the same file as"),
        ((optical, sar, optical / "x.tif"), 73, "s2.tif"),
    ]
    for (s2, s1, target), code, message in cases:
        found, text = refuse(capfd, tmp_path, "--optical", s2, "--sar", s1, "-o", target)
        assert (found, text.count("\n")) == (code, 0), text
        assert text.startswith("refnet: ")
        assert message in text


def test_missing_options_and_unknown_commands(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--optical", "a.tif"]) == 2
    assert "Missing option '--output'" in capfd.readouterr().err
    assert run(["predict", "-o", "a.tif"]) == 2
    assert "give --optical, --sar or both" in capfd.readouterr().err
    assert run(["predikt"]) == 2
    assert "No such command" in capfd.readouterr().err


def test_weights_that_do_not_fit(capfd: pytest.CaptureFixture[str], tmp_path: Path, pair: tuple[Path, Path]) -> None:
    weights = tmp_path / "bad.safetensors"
    weights.write_bytes(b"no weights at all")
    paths = ["--optical", *pair[:1], "--sar", *pair[1:], "-o", tmp_path / "x.tif"]
    assert refuse(capfd, tmp_path, *paths, "--weights", weights)[0] == 78
    assert refuse(capfd, tmp_path, *paths, "--weights", tmp_path / "none")[0] == 66
    assert refuse(capfd, tmp_path, *paths, "--device", "cuda")[0] == 69
    assert refuse(capfd, tmp_path, *paths, "--device", "abacus")[0] == 64
    assert refuse(capfd, tmp_path, *paths, "--batch", "0")[0] == 64
    assert refuse(capfd, tmp_path, *paths, "--precision", "bf16", "--device", "cpu")[0] == 64
    code, message = refuse(capfd, tmp_path, *paths, "--scan", "fast")
    assert (code, "Use one of loop, torch, cpu" in message) == (69, True)


@pytest.mark.long
def test_what_the_network_runs_on_is_said_when_asked_for(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    arguments = ["predict", "--optical", str(pair[0]), "--sar", str(pair[1]), "-o", str(tmp_path / "x.tif"), "--json"]
    plain = CliRunner().invoke(commands, arguments)
    assert "scan: " not in plain.stderr
    told = CliRunner().invoke(commands, [*arguments, "-v", "--scan", "torch"])
    assert "scan: torch: requested\n" in told.stderr
    assert json.loads(told.stdout)["engine"]["scan"] == "torch: requested"
    assert json.loads(plain.stdout)["engine"]["scan"].startswith("cpu: ")


def test_config_file_fills_the_options_and_the_command_line_wins(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    config = tmp_path / "run.toml"
    config.write_text(f'optical = "{pair[0]}"\nsar = "{pair[1]}"\noutput = "{tmp_path}/a.tif"\noverlap = 32\n')
    result = CliRunner().invoke(commands, ["predict", "--config", str(config), "-o", str(tmp_path / "b.tif"), "--json"])
    report = json.loads(result.stdout)
    assert report["output"] == str(tmp_path / "b.tif")
    assert report["options"]["overlap"] == 32
    assert not (tmp_path / "a.tif").exists()


def test_outputs_of_a_config_file_lie_where_it_does(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    config = tmp_path / "run" / "run.toml"
    config.parent.mkdir()
    begin = f'optical = "{pair[0]}"\nsar = "{pair[1]}"\noutput = "a.tif"\n'
    config.write_text(begin + 'outputs = ["areas=t=1.csv", "quality", "style="]\n')
    assert run(["predict", "--config", str(config)]) == 64  # as on the command line
    assert [path.name for path in config.parent.iterdir()] == ["run.toml"]
    config.write_text(begin + 'outputs = ["areas=t=1.csv", "quality", "style"]\n')
    result = CliRunner().invoke(commands, ["predict", "--config", str(config)])
    assert result.exit_code == 0, result.output
    made = {path.name for path in config.parent.iterdir()} - {"run.toml"}
    assert made == {"a.tif", "t=1.csv", "t=1.json", "a_quality.tif", "a.qml", "a.sld", "a.tif.aux.xml"}


def test_unknown_entries_of_a_config_file(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text("overlapp = 32\n")
    code, message = refuse(capfd, tmp_path, "--config", config)
    assert code == 78
    assert "overlapp" in message


def test_results_go_to_stdout_and_the_rest_to_stderr(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    words = ["--optical", pair[0], "--sar", pair[1], "--weights", ROOT / "weights" / "refnet-base.onnx"]
    done = refnet("predict", *words, "-o", tmp_path / "x.tif")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/x.tif\n")
    assert "VV VH in linear power" in done.stderr
    assert "it/s" not in done.stderr


def test_help_is_quick_and_names_the_defaults() -> None:
    started = time.perf_counter()
    command = [sys.executable, "-m", "refnet_cli", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert time.perf_counter() - started < 2  # half a second on an idle machine; the architecture tests hold why
    shown = " ".join(CliRunner().invoke(commands, ["predict", "--help"]).output.split())
    for field in fields(PredictOptions):
        if field.name == "stac":  # a table, for config files only
            continue
        flag = "--output" if field.name == "outputs" else "--" + field.name.replace("_", "-")
        assert flag in shown
        if field.default is True:
            assert f"{flag} / --no-{field.name}" in shown
        elif field.default not in (MISSING, None, False, ()):
            assert re.search(rf"{flag} (\[[^\]]*\] )?[^\[]*\[default: \(?{field.default}\)?\]", shown), flag


def test_public_names() -> None:
    import refnet_cli

    assert all(getattr(refnet_cli, name) is not None for name in __all__)
    with pytest.raises(AttributeError):
        refnet_cli.nothing  # noqa: B018


def test_a_bug_says_that_it_is_one(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def break_down(*arguments: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("refnet_cli.cli.predict.fill", break_down)
    assert run(["predict"]) == 70
    assert "this is a bug" in capfd.readouterr().err
    assert run(["--debug", "predict"]) == 70
    assert "Traceback" in capfd.readouterr().err


def test_closed_stdout_is_no_drama(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "refnet_cli", "weights", "info"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "code", "weights"),
    [
        pytest.param(signal.SIGTERM, 143, "refnet-base.safetensors", marks=pytest.mark.long),
        (signal.SIGINT, 130, "refnet-base.onnx"),
    ],
)
def test_signals_end_a_run_and_leave_nothing(
    tmp_path: Path, number: signal.Signals, code: int, weights: str
) -> None:
    pair = make_pair(tmp_path, 1300, 1100)
    command = [sys.executable, "-m", "refnet_cli", "predict", "--optical", str(pair[0]), "--sar", str(pair[1])]
    command += ["--weights", str(ROOT / "weights" / weights), "-o", str(tmp_path / "x.tif")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    while len(list(tmp_path.iterdir())) < 3:  # until the working files are there
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    started = time.monotonic()
    _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert process.returncode == code
    assert b"Traceback" not in stderr
    assert stderr.decode().splitlines()[-1] == "refnet: Stopped. No file was written."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s1.tif", "s2.tif"]


def test_a_signal_that_a_library_takes_for_an_error_is_still_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def inspect_machine(progress: object, online: bool) -> None:
        try:
            terminal.leave_with(143)(signal.SIGUSR1, None)
        except SystemExit:
            raise RuntimeError("initialization failed") from None

    ended_by: list[int] = []
    monkeypatch.setattr(terminal, "ended_by", ended_by)
    monkeypatch.setattr(cli, "ended_by", ended_by)
    monkeypatch.setattr("refnet_cli.doctor.report.inspect_machine", inspect_machine)
    assert run(["doctor"]) == 143
    assert capsys.readouterr().err == ""
    ended_by.clear()
    monkeypatch.setattr("refnet_cli.doctor.report.inspect_machine", lambda progress, online: 1 / 0)
    assert run(["doctor"]) == 70


NAMES = [
    b"with space", "ümläut".encode(), b"new\nline", b"quo'te\"s", b"-dash", b"a,b", b"%s {0} $HOME `id`", b"x" * 230,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_any_characters(tmp_path: Path, name: bytes) -> None:
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    optical, sar = make_pair(folder, 64, 64)
    optical = optical.rename(folder / os.fsdecode(name + b".tif"))
    out = folder / os.fsdecode(b"map " + name[:200] + b".tif")
    weights = write_model(tmp_path / "w.onnx")
    words = ["--optical", optical, "--sar", sar, "-o", out, "--weights", weights, "--coreg", "off", "--checksum", "-q"]
    assert run(["predict", *map(str, words)]) == 0
    assert run(["verify", str(out)]) == 0
    assert sorted(folder.iterdir()) == sorted([optical, sar, out, out.with_name(f"{out.name}.sha256")])


def test_names_that_are_no_text_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    optical, sar = make_pair(tmp_path, 64, 64)
    raw = os.fsdecode(b"\xff\xfe.tif")
    try:
        odd = optical.with_name(raw)
        odd.write_bytes(optical.read_bytes())
    except OSError as error:
        pytest.skip(f"the file system takes no such names: {error}")
    for given, out, code in ((odd, tmp_path / "x.tif", 65), (optical, tmp_path / "y" / raw, 73)):
        out.parent.mkdir(exist_ok=True)
        assert run(["predict", "--optical", str(given), "--sar", str(sar), "-o", str(out), "--coreg", "off"]) == code
        assert r"\udcff" in capfd.readouterr().err
        assert not list((tmp_path / "y").glob("*") if code == 73 else [])


def test_what_compiled_code_shows_of_messages_that_are_no_text_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    cli.pass_over_what_is_no_text()
    error = UnicodeDecodeError("utf-8", b"\xd9", 0, 1, "no text")
    sys.excepthook(UnicodeDecodeError, error, None)
    assert capsys.readouterr().err == ""
    try:
        raise error
    except UnicodeDecodeError as raised:
        sys.excepthook(UnicodeDecodeError, raised, raised.__traceback__)
    sys.excepthook(ValueError, ValueError("a bug"), None)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "a bug" in said
