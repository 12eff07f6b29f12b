"""ONNX Runtime on GPUs as far as a pretended one shows: what it prints, and that it computes where it was asked to."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from refnet_cli.engines import onnx_engine
from refnet_cli.engines.onnx_engine import OnnxEngine
from refnet_cli.errors import UnavailableError
from refnet_cli.model.weight_files import default_weights

MODEL = default_weights().with_suffix(".onnx")
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class Session:
    """Starts like ONNX Runtime where TensorRT fails: with CUDA, but without its settings, after saying so on stdout."""

    options: dict[str, Any]

    def __init__(self, path: str, options: Any, providers: Any) -> None:
        sys.stdout.write("EP Error\n")
        self.options = {CUDA: {"device_id": "0"}, CPU: {}}
        self.may_fall_back = True

    def get_providers(self) -> list[str]:
        return list(self.options)

    def get_provider_options(self) -> dict[str, Any]:
        return self.options

    def disable_fallback(self) -> None:
        self.may_fall_back = False

    def get_inputs(self) -> list[Any]:
        shapes = {"optical": ["n", 4, "h", "w"], "sar": ["n", 2, "h", "w"]}
        return [SimpleNamespace(name=name, shape=shape) for name, shape in shapes.items()]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="probabilities", shape=["n", 10, "h", "w"])]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(
        __version__="1", SessionOptions=SimpleNamespace, InferenceSession=Session,
        get_available_providers=lambda: ["TensorrtExecutionProvider", CUDA, CPU],
        preload_dlls=lambda: sys.stdout.write("Failed to load libcudnn.so\n"),
    )  # fmt: skip
    monkeypatch.setattr(onnx_engine, "import_runtime", lambda: made)
    return made


def test_stdout_is_for_results_only(runtime: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    engine: Any = OnnxEngine(Path(MODEL), "cuda:0")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "libcudnn" in captured.err
    assert "EP Error" in captured.err
    assert engine._session.may_fall_back is False


def test_another_gpu_than_asked_for_is_refused(runtime: SimpleNamespace) -> None:
    with pytest.raises(UnavailableError, match="started on cuda:0 instead of cuda:1"):
        OnnxEngine(Path(MODEL), "cuda:1")
