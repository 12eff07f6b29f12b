"""Losses against what their formulas say, pixel by pixel."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from refnet_cli.training.losses import LOSSES

CLASSES = 5


def make(seed: int = 0, unlabelled: float = 0.3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, CLASSES, 6, 7, generator=generator)
    labels = torch.randint(1, CLASSES - 1, (2, 6, 7), generator=generator)  # the last class is among none
    labels[torch.rand(labels.shape, generator=generator) < unlabelled] = 0
    return logits.requires_grad_(), labels


def pixels(logits: Tensor, labels: Tensor) -> list[tuple[list[Tensor], int]]:
    """Probabilities and label of every labelled pixel."""
    found = []
    for sample in range(len(labels)):
        for row in range(labels.shape[1]):
            for column in range(labels.shape[2]):
                label = int(labels[sample, row, column])
                powers = torch.exp(logits[sample, :, row, column])
                if label:
                    found.append((list(powers / powers.sum()), label))
    return found


def slow_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    found = pixels(logits, labels)
    return sum((-torch.log(shares[label]) for shares, label in found), torch.tensor(0.0)) / len(found)


def slow_focal(logits: Tensor, labels: Tensor) -> Tensor:
    found = pixels(logits, labels)
    terms = (-((1 - shares[label]) ** 2) * torch.log(shares[label]) for shares, label in found)
    return sum(terms, torch.tensor(0.0)) / len(found)


def slow_cross_entropy_and_dice(logits: Tensor, labels: Tensor) -> Tensor:
    found = pixels(logits, labels)
    losses = []
    for index in sorted({label for _, label in found}):
        common = sum((shares[index] for shares, label in found if label == index), torch.tensor(0.0))
        guessed = sum((shares[index] for shares, _ in found), torch.tensor(0.0))
        losses.append(1 - 2 * common / (guessed + sum(label == index for _, label in found)))
    return slow_cross_entropy(logits, labels) + sum(losses, torch.tensor(0.0)) / len(losses)


SLOW: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": slow_cross_entropy,
    "focal": slow_focal,
    "cross-entropy-and-dice": slow_cross_entropy_and_dice,
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(name: str) -> None:
    logits, labels = make()
    ours, theirs = LOSSES[name](logits, labels), SLOW[name](logits, labels)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_unlabelled_pixels_count_nothing(name: str) -> None:
    logits, labels = make()
    other = torch.where((labels == 0)[:, None], 9 * torch.randn(logits.shape), logits.detach()).requires_grad_()
    assert LOSSES[name](other, labels).item() == pytest.approx(LOSSES[name](logits, labels).item(), rel=1e-6)
    loss = LOSSES[name](logits, torch.zeros_like(labels))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_certain_network_is_right_or_wrong(name: str) -> None:
    _, labels = make(unlabelled=0)
    right = 50.0 * torch.nn.functional.one_hot(labels, CLASSES).movedim(-1, 1)
    assert LOSSES[name](right, labels).item() < 1e-6
    wrong = right.roll(1, dims=1).requires_grad_()
    loss = LOSSES[name](wrong, labels)
    assert loss.item() == pytest.approx(SLOW[name](wrong, labels).item(), rel=1e-5)
    assert math.isfinite(float(torch.autograd.grad(loss, wrong)[0].abs().sum()))


def test_focal_loss_spares_what_is_sure() -> None:
    """Of a pixel that is 90 % sure it leaves a hundredth."""
    logits = torch.log(torch.tensor([0.05, 0.9, 0.05])).view(1, 3, 1, 1)
    labels = torch.ones(1, 1, 1, dtype=torch.long)
    ratio = LOSSES["focal"](logits, labels) / LOSSES["cross-entropy"](logits, labels)
    assert ratio.item() == pytest.approx(0.01, rel=1e-4)
