"""The network against reference outputs of the published one, and its behaviour."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from refnet_cli.errors import WeightsError
from refnet_cli.losses import training_loss
from refnet_cli.model import (
    DropPath,
    MDFVSSBlock,
    REFNet,
    REFNetConfig,
    from_published,
    published_names,
    rename_published,
)
from refnet_cli.scan import SCANS

TINY = REFNetConfig(encoder="test_resnet", optical_bands=4, sar_bands=2, classes=5, width=16)


def load_recipe(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe", shared / "golden" / "recipe.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Golden:
    """A reference file, the network made for it and its inputs."""

    def __init__(self, shared: Path, name: str) -> None:
        recipe = load_recipe(shared)
        arrays = recipe.state_dict(shared / "golden" / f"keys-{name}.json")
        self.state = {key: torch.from_numpy(array) for key, array in arrays.items()}
        self.stored = np.load(shared / "golden" / f"{name}.npz")
        self.config: dict[str, Any] = json.loads(str(self.stored["config"]))
        self.net = from_published({"state_dict": self.state})
        keys = {parameter: self.config[parameter] for parameter in self._parameters(recipe)}
        self.optical, self.sar, self.labels = map(torch.from_numpy, recipe.inputs(**keys))

    @staticmethod
    def _parameters(recipe: ModuleType) -> list[str]:
        code = recipe.inputs.__code__
        return list(code.co_varnames[: code.co_argcount])


def error(ours: torch.Tensor, stored: np.ndarray) -> float:
    """Norm of the difference over the norm of the stored value about its mean over pixels."""
    spread = stored - stored.mean(axis=(-2, -1), keepdims=True)
    return float(np.linalg.norm(ours.detach().numpy() - stored) / np.linalg.norm(spread))


@pytest.fixture(scope="module", params=["resnet18", "resnet50"])
def golden(request: pytest.FixtureRequest, shared: Path) -> Golden:
    return Golden(shared, request.param)


@pytest.mark.parametrize("scan", SCANS)
def test_logits_features_and_losses_are_the_published_ones(golden: Golden, scan: str) -> None:
    features = {}

    def remember(level: int) -> Any:
        return lambda module, inputs, output: features.update({level: output})

    blocks = [m for m in golden.net.modules() if isinstance(m, MDFVSSBlock)]
    hooks = [block.register_forward_hook(remember(i)) for i, block in enumerate(blocks, start=1)]
    with torch.no_grad():
        prediction = golden.net.use_scan(scan)(golden.optical, golden.sar, auxiliary=True)
    for hook in hooks:
        hook.remove()
    stored = golden.stored
    assert error(prediction.logits, stored["logits"]) < 1e-5
    assert error(prediction.optical_logits, stored["opt_logits"]) < 1e-5
    assert error(prediction.sar_logits, stored["sar_logits"]) < 1e-5
    compared = 0
    for level, found in features.items():
        for ours, theirs in (("share", "share"), ("difference", "diff"), ("fused", "fused")):
            if f"{theirs}_{level}" in stored:
                assert error(getattr(found, ours), stored[f"{theirs}_{level}"]) < 1e-5
                compared += 1
    assert compared >= 3
    main, auxiliary = training_loss(prediction, golden.labels)
    assert float(main) == pytest.approx(float(stored["main_loss"]), rel=1e-5)
    assert float(auxiliary) == pytest.approx(float(stored["aux_loss"]), rel=1e-5)


@pytest.mark.parametrize("scan", SCANS)
def test_gradient_norms_are_the_published_ones(shared: Path, scan: str) -> None:
    golden = Golden(shared, "resnet18")
    prediction = golden.net.use_scan(scan)(golden.optical, golden.sar, auxiliary=True)
    sum(training_loss(prediction, golden.labels)).backward()
    prefixes = published_names()
    parameters = dict(golden.net.named_parameters())
    assert len(golden.stored["grad_names"]) == len(parameters)
    ours = np.array([float(parameters[rename_published(str(n), prefixes)].grad.norm()) for n in golden.stored["grad_names"]])
    theirs = golden.stored["grad_norms"]
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4
    large = theirs > 1e-4 * theirs.max()
    assert (np.abs(ours - theirs)[large] / theirs[large]).max() < 1e-4
