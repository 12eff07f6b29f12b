"""REF-Net: retain and enhance modality-specific information.

Source: Wei, Chen, Liu, Chen, Wang, "Retain and Enhance Modality-Specific Information for Multimodal Remote Sensing
Image Land Use/Land Cover Classification", IEEE TGRS 63, 2025, doi 10.1109/TGRS.2025.3591926. VSS blocks are VMamba's
(arXiv 2401.10166).

Glossary
--------
optical, SAR    the two modalities, each with its own encoder
share           information that both modalities have, at one feature level
difference      information that only one modality has: computed from optical minus SAR
fused           share and difference combined (retain)
MDF             multimodal difference fusion: the decoder that produces the map
MSIE            modality-specific information enhancement: two decoders, used in training only, in which each modality
                classifies alone with the help of the difference (enhance)
VSS block       visual state space block: a selective scan and an MLP, each after a layer norm
SS2D            the two-dimensional selective scan with its projections

Shapes: N batch, C decoder width, D = 2C scan width, R = ceil(C / 16) rank of dt, S state size, K classes including
class 0, "no data"; level i = 1..5 has stride 2**i. Features are (N, C, H, W); inside a VSS block (N, H, W, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refnet_cli.errors import WeightsError
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.mobilenet import CHANNELS, MobileNetV4ConvSmall
from refnet_cli.scan import selective_scan

LEVELS = 5
SMALLEST_SIDE = 64


class Prediction(NamedTuple):
    """Logits of shape (N, K, H, W); the single-modality logits are None unless the MSIE decoders ran."""

    logits: Tensor
    optical_logits: Tensor | None
    sar_logits: Tensor | None


class MDFFeatures(NamedTuple):
    """Outputs of an MDF-VSS block for one level, each (N, C, H, W)."""

    share: Tensor
    difference: Tensor
    fused: Tensor


class DropPath(nn.Module):
    """Drops a residual branch for a random share of the samples, in training only."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Return x with whole samples zeroed at random and the rest scaled up, shape unchanged."""
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask / keep


class SS2D(nn.Module):
    """Two-dimensional selective scan, (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        inner = 2 * width
        rank = math.ceil(width / 16)
        self.in_projection = nn.Linear(width, inner, bias=False)
        self.convolution = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.x_projection = nn.Parameter(torch.empty(4, rank + 2 * states, inner))
        self.dt_weight = nn.Parameter(torch.empty(4, inner, rank))
        self.dt_bias = nn.Parameter(torch.empty(4, inner))
        self.a_log = nn.Parameter(torch.empty(4, inner, states))
        self.d_skip = nn.Parameter(torch.empty(4, inner))
        self.norm = nn.LayerNorm(inner)
        self.out_projection = nn.Linear(inner, width, bias=False)
        self.scan: str | None = None
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise as in Mamba: dt log-uniform in [0.001, 0.1], A at -1 .. -S, the skip at 1."""
        inner, states = self.a_log.shape[1:]
        nn.init.uniform_(self.x_projection, -(inner**-0.5), inner**-0.5)
        bound = self.dt_weight.shape[-1] ** -0.5
        nn.init.uniform_(self.dt_weight, -bound, bound)
        dt = torch.exp(torch.rand_like(self.dt_bias) * math.log(0.1 / 0.001) + math.log(0.001)).clamp(min=1e-4)
        self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.a_log.copy_(torch.log(torch.arange(1.0, states + 1)).expand_as(self.a_log))
        self.d_skip.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scanned features, shape unchanged."""
        u = self.in_projection(x)  # (N, H, W, D)
        u = F.silu(self.convolution(u.permute(0, 3, 1, 2))).permute(0, 2, 3, 1).contiguous()
        projection = torch.unflatten(F.linear(u, self.x_projection.flatten(0, 1)), -1, (4, -1))  # (N, H, W, 4, R + 2S)
        y = selective_scan(u, projection, self.dt_weight, self.dt_bias, self.a_log, self.d_skip, self.scan)
        out: Tensor = self.out_projection(self.norm(y))
        return out  # (N, H, W, C)


class VSSBlock(nn.Module):
    """Visual state space block, (N, C, H, W) -> (N, C, H, W): SS2D and MLP, each after a layer norm, as residuals."""

    def __init__(self, width: int, states: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.ss2d = SS2D(width, states)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, shape unchanged."""
        x = x.permute(0, 2, 3, 1)  # (N, H, W, C)
        x = x + self.drop_path(self.ss2d(self.norm(x)))
        x = x + self.drop_path(self.mlp(self.mlp_norm(x)))
        return x.permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """Two 3x3 convolutions as a residual, (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.convolution2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, shape unchanged."""
        residual = F.relu(self.norm1(self.convolution1(x)))
        return F.relu(x + self.norm2(self.convolution2(residual)))


class MDFVSSBlock(nn.Module):
    """Decomposes one level's optical and SAR features into share and difference, and fuses the two."""

    def __init__(self, config: REFNetConfig) -> None:
        super().__init__()
        width = config.width
        self.share_vss = VSSBlock(width, config.states, config.drop_path)
        self.share_convolution = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.share_norm = nn.BatchNorm2d(width)
        self.difference_vss = VSSBlock(width, config.states, config.drop_path)
        self.fuse = ResBlock(width)

    def forward(self, optical: Tensor, sar: Tensor) -> MDFFeatures:
        """Decompose and fuse two (N, C, H, W) tensors."""
        # Both modalities share one block, so they pass through it as one batch of 2N.
        both = self.share_vss(torch.cat([optical, sar]))
        count = optical.shape[0]
        both = torch.cat([both[:count], both[count:]], dim=1)
        share = F.relu(self.share_norm(self.share_convolution(both)))
        difference = self.difference_vss(optical - sar)
        return MDFFeatures(share, difference, self.fuse(share + difference))


class TopDown(nn.Module):
    """Top-down pathway from the coarsest to the finest level: upsample by 2, add the next level, refine."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.refine = nn.ModuleList(ResBlock(width) for _ in range(LEVELS - 1))

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return the finest level's features for levels (N, C, H / 2**i, W / 2**i), i = 1..5, finest first."""
        x = levels[-1]
        for refine, level in zip(reversed(self.refine), reversed(levels[:-1]), strict=True):
            x = F.interpolate(x, size=level.shape[-2:], mode="bilinear", align_corners=False)
            x = refine(x + level)
        return x


class MDFDecoder(nn.Module):
    """Multimodal difference fusion decoder: a VSS block on each level's fused features, then top-down."""

    def __init__(self, config: REFNetConfig) -> None:
        super().__init__()
        self.vss = nn.ModuleList(VSSBlock(config.width, config.states, config.drop_path) for _ in range(LEVELS))
        self.top_down = TopDown(config.width)

    def forward(self, fused: list[Tensor]) -> Tensor:
        """Return features (N, C, H / 2, W / 2) for the five levels' fused features, finest first."""
        features: Tensor = self.top_down([vss(level) for vss, level in zip(self.vss, fused, strict=True)])
        return features


class MSIEDecoder(nn.Module):
    """Modality-specific information enhancement: one modality's features plus the difference."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enhance = nn.ModuleList(ResBlock(width) for _ in range(LEVELS))
        self.top_down = TopDown(width)

    def forward(self, modality: list[Tensor], difference: list[Tensor]) -> Tensor:
        """Return features (N, C, H / 2, W / 2) for the five levels' features, finest first."""
        features: Tensor = self.top_down(
            [block(x + d) for block, x, d in zip(self.enhance, modality, difference, strict=True)]
        )
        return features


class Head(nn.Module):
    """Classifies at half resolution and upsamples the logits by 2, with aligned corners as published."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(width, classes, 1)
        nn.init.xavier_uniform_(self.classify.weight)
        nn.init.zeros_(_bias(self.classify))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H / 2, W / 2) -> logits (N, K, H, W)."""
        return F.interpolate(self.classify(x), scale_factor=2, mode="bilinear", align_corners=True)


class REFNet(nn.Module):
    """The network.

    Parameters
    ----------
    config : REFNetConfig
    initialise : bool
        False where all weights are loaded afterwards. Their first values then mean nothing, and timm is imported only
        for encoders that are not in ``OWN_ENCODERS``.

    Raises
    ------
    WeightsError
        If timm has no such encoder, or it does not have five levels at strides 2 to 32.
    """

    def __init__(self, config: REFNetConfig, *, initialise: bool = True) -> None:
        super().__init__()
        self.config = config
        make = _make_encoder if initialise else _make_known_encoder
        self.optical_encoder, channels = make(config.encoder, config.optical_bands)
        self.sar_encoder, _ = make(config.encoder, config.sar_bands)
        self.optical_projection = nn.ModuleList(nn.Conv2d(c, config.width, 1, bias=False) for c in channels)
        self.sar_projection = nn.ModuleList(nn.Conv2d(c, config.width, 1, bias=False) for c in channels)
        self.mdf_blocks = nn.ModuleList(MDFVSSBlock(config) for _ in range(LEVELS))
        self.mdf_decoder = MDFDecoder(config)
        self.head = Head(config.width, config.classes)
        if config.msie:
            self.optical_msie = MSIEDecoder(config.width)
            self.sar_msie = MSIEDecoder(config.width)
            self.optical_head = Head(config.width, config.classes)
            self.sar_head = Head(config.width, config.classes)
        if initialise:
            self._initialise_decoders()

    def _initialise_decoders(self) -> None:
        heads = {module.classify for module in self.modules() if isinstance(module, Head)}
        for name, child in self.named_children():
            for module in child.modules():
                if name.endswith("_encoder") or module in heads:
                    continue
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")
                elif isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    def use_scan(self, name: str | None) -> REFNet:
        """Set the kernel of every selective scan (None: chosen for the device), and return self."""
        for module in self.modules():
            if isinstance(module, SS2D):
                module.scan = name
        return self

    def forward(self, optical: Tensor, sar: Tensor, auxiliary: bool | None = None) -> Prediction:
        """Classify every pixel.

        Parameters
        ----------
        optical : tensor, shape (N, optical_bands, H, W), standardised
        sar : tensor, shape (N, sar_bands, H, W), standardised
            H and W even and at least 64.
        auxiliary : bool, optional
            Whether to run the MSIE decoders; by default in training mode if they exist.

        Returns
        -------
        Prediction

        Raises
        ------
        ValueError
            If the shapes do not match, or the network has no MSIE decoders to run.
        """
        self._check(optical, sar)
        if auxiliary is None:
            auxiliary = self.training and self.config.msie
        if auxiliary and not self.config.msie:
            raise ValueError("auxiliary is True, but this network has no MSIE decoders.")
        optical_levels = _project(self.optical_projection, self.optical_encoder(optical))
        sar_levels = _project(self.sar_projection, self.sar_encoder(sar))
        levels = [
            block(o, s) for block, o, s in zip(self.mdf_blocks, optical_levels, sar_levels, strict=True)
        ]
        logits = self.head(self.mdf_decoder([level.fused for level in levels]))
        if not auxiliary:
            return Prediction(logits, None, None)
        difference = [level.difference for level in levels]
        return Prediction(
            logits,
            self.optical_head(self.optical_msie(optical_levels, difference)),
            self.sar_head(self.sar_msie(sar_levels, difference)),
        )

    def _check(self, optical: Tensor, sar: Tensor) -> None:
        height, width = optical.shape[-2:]
        if optical.ndim != 4 or sar.ndim != 4 or optical.shape[0] != sar.shape[0] or sar.shape[-2:] != (height, width):
            raise ValueError(f"Optical {tuple(optical.shape)} and SAR {tuple(sar.shape)} must be batches of one size.")
        if (optical.shape[1], sar.shape[1]) != (self.config.optical_bands, self.config.sar_bands):
            raise ValueError(
                f"Got {optical.shape[1]} optical and {sar.shape[1]} SAR bands; the network takes "
                f"{self.config.optical_bands} and {self.config.sar_bands}."
            )
        if height % 2 or width % 2 or min(height, width) < SMALLEST_SIDE:
            raise ValueError(f"Images of {height} x {width} pixels: both sides must be even and at least 64.")


def _project(projections: nn.ModuleList, features: list[Tensor]) -> list[Tensor]:
    return [projection(level) for projection, level in zip(projections, features, strict=True)]


def _bias(convolution: nn.Conv2d) -> Tensor:
    if convolution.bias is None:
        raise ValueError("This convolution has no bias.")
    return convolution.bias


OWN_ENCODERS: dict[str, Callable[[int], tuple[nn.Module, list[int]]]] = {
    "mobilenetv4_conv_small": lambda bands: (MobileNetV4ConvSmall(bands), list(CHANNELS)),
}
"""Encoders of timm that are here too, by timm's names: functions of the number of bands that return an encoder with the
same tensors, and the number of channels of its five levels."""


def _make_known_encoder(name: str, bands: int) -> tuple[nn.Module, list[int]]:
    """Return an encoder without initial weights, of `OWN_ENCODERS` or else of timm."""
    # timm's tag after the dot only names pretrained weights.
    own = OWN_ENCODERS.get(name.partition(".")[0])
    return own(bands) if own else _make_encoder(name, bands)


def _make_encoder(name: str, bands: int) -> tuple[nn.Module, list[int]]:
    """Return a timm encoder and the number of channels of its five levels."""
    import timm  # takes a second

    try:
        encoder = timm.create_model(name, features_only=True, in_chans=bands)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise WeightsError(f"timm {timm.__version__} cannot create the encoder {name!r}: {error}") from error
    levels: Any = encoder.feature_info
    strides = levels.reduction()
    if strides[-LEVELS:] != [2, 4, 8, 16, 32]:
        raise WeightsError(f"Encoder {name!r} has features at strides {strides}; it must have 2, 4, 8, 16, 32.")
    return encoder, levels.channels()


def load_strictly(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the tensors of a network; refuse missing, unknown and wrongly shaped tensors.

    Raises
    ------
    WeightsError
        With the names of these tensors.
    """
    expected = net.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    for what, names in (("lacks", missing), ("has unknown", unknown), ("has wrongly shaped", shapes)):
        if names:
            raise WeightsError(f"The checkpoint {what} tensors ({len(names)}), first: {', '.join(names[:3])}.")
    net.load_state_dict(tensors)
