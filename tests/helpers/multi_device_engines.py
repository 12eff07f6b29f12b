"""Engines without torch that load fast in child processes; a patch's first value triggers a fault."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from refnet_cli.engines.multi_device import MultiDeviceEngine
from refnet_cli.errors import UnavailableError, WeightsError
from refnet_cli.model.weight_files import default_weights, read_card

WEIGHTS, NO_MEMORY, BUG, FULL_DISK, KILL, SLEEP, HALVE = range(-1, -8, -1)


class EchoEngine:
    """Returns probabilities that reveal each pixel's optical values and the number of patches."""

    def __init__(self, device: str, batch: int) -> None:
        self.card = read_card(default_weights())
        self.batch, self.always = batch, 0.0
        threads = os.environ.get("OMP_NUM_THREADS", "")
        self.about = {"device": device, "process": str(os.getpid()), "threads": threads}

    def predict(self, optical: np.ndarray, sar: np.ndarray) -> np.ndarray:
        sys.stdout.write("what libraries print\n")
        os.system("echo what their children print")
        self._act(self.always or optical.flat[0])
        shares = np.zeros((len(optical), self.card.network.classes, *optical.shape[2:]), np.float32)
        shares[:, 1:5] = np.nan_to_num(optical, nan=1.0) + 10
        shares[:, 0] = len(optical)
        return np.asarray(shares / shares.sum(1, keepdims=True))

    def _act(self, what: float) -> None:
        if what == WEIGHTS:
            raise WeightsError("These are damaged.")
        if what == NO_MEMORY:
            np.empty(2**62, np.uint8)
        if what == BUG:
            raise OddError(1, 2)
        if what == FULL_DISK:
            raise OSError(28, "No space left on device", "cache")
        if what == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if what == SLEEP:
            time.sleep(60)
        if what == HALVE:
            self.batch = 1


class OddError(Exception):
    """Cannot be pickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"odd {one + two}")


def load(device: str, batch: int = 2) -> EchoEngine:
    """Load an engine; the device names "missing" and "deadly" make that fail."""
    if device == "missing":
        raise UnavailableError("There is no such device.")
    if device == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return EchoEngine(device, batch)


def load_as_torch(weights: Path, options: Any) -> EchoEngine:
    """Replace torch in `refnet_cli.engines.load.ENGINES`; the variable TEST_ACT triggers a fault in each batch."""
    engine = load(options.device, options.batch or 2)
    engine.always = float(os.environ.get("TEST_ACT", "0"))
    if folder := os.environ.get("TEST_PROCESSES"):
        Path(folder, str(os.getpid())).touch()
    return engine


def main() -> None:
    """Load engines, print their process ids, and wait in the middle of a batch."""
    engines = MultiDeviceEngine(load, ["cpu", "cpu"])
    sys.stdout.write(" ".join(str(child.process.pid) for child in engines._children) + "\n")
    sys.stdout.flush()
    engines.predict(np.full((4, 4, 8, 8), SLEEP, np.float32), np.zeros((4, 2, 8, 8), np.float32))


if __name__ == "__main__":
    main()
