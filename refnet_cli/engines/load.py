"""Engines turn patches of two sensors into class probabilities: in torch, or in ONNX Runtime without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refnet_cli.engines.multi_device import SeveralEngines, parse_devices
from refnet_cli.errors import OptionsError, UnavailableError
from refnet_cli.model.card import Card, find_weights
from refnet_cli.system.onnx_metadata import is_onnx

Float32 = NDArray[np.float32]


class Engine(Protocol):
    """What `refnet_cli.prediction.predict` needs of a network."""

    card: Card
    batch: int
    """How many patches to give at once."""
    about: dict[str, str]
    """What it computes on and with, for the report: device, scan kernel and why, and the like; ``warning`` if there is
    one."""

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch of patches.

        Parameters
        ----------
        optical : float32 array, shape (N, Bo, H, W)
            Reflectance x 10,000, NaN where invalid; filled by `refnet_cli.tiles.gaps.fill_gaps` before the network
            sees it.
        sar : float32 array, shape (N, Bs, H, W)
            Decibels, likewise.

        Returns
        -------
        float32 array, shape (N, K, H, W)
            Probabilities.
        """

    def close(self) -> object:
        """Give back what it holds; it cannot predict afterwards."""


@dataclass(frozen=True)
class EngineOptions:
    """What a network is to run on and with."""

    device: str = "auto"
    """``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; or several, as
    `refnet_cli.engines.multi_device.parse_devices` has it."""
    batch: int | None = None
    """Patches at once on each device; by default what suits it."""
    scan: str | None = None
    """Scan kernel of torch; see `refnet_cli.scan.choose_scan`."""
    precision: str = "fp32"
    """Number format of torch's matrix products and convolutions."""
    compiled: bool = False
    """Whether torch.compile makes kernels for the network."""
    deterministic: bool = False
    """Whether only algorithms may run that give the same bits each time. On CPUs all of them do."""
    provider: str | None = None
    """Execution provider of ONNX Runtime; by default the best of those that are there."""


def _load_torch(weights: Path, options: EngineOptions) -> Engine:
    if options.provider is not None:
        raise OptionsError(
            f"--provider is for ONNX models, and {weights} is none: leave it out, or make one by refnet export."
        )
    if find_spec("torch") is None:
        raise UnavailableError(
            f"{weights} needs torch: pip install 'refnet-cli[torch]', or give an ONNX model, which refnet export makes "
            "of it where torch is."
        )
    from refnet_cli.engines.torch_engine import load_torch_engine

    return load_torch_engine(
        weights, options.device, options.batch, scan=options.scan, precision=options.precision,
        compiled=options.compiled, deterministic=options.deterministic,
    )  # fmt: skip


def _load_onnx(weights: Path, options: EngineOptions) -> Engine:
    for_torch = {"--scan": options.scan, "--precision": options.precision != "fp32", "--compile": options.compiled}
    for name in (name for name, given in for_torch.items() if given):
        raise OptionsError(f"{name} is for torch, and in {weights}, an ONNX model, that is settled: leave it out.")
    from refnet_cli.engines.onnx_engine import OnnxEngine

    return OnnxEngine(
        weights, options.device, options.batch, provider=options.provider, deterministic=options.deterministic
    )


ENGINES: dict[str, Callable[[Path, EngineOptions], Engine]] = {"torch": _load_torch, "onnx": _load_onnx}


def load_engine(weights: str | Path, options: EngineOptions | None = None) -> Engine:
    """Load weights into the engine that suits them.

    Parameters
    ----------
    weights : str or Path
        Safetensors with a card, an ONNX model made by `refnet_cli.export.export_onnx`, or the name of bundled weights.
    options : EngineOptions, optional

    Raises
    ------
    InputMissingError, WeightsError
        If the weights cannot be loaded.
    OptionsError, UnavailableError
        If a device, kernel, provider or library does not exist, or options do not fit each other or the weights.
    TryAgainError
        If of several devices' processes one cannot be started or is killed.
    """
    weights, options = find_weights(weights), options or EngineOptions()
    load = ENGINES["onnx" if is_onnx(weights) else "torch"]
    devices = parse_devices(options.device)
    if len(devices) == 1:
        return load(weights, options)
    return SeveralEngines(partial(_load_on, load, weights, options), devices)


def _load_on(
    load: Callable[[Path, EngineOptions], Engine], weights: Path, options: EngineOptions, device: str
) -> Engine:
    return load(weights, replace(options, device=device))
