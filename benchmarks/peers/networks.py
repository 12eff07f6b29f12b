"""The network as the peers take it: TorchScript over one stacked image of any size; and networks that cost nothing.

A stacked image is (N, Bo + Bs, H, W) float32: reflectance x 10,000, then backscatter in dB, NaN where invalid. The
result is (N, K, H, W) probabilities. That of class 0, "no data", is 0, so that an argmax chooses among the classes that
refnet chooses among.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refnet_cli.engines.torch_engine import Standardise, to_probabilities
from refnet_cli.model.card import Card
from refnet_cli.model.fuse import Sliced, prepare_for_inference
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import load_weights
from refnet_cli.scan import SCANS, Kernel

AGREEMENT = 1e-5
"""Largest difference of two probabilities, of the exported network and of refnet's engine."""


def scan_in_script(
    u: Tensor, projection: Tensor, dt_weight: Tensor, dt_bias: Tensor, a_log: Tensor, d_skip: Tensor
) -> Tensor:
    """Run the selective scan in plain torch that TorchScript compiles; see `refnet_cli.scan.selective_scan`.

    All four directions run at once. The sequence is cut into about sqrt(L) chunks, which are scanned in parallel twice:
    from zero for their last states, which carry over from chunk to chunk, and then from the states carried.
    """
    batch, height, width, channels = u.shape
    states = a_log.size(2)
    rank = dt_weight.size(2)
    length = height * width
    size = max(int(math.sqrt(float(length))), 1)
    padding = (size - length % size) % size
    rows = torch.cat([u.unsqueeze(3).expand(-1, -1, -1, 4, -1), projection], 4).permute(3, 0, 1, 2, 4)
    columns = rows[1::2].transpose(2, 3).flatten(2, 3)
    rows = rows[0::2].flatten(2, 3)
    x = torch.stack([rows[0], columns[0], rows[1].flip(1), columns[1].flip(1)])  # (4, N, L, D + R + 2S)
    x = F.pad(x, [0, 0, 0, padding]).view(4, batch, -1, size, channels + rank + 2 * states)
    x = x.permute(3, 0, 1, 2, 4).contiguous()  # (size, 4, N, chunks, D + R + 2S)
    flow = x[..., :channels]
    dt = torch.matmul(x[..., channels : channels + rank], dt_weight.transpose(1, 2).unsqueeze(1))
    dt = F.softplus(dt + dt_bias[:, None, None, :])
    driven = dt * flow
    total = dt.sum(0)
    y = flow * d_skip[:, None, None, :]
    for s in range(states):
        a = -torch.exp(a_log[:, None, None, :, s])
        decay = torch.exp(dt * a)
        inputs = driven * x[..., channels + rank + s].unsqueeze(-1)
        state = torch.zeros_like(total)
        for step in range(size):
            state = torch.addcmul(inputs[step], decay[step], state)
        through = torch.exp(total * a)
        carry = torch.zeros_like(state[:, :, 0])
        starts = [carry]
        for chunk in range(state.size(2) - 1):
            carry = torch.addcmul(state[:, :, chunk], through[:, :, chunk], carry)
            starts.append(carry)
        state = torch.stack(starts, 2)
        found = []
        for step in range(size):
            state = torch.addcmul(inputs[step], decay[step], state)
            found.append(state)
        y = torch.addcmul(y, torch.stack(found), x[..., channels + rank + states + s].unsqueeze(-1))
    y = y.permute(1, 2, 3, 0, 4).flatten(2, 3)[:, :, :length]
    columns = (y[1] + y[3].flip(1)).view(batch, width, height, channels).transpose(1, 2)
    return (y[0] + y[2].flip(1)).view(batch, height, width, channels) + columns


class Stacked(nn.Module):
    """The network with its pre- and postprocessing, over a stacked image; see the module's docstring.

    Parameters
    ----------
    net : REFNet
    card : Card
    """

    def __init__(self, net: REFNet, card: Card) -> None:
        super().__init__()
        self.net = _unslice(prepare_for_inference(net)).use_scan("torchscript")
        self.optical, self.sar = Standardise(card.optical), Standardise(card.sar)
        self.bands = len(card.optical.bands)
        self.temperature = card.temperature

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, Bo + Bs, H, W) in physical units, NaN where invalid, to probabilities, (N, K, H, W)."""
        optical, sar = self.optical(image[:, : self.bands]), self.sar(image[:, self.bands :])
        optical = optical.contiguous(memory_format=torch.channels_last)
        sar = sar.contiguous(memory_format=torch.channels_last)
        logits = self.net(optical, sar, auxiliary=False).logits
        # Without class 0 the others are no more probable than in refnet, which leaves it out after the softmax.
        return torch.cat([torch.zeros_like(logits[:, :1]), to_probabilities(logits, self.temperature)[:, 1:]], 1)


def _unslice(net: REFNet) -> REFNet:
    """Run pointwise layers on all pixels at once: a trace would keep the number of slices of its example."""
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Sliced):
                setattr(module, name, child.layers)
    return net


def export_torchscript(weights: Path, path: Path) -> Path:
    """Write the network as TorchScript for batches of images of any size that is a multiple of 32, from 64 on.

    Parameters
    ----------
    weights : Path
        Safetensors with a card.
    path : Path
        The file to write.
    """
    net, card = load_weights(weights)
    example = torch.zeros(2, len(card.optical.bands) + len(card.sar.bands), 64, 96)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; the tracer warns of sizes that checks compare
        SCANS["torchscript"] = Kernel(torch.jit.script(scan_in_script))
        try:
            stacked = Stacked(net, card).eval()
            # torch has no types here.
            traced = torch.jit.trace(stacked, (example,), check_trace=False)  # type: ignore[no-untyped-call]
        finally:
            del SCANS["torchscript"]  # a kernel for exports only
        torch.jit.save(traced, path)
    return path


class Free(nn.Module):
    """A network that costs nothing: band i becomes the score of class i + 1, and the other classes have none."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: Tensor) -> Tensor:
        """(N, B, H, W) -> (N, K, H, W)."""
        scores = image.new_zeros([image.size(0), self.classes, image.size(2), image.size(3)])
        scores[:, 1 : 1 + image.size(1)] = image
        return scores


def export_free_torchscript(classes: int, path: Path) -> Path:
    """Write `Free` as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(Free(classes)), path)
    return path


def export_free_onnx(optical: int, sar: int, classes: int, path: Path) -> Path:
    """Write `Free` as an ONNX model with the inputs and outputs of ``refnet export``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", bands, "height", "width"])
        for name, bands in (("optical", optical), ("sar", sar), ("probabilities", classes))
    ]
    before_and_after = np.array([0, 1, 0, 0, 0, classes - 1 - optical - sar, 0, 0], np.int64)
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["optical", "sar"], ["image"], axis=1),
            helper.make_node("Pad", ["image", "pads"], ["probabilities"]),
        ],
        "free", images[:2], images[2:], [numpy_helper.from_array(before_and_after, "pads")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path
