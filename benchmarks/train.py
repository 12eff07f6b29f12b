"""Measure the time of a training step with each kernel, and compare the kernels' loss curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import Row, check_limit, compare, medians
from benchmarks.networks import PRODUCT, PRODUCT_FLOP, PUBLISHED, make_network, matrix_product
from refnet_cli.model.config import REFNetConfig
from refnet_cli.system.process import keep_freed_memory
from refnet_cli.training.batches import Batch
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.learner import make_optimizer
from refnet_cli.training.losses import training_loss

FASTER_THAN_TORCH = 4.0
SAME_CURVE = 1e-3
FIELD = 32
"""Side in pixels of the single-class squares."""


def make_batch(config: REFNetConfig, batch: int, side: int, step: int) -> Batch:
    """Return learnable images: random single-class squares with one colour per class, plus noise."""
    generator = torch.Generator().manual_seed(step)
    fields = torch.randint(1, config.classes, (batch, side // FIELD, side // FIELD), generator=generator)
    labels = fields.repeat_interleave(FIELD, 1).repeat_interleave(FIELD, 2)
    bands = config.optical_bands + config.sar_bands
    colours = torch.randn(config.classes, bands, generator=torch.Generator().manual_seed(0))
    images = colours[labels] + torch.randn(batch, side, side, bands, generator=generator)
    optical, sar = torch.split(images.permute(0, 3, 1, 2), [config.optical_bands, config.sar_bands], dim=1)
    return Batch(
        optical.contiguous(memory_format=torch.channels_last), sar.contiguous(memory_format=torch.channels_last), labels
    )


class Training:
    """A training with one kernel; trainings of one config have equal initial weights and data.

    Parameters
    ----------
    config : REFNetConfig
    scan : str
        Name of the kernel.
    batches : sequence of Batch
        One batch per step.
    shift : float
        Relative change of all weights before the first step.
    """

    def __init__(self, config: REFNetConfig, scan: str, batches: Sequence[Batch], shift: float = 0.0) -> None:
        self.losses: list[float] = []
        self._batches = batches
        self._net = make_network(config).to(memory_format=torch.channels_last).train().use_scan(scan)
        with torch.no_grad():
            for parameter in self._net.parameters():
                parameter.mul_(1 + shift)
        unread = TrainScene(Path("optical.tif"), Path("sar.tif"), Path("labels.tif"))
        self._optimizer = make_optimizer(self._net, TrainConfig(scenes=(unread,), scheme="esri-io"))

    def step(self) -> None:
        """Run one step."""
        batch = self._batches[len(self.losses)]
        torch.manual_seed(len(self.losses))  # so that all kernels drop the same paths
        main, auxiliary = training_loss(self._net(batch.optical, batch.sar), batch.labels)
        self._optimizer.zero_grad()
        loss = main + auxiliary
        torch.autograd.backward(loss)
        self._optimizer.step()
        self.losses.append(float(loss.detach()))


def count_flop(config: REFNetConfig, batches: Sequence[Batch]) -> int:
    """Return the FLOP of convolutions and matrix products in one step."""
    with FlopCounterMode(display=False) as counter:
        Training(config, "torch", batches).step()
    return int(counter.get_total_flops())


def compare_curves(what: str, ours: Sequence[float], theirs: Sequence[float]) -> Row:
    """Return the largest relative difference of two loss curves, as a row."""
    difference = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
    return {"what": what, "difference": difference, "first_loss": theirs[0], "last_loss": theirs[-1]}


def run(steps: int = 20, config: REFNetConfig = PUBLISHED, batch: int = 2, side: int = 256) -> list[Row]:
    """Train with ``cpu`` and ``torch`` in turn, and with ``cpu`` from weights that differ by a rounding error.

    Parameters
    ----------
    steps : int
        Steps per kernel; medians are reported.
    config : REFNetConfig
    batch : int
        Images per batch.
    side : int
        Image size in pixels.
    """
    keep_freed_memory()  # as in trainings
    batches = [make_batch(config, batch, side, step) for step in range(steps)]
    flop = count_flop(config, batches)
    trainings = {scan: Training(config, scan, batches) for scan in ("cpu", "torch")}
    control = Training(config, "cpu", batches, torch.finfo(torch.float32).eps)
    actions = {scan: training.step for scan, training in trainings.items()}
    taken = medians({PRODUCT: matrix_product(), **actions, "control": control.step}, steps)
    size = f"batch {batch}, {side} x {side}"
    rate = PRODUCT_FLOP / taken[PRODUCT]
    rows = [
        compare(f"step, {size}, {scan}", taken[scan], "floor", flop / rate)
        | {"gigaflop": flop / 1e9, "gigaflop_per_second": rate / 1e9}
        for scan in trainings
    ]
    faster = compare(f"step, {size}, torch", taken["torch"], "step, cpu", taken["cpu"])
    losses = trainings["cpu"].losses
    curves = f"loss over {steps} steps, greatest relative difference,"
    return [
        *rows,
        check_limit(faster, "ratio", at_least=FASTER_THAN_TORCH),
        compare_curves(f"{curves} cpu from weights one rounding apart", losses, control.losses),
        check_limit(
            compare_curves(f"{curves} cpu and torch", losses, trainings["torch"].losses),
            "difference", at_most=SAME_CURVE,
        ),
    ]  # fmt: skip
