"""Several processes learn what one does: the same losses and the same weights from the same global batches."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from refnet_cli.errors import OptionsError
from refnet_cli.model.refnet import REFNet
from refnet_cli.model.weights import load_weights
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.distributed import Processes, synchronise_batch_norms
from refnet_cli.training.fit import fit
from tests.helpers.scenes import CARD, make_labelled_scene

# Each process drops paths of its own, so none are dropped where they are to be compared.
SCRIPT = """
import logging
import sys
from pathlib import Path
from dataclasses import replace
from refnet_cli.model.config import REFNetConfig
from refnet_cli.training.config import TrainConfig, TrainScene
from refnet_cli.training.fit import fit

made = TrainConfig.network.fget
TrainConfig.network = property(lambda config: replace(made(config), drop_path=0.0))
places = [Path(path) for path in sys.argv[2:]]
scenes = tuple(
    TrainScene(place / "s2.tif", place / "s1.tif", place / "labels.tif", name=place.name, split=split)
    for place, split in zip(places, ("train", "validation"))
)
config = TrainConfig(
    scenes=scenes, scheme="esri-io", encoder="test_resnet", width=16, steps=4, batch=4, accumulate=2, crop=64, tile=64,
    learning_rate=1e-3, device="cpu", checkpoint_every=2, validate_every=2, warmup=1, clip=1.0,
    class_weights="balanced",
)
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
result = fit(config, sys.argv[1])
print("first" if result.first else "other", flush=True)
"""


def run(folder: Path, places: list[Path], processes: int) -> subprocess.CompletedProcess[str]:
    script = folder.parent / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script)]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
                   str(script)]  # fmt: skip
    done = subprocess.run(
        [*command, str(folder), *map(str, places)], capture_output=True, text=True, timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.long
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    places = [tmp_path / "north", tmp_path / "south"]
    for seed, place in enumerate(places):
        make_labelled_scene(place, seed=seed)
    # One process takes two passes of two crops; two take one crop of each pass: batch norms see as many either way.
    single = run(tmp_path / "one", places, 1)
    double = run(tmp_path / "two", places, 2)
    assert double.stdout.count("device: cpu, 2 processes") == 1
    assert [double.stdout.count(f"{which}\n") for which in ("first", "other")] == [1, 1]
    assert single.stdout.count("split: region") == double.stdout.count("split: region") == 1
    one, two = (
        [
            [float(cell) for cell in line.split(",")]
            for line in (tmp_path / name / "steps.csv").read_text().splitlines()[1:]
        ]
        for name in ("one", "two")
    )
    assert len(one) == 4
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    (ours, _), (theirs, card) = (
        load_weights(tmp_path / name / "refnet.safetensors", msie=True) for name in ("one", "two")
    )
    assert card.training["processes"] == 2
    # All weights as one vector: Adam makes full steps of the smallest gradients, whose signs are rounding.
    one_vector, other_vector = (
        torch.cat([tensor.double().flatten() for tensor in net.state_dict().values()]) for net in (ours, theirs)
    )
    assert (one_vector - other_vector).norm() <= 1e-4 * one_vector.norm()


def test_half_precision_is_the_training_s_alone() -> None:
    """What is called computes in it; the network that is validated and saved does not."""
    net = REFNet(replace(CARD.network, msie=True)).eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    called, _ = Processes("cpu", "bf16").prepare(net, optimizer)
    kinds: list[torch.dtype] = []
    net.head.classify.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    images = torch.randn(1, 4, 64, 64), torch.randn(1, 2, 64, 64)
    called(*images)
    net(*images)
    assert kinds == [torch.bfloat16, torch.float32]
    assert Processes("cpu", "fp32").stateful == {}  # one after the other, of other kinds


def test_a_batch_must_be_shared_out_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(scenes=(make_labelled_scene(tmp_path / "north"),), scheme="esri-io", batch=6, accumulate=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionsError, match=r"batch is 6; with 2 processes .* must be a multiple of 4"):
        fit(config, tmp_path / "run")


def test_synchronised_batch_norms_keep_names_values_and_kinds() -> None:
    torch.manual_seed(0)
    net = REFNet(replace(CARD.network, msie=True))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    kinds = [type(module) for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    images = torch.randn(1, 4, 64, 64), torch.randn(1, 2, 64, 64)
    wanted = net.eval()(*images).logits
    synchronise_batch_norms(net)
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(isinstance(module, kind) for module, kind in zip(norms, kinds, strict=True))
    assert torch.equal(net.eval()(*images).logits, wanted)

