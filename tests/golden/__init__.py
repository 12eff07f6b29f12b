"""Reference outputs of the published network, and the network made for them; see README.md."""

from __future__ import annotations

import inspect
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refnet_cli.model.published_checkpoint import from_published
from tests.golden import recipe

FOLDER = Path(__file__).parent


@lru_cache(maxsize=1)  # drawing millions of numbers takes a second; networks copy them
def state_of(name: str) -> dict[str, torch.Tensor]:
    """Return the published checkpoint of a reference file; tests that change it take a copy."""
    arrays = recipe.state_dict(FOLDER / f"keys-{name}.json")
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


class Golden:
    """A reference file, the network made for it and its inputs."""

    def __init__(self, name: str) -> None:
        self.state = state_of(name)
        with np.load(FOLDER / f"{name}.npz") as stored:
            self.stored = dict(stored)
        self.config: dict[str, Any] = json.loads(str(self.stored["config"]))
        self.net = from_published({"state_dict": self.state})
        sizes = {parameter: self.config[parameter] for parameter in inspect.signature(recipe.inputs).parameters}
        self.optical, self.sar, self.labels = map(torch.from_numpy, recipe.inputs(**sizes))
