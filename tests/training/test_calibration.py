"""Temperatures: against a plain search, on logits whose temperature is known, and on what training holds out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refnet_cli.engines.torch_engine import to_probabilities
from refnet_cli.model.card import TEMPERATURES
from refnet_cli.model.refnet import REFNet
from refnet_cli.training.calibration import BINS, FEWEST_PIXELS, Calibration, fit_temperature
from refnet_cli.training.config import TrainConfig
from refnet_cli.training.held_out import read_held_out
from refnet_cli.training.survey import survey
from tests.helpers.quick import examples, few
from tests.helpers.scenes import CARD, make_labelled_scene

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]


def softmax(logits: Float32, temperature: float) -> NDArray[np.float64]:
    shares = np.exp((logits.astype(np.float64) - logits.max(1, keepdims=True)) / temperature)
    return np.asarray(shares / shares.sum(1, keepdims=True))


def draw(count: int, classes: int, temperature: float, seed: int, spread: float = 2.0) -> tuple[Float32, UInt8]:
    """Logits, and labels that are right as often as the logits say once divided by a temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (count, classes)).astype(np.float32)
    logits[:, 0] = -60 * temperature  # no data, which no label is
    limits = softmax(logits, temperature).cumsum(1)
    return logits, (random.random((count, 1)) < limits).argmax(1).astype(np.uint8)


def likelihood(logits: Float32, labels: UInt8, temperature: float) -> float:
    return float(-np.log(softmax(logits, temperature)[np.arange(len(labels)), labels]).mean())


def calibration_error(logits: Float32, labels: UInt8, temperature: float) -> float:
    """Pixel by pixel into bins."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for shares, label in zip(softmax(logits, temperature), labels, strict=True):
        best = int(shares[1:].argmax()) + 1
        number = next(n for n in range(BINS) if shares[best] <= (n + 1) / BINS or n == BINS - 1)
        bins[number].append((float(shares[best]), best == label))
    return sum(
        len(found) / len(labels) * abs(float(np.mean([right for _, right in found]) - np.mean([p for p, _ in found])))
        for found in bins
        if found
    )


def fitted(logits: Float32, labels: UInt8) -> Calibration:
    found = fit_temperature(logits, labels)
    assert found is not None
    return found


@settings(max_examples=examples(15), deadline=None)
@given(
    count=st.integers(FEWEST_PIXELS, 2500), classes=st.integers(3, 12), temperature=st.floats(0.3, 6),
    seed=st.integers(0, 10**6),
)  # fmt: skip
def test_it_is_what_a_plain_search_finds(count: int, classes: int, temperature: float, seed: int) -> None:
    logits, labels = draw(count, classes, temperature, seed)
    found = fitted(logits, labels)
    grid = np.exp(np.linspace(*np.log(TEMPERATURES), 400))
    tried = [likelihood(logits, labels, t) for t in grid]
    assert found.nll_after <= min(*tried, likelihood(logits, labels, 1.0)) + 1e-9
    if grid[1] < grid[int(np.argmin(tried))] < grid[-2]:
        assert found.temperature == pytest.approx(grid[int(np.argmin(tried))], rel=0.02)
    assert found.pixels == count
    for before, after, measure in (
        (found.nll_before, found.nll_after, likelihood), (found.ece_before, found.ece_after, calibration_error),
    ):  # fmt: skip
        assert before == pytest.approx(measure(logits, labels, 1.0), abs=1e-6)
        assert after == pytest.approx(measure(logits, labels, found.temperature), abs=1e-6)


@settings(max_examples=examples(15), deadline=None)
@given(scale=st.floats(0.4, 4), seed=st.integers(0, 10**6))
def test_larger_logits_take_a_temperature_as_much_higher(scale: float, seed: int) -> None:
    logits, labels = draw(4000, 6, 1.5, seed)
    plain, scaled = fitted(logits, labels), fitted(logits * np.float32(scale), labels)
    if 1.0 not in (plain.temperature, scaled.temperature):
        assert scaled.temperature == pytest.approx(scale * plain.temperature, rel=3e-4)
        assert scaled.nll_after == pytest.approx(plain.nll_after, abs=1e-6)


@pytest.mark.parametrize("temperature", few([0.5, 1.0, 3.0], 3.0))
def test_the_temperature_that_labels_were_drawn_with_comes_back(temperature: float) -> None:
    """In more pixels than are computed at once."""
    found = fitted(*draw(150_000, 10, temperature, seed=1, spread=3))
    assert found.temperature == pytest.approx(temperature, rel=0.02)
    assert found.ece_after < 0.005
    assert found.nll_after <= found.nll_before


def test_no_class_changes() -> None:
    logits = torch.from_numpy(draw(5000, 10, 1.0, seed=2)[0])[..., None, None]
    before = to_probabilities(logits, 1.0)
    assert torch.equal(before, torch.softmax(logits, dim=1))
    for temperature in (*TEMPERATURES, 0.7, 1.3):
        after = to_probabilities(logits, temperature)
        assert torch.allclose(after.sum(1), torch.ones(()))
        best = before.argmax(1, keepdim=True)
        assert bool((after.gather(1, best) == after.amax(1, keepdim=True)).all())


def test_few_pixels_and_labels_that_are_all_right_tell_no_temperature() -> None:
    logits, labels = draw(FEWEST_PIXELS, 5, 2.0, seed=3)
    assert fit_temperature(logits[1:], labels[1:]) is None
    found = fitted(logits, (1 + logits[:, 1:].argmax(1)).astype(np.uint8))
    assert found.temperature == 1
    assert (found.nll_after, found.ece_after) == (found.nll_before, found.ece_before)
    by_chance = fitted(np.zeros_like(logits), labels)  # as likely with any
    assert by_chance.temperature == 1


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("scenes")
    scenes = tuple(make_labelled_scene(folder / name, seed=seed) for seed, name in enumerate(("north", "south")))
    return TrainConfig(scenes=scenes, scheme="esri-io", split="random", validation_share=0.4, crop=64, tile=64)


@pytest.mark.parametrize("tile", few([64, 96, 256], 96))
def test_each_labelled_pixel_that_is_held_out_counts_once(config: TrainConfig, tile: int) -> None:
    torch.manual_seed(0)
    net, card = REFNet(CARD.network).eval(), replace(CARD, tile=tile)
    scenes = [look for look in survey(config) if look.validation.any()]
    done: list[tuple[int, int]] = []
    found = fit_temperature(*read_held_out(net, card, scenes, config, progress=lambda *p: done.append(p)))
    assert found is not None
    assert found.pixels == sum(int(look.validation.sum()) for look in scenes) > FEWEST_PIXELS
    assert all(0 < tiles <= of for tiles, of in done)
    # What the card says already must not count twice.
    assert fit_temperature(*read_held_out(net, replace(card, temperature=3.0), scenes, config)) == found


@pytest.mark.long
def test_pixels_are_drawn_by_the_seed(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refnet_cli.training.held_out.MOST_PIXELS", 2000)
    net, card = REFNet(CARD.network).eval(), replace(CARD, tile=160)
    scenes = [look for look in survey(config) if look.validation.any()]
    one, same, other = (
        fit_temperature(*read_held_out(net, card, scenes, replace(config, seed=seed))) for seed in (0, 0, 1)
    )
    assert one == same != other
    assert one is not None
    assert FEWEST_PIXELS <= one.pixels <= 2000
    assert fit_temperature(*read_held_out(net, card, [], config)) is None
