"""Reference outputs of the published network, and the network made for them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from refnet_cli.model import from_published


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
        with np.load(shared / "golden" / f"{name}.npz") as stored:
            self.stored = dict(stored)
        self.config: dict[str, Any] = json.loads(str(self.stored["config"]))
        self.net = from_published({"state_dict": self.state})
        keys = {parameter: self.config[parameter] for parameter in self._parameters(recipe)}
        self.optical, self.sar, self.labels = map(torch.from_numpy, recipe.inputs(**keys))

    @staticmethod
    def _parameters(recipe: ModuleType) -> list[str]:
        code = recipe.inputs.__code__
        return list(code.co_varnames[: code.co_argcount])
