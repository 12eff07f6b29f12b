"""Engine that runs REF-Net in torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from refnet_cli.engines.base import NOT_FINITE, HalvingEngine
from refnet_cli.errors import OptionsError, UnavailableError, WeightsError
from refnet_cli.model.card import Card, Modality
from refnet_cli.model.fuse import Compiled
from refnet_cli.model.fuse import prepare_for_inference as prepare_for_inference
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import load_weights
from refnet_cli.scan import choose_scan
from refnet_cli.system.process import keep_freed_memory
from refnet_cli.system.words import count
from refnet_cli.types import Float32

DEFAULT_BATCH = {"cpu": 4, "cuda": 16}
# Messages, because the CPU's allocator, oneDNN (whose primitives need memory) and GPU libraries raise no specific error
# type. Torch "finds no engine" of cuDNN for a convolution if none gets its workspace memory.
NO_MEMORY = (
    r"can't allocate memory|bad_alloc|could not create a (primitive|memory)|CUDA error: out of memory|ALLOC_FAILED"
    r"|unable to find an engine to execute"
)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Standardise(nn.Module):
    """Compute (x - mean) / std per band; NaN that `refnet_cli.tiles.gaps.fill_gaps` left become 0, the mean."""

    mean: Tensor
    std: Tensor

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(modality.mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(modality.std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, B, H, W) in physical units, NaN where invalid, to finite (N, B, H, W)."""
        return torch.nan_to_num((x - self.mean) / self.std, nan=0.0)


def to_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return the softmax over the classes of logits (N, K, H, W) divided by a temperature."""
    # No division by 1, so that bits and exported models stay the same without a temperature.
    return torch.softmax(logits if temperature == 1 else logits / temperature, dim=1)


class TorchEngine(HalvingEngine):
    """An engine that runs REF-Net in torch.

    For weights that were trained without one sensor, that sensor's input is blanked.

    Parameters
    ----------
    net : REFNet
    card : Card
    device : str
        A torch device such as ``"cpu"`` or ``"cuda:0"``.
    batch : int, optional
        Patches per batch; the default depends on the device.
    scan : str, optional
        Scan kernel; by default that of `refnet_cli.scan.choose_scan`.
    precision : str
        A name from ``PRECISIONS``. Half precision applies to matrix products and convolutions, by torch's autocast; the
        scan's recurrence and the softmax stay in single precision.
    compiled : bool
        Whether to compile the network with torch.compile. The first batch then takes a minute or more.
    softmax : bool
        Whether to return probabilities; otherwise returns raw logits, without temperature.

    Raises
    ------
    UnavailableError
        If the scan kernel cannot run on the device.
    """

    def __init__(
        self,
        net: REFNet,
        card: Card,
        device: str = "cpu",
        batch: int | None = None,
        *,
        scan: str | None = None,
        precision: str = "fp32",
        compiled: bool = False,
        softmax: bool = True,
    ) -> None:
        self.card = card
        self._softmax = softmax
        self._device = torch.device(device)
        self.batch = batch or DEFAULT_BATCH.get(self._device.type, 4)
        self._precision = PRECISIONS[precision]
        self._without = card.training.get("without")
        choice = choose_scan(self._device.type, card.network.states, scan)
        prepared = prepare_for_inference(net.to(self._device)).use_scan(choice.name)
        self._net = Compiled(prepared) if compiled else prepared
        self._standardise = nn.ModuleList([Standardise(card.optical), Standardise(card.sar)]).to(self._device)
        self.about = {
            "device": device,
            "scan": f"{choice.name}: {choice.reason}",
            "precision": precision,
            "compiled": "yes" if compiled else "no",
            "threads": str(torch.get_num_threads()),
        } | ({"warning": choice.warning} if choice.warning else {})
        if self._device.type == "cpu":
            keep_freed_memory()
        elif precision == "fp32" and torch.backends.cudnn.allow_tf32:
            self.about["precision"] += ", but convolutions in TF32 (11 bits) on GPUs that have it"

    @torch.inference_mode()
    def _compute(self, optical: Float32, sar: Float32) -> Float32:
        optical, sar = blank_sensor(optical, sar, self._without)
        logits = self._logits(optical, sar).float()
        if not torch.isfinite(logits).all():
            raise WeightsError(NOT_FINITE)
        return self._fetch(to_probabilities(logits, self.card.temperature) if self._softmax else logits)

    def _is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
            isinstance(error, RuntimeError) and re.search(NO_MEMORY, str(error)) is not None
        )

    def _pads_batches(self) -> bool:
        return isinstance(self._net, Compiled) and self._net.size > 1

    def _free_memory(self) -> None:
        if isinstance(self._net, Compiled):
            self._net.reset_size()
        torch.cuda.empty_cache()

    def _logits(self, optical: Float32, sar: Float32) -> Tensor:
        inputs = [
            standardise(self._send(array)) for standardise, array in zip(self._standardise, (optical, sar), strict=True)
        ]
        half = self._precision != torch.float32
        with torch.autocast(self._device.type, self._precision if half else None, enabled=half):
            logits: Tensor = self._net(*inputs, auxiliary=False).logits
        return logits

    def _send(self, array: Float32) -> Tensor:
        """Copy patches to the device, from pinned memory, so that both copies overlap with work on the host."""
        here = torch.from_numpy(array)
        if self._device.type == "cuda":
            here = here.pin_memory()
        return here.to(self._device, memory_format=torch.channels_last, non_blocking=True)

    def _fetch(self, answer: Tensor) -> Float32:
        """Copy the result to the host."""
        if self._device.type != "cuda":
            return np.asarray(answer.numpy(), np.float32)
        # An explicit copy into pinned memory is fast; numpy's copy would wait for the device piece by piece.
        here = torch.empty(answer.shape, pin_memory=True)
        here.copy_(answer, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return np.asarray(here.numpy(), np.float32)


def blank_sensor(optical: Float32, sar: Float32, sensor: str | None) -> tuple[Float32, Float32]:
    """Return the arrays with those of one sensor blanked, so that the network sees that sensor's mean.

    Examples
    --------
    >>> blank_sensor(np.ones(2, np.float32), np.ones(1, np.float32), "optical")
    (array([nan, nan], dtype=float32), array([1.], dtype=float32))
    """
    if sensor == "optical":
        optical = np.full_like(optical, np.nan)
    elif sensor == "sar":
        sar = np.full_like(sar, np.nan)
    return optical, sar


def choose_device(device: str) -> str:
    """Return the device, with ``"auto"`` resolved, after a check that it is available.

    Raises
    ------
    OptionsError
        If the device is unknown.
    UnavailableError
        If the device is not available.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise OptionsError(f"Unknown device {device!r}. Use auto, cpu, cuda or cuda:N.")
    if device == "cpu":
        return device
    if not torch.cuda.is_available():
        raise UnavailableError("No CUDA device is available to torch. Use --device cpu or --device auto.")
    count = torch.cuda.device_count()
    if (torch.device(device).index or 0) >= count:
        raise UnavailableError(f"{device} does not exist: torch has {count} CUDA device{'s' * (count > 1)}, from 0.")
    return device


def devices() -> dict[str, str]:
    """Return a description of each available device by its name."""
    found = {"cpu": f"{count(torch.get_num_threads(), 'thread')}, {torch.backends.cpu.get_cpu_capability()}"}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB"
    return found


def explain_missing_gpu() -> str | None:
    """Return why torch cannot use a CUDA device, or None if it can."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    return f"torch (built for CUDA {torch.version.cuda}) finds no GPU or no driver"


def load_torch_engine(
    weights: Path,
    device: str = "auto",
    batch: int | None = None,
    *,
    scan: str | None = None,
    precision: str = "fp32",
    compiled: bool = False,
    deterministic: bool = False,
) -> TorchEngine:
    """Load weights into a torch engine; see `refnet_cli.engines.options.EngineOptions` for the parameters.

    ``deterministic`` and the choice of a numbered GPU as the current device change torch's settings for the whole
    process, permanently.

    Raises
    ------
    InputMissingError, WeightsError
        If the weights cannot be loaded.
    OptionsError, UnavailableError
        If the device or the scan kernel does not exist, or the device does not support the precision.
    """
    device = choose_device(device)
    if precision not in PRECISIONS:
        raise OptionsError(f"Unknown precision {precision!r}. Use one of {', '.join(PRECISIONS)}.")
    if precision != "fp32" and device == "cpu":
        raise OptionsError(f"Precision {precision} is for GPUs, but the network runs on the CPU. Use fp32.")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)  # Triton kernels run on the current device, wherever their arrays are
    net, card = load_weights(weights)
    return TorchEngine(net, card, device, batch, scan=scan, precision=precision, compiled=compiled)
