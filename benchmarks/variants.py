"""REF-Net, its ablations and other models, trained on the same data with the same budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from benchmarks.folds import SCHEME, Scene, UInt8
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.refnet import MDFFeatures, Prediction, REFNet, ResBlock
from refnet_cli.training.batches import Batch
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.learner import POLYNOMIAL_POWER, make_optimizer
from refnet_cli.training.losses import training_loss

MULTIPLE = 32
"""Image sides must be multiples of it."""
TREES = 100
NEIGHBOURHOOD = 5
"""Side in pixels of the squares whose means are features of the random forest."""


@dataclass(frozen=True)
class Budget:
    """Limits of every training of a network, and of the random forest."""

    steps: int = 400
    batch: int = 8
    crop: int = 64
    learning_rate: float = 1e-3
    encoder: str = "test_resnet"
    width: int = 16
    forest_pixels: int = 50_000

    @property
    def network(self) -> REFNetConfig:
        """Settings of REF-Net."""
        return REFNetConfig(self.encoder, optical_bands=4, sar_bands=2, classes=SCHEME.classes, width=self.width)


class Learned(NamedTuple):
    """A trained model."""

    predict: Callable[[Scene], UInt8]
    """Returns every pixel's class, 1 or above, shape (H, W)."""
    parameters: int | None
    """Number of trained parameters, including those used in training only."""


class Nothing(nn.Module):
    """A module that returns zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros, shape unchanged."""
        return torch.zeros_like(x)


class Concatenation(nn.Module):
    """Plain fusion in place of an MDF-VSS block: a convolution of the concatenated features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.mix = nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())
        self.fuse = ResBlock(width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, optical: Tensor, sar: Tensor) -> MDFFeatures:
        """Fuse two (N, C, H, W) tensors; the difference feature is zero."""
        mixed = self.mix(torch.cat([optical, sar], dim=1))
        return MDFFeatures(mixed, torch.zeros_like(mixed), self.fuse(mixed))


class OneSensor(REFNet):
    """REF-Net without one sensor, ``optical`` or ``sar``, whose input is always the mean, 0."""

    def __init__(self, config: REFNetConfig, without: str) -> None:
        super().__init__(config)
        self.without = without

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, except for the encoder with constant input: batch norm would divide by zero."""
        super().train(mode)
        (self.optical_encoder if self.without == "optical" else self.sar_encoder).eval()
        return self

    def forward(self, optical: Tensor, sar: Tensor, auxiliary: bool | None = None) -> Prediction:
        """Classify every pixel, as REF-Net does."""
        if self.without == "optical":
            return super().forward(torch.zeros_like(optical), sar, auxiliary)
        return super().forward(optical, torch.zeros_like(sar), auxiliary)


class EarlyFusion(nn.Module):
    """A U-Net of segmentation-models-pytorch on the concatenated bands of both sensors."""

    def __init__(self, config: REFNetConfig) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp  # imported here: other benchmarks do not need it

        bands = config.optical_bands + config.sar_bands
        self.net = smp.Unet(f"tu-{config.encoder}", encoder_weights=None, in_channels=bands, classes=config.classes)

    def forward(self, optical: Tensor, sar: Tensor) -> Prediction:
        """Classify every pixel; both sides must be multiples of 32."""
        return Prediction(self.net(torch.cat([optical, sar], dim=1)), None, None)


def without_difference(config: REFNetConfig) -> REFNet:
    """Return REF-Net without the difference branch of the fusion."""
    net = REFNet(config)
    for block in net.mdf_blocks:
        block.register_module("difference_vss", Nothing())
    return net


def with_concatenation(config: REFNetConfig) -> REFNet:
    """Return REF-Net's encoders and decoder with plain fusion between them."""
    net = REFNet(replace(config, msie=False))
    net.mdf_blocks = nn.ModuleList(Concatenation(config.width) for _ in net.mdf_blocks)
    return net


NETWORKS: dict[str, Callable[[REFNetConfig], nn.Module]] = {
    "refnet": REFNet,
    "no-msie": lambda config: REFNet(replace(config, msie=False)),
    "no-difference": without_difference,
    "concatenation": with_concatenation,
    "optical-only": partial(OneSensor, without="sar"),
    "sar-only": partial(OneSensor, without="optical"),
    "unet": EarlyFusion,
}


def draw_batch(scenes: Sequence[Scene], budget: Budget, seed: int, step: int) -> Batch:
    """Return random crops, rotated and mirrored, from scenes weighted by area; equal for every network."""
    random = np.random.default_rng([seed, step])
    areas = np.array([scene.labels.size for scene in scenes], float)
    crops: list[list[NDArray[np.generic]]] = []
    for at in random.choice(len(scenes), budget.batch, p=areas / areas.sum()):
        height, width = scenes[at].labels.shape
        row, column = random.integers(height - budget.crop + 1), random.integers(width - budget.crop + 1)
        turns, along = int(random.integers(4)), int(random.choice([1, -1]))
        cut = np.s_[..., row : row + budget.crop, column : column + budget.crop]
        crops.append([np.rot90(array[cut], turns, (-2, -1))[..., ::along] for array in scenes[at][1:]])
    optical, sar, labels = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*crops, strict=True))
    layout = torch.channels_last
    return Batch(optical.contiguous(memory_format=layout), sar.contiguous(memory_format=layout), labels.long())


def train_network(
    make: Callable[[REFNetConfig], nn.Module], scenes: Sequence[Scene], budget: Budget, seed: int
) -> Learned:
    """Train a network as published, except for the budget.

    Parameters
    ----------
    make : callable
        Returns the network.
    scenes : sequence of Scene
        Standardised scenes, no side smaller than a crop.
    budget : Budget
    seed : int
        Seed of the initial weights, the crops and the drop paths.
    """
    torch.manual_seed(seed)
    net = make(budget.network).to(memory_format=torch.channels_last).train()
    unread = TrainScene(Path("optical.tif"), Path("sar.tif"), Path("labels.tif"))
    config = TrainConfig(scenes=(unread,), scheme="esri-io", learning_rate=budget.learning_rate)
    optimizer = make_optimizer(cast(REFNet, net), config)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, budget.steps, POLYNOMIAL_POWER)
    for step in range(budget.steps):
        batch = draw_batch(scenes, budget, seed, step)
        torch.manual_seed(seed * 1_000_003 + step)
        main, auxiliary = training_loss(net(batch.optical, batch.sar), batch.labels)
        optimizer.zero_grad()
        torch.autograd.backward(main + auxiliary)
        optimizer.step()
        schedule.step()
    return Learned(partial(classify, net.eval()), sum(parameter.numel() for parameter in net.parameters()))


@torch.inference_mode()
def classify(net: nn.Module, scene: Scene) -> UInt8:
    """Predict a full scene in one pass, padded by reflection to a multiple of `MULTIPLE`."""
    height, width = scene.labels.shape
    fill = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
    inputs = [F.pad(torch.from_numpy(array)[None], fill, mode="reflect") for array in (scene.optical, scene.sar)]
    logits: Tensor = net(*inputs).logits[0, 1:, :height, :width]
    return (1 + logits.argmax(0)).numpy().astype(np.uint8)


def describe_pixels(scene: Scene) -> NDArray[np.float32]:
    """Return each pixel's bands and their means over 5 x 5 pixels, shape (H W, 12)."""
    bands = np.concatenate([scene.optical, scene.sar])
    means = ndimage.uniform_filter(bands, (0, NEIGHBOURHOOD, NEIGHBOURHOOD))
    return np.concatenate([bands, means]).reshape(2 * len(bands), -1).T


def train_forest(scenes: Sequence[Scene], budget: Budget, seed: int) -> Learned:
    """Train a random forest on random pixels; see `train_network` for the parameters."""
    from sklearn.ensemble import RandomForestClassifier  # imported here: other benchmarks do not need it

    labels = np.concatenate([scene.labels.ravel() for scene in scenes])
    known = np.flatnonzero(labels)
    drawn = np.random.default_rng(seed).choice(known, min(budget.forest_pixels, len(known)), replace=False)
    features = np.concatenate([describe_pixels(scene) for scene in scenes])[drawn]
    forest = RandomForestClassifier(TREES, random_state=seed).fit(features, labels[drawn])

    def predict(scene: Scene) -> UInt8:
        return np.asarray(forest.predict(describe_pixels(scene)), np.uint8).reshape(scene.labels.shape)

    return Learned(predict, None)


VARIANTS: dict[str, Callable[[Sequence[Scene], Budget, int], Learned]] = {
    **{name: partial(train_network, make) for name, make in NETWORKS.items()},
    "forest": train_forest,
}
