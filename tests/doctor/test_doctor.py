"""What `refnet doctor` says, for people and for programs, with and without torch and ONNX Runtime."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from refnet_cli.cli.main import commands, run
from refnet_cli.doctor import report as doctor
from refnet_cli.doctor import selftest
from refnet_cli.doctor.report import DoctorReport, inspect_machine
from refnet_cli.doctor.selftest import ELSEWHERE, Run, make_patches, plan_runs, run_self_test
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.errors import TryAgainError, UnavailableError
from refnet_cli.model import weight_files
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.outputs.cog import describe_gdal
from refnet_cli.scan import SCANS, choose_scan
from tests.helpers.pages import blocks_of, section_of

ROOT = Path(__file__).resolve().parents[2]
TORCH = "torch,torchvision,timm,safetensors,accelerate,triton,numba,llvmlite"


STEPS: list[tuple[int, int]] = []
"""What the inspection of `found` told of its progress."""


@pytest.fixture(scope="module")
def found() -> DoctorReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selftest, "load_engine", load_kept)
        return inspect_machine(lambda done, total: STEPS.append((done, total)))


def without(hidden: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "tests.helpers.hidden", hidden, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_it_names_what_will_be_used(found: DoctorReport) -> None:
    assert found.scans["cpu"]["chosen"] == choose_scan("cpu").name
    assert list(found.scans["cpu"]["missing"]) == list(SCANS)
    assert found.libraries["torch"]
    assert [Path(entry["path"]) for entry in found.weights if entry["default"]] == [default_weights()]
    assert {entry["sha256"] for entry in found.weights} == {read_card(Path(e["path"])).sha256 for e in found.weights}
    text = "\n".join(found.lines())
    assert f"selective scan on cpu: cpu ({choose_scan('cpu').reason})" in text
    assert all(name in text for name in SCANS)
    assert len(found.lines()) < 60
    assert found.gdal["version"] == describe_gdal()[0]
    assert found.gdal["missing"] == dict.fromkeys(("GTiff", "COG", "JP2OpenJPEG", "VRT"))


def test_all_that_can_run_is_tried_and_agrees(found: DoctorReport) -> None:
    names = [trial.name for trial in found.self_test]
    assert names[0] == "torch on cpu, scan cpu"
    assert {"torch on cpu, scan torch", "onnx on cpu", "files to a map"} < set(names)
    assert not any("loop" in name for name in names)
    assert all(trial.passed for trial in found.self_test), found.self_test
    assert [(done, len(names)) for done in range(len(names) + 1)] == STEPS
    assert found.problems == []
    assert "self-test: passed" in "\n".join(found.lines())


def test_programs_get_the_same_as_people(found: DoctorReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "inspect_machine", lambda progress, online: found)
    result = CliRunner().invoke(commands, ["doctor", "--json"])
    assert json.loads(result.stdout) == json.loads(json.dumps(found.to_dict()))


@pytest.mark.long
def test_an_environment_that_asks_for_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REFNET_SCAN", "mamba")
    assert run(["doctor"]) == 69
    captured = capfd.readouterr()
    assert "CUDA devices only" in captured.err
    assert "selective scan on cpu: none" in captured.out


def test_the_docs_show_what_is_told(found: DoctorReport) -> None:
    """But for numbers, paths and what depends on the machine: the first words of the lines."""
    (shown,) = blocks_of(section_of("## refnet doctor"), "text")
    heads = {line.split("  ")[0].split(":")[0].strip() for line in shown.splitlines()}
    for head in ("libraries", "devices", "engines", "providers of ONNX Runtime", "weights", "self-test"):
        assert head in heads
        assert any(line.startswith(head) for line in found.lines())


@pytest.mark.long
def test_without_torch_onnx_runtime_does(found: DoctorReport) -> None:
    done = without(TORCH, "doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["libraries"]["torch"] is None
    assert told["engines"]["onnx"] is None
    assert "pip install 'refnet-cli[torch]'" in told["engines"]["torch"]
    assert [trial["name"] for trial in told["self_test"]] == ["onnx on cpu", "files to a map"]
    assert all(trial["passed"] for trial in told["self_test"])
    assert [Path(entry["path"]).name for entry in told["weights"] if entry["default"]] == ["refnet-base.onnx"]
    assert (told["devices"]["auto"], told["scans"]) == ("cpu", {})


@pytest.mark.long
def test_without_onnx_runtime_torch_does() -> None:
    done = without("onnxruntime", "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip install 'refnet-cli[onnx]'" in done.stdout
    assert "providers of ONNX Runtime" not in done.stdout
    assert "self-test: passed" in done.stdout
    assert "onnx on cpu" not in done.stdout


def test_without_any_engine_it_says_what_to_install() -> None:
    done = without(f"{TORCH},onnxruntime", "doctor")
    assert done.returncode == 69
    assert "self-test: nothing could be tested" in done.stdout
    assert "no engine can run" in done.stderr
    assert "'refnet-cli[torch]'" in done.stderr
    assert "'refnet-cli[onnx]'" in done.stderr


def test_two_distributions_of_onnx_runtime_overwrite_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        return "1.20" if name.startswith("onnxruntime") else importlib.metadata.version(name)

    monkeypatch.setattr("refnet_cli.engines.onnx_engine.version", version)
    assert "overwrite each other" in str(doctor.missing_for_onnx())


class Kept:
    """An engine that keeps its answers, for a network takes seconds for each."""

    def __init__(self, engine: Any) -> None:
        self.card, self.batch, self.about = engine.card, engine.batch, engine.about
        self._engine, self._answers = engine, {}

    def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
        key = optical.tobytes(), sar.tobytes()
        if key not in self._answers:
            self._answers[key] = self._engine.predict(optical, sar)
        return self._answers[key].copy()

    def close(self) -> None:
        """Stay open for the next test."""


@cache
def load_kept(weights: Path, options: EngineOptions) -> Kept:
    return Kept(load_engine(weights, options))


class Skewed:
    """An engine whose answer is another one's, changed."""

    def __init__(self, engine: Any, change: Any) -> None:
        self.card, self.batch, self.about, self.close = engine.card, engine.batch, engine.about, engine.close
        self._engine, self._change = engine, change

    def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
        return self._change(self._engine.predict(optical, sar))


def skew(monkeypatch: pytest.MonkeyPatch, suffix: str, change: Any) -> None:
    """Change the answers of engines by the kind of weights that they load."""

    def load(weights: Path, options: EngineOptions) -> Any:
        engine = load_kept(weights, options)
        return Skewed(engine, change) if weights.suffix == suffix else engine

    monkeypatch.setattr(selftest, "load_engine", load)


@pytest.mark.long
def test_engines_that_disagree_are_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    skew(monkeypatch, ".onnx", lambda probabilities: np.roll(probabilities, 1, axis=1))
    assert run(["doctor", "--json"]) == 69
    captured = capfd.readouterr()
    told = json.loads(captured.out)
    assert [trial["name"] for trial in told["self_test"] if trial["passed"] is False] == ["onnx on cpu"]
    assert "the self-test of onnx on cpu DISAGREES" in captured.err
    assert told["problems"]


ONNX, TENSORS = default_weights().with_suffix(".onnx"), default_weights()
BOTH = list(plan_runs(TENSORS, {"cpu": ["torch"]}, ONNX, ["cpu"]))


def off_by(difference: float) -> Any:
    def change(probabilities: np.ndarray) -> np.ndarray:
        changed = probabilities.copy()
        changed[0, :, 3, 5] += difference  # of one pixel, whose class stays
        return changed

    return change


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        (off_by(5e-4), True),
        (off_by(2e-3), False),
        (lambda probabilities: probabilities * np.float32("nan"), False),
        (lambda probabilities: np.flip(probabilities, axis=2), False),
    ],
)
def test_the_bounds_of_agreement(change: Any, passed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    skew(monkeypatch, ".onnx", change)
    first, second, files = run_self_test(BOTH)
    assert (first.passed, second.passed, files.passed) == (True, passed, True)


def test_elsewhere_than_on_cpus_the_bounds_are_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    skew(monkeypatch, ".onnx", off_by(5e-3))
    first, second = BOTH
    runs = [first, second, Run("elsewhere", second.weights, second.options, ELSEWHERE)]
    assert [trial.passed for trial in run_self_test(runs)] == [True, False, True, True]


def test_the_images_show_what_the_network_tells_apart() -> None:
    engine = load_engine(TENSORS)
    classes = engine.predict(*make_patches(engine.card)).argmax(1)
    assert (np.bincount(classes.ravel(), minlength=10) > 500).sum() >= 3


def test_what_cannot_run_after_all_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a provider whose libraries are missing, which only shows when it is started."""

    def load(weights: Path, options: EngineOptions) -> Any:
        if weights.suffix == ".onnx":
            raise UnavailableError("its libraries are missing")
        return load_kept(weights, options)

    monkeypatch.setattr(selftest, "load_engine", load)
    assert [trial.passed for trial in run_self_test(BOTH)] == [True, None, True]
    assert [trial.passed for trial in run_self_test(BOTH[1:])] == [None]


def test_whatever_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(weights: Path, options: EngineOptions) -> Any:
        raise TryAgainError("Not enough memory.\nAt all.")

    monkeypatch.setattr(selftest, "load_engine", load)
    assert [trial.says for trial in run_self_test(BOTH)] == ["failed: TryAgainError: Not enough memory. At all."] * 2


def test_a_map_that_cannot_be_made_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Not `tempfile.tempdir`: torch creates that folder where it is missing.
    temporary = partial(tempfile.TemporaryDirectory, dir=tmp_path / "missing")
    monkeypatch.setattr(selftest.tempfile, "TemporaryDirectory", temporary)
    monkeypatch.setattr(selftest, "load_engine", load_kept)
    *_, files = run_self_test(BOTH[:1])
    assert files.passed is False
    assert str(tmp_path / "missing") in files.says


def test_damaged_weights_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in (ONNX, TENSORS):
        shutil.copy(path, tmp_path)
    with (tmp_path / TENSORS.name).open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\xff" * 8)
    paths = sorted(tmp_path.iterdir())
    monkeypatch.setattr(doctor, "bundled_weights", lambda: paths)
    monkeypatch.setattr(weight_files, "bundled_weights", lambda: paths)
    assert run(["doctor"]) == 69
    captured = capfd.readouterr()
    assert "is damaged" in captured.err
    assert "torch on cpu" not in captured.out  # damaged weights are not loaded
    monkeypatch.setattr(weight_files, "bundled_weights", lambda: [])
    assert run(["doctor"]) == 69
    assert "the bundled weights are missing" in capfd.readouterr().err


def test_each_gpu_is_tried_with_each_kernel_that_runs_there(found: DoctorReport) -> None:
    """Which devices there are is all that is pretended."""
    cuda = {"chosen": "fla", "reason": "", "missing": {"loop": None, "torch": None, "cpu": "no", "fla": None}}
    devices = {"cpu": "", "cuda:0": "", "cuda:1": "", "auto": "cuda"}
    providers = {"tensorrt": None, "cuda": None, "cpu": None}
    runs = doctor._plan(found.engines, devices, found.scans | {"cuda": cuda}, providers, found.weights)
    assert [run.name for run in runs] == [
        "torch on cpu, scan cpu", "torch on cpu, scan torch",
        "torch on cuda:0, scan fla", "torch on cuda:0, scan torch",
        "torch on cuda:1, scan fla", "torch on cuda:1, scan torch",
        "onnx on cpu", "onnx on cuda",
    ]  # fmt: skip
