"""MobileNetV4-Conv-Small as an encoder of five levels, without timm, whose import takes a second.

Networks whose weights are loaded use it in place of timm's: it has the same tensors by the same names, and computes the
same bits. Trainings use timm's own, which initialises its weights.

Source: Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", 2024, arXiv 2404.10518; layers and names
as in timm's ``mobilenetv4_conv_small`` with ``features_only=True``.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

CHANNELS = [32, 32, 64, 96, 960]
"""Channels of the five levels, at strides 2 to 32."""
_LEVELS = 0, 1, 2, 4
"""Stages whose results are levels; the first level is the stem's."""


class _Bottleneck(NamedTuple):
    """Settings of a universal inverted bottleneck."""

    start: int
    """Kernel of the depthwise convolution before the expansion; 0 for none."""
    middle: int
    """Kernel of the one after it."""
    stride: int
    expansion: int
    channels: int


_STAGES = (
    (_Bottleneck(5, 5, 2, 3, 96), *[_Bottleneck(0, 3, 1, 2, 96)] * 4, _Bottleneck(3, 0, 1, 4, 96)),
    (
        _Bottleneck(3, 3, 2, 6, 128), _Bottleneck(5, 5, 1, 4, 128), _Bottleneck(0, 5, 1, 4, 128),
        _Bottleneck(0, 5, 1, 3, 128), _Bottleneck(0, 3, 1, 4, 128), _Bottleneck(0, 3, 1, 4, 128),
    ),
)  # fmt: skip
"""Bottlenecks of stages 2 and 3, at strides 16 and 32; the other stages are plain convolutions."""


def _layer(
    before: int, after: int, kernel: int, stride: int = 1, *,
    depthwise: bool = False, act: bool = True, norm: str = "bn",
) -> nn.Sequential:  # fmt: skip
    """Return a convolution, its batch norm, which has the name ``norm``, and its activation."""
    groups = before if depthwise else 1
    layer = nn.Sequential()
    layer.add_module("conv", nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False))
    layer.add_module(norm, nn.BatchNorm2d(after))
    if act:
        layer.add_module("act", nn.ReLU(inplace=True))
    return layer


class UniversalInvertedBottleneck(nn.Module):
    """Expands the channels, filters them and projects them, with optional depthwise convolutions; (N, C, H, W)."""

    def __init__(self, before: int, settings: _Bottleneck) -> None:
        super().__init__()
        start, middle, stride, expansion, after = settings
        wide = expansion * before
        self.dw_start = _layer(before, before, start, depthwise=True, act=False) if start else nn.Identity()
        self.pw_exp = _layer(before, wide, 1)
        self.dw_mid = _layer(wide, wide, middle, stride, depthwise=True) if middle else nn.Identity()
        self.pw_proj = _layer(wide, after, 1, act=False)
        self._residual = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, H and W divided by the stride."""
        y: Tensor = self.pw_proj(self.dw_mid(self.pw_exp(self.dw_start(x))))
        return y + x if self._residual else y


class MobileNetV4ConvSmall(nn.Module):
    """The encoder: images (N, bands, H, W) -> five levels (N, CHANNELS[i - 1], H / 2**i, W / 2**i), i = 1..5.

    Parameters
    ----------
    bands : int
    """

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(bands, 32, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.act1 = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(
            nn.Sequential(_layer(32, 32, 3, 2, norm="bn1"), _layer(32, 32, 1, norm="bn1")),
            nn.Sequential(_layer(32, 96, 3, 2, norm="bn1"), _layer(96, 64, 1, norm="bn1")),
            *(_stage(before, settings) for before, settings in zip((64, 96), _STAGES, strict=True)),
            nn.Sequential(_layer(128, 960, 1, norm="bn1")),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the levels, finest first."""
        x = self.act1(self.bn1(self.conv_stem(x)))
        levels = [x]
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in _LEVELS:
                levels.append(x)
        return levels


def _stage(before: int, settings: tuple[_Bottleneck, ...]) -> nn.Sequential:
    inputs = [before, *(one.channels for one in settings[:-1])]
    return nn.Sequential(*(UniversalInvertedBottleneck(*pair) for pair in zip(inputs, settings, strict=True)))
