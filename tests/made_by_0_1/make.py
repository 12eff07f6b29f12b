"""Make the files of this folder with refnet 0.1; README.md says how to run it."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.warp import transform_bounds
from rasterio.windows import Window, from_bounds

PLACE = Path("/data/made")
CHANGED = 1_700_000_000_000_000_000  # ns; the time of change that all inputs get
SCENE = Window(500, 100, 64, 576)  # columns, rows, width, height in the optical image: two blocks, many rows of tiles
LOCK = {"host": "workstation", "pid": 4242, "started": "2026-11-01T12:00:00+0000"}
OLD = Path("/data/refnet-0.1")
"""Checkout of refnet 0.1."""


def refnet(*arguments: object, **environment: str) -> None:
    """Run refnet 0.1."""
    subprocess.run(command(*arguments), check=True, env=surroundings(**environment))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "refnet_cli", *map(str, arguments)]


def surroundings(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(OLD), "OMP_NUM_THREADS": "1"} | more


def kill_when(ready: Callable[[], bool], *arguments: object, **environment: str) -> None:
    """Run refnet 0.1 and kill it as soon as something is true."""
    process = subprocess.Popen(command(*arguments), env=surroundings(**environment))
    while not ready():
        if process.poll() is not None:
            raise SystemExit(f"refnet {arguments[0]} ended before it was killed.")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def crop(name: str, round_values: bool = False) -> None:
    """Cut the scene out of a file of the sample scene."""
    with rasterio.open(OLD / "sample_data" / "s2.tif") as optical:
        bounds, crs = rasterio.windows.bounds(SCENE, optical.transform), optical.crs
    with rasterio.open(OLD / "sample_data" / name) as source:
        window = from_bounds(*transform_bounds(crs, source.crs, *bounds), source.transform)
        window = window.round_offsets().round_lengths()
        values = source.read(window=window)
        if round_values:  # seven bits of the mantissa, which compress better
            values = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        profile = source.profile | {
            "driver": "GTiff", "width": values.shape[2], "height": values.shape[1], "compress": "deflate",
            "transform": source.window_transform(window), "tiled": False, "blockysize": 64, "predictor": 2,
        }  # fmt: skip
        for key in ("blockxsize", "interleave"):
            profile.pop(key, None)
        with rasterio.open(PLACE / name, "w", **profile) as made:
            made.write(values)
            made.descriptions = source.descriptions
            made.update_tags(**source.tags())


def make_scene() -> None:
    crop("s2.tif")
    crop("s1.tif", round_values=True)
    crop("labels.tif")
    for path in PLACE.glob("*.tif"):
        os.utime(path, ns=(CHANGED, CHANGED))


def make_weights() -> None:
    """Write a tiny network for torch, whose numbers have few digits and compress well, and one for ONNX Runtime."""
    import torch

    from refnet_cli.model.card import Modality
    from refnet_cli.model.config import REFNetConfig
    from refnet_cli.model.refnet import REFNet
    from refnet_cli.model.weights import save_weights
    from tests.helpers.scenes import CARD
    from tests.helpers.small_models import write_model

    torch.manual_seed(1)
    config = REFNetConfig(encoder="test_efficientnet", optical_bands=4, sar_bands=2, classes=10, width=2, msie=False)
    net = REFNet(config).eval()
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_((value * 16).round() / 16)
    optical = Modality(CARD.optical.bands, CARD.optical.unit, (400, 600, 500, 2500), (200, 200, 300, 900))
    card = CARD.__class__(
        name="tiny", network=config, optical=optical, sar=CARD.sar, scheme=CARD.scheme, tile=64, licence="Apache-2.0"
    )
    card = save_weights(net, card, PLACE / "tiny.safetensors")
    Path("tiny.card.json").write_text(json.dumps(card.to_dict(), indent=2) + "\n")
    write_model(PLACE / "tiny.onnx", card=CARD.__class__.from_dict(CARD.to_dict() | {"name": "tiny-onnx", "tile": 64}))


def make_map() -> None:
    """Make a map with the bundled weights, and all further outputs, by a config file."""
    (PLACE / "run.toml").write_text(
        """# A config file of refnet 0.1.
optical = "s2.tif"
sar = ["s1.tif"]
output = "map/lulc.tif"
outputs = ["confidence", "quality", "preview", "polygons", "areas", "style", "report", "stac"]
optical_bands = ["B02", "B03", "B04", "B08"]
date = "2020-07-01"
min_area = 2
device = "cpu"
checksum = true
"""
    )
    (PLACE / "map").mkdir()
    refnet("predict", "--config", "run.toml", "-q")


def make_tasks() -> None:
    """Plan two scenes, of which one gets done, and one in two blocks, of which one gets done."""
    (PLACE / "scenes.csv").write_text("optical,sar,output\ns2.tif,s1.tif,north.tif\ns2.tif,s1.tif,south.tif\n")
    refnet("batch", "plan", "scenes.csv", "--also", "areas", "-o", "tasks.jsonl")
    refnet("batch", "run", "tasks.jsonl", "--index", 0, "--of", 2, "--device", "cpu")
    (PLACE / "wide.csv").write_text("optical,sar,output\ns2.tif,s1.tif,wide.tif\n")
    refnet("batch", "plan", "wide.csv", "--blocks", 512, "--weights", "tiny.onnx", "-o", "blocks.jsonl")
    refnet("batch", "run", "blocks.jsonl", "--index", 0, "--of", 2)
    write_identities()


def write_identities() -> None:
    """Write down the text whose SHA-256 is each task's id, so that tests can move the files elsewhere."""
    from refnet_cli.batch import task as tasks
    from refnet_cli.model.weight_files import default_weights

    texts = {}
    for name in ("tasks.jsonl", "blocks.jsonl"):
        for task in tasks.read_tasks(PLACE / name):
            plain = {key: value for key, value in task.options.to_dict().items() if key not in tasks.RUN_ONLY}
            about: dict[str, Any] = plain | {
                "weights": tasks.sha256_of_weights(task.options.weights or default_weights()),
                "states": [tasks._state(path) for path in tasks._inputs_of(task.options)],
                "block": task.block,
            }
            texts[task.id] = json.dumps(about, sort_keys=True)
            if hashlib.sha256(texts[task.id].encode()).hexdigest()[:16] != task.id:
                raise SystemExit("This is not how refnet 0.1 made its ids.")
    (PLACE / "identities.json").write_text(json.dumps(texts, indent=1) + "\n")


def make_interrupted_map() -> None:
    """Kill a run once some rows are finished."""
    journal = PLACE / ".map.tif.refnet" / "journal"
    kill_when(
        lambda: journal.exists() and journal.stat().st_size > 500,
        "predict", "--optical", "s2.tif", "--sar", "s1.tif", "--weights", "tiny.onnx", "-o", "map.tif", "--batch", 1,
        PYTHONPATH=os.pathsep.join([str(OLD / "tests" / "disturbed"), str(OLD)]), REFNET_TEST_SLEEP="0.2",
    )  # fmt: skip
    (journal.parent / "lock").write_text(json.dumps(LOCK))


def make_trainings() -> None:
    """Train to the end in one folder, and kill the same training in another."""
    (PLACE / "regions.toml").write_text(
        """# A regions file of refnet 0.1.
name = "tiny"
scheme = "esri-io"
init = "tiny.safetensors"
freeze = "encoders"
split = "random"
validation_share = 0.3
steps = 6
batch = 2
crop = 64
tile = 64
validate_every = 6
checkpoint_every = 4
device = "cpu"

[[scenes]]
name = "scene"
optical = "s2.tif"
sar = "s1.tif"
labels = "labels.tif"
"""
    )
    refnet("train", "regions.toml", "-o", "trained", "-q")
    checkpoint = PLACE / "interrupted" / "checkpoints" / "step-000000004.pt"
    kill_when(checkpoint.exists, "train", "regions.toml", "-o", "interrupted", "-q")
    (PLACE / "interrupted" / ".training.refnet" / "lock").write_text(json.dumps(LOCK))
    for picture in PLACE.glob("trained/*.png"):  # large, and read by nothing
        picture.unlink()


def pack() -> None:
    """Pack what compresses to a fraction of its size."""
    for name in ("trained", "interrupted"):
        shutil.make_archive(name, "xztar", PLACE, name)
        shutil.rmtree(name)
    weights = PLACE / "tiny.safetensors"
    (PLACE / "tiny.safetensors.xz").write_bytes(lzma.compress(weights.read_bytes()))
    weights.unlink()


def main() -> None:
    """Make everything in an empty folder of a fixed name, which the files then hold."""
    PLACE.mkdir(parents=True, exist_ok=True)
    os.chdir(PLACE)
    if any(PLACE.iterdir()):
        raise SystemExit(f"{PLACE} must be empty.")
    make_scene()
    make_weights()
    make_map()
    make_tasks()
    make_interrupted_map()
    make_trainings()
    pack()


if __name__ == "__main__":
    main()
