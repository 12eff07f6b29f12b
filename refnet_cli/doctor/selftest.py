"""Self-test: all engines that can run predict the same small images, and their results must agree."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refnet_cli.engines.base import Engine
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.errors import InputError, UnavailableError
from refnet_cli.model.card import Card
from refnet_cli.outputs.cog import write_raster
from refnet_cli.outputs.verify import verify_map
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.prediction.predict import predict
from refnet_cli.system.steps import Steps
from refnet_cli.types import Float32, Progress

SIDE = 128
PLACE = "EPSG:32633", 500_000.0, 5_300_000.0, 10.0
FROM_FILES = "files to a map"


class Bounds(NamedTuple):
    """Tolerances for the difference between two engines' results."""

    probability: float
    agreement: float
    """Minimum share of the pixels with the same class."""


ON_CPUS = Bounds(1e-3, 0.999)
ELSEWHERE = Bounds(2e-2, 0.98)  # convolutions on GPUs run in TF32 (11 significant bits) by default


@dataclass(frozen=True)
class Run:
    """An engine to test."""

    name: str
    weights: Path
    options: EngineOptions
    bounds: Bounds = ON_CPUS


@dataclass(frozen=True)
class Trial:
    """The result of one test."""

    name: str
    passed: bool | None
    """None if the test could not run."""
    says: str
    seconds: float


def run_self_test(runs: Sequence[Run], progress: Progress | None = None) -> list[Trial]:
    """Test engines, comparing each with the first, and then a full prediction.

    Parameters
    ----------
    runs : sequence of Run
    progress : callable, optional
        Called with how many things are tried, and of how many.

    Returns
    -------
    list of Trial
        One per engine, then one for the prediction from files to a map.
    """
    trials = []
    expected: _Answer | None = None
    steps = Steps(progress, len(runs) + 1)
    with ExitStack() as stack:
        for run in runs:
            trial, answer = _test_engine(run, expected, stack)
            trials.append(trial)
            expected = expected or answer
            steps.count()
        if expected:
            trials.append(_test_prediction(expected))
    steps.count()
    return trials


class _Answer(NamedTuple):
    name: str
    engine: Engine
    probabilities: Float32


def _test_engine(run: Run, expected: _Answer | None, stack: ExitStack) -> tuple[Trial, _Answer | None]:
    """Test one engine, and return the result and the engine's answer, if any; the stack closes the engine."""
    started = time.monotonic()
    answer = None
    try:
        engine = load_engine(run.weights, run.options)
        stack.callback(engine.close)
        answer = _Answer(run.name, engine, engine.predict(*make_patches(engine.card)))
        passed, says = _compare(answer, expected, run.bounds)
    except UnavailableError as error:
        passed, says = None, f"cannot run: {error}"
    except Exception as error:  # a self-test reports all that breaks
        passed, says = False, f"failed: {_one_line(error)}"
    return Trial(run.name, passed, says, time.monotonic() - started), answer


def _compare(answer: _Answer, expected: _Answer | None, bounds: Bounds) -> tuple[bool, str]:
    if expected is None:
        finite = bool(np.isfinite(answer.probabilities).all())
        return finite, "reference for the others" if finite else "failed: returned NaN or infinite values"
    apart = float(np.abs(answer.probabilities - expected.probabilities).max())
    alike = float((answer.probabilities.argmax(1) == expected.probabilities.argmax(1)).mean())
    agrees = apart <= bounds.probability and alike >= bounds.agreement  # False for NaN
    verdict = "agrees" if agrees else "DISAGREES"
    return agrees, f"{verdict}: largest difference {apart:.1g}, same class in {alike:.2%} of the pixels"


def _test_prediction(answer: _Answer) -> Trial:
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="refnet-doctor-") as folder:
            passed, says = True, _predict_in(Path(folder), answer.engine)
    except Exception as error:  # as above
        passed, says = False, f"failed: {_one_line(error)}"
    return Trial(FROM_FILES, passed, says, time.monotonic() - started)


def _predict_in(folder: Path, engine: Engine) -> str:
    optical, sar = write_pair(folder, engine.card)
    options = PredictOptions(optical, sar, folder / "map.tif", coreg="off")
    report = predict(options, engine)
    verify_map(options.output)
    if report.valid_share < 1:
        raise InputError(f"only {report.valid_share:.1%} of the map's pixels have a class.")
    return f"{SIDE} x {SIDE} pixels predicted, written and verified"


def make_patches(card: Card, side: int = SIDE) -> tuple[Float32, Float32]:
    """Return one simulated tile per sensor: fields of 16 pixels with the training's mean and deviation, plus noise.

    Returns
    -------
    optical, sar : float32 arrays, shapes (1, Bo, side, side) and (1, Bs, side, side)
        The same in every call.
    """
    random = np.random.default_rng(0)

    def draw(mean: Sequence[float], std: Sequence[float]) -> Float32:
        fields = random.normal(0, 1, (len(mean), -(-side // 16), -(-side // 16)))
        image = np.kron(fields, np.ones((16, 16)))[:, :side, :side] + random.normal(0, 0.2, (len(mean), side, side))
        values = np.asarray(mean)[:, None, None] + np.asarray(std)[:, None, None] * image.clip(-2, 2)
        return np.asarray(values[None], np.float32)

    return draw(card.optical.mean, card.optical.std), draw(card.sar.mean, card.sar.std)


def write_pair(folder: Path, card: Card) -> tuple[Path, Path]:
    """Write the tiles of `make_patches` as input files for `refnet predict`, and return their paths."""
    optical, sar = make_patches(card)
    codes = optical[0].clip(1, 10_000).round().astype(np.uint16)
    return (
        write_raster(folder / "s2.tif", codes, card.optical.bands, PLACE, nodata=0),
        write_raster(folder / "s1.tif", 10 ** (sar[0] / 10), card.sar.bands, PLACE),
    )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def plan_runs(
    torch_weights: Path | None, scans: Mapping[str, Sequence[str]], onnx_weights: Path | None, providers: Sequence[str]
) -> Iterator[Run]:
    """Yield the engines to test.

    Parameters
    ----------
    torch_weights, onnx_weights : Path, optional
        Weights of the same network; None skips an engine.
    scans : mapping
        The scan kernels to test on each torch device.
    providers : sequence of str
        The execution providers of ONNX Runtime to test.

    Examples
    --------
    >>> runs = plan_runs(Path("a.safetensors"), {"cpu": ["torch"]}, Path("a.onnx"), ["cpu", "cuda"])
    >>> [run.name for run in runs]
    ['torch on cpu, scan torch', 'onnx on cpu', 'onnx on cuda']
    """
    if torch_weights:
        for device, names in scans.items():
            bounds = ON_CPUS if device == "cpu" else ELSEWHERE
            for name in names:
                options = EngineOptions(device=device, batch=1, scan=name)
                yield Run(f"torch on {device}, scan {name}", torch_weights, options, bounds)
    if onnx_weights:
        for name in providers:
            options = EngineOptions(device="cpu" if name == "cpu" else "auto", batch=1, provider=name)
            yield Run(f"onnx on {name}", onnx_weights, options, ON_CPUS if name == "cpu" else ELSEWHERE)
