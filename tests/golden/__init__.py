"""Reference outputs of the published network, and the network made for them; see README.md."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refnet_cli.model.refnet import from_published
from tests.golden import recipe

FOLDER = Path(__file__).parent


class Golden:
    """A reference file, the network made for it and its inputs."""

    def __init__(self, name: str) -> None:
        arrays = recipe.state_dict(FOLDER / f"keys-{name}.json")
        self.state = {key: torch.from_numpy(array) for key, array in arrays.items()}
        with np.load(FOLDER / f"{name}.npz") as stored:
            self.stored = dict(stored)
        self.config: dict[str, Any] = json.loads(str(self.stored["config"]))
        self.net = from_published({"state_dict": self.state})
        sizes = {parameter: self.config[parameter] for parameter in inspect.signature(recipe.inputs).parameters}
        self.optical, self.sar, self.labels = map(torch.from_numpy, recipe.inputs(**sizes))
