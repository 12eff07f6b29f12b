"""The torch engine: standardised inputs, probabilities, invalid pixels, scarce memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refnet_cli.engines.torch_engine import TorchEngine, choose_device, load_torch_engine
from refnet_cli.errors import OptionsError, TryAgainError, UnavailableError
from refnet_cli.model.refnet import Prediction, REFNet
from refnet_cli.model.weights import save_weights
from tests.helpers.scenes import CARD


@pytest.fixture(scope="module")
def net() -> REFNet:
    torch.manual_seed(0)
    return REFNet(CARD.network).eval()


def patches(count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    optical = random.uniform(100, 3000, (count, 4, 64, 64)).astype(np.float32)
    return optical, random.uniform(-25, -5, (count, 2, 64, 64)).astype(np.float32)


def test_probabilities_are_the_softmax_of_the_standardised_inputs_logits(net: REFNet) -> None:
    optical, sar = patches(2)
    found = TorchEngine(net, CARD).predict(optical, sar)
    mean, std = (np.array(x, np.float32)[:, None, None] for x in (CARD.optical.mean, CARD.optical.std))
    sar_mean, sar_std = (np.array(x, np.float32)[:, None, None] for x in (CARD.sar.mean, CARD.sar.std))
    with torch.no_grad():
        logits = net(torch.from_numpy((optical - mean) / std), torch.from_numpy((sar - sar_mean) / sar_std)).logits
    assert found == pytest.approx(logits.softmax(1).numpy(), abs=3e-5)
    assert found.sum(1) == pytest.approx(1, abs=3e-5)


def test_the_temperature_divides_the_logits(net: REFNet) -> None:
    tiles = patches(2)
    plain, logits = TorchEngine(net, CARD).predict(*tiles), TorchEngine(net, CARD, softmax=False).predict(*tiles)
    card = replace(CARD, temperature=1.7)
    found = TorchEngine(net, card).predict(*tiles)
    assert found == pytest.approx(torch.from_numpy(logits / 1.7).softmax(1).numpy(), abs=1e-6)
    assert np.array_equal(plain, torch.from_numpy(logits).softmax(1).numpy())
    assert np.array_equal(found.argmax(1), plain.argmax(1))
    assert np.array_equal(TorchEngine(net, card, softmax=False).predict(*tiles), logits)


def test_pixels_without_data_are_seen_as_the_nearest_ones(net: REFNet) -> None:
    optical, sar = patches(1)
    holes, filled = optical.copy(), optical.copy()
    holes[:, 2, 10:20] = np.nan
    filled[:, :, 10:15], filled[:, :, 15:20] = optical[:, :, 9:10], optical[:, :, 20:21]
    engine = TorchEngine(net, CARD)
    found = engine.predict(holes, sar)
    assert np.array_equal(found, engine.predict(filled, sar))
    assert not np.array_equal(found, engine.predict(optical, sar))


@pytest.mark.parametrize("absent", ["optical", "sar"])
def test_a_sensor_without_any_pixel_counts_as_the_mean(net: REFNet, absent: str) -> None:
    seen = dict(zip(("optical", "sar"), patches(1), strict=True))
    mean = np.array(getattr(CARD, absent).mean, np.float32)[:, None, None]
    engine = TorchEngine(net, CARD)
    blank, middle = (seen | {absent: np.full_like(seen[absent], value)} for value in (np.nan, mean))
    assert np.array_equal(engine.predict(**blank), engine.predict(**middle))


def test_scarce_memory_halves_the_batch(net: REFNet) -> None:
    class Scarce(REFNet):
        limit = 2

        def forward(self, optical: torch.Tensor, sar: torch.Tensor, auxiliary: bool | None = None) -> Prediction:
            if len(optical) > self.limit:
                raise torch.OutOfMemoryError("not enough")
            return super().forward(optical, sar, auxiliary)

    scarce = Scarce(CARD.network)
    scarce.load_state_dict(net.state_dict())
    engine = TorchEngine(scarce, CARD, batch=7)
    optical, sar = patches(7)
    assert engine.predict(optical, sar) == pytest.approx(TorchEngine(net, CARD).predict(optical, sar), abs=3e-5)
    assert engine.batch <= 3
    Scarce.limit = 0
    with pytest.raises(TryAgainError, match="single tile"):
        engine.predict(optical, sar)


def test_half_precision_is_near(net: REFNet) -> None:
    """On the CPU, whose autocast rounds as that of GPUs does; `load_engine` keeps it to GPUs."""
    optical, sar = patches(2)
    exact = TorchEngine(net, CARD).predict(optical, sar)
    errors = []
    for precision in ("bf16", "fp16"):  # of 8 and 11 significant bits
        found = TorchEngine(net, CARD, precision=precision).predict(optical, sar)
        assert found.dtype == np.float32
        assert found.sum(1) == pytest.approx(1, abs=3e-5)
        errors.append(float(np.abs(found - exact).mean()))
    assert 0.02 > errors[0] > 4 * errors[1] > 0


def test_the_engine_tells_what_it_runs_on(net: REFNet) -> None:
    about = TorchEngine(net, CARD, scan="torch").about
    assert about["scan"] == "torch: requested"
    assert (about["device"], about["precision"], about["compiled"]) == ("cpu", "fp32", "no")
    with pytest.raises(UnavailableError, match="CUDA devices only"):
        TorchEngine(net, CARD, scan="mamba")


@pytest.mark.long
def test_a_compiled_network_gives_the_same_for_any_batch(net: REFNet) -> None:
    optical, sar = patches(3)
    compiled, plain = TorchEngine(net, CARD, compiled=True), TorchEngine(net, CARD)
    for count in (3, 1):
        found = compiled.predict(optical[:count], sar[:count])
        assert found == pytest.approx(plain.predict(optical[:count], sar[:count]), abs=3e-5)


@pytest.mark.long
def test_scarce_memory_halves_compiled_batches_too(net: REFNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller batches are filled up to the first one, which must not be one that memory does not hold."""
    sizes = []
    most = [2]

    def scarce(plain: Any, dynamic: bool) -> Any:
        def forward(optical: torch.Tensor, sar: torch.Tensor, auxiliary: bool | None) -> Prediction:
            sizes.append(len(optical))
            if len(optical) > most[0]:
                raise torch.OutOfMemoryError("not enough")
            found: Prediction = plain(optical, sar, auxiliary)
            return found

        return forward

    monkeypatch.setattr(torch, "compile", scarce)
    monkeypatch.setattr("shutil.which", lambda name: name)
    optical, sar = patches(4)
    engine = TorchEngine(net, CARD, compiled=True)
    assert engine.predict(optical, sar) == pytest.approx(TorchEngine(net, CARD).predict(optical, sar), abs=3e-5)
    assert engine.batch == 2
    engine.predict(optical[:1], sar[:1])
    assert sizes == [4, 2, 2, 2]  # the last one filled up
    most[0] = 1  # as another program takes memory: a single tile is not given up before it was tried by itself
    engine.predict(optical[:1], sar[:1])
    assert sizes[4:] == [2, 1]
    most[0] = 0
    with pytest.raises(TryAgainError, match="single tile"):
        engine.predict(optical[:1], sar[:1])


@pytest.mark.parametrize(
    ("message", "lacks"),
    [
        ("CUDA error: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("No available kernel", False),
    ],
)
def test_how_libraries_say_that_memory_lacks(net: REFNet, message: str, lacks: bool) -> None:
    assert TorchEngine(net, CARD)._is_out_of_memory(RuntimeError(message)) is lacks


def test_compiling_without_a_compiler_is_refused(net: REFNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UnavailableError, match="C\\+\\+ compiler"):
        TorchEngine(net, CARD, compiled=True)


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    with pytest.raises(OptionsError, match="Unknown device 'abacus'"):
        choose_device("abacus")


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(UnavailableError, match="No CUDA device"):
        choose_device("cuda:0")


def test_loading(net: REFNet, tmp_path: Path) -> None:
    save_weights(net, CARD, tmp_path / "w.safetensors")
    engine: Any = load_torch_engine(tmp_path / "w.safetensors", "cpu", 3)
    assert engine.batch == 3
    assert replace(engine.card, sha256="") == CARD
    with pytest.raises(OptionsError, match="for GPUs"):
        load_torch_engine(tmp_path / "w.safetensors", "cpu", precision="fp16")
    with pytest.raises(OptionsError, match="Unknown precision 'int3'"):
        load_torch_engine(tmp_path / "w.safetensors", "cpu", precision="int3")
