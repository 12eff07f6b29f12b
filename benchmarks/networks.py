"""Networks, inputs and the reference matrix product shared by the benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.refnet import REFNet

PUBLISHED = REFNetConfig(encoder="resnet50", optical_bands=3, sar_bands=2, classes=9, width=128)
PRODUCT_SIDE = 2048
PRODUCT_FLOP = 2 * PRODUCT_SIDE**3
PRODUCT = f"{PRODUCT_SIDE}^3 matrix product"


def matrix_product(device: str = "cpu") -> Callable[[], object]:
    """Return a function that multiplies two float32 matrices of 2048 x 2048 and waits for the result."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(PRODUCT_SIDE, PRODUCT_SIDE, generator=generator).to(device) for _ in range(2))

    def multiply() -> None:
        torch.mm(left, right)
        finish(device)

    return multiply


def finish(device: str) -> None:
    """Wait until a device has finished; a no-op on CPUs."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def make_network(config: REFNetConfig) -> REFNet:
    """Return a network with fixed random weights, in evaluation mode."""
    torch.manual_seed(0)
    return REFNet(config).eval()


def make_inputs(config: REFNetConfig, batch: int, side: int) -> tuple[Tensor, Tensor]:
    """Return random optical and SAR images, (batch, bands, side, side), channels last."""
    generator = torch.Generator().manual_seed(0)
    optical, sar = (
        torch.randn(batch, bands, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
        for bands in (config.optical_bands, config.sar_bands)
    )
    return optical, sar
