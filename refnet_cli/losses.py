"""What training minimises: the fused map's loss plus a small share of the single modalities'."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from refnet_cli.model import Prediction

AUXILIARY_WEIGHT = 0.005
IGNORED = 0


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over the labelled pixels; zero, not NaN, where there are none.

    Parameters
    ----------
    logits : float tensor, shape (N, K, H, W)
    labels : int64 tensor, shape (N, H, W)
        Network indexes; 0 is ignored.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross-entropy": cross_entropy}


def training_loss(
    prediction: Prediction, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
) -> tuple[Tensor, Tensor]:
    """Main and auxiliary loss of REF-Net; their sum is minimised.

    Parameters
    ----------
    prediction : Prediction
    labels : int64 tensor, shape (N, H, W)
        Network indexes; 0 is ignored.
    loss : callable
        A loss from ``LOSSES``.

    Returns
    -------
    main, auxiliary : scalar tensors
        The auxiliary one carries its weight of 0.005; zero where the MSIE decoders did not run.
    """
    main = loss(prediction.logits, labels)
    if prediction.optical_logits is None or prediction.sar_logits is None:
        return main, main.new_zeros(())
    single = loss(prediction.optical_logits, labels) + loss(prediction.sar_logits, labels)
    return main, AUXILIARY_WEIGHT * single
