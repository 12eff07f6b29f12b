"""Training processes: a single one, or several started by torchrun, each with its own device."""

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

TIMEOUT = timedelta(hours=12)
"""Time that processes wait for the first one, which alone validates."""


class Processes:
    """The training processes, through accelerate.

    Parameters
    ----------
    device : str
        A torch device; with several processes, each uses the device with its rank.
    precision : str
        fp32, bf16 or fp16.
    """

    def __init__(self, device: str, precision: str) -> None:
        chosen = torch.device(device)
        if chosen.type == "cuda" and chosen.index is not None:
            torch.cuda.set_device(chosen)
        AcceleratorState._reset_state(reset_partial_state=started_processes() == 1)  # left by an earlier training
        self._accelerator = Accelerator(
            cpu=chosen.type == "cpu",
            mixed_precision={"fp32": "no"}.get(precision, precision),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=TIMEOUT)],
        )
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self.device: torch.device = self._accelerator.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    @property
    def stateful(self) -> dict[str, Any]:
        """Objects whose state belongs in a checkpoint: the gradient scaler in fp16."""
        scaler = self._accelerator.scaler
        return {} if scaler is None else {"scaler": scaler}

    def prepare(self, net: REFNet, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Return wrappers to call and step; network and optimiser themselves keep their state."""
        if self.count > 1:
            synchronise_batch_norms(net)
        prepared = self._accelerator.prepare(_Wrapped(net), optimizer)
        return cast(tuple[nn.Module, torch.optim.Optimizer], prepared)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of the loss."""
        self._accelerator.backward(loss)

    def clip(self, net: nn.Module, norm: float) -> None:
        """Clip the norm of the network's gradients."""
        self._accelerator.clip_grad_norm_(net.parameters(), norm)

    def no_sync(self, net: nn.Module, waiting: bool) -> AbstractContextManager[Any]:
        """Return a context that skips the gradient sum over processes while more passes follow."""
        return cast(AbstractContextManager[Any], self._accelerator.no_sync(net)) if waiting else nullcontext()

    def sum(self, number: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        summed: Tensor = self._accelerator.reduce(number, reduction="sum")
        return summed

    def any(self, here: bool) -> bool:
        """Return whether a condition is true in any process."""
        return bool(self.sum(torch.tensor(float(here), device=self.device)).item())

    def broadcast(self, value: dict[str, Any]) -> dict[str, Any]:
        """Send the first process's value to all processes."""
        values = [value]
        broadcast_object_list(values)
        return values[0]

    def end(self) -> None:
        """Leave the process group; all processes must call this."""
        self._accelerator.end_training()

    def wait(self) -> None:
        """Wait until all processes have called this."""
        self._accelerator.wait_for_everyone()


class _Wrapped(nn.Module):
    """Wrapper for accelerate to patch: patching the network itself would also affect validation."""

    def __init__(self, net: REFNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, optical: Tensor, sar: Tensor) -> Prediction:
        """See `REFNet.forward`."""
        return cast(Prediction, self.net(optical, sar))


def started_processes() -> int:
    """Return the number of processes that torchrun started, including this one; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the images of all processes, on any device; torch's SyncBatchNorm is for GPUs only.

    It keeps the activation that timm may add to a batch norm.
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
    """Sum a tensor over all processes; the gradient is summed too."""
    summed: Tensor = all_reduce(x)  # type: ignore[no-untyped-call]
    return summed


def synchronise_batch_norms(net: nn.Module) -> None:
    """Synchronise all batch norms of a network over the processes; tensor names and values do not change."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            own = type(module)
            module.__class__ = type(f"Synchronised{own.__name__}", (SynchronisedBatchNorm, own), {})
