"""Engines turn patches of two sensors into class probabilities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from refnet_cli.card import Card, Modality
from refnet_cli.errors import OptionsError, TryAgainError, UnavailableError
from refnet_cli.inference import prepare_for_inference as prepare_for_inference
from refnet_cli.model import REFNet
from refnet_cli.weights import load_weights

Float32 = NDArray[np.float32]
DEFAULT_BATCH = {"cpu": 4, "cuda": 16}


class Engine(Protocol):
    """What `refnet_cli.predict` needs of a network."""

    card: Card
    batch: int
    """How many patches to give at once."""

    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch of patches.

        Parameters
        ----------
        optical : float32 array, shape (N, Bo, H, W)
            Reflectance x 10,000, NaN where invalid.
        sar : float32 array, shape (N, Bs, H, W)
            Decibels, NaN where invalid.

        Returns
        -------
        float32 array, shape (N, K, H, W)
            Probabilities.
        """


class Standardise(nn.Module):
    """(x - mean) / std by band; what is invalid becomes the mean, 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(modality.mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(modality.std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, B, H, W) in physical units, NaN where invalid -> (N, B, H, W), finite."""
        return torch.nan_to_num((x - self.mean) / self.std, nan=0.0)


class TorchEngine:
    """REF-Net in torch.

    Weights that were trained without one sensor never see it: its input is blanked here too.

    Parameters
    ----------
    net : REFNet
    card : Card
    device : str
        A torch device such as ``"cpu"`` or ``"cuda:0"``.
    batch : int, optional
        Patches at once; by default what suits the device.
    """

    def __init__(self, net: REFNet, card: Card, device: str = "cpu", batch: int | None = None) -> None:
        self.card = card
        self.batch = batch or DEFAULT_BATCH.get(torch.device(device).type, 4)
        self._device = torch.device(device)
        self._without = card.training.get("without")
        self._net = prepare_for_inference(net.to(self._device))
        self._standardise = nn.ModuleList([Standardise(card.optical), Standardise(card.sar)]).to(self._device)

    @torch.inference_mode()
    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Classify a batch of patches; see `Engine.predict`.

        Raises
        ------
        TryAgainError
            If the device's memory does not hold a single patch.
        """
        optical, sar = leave_out(optical, sar, self._without)
        try:
            inputs = [
                standardise(torch.from_numpy(array).to(self._device, memory_format=torch.channels_last))
                for standardise, array in zip(self._standardise, (optical, sar), strict=True)
            ]
            logits = self._net(*inputs, auxiliary=False).logits
            probabilities: Float32 = torch.softmax(logits.float(), dim=1).cpu().numpy()
            return probabilities
        except RuntimeError as error:
            # The CPU's allocator raises no kind of its own.
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            count = len(optical)
            if count == 1:
                raise TryAgainError(
                    f"Not enough memory on {self._device} for a single tile. Free some, or use --device cpu."
                ) from error
        torch.cuda.empty_cache()
        half = count // 2
        self.batch = min(self.batch, half)
        return np.concatenate([self.predict(optical[part], sar[part]) for part in (np.s_[:half], np.s_[half:])])


def leave_out(optical: Float32, sar: Float32, sensor: str | None) -> tuple[Float32, Float32]:
    """Blank one sensor's arrays, so that the network sees its mean.

    Examples
    --------
    >>> leave_out(np.ones(2, np.float32), np.ones(1, np.float32), "optical")
    (array([nan, nan], dtype=float32), array([1.], dtype=float32))
    """
    if sensor == "optical":
        optical = np.full_like(optical, np.nan)
    elif sensor == "sar":
        sar = np.full_like(sar, np.nan)
    return optical, sar


ENGINES: dict[str, type[TorchEngine]] = {"torch": TorchEngine}


def choose_device(device: str) -> str:
    """Resolve ``"auto"`` and check that a device is there.

    Raises
    ------
    OptionsError
        If torch knows no such device.
    UnavailableError
        If the device is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise OptionsError(f"There is no device {device!r}; use auto, cpu, cuda or cuda:N.")
    if device == "cpu":
        return device
    if not torch.cuda.is_available():
        raise UnavailableError("No CUDA device is available to torch. Use --device cpu, or auto.")
    count = torch.cuda.device_count()
    if (torch.device(device).index or 0) >= count:
        raise UnavailableError(f"There is no {device}: torch sees {count} CUDA device{'s' * (count > 1)}, from cuda:0.")
    return device


def load_engine(weights: str | Path, device: str = "auto", batch: int | None = None) -> Engine:
    """Load weights into the engine that suits them.

    Parameters
    ----------
    weights : str or Path
    device : str
        ``"auto"``, or a torch device.
    batch : int, optional
        Patches at once; by default what suits the device.

    Raises
    ------
    InputMissingError, WeightsError
        If the weights cannot be loaded.
    OptionsError, UnavailableError
        If the device does not exist.
    """
    device = choose_device(device)
    net, card = load_weights(weights)
    return ENGINES["torch"](net, card, device, batch)
