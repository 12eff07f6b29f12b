"""The network made ready to predict gives the logits of the network itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.fuse import Sliced, prepare_for_inference
from refnet_cli.model.refnet import REFNet

TINY = REFNetConfig(encoder="test_resnet", optical_bands=4, sar_bands=2, classes=5, width=16)


def make(encoder: str) -> REFNet:
    torch.manual_seed(0)
    net = REFNet(replace(TINY, encoder=encoder))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Far from where training starts, so that a norm left out or folded twice shows.
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


@pytest.mark.parametrize("encoder", ["test_resnet", "resnet18", "mobilenetv4_conv_small_050"])
@torch.no_grad()
def test_logits_stay_and_batch_norms_go(encoder: str) -> None:
    net = make(encoder)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    prepared = prepare_for_inference(net)
    optical, sar = torch.randn(2, 4, 64, 96), torch.randn(2, 2, 64, 96)
    wanted, found = net(optical, sar, auxiliary=False).logits, prepared(optical, sar).logits
    assert float((found - wanted).norm()) < 1e-5 * float(wanted.norm())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in prepared.modules())
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    assert not hasattr(prepared, "optical_msie")
    after = net.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@torch.no_grad()
def test_an_encoder_that_uses_a_convolution_twice_stays_right() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(4, 8, 3, padding=1)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            x = self.convolution(x)
            return [x + self.norm(x)]

    net = make("test_resnet")
    net.optical_encoder = Twice().eval()
    nn.init.uniform_(net.optical_encoder.norm.running_var, 2.0, 3.0)
    image = torch.randn(1, 4, 64, 64)
    found = prepare_for_inference(net).optical_encoder(image)[0]
    assert torch.allclose(found, net.optical_encoder(image)[0], atol=1e-5)


@pytest.mark.parametrize("pixels", [1, 4095, 4096, 4097, 10_000])
@torch.no_grad()
def test_slices_are_the_whole(pixels: int) -> None:
    layers = nn.LayerNorm(6), nn.Linear(6, 5)
    x = torch.randn(2, pixels, 6)
    assert torch.allclose(Sliced(*layers)(x), nn.Sequential(*layers)(x), atol=1e-6)
