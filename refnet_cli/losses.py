"""What training minimises: the fused map's loss plus a small share of the single modalities'."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from refnet_cli.model import Prediction

AUXILIARY_WEIGHT = 0.005
IGNORED = 0
FOCUS = 2.0
"""Focal loss's gamma."""


Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def labelled_weight(labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the weights of the labelled pixels, by which losses divide; without weights, the pixels' number.

    Parameters
    ----------
    labels : int64 tensor, shape (N, H, W)
        Network indexes; 0 is ignored.
    weights : float tensor, shape (K,), optional
        What a pixel of each class counts.
    """
    known = labels != IGNORED
    return known.sum() if weights is None else (weights[labels] * known).sum()


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross entropy over the labelled pixels; zero, not NaN, where there are none.

    Parameters
    ----------
    logits : float tensor, shape (N, K, H, W)
    labels : int64 tensor, shape (N, H, W)
        Network indexes; 0 is ignored.
    weights : float tensor, shape (K,), optional
        What a pixel of each class counts in the mean.
    """
    total = F.cross_entropy(logits.float(), labels, weights, ignore_index=IGNORED, reduction="sum")
    return total / _at_least_something(labelled_weight(labels, weights))


def focal(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy that counts a pixel the less the surer it is, by (1 - p)^2; Lin et al. 2017, arXiv 1708.02002.

    Parameters and what becomes of unlabelled pixels are those of `cross_entropy`.
    """
    surprise = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    # Unlabelled pixels have a surprise of zero, and so count nothing.
    each = (1 - torch.exp(-surprise)) ** FOCUS * surprise
    total = (each if weights is None else weights[labels] * each).sum()
    return total / _at_least_something(labelled_weight(labels, weights))


def cross_entropy_and_dice(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy plus one minus the mean Dice coefficient of the classes among the labels; arXiv 1606.04797.

    Dice compares areas over the whole batch, so that small classes count as much as large ones; weights concern cross
    entropy alone. Parameters and what becomes of unlabelled pixels are those of `cross_entropy`.
    """
    known = (labels != IGNORED)[:, None]
    shares = torch.softmax(logits.float(), dim=1) * known
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1) * known
    labelled = truth.sum((0, 2, 3))
    common = (shares * truth).sum((0, 2, 3))
    present = labelled > 0
    dice = 2 * common[present] / (shares.sum((0, 2, 3)) + labelled)[present]
    return cross_entropy(logits, labels, weights) + (1 - dice).sum() / present.sum().clamp(min=1)


def _at_least_something(weight: Tensor) -> Tensor:
    """Make a divisor that is not zero."""
    return torch.where(weight > 0, weight, torch.ones_like(weight))


LOSSES: dict[str, Loss] = {
    "cross-entropy": cross_entropy,
    "focal": focal,
    "cross-entropy-and-dice": cross_entropy_and_dice,
}


def training_loss(
    prediction: Prediction, labels: Tensor, loss: Loss = cross_entropy, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Main and auxiliary loss of REF-Net; their sum is minimised.

    Parameters
    ----------
    prediction : Prediction
    labels : int64 tensor, shape (N, H, W)
        Network indexes; 0 is ignored.
    loss : callable
        A loss from ``LOSSES``.
    weights : float tensor, shape (K,), optional
        What a pixel of each class counts.

    Returns
    -------
    main, auxiliary : scalar tensors
        The auxiliary one carries its weight of 0.005; zero where the MSIE decoders did not run.
    """
    main = loss(prediction.logits, labels, weights)
    if prediction.optical_logits is None or prediction.sar_logits is None:
        return main, main.new_zeros(())
    single = loss(prediction.optical_logits, labels, weights) + loss(prediction.sar_logits, labels, weights)
    return main, AUXILIARY_WEIGHT * single
