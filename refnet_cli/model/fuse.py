"""Prepare a network for inference: the same results with less arithmetic and memory traffic."""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from refnet_cli.errors import UnavailableError
from refnet_cli.model.refnet import MDFVSSBlock, Prediction, REFNet, ResBlock, VSSBlock
from refnet_cli.model.vss_cpu import NarrowVSSBlock

SLICE = 4096


class Sliced(nn.Module):
    """Pointwise layers that run on ``SLICE`` pixels at a time.

    Intermediate results then stay in the processor's cache, and an MLP's wide hidden layer is never stored as a whole.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C')."""
        # torch.compile does its own tiling.
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            result: Tensor = self.layers(x)
            return result
        pixels = x.reshape(-1, x.shape[-1])
        out: Tensor | None = None
        for start in range(0, len(pixels), SLICE):
            part = self.layers(pixels[start : start + SLICE])
            if out is None:
                out = part.new_empty(len(pixels), part.shape[-1])
            out[start : start + SLICE] = part
        assert out is not None  # no image is empty
        return out.view(*x.shape[:-1], -1)


def prepare_for_inference(net: REFNet) -> REFNet:
    """Return a copy of the network for inference, with the same call signature.

    It has no MSIE decoders, batch norms are folded into convolutions, pointwise layers run in slices or, where they are
    narrow, in kernels of their own, and weights are channels-last without gradients.

    Parameters
    ----------
    net : REFNet
        Not modified.

    Returns
    -------
    REFNet
        In evaluation mode. Its logits differ from the network's by float rounding only. It cannot be trained or saved.
    """
    decoders = ("optical_msie", "sar_msie", "optical_head", "sar_head") if net.config.msie else ()
    placeholders: dict[int, Any] = {id(net.get_submodule(name)): nn.Identity() for name in decoders}  # not to be copied
    prepared = copy.deepcopy(net, placeholders).eval().requires_grad_(False)
    for name in decoders:
        delattr(prepared, name)
    prepared.config = replace(prepared.config, msie=False)
    for encoder, bands in (("optical_encoder", net.config.optical_bands), ("sar_encoder", net.config.sar_bands)):
        if not _fold_encoder(prepared.get_submodule(encoder), bands):
            setattr(prepared, encoder, copy.deepcopy(net.get_submodule(encoder)).eval().requires_grad_(False))
    for module in list(prepared.modules()):
        if isinstance(module, ResBlock):
            _fold(module, "convolution1", "norm1")
            _fold(module, "convolution2", "norm2")
        elif isinstance(module, MDFVSSBlock):
            _fold(module, "share_convolution", "share_norm")
    _prepare_vss_blocks(prepared)
    return prepared.to(memory_format=torch.channels_last)


class Compiled(nn.Module):
    """A network that torch.compile compiles at the first call, for one input shape.

    Parameters
    ----------
    net : REFNet
        From `prepare_for_inference`.

    Raises
    ------
    UnavailableError
        If no C++ compiler is installed, which torch.compile needs.
    """

    def __init__(self, net: REFNet) -> None:
        super().__init__()
        if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "cl") if name):
            raise UnavailableError(
                "torch.compile needs a C++ compiler, but none was found. Install g++ or clang++, or predict without "
                "--compile."
            )
        self._compiled: Any = torch.compile(net, dynamic=False)
        self.size = 0
        """Batch size that smaller batches are padded to; 0 before the first batch."""

    def reset_size(self) -> None:
        """Let the next batch set the batch size; after an out-of-memory error padding would need the same memory."""
        self.size = 0

    def forward(self, optical: Tensor, sar: Tensor, auxiliary: bool | None = None) -> Prediction:
        """Classify a batch; pad one that is smaller than the first, because a new shape would be compiled again."""
        count = len(optical)
        self.size = self.size or count
        missing = (0, 0, 0, 0, 0, 0, 0, max(self.size - count, 0))
        optical, sar = (F.pad(x, missing).contiguous(memory_format=torch.channels_last) for x in (optical, sar))
        result: Prediction = self._compiled(optical, sar, auxiliary)
        return Prediction(result.logits[:count], None, None)


def _prepare_vss_blocks(net: nn.Module) -> None:
    """Run narrow VSS blocks in kernels of their own where these can run, and the layers of all others in slices."""
    for parent in list(net.modules()):
        for name, block in list(parent.named_children()):
            if isinstance(block, VSSBlock):
                if NarrowVSSBlock.suits(block):
                    setattr(parent, name, NarrowVSSBlock(block))
                _slice(block)


def _slice(block: Any) -> None:
    """Run the pointwise layers of a VSS block in slices, including the layer norms."""
    scan = block.ss2d
    scan.in_projection, block.norm = Sliced(block.norm, scan.in_projection), nn.Identity()
    scan.out_projection, scan.norm = Sliced(scan.norm, scan.out_projection), nn.Identity()
    block.mlp, block.mlp_norm = Sliced(block.mlp_norm, *block.mlp), nn.Identity()


def _fold(parent: nn.Module, convolution: str, norm: str) -> None:
    """Fold a batch norm into the preceding convolution; keep the norm's activation."""
    before: Any = parent.get_submodule(convolution)
    after: Any = parent.get_submodule(norm)
    before.weight, before.bias = fuse_conv_bn_weights(
        before.weight, before.bias, after.running_mean, after.running_var, after.eps, after.weight, after.bias
    )
    owner, _, name = norm.rpartition(".")
    # timm's batch norms may include an activation.
    setattr(parent.get_submodule(owner), name, getattr(after, "act", nn.Identity()))


@torch.no_grad()
def _fold_encoder(encoder: nn.Module, bands: int) -> bool:
    """Fold every batch norm that follows a convolution, and return whether the encoder's output is unchanged.

    The encoder may be any timm model, so the layer order is observed by running it on an image. Folding changes the
    result if a convolution's output is used twice.
    """
    made: list[tuple[str, Tensor]] = []
    pairs: list[tuple[str, str]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                made.append((name, output))
            else:
                pairs.extend((convolution, name) for convolution, image in made if image is inputs[0])

        return hook

    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    image = torch.randn(1, bands, 64, 64, generator=torch.Generator().manual_seed(0))
    image = image.to(next(encoder.parameters()).device)
    expected = encoder(image)
    for handle in hooks:
        handle.remove()
    for convolution, norm in pairs:
        _fold(encoder, convolution, norm)
    return all(
        bool((ours - theirs).norm() <= 1e-4 * theirs.norm())
        for ours, theirs in zip(encoder(image), expected, strict=True)
    )
