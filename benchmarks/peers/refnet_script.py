"""refnet around another network: TorchScript over stacked images through refnet's reading, tiling and writing.

    python -m benchmarks.peers.refnet_script OPTICAL SAR NETWORK OUTPUT

NETWORK is a TorchScript file of `benchmarks.peers.networks`, or ``free``: an engine that answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.scene import FreeEngine
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.system.process import keep_freed_memory
from refnet_cli.tiles.gaps import fill_gaps
from refnet_cli.types import Float32


class ScriptEngine:
    """An engine, see `refnet_cli.engines.base.Engine`, that runs TorchScript over stacked images.

    Parameters
    ----------
    path : Path
        A file of `benchmarks.peers.networks`.
    """

    batch = 4

    def __init__(self, path: Path) -> None:
        self.card = read_card(default_weights())
        self.about = {"device": "cpu"}
        self._module = torch.jit.load(path)  # type: ignore[no-untyped-call]  # torch has no types here
        keep_freed_memory()  # as TorchEngine does

    @torch.inference_mode()
    def predict(self, optical: Float32, sar: Float32) -> Float32:
        """Return the probabilities of a batch of patches."""
        stacked = np.concatenate([fill_gaps(optical), fill_gaps(sar)], axis=1)
        return np.asarray(self._module(torch.from_numpy(stacked)).numpy(), np.float32)

    def close(self) -> None:
        """Do nothing."""


def main(optical: str, sar: str, network: str, output: str) -> None:
    """Predict a scene."""
    engine = FreeEngine() if network == "free" else ScriptEngine(Path(network))
    predict(PredictOptions(Path(optical), Path(sar), Path(output)), engine)


if __name__ == "__main__":
    main(*sys.argv[1:])
