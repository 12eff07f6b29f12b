"""Training losses: the loss of the fused prediction, plus a small share of the single-sensor losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor

from refnet_cli.errors import OptionsError
from refnet_cli.model.refnet import Prediction

AUXILIARY_WEIGHT = 0.005
IGNORED = 0
FOCUS = 2.0
"""Focal loss's gamma."""


Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


def labelled_weight(labels: Tensor, weights: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
    """Return the sum of the weights of the labelled pixels, which normalises losses; all weights are 1 by default.

    Parameters
    ----------
    labels : int64 tensor, shape (N, H, W)
        Class indexes; 0 is ignored.
    weights : float tensor, shape (K,), optional
        Class weights.
    pixels : float tensor, shape (N, H, W), optional
        Pixel weights; multiplied by the class weights.
    """
    each = _weight_of_each(labels, weights, pixels)
    return (labels != IGNORED).sum() if each is None else each.sum()


def _weight_of_each(labels: Tensor, weights: Tensor | None, pixels: Tensor | None) -> Tensor | None:
    """Return the weight of each pixel, (N, H, W), 0 without a label; None if all labelled pixels have a weight of 1."""
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
    """Return the mean cross entropy over the labelled pixels; 0 if there are none.

    Parameters
    ----------
    logits : float tensor, shape (N, K, H, W)
    labels : int64 tensor, shape (N, H, W)
        Class indexes; 0 is ignored.
    weights : float tensor, shape (K,), optional
        Class weights.
    pixels : float tensor, shape (N, H, W), optional
        Pixel weights; multiplied by the class weights.
    smoothing : float
        Label smoothing: the share of the target probability that is spread evenly over all classes except 0, "no data".
    """
    if pixels is None and not smoothing:
        total = F.cross_entropy(logits.float(), labels, weights, ignore_index=IGNORED, reduction="sum")
        return total / _nonzero(labelled_weight(labels, weights))
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    if smoothing:
        others = -torch.log_softmax(logits.float(), dim=1)[:, 1:].mean(1) * (labels != IGNORED)
        losses = (1 - smoothing) * losses + smoothing * others
    return _mean(losses, labels, weights, pixels)


def _mean(losses: Tensor, labels: Tensor, weights: Tensor | None, pixels: Tensor | None) -> Tensor:
    """Return the weighted mean of pixel losses, (N, H, W), which are 0 for unlabelled pixels."""
    each = _weight_of_each(labels, weights, pixels)
    total = (losses if each is None else each * losses).sum()
    return total / _nonzero(labelled_weight(labels, weights, pixels))


def focal(logits: Tensor, labels: Tensor, weights: Tensor | None = None, pixels: Tensor | None = None) -> Tensor:
    """Return the focal loss: cross entropy weighted by (1 - p)^2; Lin et al. 2017, arXiv 1708.02002.

    Parameters and the handling of unlabelled pixels are those of `cross_entropy`.
    """
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    # Unlabelled pixels have a cross entropy of 0 and do not contribute.
    return _mean((1 - torch.exp(-losses)) ** FOCUS * losses, labels, weights, pixels)


def cross_entropy_and_dice(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    pixels: Tensor | None = None,
    *,
    smoothing: float = 0.0,
) -> Tensor:
    """Return cross entropy plus Dice loss, averaged over the classes among the labels; arXiv 1606.04797.

    Dice compares areas over the whole batch, so small classes have the same influence as large ones. Pixel weights
    apply to both terms; class weights and smoothing apply to cross entropy only. Parameters and the handling of
    unlabelled pixels are those of `cross_entropy`.
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


def _nonzero(weight: Tensor) -> Tensor:
    """Replace 0 by 1, for use as a divisor."""
    return torch.where(weight > 0, weight, torch.ones_like(weight))


LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross-entropy": cross_entropy,
    "focal": focal,
    "cross-entropy-and-dice": cross_entropy_and_dice,
}
SMOOTHED = [name for name, loss in LOSSES.items() if "smoothing" in signature(loss).parameters]
"""Losses that support label smoothing."""


def choose_loss(name: str, smoothing: float = 0.0) -> Loss:
    """Return the loss with this name, with label smoothing if requested.

    Raises
    ------
    OptionsError
        If the loss is unknown, or does not support label smoothing.
    """
    if name not in LOSSES:
        raise OptionsError(f"Loss {name!r} is unknown; choose one of {', '.join(LOSSES)}.")
    if not smoothing:
        return LOSSES[name]
    if name not in SMOOTHED:
        raise OptionsError(
            f"label_smoothing is {smoothing:g}, but the loss {name} does not support it. Remove label_smoothing, or "
            f"choose the loss {' or '.join(SMOOTHED)}."
        )
    return partial(LOSSES[name], smoothing=smoothing)


def training_loss(
    prediction: Prediction,
    labels: Tensor,
    loss: Loss = cross_entropy,
    weights: Tensor | None = None,
    pixels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the main and the auxiliary loss of REF-Net; training minimises their sum.

    Parameters
    ----------
    prediction : Prediction
    labels : int64 tensor, shape (N, H, W)
        Class indexes; 0 is ignored.
    loss : callable
        A loss from ``LOSSES``.
    weights : float tensor, shape (K,), optional
        Class weights.
    pixels : float tensor, shape (N, H, W), optional
        Pixel weights.

    Returns
    -------
    main, auxiliary : scalar tensors
        The auxiliary loss includes its weight of 0.005; it is 0 if the MSIE decoders did not run.
    """
    main = loss(prediction.logits, labels, weights, pixels)
    if prediction.optical_logits is None or prediction.sar_logits is None:
        return main, main.new_zeros(())
    single = [loss(logits, labels, weights, pixels) for logits in (prediction.optical_logits, prediction.sar_logits)]
    return main, AUXILIARY_WEIGHT * (single[0] + single[1])
