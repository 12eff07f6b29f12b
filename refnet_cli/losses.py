"""What training minimises: the fused map's loss plus a small share of the single modalities'."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from refnet_cli.errors import OptionsError
from refnet_cli.model import Prediction

AUXILIARY_WEIGHT = 0.005
IGNORED = 0
FOCUS = 2.0
"""Focal loss's gamma."""


Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


def labelled_weight(labels: Tensor, weights: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
    """Sum of the weights of the labelled pixels, by which losses divide; without weights, the pixels' number.

    Parameters
    ----------
    labels : int64 tensor, shape (N, H, W)
        Network indexes; 0 is ignored.
    weights : float tensor, shape (K,), optional
        What a pixel of each class counts.
    pixels : float tensor, shape (N, H, W), optional
        What each pixel counts by itself; both weights are multiplied.
    """
    each = _weight_of_each(labels, weights, pixels)
    return (labels != IGNORED).sum() if each is None else each.sum()


def _weight_of_each(labels: Tensor, weights: Tensor | None, pixels: Tensor | None) -> Tensor | None:
    """Weight of each pixel, (N, H, W), 0 where it has no label; None if all labelled pixels count 1."""
    if weights is None and pixels is None:
        return None
    each = (labels != IGNORED).float() if weights is None else weights[labels] * (labels != IGNORED)
    return each if pixels is None else each * pixels


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    pixels: Tensor | None = None,
    *,
    smoothing: float = 0.0,
) -> Tensor:
    """Mean cross entropy over the labelled pixels; zero, not NaN, where there are none.

    Parameters
    ----------
    logits : float tensor, shape (N, K, H, W)
    labels : int64 tensor, shape (N, H, W)
        Network indexes; 0 is ignored.
    weights : float tensor, shape (K,), optional
        What a pixel of each class counts in the mean.
    pixels : float tensor, shape (N, H, W), optional
        What each pixel counts in the mean by itself; both weights are multiplied.
    smoothing : float
        Share of the probability that the target spreads evenly over all classes but 0, "no data"; the label has the
        rest, and its part of the share.
    """
    if pixels is None and not smoothing:
        total = F.cross_entropy(logits.float(), labels, weights, ignore_index=IGNORED, reduction="sum")
        return total / _at_least_something(labelled_weight(labels, weights))
    surprise = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    if smoothing:
        others = -torch.log_softmax(logits.float(), dim=1)[:, 1:].mean(1) * (labels != IGNORED)
        surprise = (1 - smoothing) * surprise + smoothing * others
    return _mean(surprise, labels, weights, pixels)


def _mean(losses: Tensor, labels: Tensor, weights: Tensor | None, pixels: Tensor | None) -> Tensor:
    """Weighted mean of the losses of pixels, (N, H, W), which are zero where there is no label."""
    each = _weight_of_each(labels, weights, pixels)
    total = (losses if each is None else each * losses).sum()
    return total / _at_least_something(labelled_weight(labels, weights, pixels))


def focal(logits: Tensor, labels: Tensor, weights: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
    """Cross entropy that counts a pixel the less the surer it is, by (1 - p)^2; Lin et al. 2017, arXiv 1708.02002.

    Parameters and what becomes of unlabelled pixels are those of `cross_entropy`.
    """
    surprise = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    # Unlabelled pixels have a surprise of zero, and so count nothing.
    return _mean((1 - torch.exp(-surprise)) ** FOCUS * surprise, labels, weights, pixels)


def cross_entropy_and_dice(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    pixels: Tensor | None = None,
    *,
    smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy plus one minus the mean Dice coefficient of the classes among the labels; arXiv 1606.04797.

    Dice compares areas over the whole batch, so that small classes count as much as large ones. A pixel adds its own
    weight to the areas; class weights and smoothing apply to cross entropy only. Parameters and
    the handling of unlabelled pixels are those of `cross_entropy`.
    """
    counted = (labels != IGNORED)[:, None] * (1 if pixels is None else pixels[:, None])
    shares = torch.softmax(logits.float(), dim=1)
    truth = F.one_hot(labels, logits.shape[1]).movedim(-1, 1) * counted
    labelled = truth.sum((0, 2, 3))
    common = (shares * truth).sum((0, 2, 3))
    present = labelled > 0
    dice = 2 * common[present] / ((shares * counted).sum((0, 2, 3)) + labelled)[present]
    mean = cross_entropy(logits, labels, weights, pixels, smoothing=smoothing)
    return mean + (1 - dice).sum() / present.sum().clamp(min=1)


def _at_least_something(weight: Tensor) -> Tensor:
    """Make a divisor that is not zero."""
    return torch.where(weight > 0, weight, torch.ones_like(weight))


LOSSES: dict[str, Loss] = {
    "cross-entropy": cross_entropy,
    "focal": focal,
    "cross-entropy-and-dice": cross_entropy_and_dice,
}
SMOOTHED: dict[str, Callable[..., Tensor]] = {
    "cross-entropy": cross_entropy,
    "cross-entropy-and-dice": cross_entropy_and_dice,
}
"""Losses whose labels can be smoothed."""


def choose_loss(name: str, smoothing: float = 0.0) -> Loss:
    """Return the loss of that name with labels smoothed by a share of the probability.

    Raises
    ------
    OptionsError
        If there is no such loss, or its labels cannot be smoothed.
    """
    if name not in LOSSES:
        raise OptionsError(f"Loss {name!r} is unknown; choose one of {', '.join(LOSSES)}.")
    if not smoothing:
        return LOSSES[name]
    if name not in SMOOTHED:
        raise OptionsError(
            f"label_smoothing is {smoothing:g}, but the loss {name} cannot be smoothed. Leave label_smoothing out, or "
            f"choose the loss {' or '.join(SMOOTHED)}."
        )
    return partial(SMOOTHED[name], smoothing=smoothing)


def training_loss(
    prediction: Prediction,
    labels: Tensor,
    loss: Loss = cross_entropy,
    weights: Tensor | None = None,
    pixels: Tensor | None = None,
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
    pixels : float tensor, shape (N, H, W), optional
        What each pixel counts by itself.

    Returns
    -------
    main, auxiliary : scalar tensors
        The auxiliary one carries its weight of 0.005; zero where the MSIE decoders did not run.
    """
    main = loss(prediction.logits, labels, weights, pixels)
    if prediction.optical_logits is None or prediction.sar_logits is None:
        return main, main.new_zeros(())
    single = [loss(logits, labels, weights, pixels) for logits in (prediction.optical_logits, prediction.sar_logits)]
    return main, AUXILIARY_WEIGHT * (single[0] + single[1])
