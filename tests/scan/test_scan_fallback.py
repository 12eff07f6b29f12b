"""A kernel that cannot be compiled or imported gives way to the next one, with a warning."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np
import pytest
import torch

from refnet_cli import scan
from refnet_cli.doctor import report as doctor
from refnet_cli.engines.torch_engine import load_torch_engine
from refnet_cli.errors import UnavailableError
from refnet_cli.model.weight_files import find_weights
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.scan import available_scans, choose_scan, cpu, fla, mamba
from tests.helpers.scenes import make_pair
from tests.scan.test_scan import make


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have each test try the kernels for itself."""
    monkeypatch.delenv("REFNET_SCAN", raising=False)
    monkeypatch.setattr(scan, "_found", {})
    cached = (cpu._kernels, fla._kernel, mamba._kernel)
    yield
    for function in cached:
        function.cache_clear()


def break_kernels(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def forward(*given: Any) -> None:
        raise error

    broken = ModuleType("cpu_kernels")
    broken.forward = forward  # type: ignore[attr-defined]
    monkeypatch.setattr(cpu, "_kernels", lambda: broken)


ERRORS = [
    (RuntimeError("cannot cache function '_visit'"), "NUMBA_CACHE_DIR"),
    (PermissionError(13, "Permission denied", "cpu_kernels.forward.nbi"), "NUMBA_CACHE_DIR"),
    (OSError(28, "No space left on device"), "NUMBA_CACHE_DIR"),
    (numba.core.errors.TypingError("Failed in nopython mode pipeline"), "another version of numba"),
    (NotImplementedError("<intrinsic> is not usable in pure-python"), "another version of numba"),
    (ImportError("libllvmlite.so: cannot open shared object file"), "pip install --force-reinstall numba"),
]


def test_only_what_may_help_against_an_error_of_numba_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "0")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/tmp")
    break_kernels(monkeypatch, ValueError("Number of threads specified must be > 0."))
    said = str(cpu.missing_for_cpu("cpu"))
    assert "unset NUMBA_NUM_THREADS, or install another version" in said
    assert "NUMBA_CACHE_DIR" not in said
    break_kernels(monkeypatch, PermissionError(13, "Permission denied", "forward.nbi"))
    said = str(cpu.missing_for_cpu("cpu"))
    assert "set NUMBA_CACHE_DIR" in said
    assert "NUMBA_NUM_THREADS" not in said
    assert "version" not in said


@pytest.mark.parametrize(("error", "remedy"), ERRORS, ids=lambda value: type(value).__name__)
def test_whatever_keeps_numba_from_compiling(monkeypatch: pytest.MonkeyPatch, error: Exception, remedy: str) -> None:
    break_kernels(monkeypatch, error)
    choice = choose_scan("cpu")
    assert choice.name == "torch"
    assert str(error)[:20] in str(choice.warning)
    assert remedy in str(choice.warning)
    assert choice.reason != choice.warning
    assert remedy in str(available_scans("cpu")["cpu"])
    assert available_scans("cpu")["torch"] is None
    with pytest.raises(UnavailableError, match="--scan torch") as refusal:
        choose_scan("cpu", asked="cpu")
    assert remedy in str(refusal.value)
    monkeypatch.setenv("REFNET_SCAN", "cpu")
    with pytest.raises(UnavailableError, match="'cpu' cannot be used"):
        choose_scan("cpu")
    monkeypatch.setenv("REFNET_SCAN", "torch")
    assert choose_scan("cpu").warning is None


def test_a_kernel_that_computes_nothing_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ModuleType("cpu_kernels")
    wrong.forward = lambda *given: given[9].fill(np.nan)  # type: ignore[attr-defined]
    monkeypatch.setattr(cpu, "_kernels", lambda: wrong)
    assert "not finite" in str(available_scans("cpu")["cpu"])


def test_compiling_that_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert choose_scan("cpu").name == "torch"
    assert "NUMBA_DISABLE_JIT" in str(choose_scan("cpu").warning)
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 0)
    scan._found.clear()
    assert choose_scan("cpu") == ("cpu", "the fastest on CPUs", None)


def test_numba_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "is_installed", lambda name: name != "numba")
    assert "pip install 'refnet-cli[torch]'" in str(choose_scan("cpu").warning)


def test_exporters_see_the_operator_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scan(torch.nn.Module):
        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return scan.selective_scan(*given)

    break_kernels(monkeypatch, RuntimeError("no"))
    arguments = tuple(argument.detach() for argument in make(1, 3, 4, 5, 2, 1))
    available_scans("cpu")
    graph = torch.export.export(Scan(), arguments).graph
    assert any("selective_scan" in str(node.target) for node in graph.nodes)


@pytest.mark.parametrize(("name", "module"), [("mamba", "mamba_ssm"), ("fla", "fla")])
def test_libraries_for_gpus_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    """As after an update of torch, with which mamba-ssm's compiled part no longer fits."""
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    choice = choose_scan("cuda")
    assert choice.name == "torch"
    assert f"{name!r} cannot be used" in str(choice.warning)
    assert "cannot be imported" in str(choice.warning)
    with pytest.raises(UnavailableError, match="cannot be imported"):
        choose_scan("cuda", asked=name)


def test_libraries_that_were_never_installed_are_no_failure() -> None:
    assert choose_scan("cuda").warning is None


@pytest.mark.long
def test_the_report_warns_and_the_map_is_that_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path, 64, 64)
    chosen = PredictOptions(*pair, tmp_path / "map.tif", weights="refnet-base", coreg="off", outputs=("report",))
    asked = predict(chosen, load_torch_engine(find_weights("refnet-base"), "cpu", 1, scan="torch"))
    wanted = chosen.output.read_bytes()
    break_kernels(monkeypatch, RuntimeError("LLVM ERROR"))
    scan._found.clear()
    report = predict(chosen)
    assert [warning for warning in report.warnings if warning not in asked.warnings] == report.warnings_of_run
    assert "LLVM ERROR" in report.warnings_of_run[0]
    assert report.engine["scan"].startswith("torch: ")
    assert chosen.output.read_bytes() == wanted
    assert "LLVM ERROR" not in (tmp_path / "map_report.html").read_text()


def test_the_doctor_says_it_and_works(monkeypatch: pytest.MonkeyPatch) -> None:
    break_kernels(monkeypatch, RuntimeError("LLVM ERROR"))
    found = doctor._inspect_scans()["cpu"]
    assert found["chosen"] == "torch"
    assert "LLVM ERROR" in str(found["missing"]["cpu"])
    assert "LLVM ERROR" in doctor._inspect_folders(with_torch=True)["kernels compiled by numba"]
