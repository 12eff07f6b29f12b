"""Configuration of the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refnet_cli.errors import WeightsError


@dataclass(frozen=True)
class REFNetConfig:
    """Configuration of the network; the defaults are the published values.

    Raises
    ------
    WeightsError
        If a value is invalid.
    """

    encoder: str = "resnet50"
    """Any timm model with five levels of features at strides 2 to 32."""
    optical_bands: int = 3
    sar_bands: int = 2
    classes: int = 9
    """Number of logits K, including class 0, "no data"."""
    width: int = 128
    """Decoder width C."""
    states: int = 1
    """State size S of the selective scan."""
    drop_path: float = 0.1
    """Share of samples for which a residual branch is dropped in training."""
    msie: bool = True
    """Whether the network has MSIE decoders; prediction does not need them."""

    def __post_init__(self) -> None:
        check_whole("network.classes", self.classes, 2, 256)
        check_whole("network.width", self.width, 1, 2048)
        for name in ("optical_bands", "sar_bands", "states"):
            check_whole(f"network.{name}", getattr(self, name), 1, 64)
        if not isinstance(self.encoder, str) or not self.encoder:
            raise WeightsError(f"network.encoder is {self.encoder!r}; it must be the name of a timm model.")
        if not isinstance(self.msie, bool):
            raise WeightsError(f"network.msie is {self.msie!r}; it must be true or false.")
        if not isinstance(self.drop_path, int | float) or not 0 <= self.drop_path < 1:
            raise WeightsError(f"network.drop_path is {self.drop_path!r}; it must be from 0 to below 1.")


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """Refuse a value that is not a whole number or is out of range."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise WeightsError(f"{name} is {value!r}; it must be a whole number from {low} to {high}.")
