"""The processes that train together: one, or as many as torchrun started, each with a device of its own."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from refnet_cli.model.refnet import Prediction, REFNet

PATIENCE = timedelta(hours=12)
"""How long processes wait for the first one, which alone validates."""


class Processes:
    """What accelerate makes of a device, a number format and the environment that torchrun sets.

    Parameters
    ----------
    device : str
        A torch device; with several processes, each takes the one of its own number.
    precision : str
        fp32, bf16 or fp16.
    """

    def __init__(self, device: str, precision: str) -> None:
        place = torch.device(device)
        if place.type == "cuda" and place.index is not None:
            torch.cuda.set_device(place)
        AcceleratorState._reset_state(reset_partial_state=started_processes() == 1)  # of a training before this one
        self._accelerator = Accelerator(
            cpu=place.type == "cpu",
            mixed_precision={"fp32": "no"}.get(precision, precision),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self.device: torch.device = self._accelerator.device

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes and speaks."""
        return self.rank == 0

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint must hold of it: the scale of gradients, in fp16."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else {"scaler": scaler}

    def prepare(self, net: REFNet, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return what to call and to step instead of network and optimiser, which stay the owners of their state."""
        if self.count > 1:
            synchronise_batch_norms(net)
        prepared = self._accelerator.prepare(_Called(net), optimizer)
        return cast(tuple[nn.Module, torch.optim.Optimizer], prepared)

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients to the network's."""
        self._accelerator.backward(loss)

    def clip(self, net: nn.Module, norm: float) -> None:
        """Scale the network's gradients down to a norm."""
        self._accelerator.clip_grad_norm_(net.parameters(), norm)

    def waiting_with_sum(self, net: nn.Module, waiting: bool) -> AbstractContextManager[Any]:
        """Leave gradients unsummed over the processes, where more are still to come."""
        return cast(AbstractContextManager[Any], self._accelerator.no_sync(net)) if waiting else nullcontext()

    def sum(self, number: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        summed: Tensor = self._accelerator.reduce(number, reduction="sum")
        return summed

    def any(self, here: bool) -> bool:
        """Tell whether something holds in any process."""
        return bool(self.sum(torch.tensor(float(here), device=self.device)).item())

    def from_first(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return the first process's value in all of them."""
        values = [value]
        broadcast_object_list(values)
        return values[0]

    def end(self) -> None:
        """Let go of the other processes, all of which must come here."""
        self._accelerator.end_training()

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self._accelerator.wait_for_everyone()


class _Called(nn.Module):
    """What accelerate may change: a network of its own would compute in half precision wherever it is used."""

    def __init__(self, net: REFNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, optical: Tensor, sar: Tensor) -> Prediction:
        """See `REFNet.forward`."""
        return cast(Prediction, self.net(optical, sar))


def started_processes() -> int:
    """Return how many processes torchrun started, this one among them; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on any device; torch's own is for GPUs only.

    An activation that timm lets a batch norm end in is kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        count = torch.tensor([float(x.numel() // x.shape[1])], device=x.device)
        dist.all_reduce(count)
        mean = _sum_over_processes(x.float().sum((0, 2, 3))) / count
        centred = x.float() - mean.view(-1, 1, 1)
        variance = _sum_over_processes((centred * centred).sum((0, 2, 3))) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight / torch.sqrt(variance + self.eps)
        y = (centred * scale.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(x.dtype)
        activated: Tensor = getattr(self, "act", nn.Identity())(y)
        return activated

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None  # REF-Net's and timm's batch norms all have them
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def _sum_over_processes(x: Tensor) -> Tensor:
    """Sum a tensor over all processes, so that its gradient is summed as well."""
    summed: Tensor = all_reduce(x)  # type: ignore[no-untyped-call]
    return summed


def synchronise_batch_norms(net: nn.Module) -> None:
    """Let all batch norms of a network see the images of all processes; names and values of its tensors stay."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            own = type(module)
            module.__class__ = type(f"Synchronised{own.__name__}", (SynchronisedBatchNorm, own), {})
