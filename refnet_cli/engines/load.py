"""Load weights into an engine: torch, or ONNX Runtime without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from refnet_cli.engines.base import Engine
from refnet_cli.engines.multi_device import MultiDeviceEngine, parse_devices
from refnet_cli.engines.options import EngineOptions
from refnet_cli.errors import OptionsError, UnavailableError
from refnet_cli.model.weight_files import find_weights
from refnet_cli.system.onnx_metadata import is_onnx


def _load_torch(weights: Path, options: EngineOptions) -> Engine:
    if options.provider is not None:
        raise OptionsError(
            f"--provider is for ONNX models, but {weights} is not one. Leave it out, or use refnet export first."
        )
    if find_spec("torch") is None:
        raise UnavailableError(
            f"{weights} needs torch: pip install 'refnet-cli[torch]', or use an ONNX model, which refnet export "
            "creates from these weights on a machine with torch."
        )
    from refnet_cli.engines.torch_engine import load_torch_engine

    return load_torch_engine(
        weights, options.device, options.batch, scan=options.scan, precision=options.precision,
        compiled=options.compile, deterministic=options.deterministic,
    )  # fmt: skip


def _load_onnx(weights: Path, options: EngineOptions) -> Engine:
    for_torch = {"--scan": options.scan, "--precision": options.precision != "fp32", "--compile": options.compile}
    for name in (name for name, given in for_torch.items() if given):
        raise OptionsError(f"{name} is for torch, but {weights} is an ONNX model. Leave the option out.")
    from refnet_cli.engines.onnx_engine import OnnxEngine

    return OnnxEngine(
        weights, options.device, options.batch, provider=options.provider, deterministic=options.deterministic
    )


ENGINES: dict[str, Callable[[Path, EngineOptions], Engine]] = {"torch": _load_torch, "onnx": _load_onnx}


def load_engine(weights: str | Path, options: EngineOptions | None = None) -> Engine:
    """Load weights and return the engine that runs them.

    Parameters
    ----------
    weights : str or Path
        Safetensors with a card, an ONNX model of `refnet_cli.export.export_onnx`, or the name of bundled weights.
    options : EngineOptions, optional

    Raises
    ------
    InputMissingError, WeightsError
        If the weights cannot be loaded.
    OptionsError, UnavailableError
        If a device, kernel, provider or library does not exist, or options contradict each other or the weights.
    TryAgainError
        If a process for one of several devices cannot be started or is killed.
    """
    weights, options = find_weights(weights), options or EngineOptions()
    load = ENGINES["onnx" if is_onnx(weights) else "torch"]
    devices = parse_devices(options.device)
    if len(devices) == 1:
        return load(weights, options)
    return MultiDeviceEngine(partial(_load_on, load, weights, options), devices)


def _load_on(
    load: Callable[[Path, EngineOptions], Engine], weights: Path, options: EngineOptions, device: str
) -> Engine:
    return load(weights, replace(options, device=device))
