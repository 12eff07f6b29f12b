"""Whether predicting works here: all that can run sees the same small images, and all must answer alike."""

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
from refnet_cli.types import Float32

SIDE = 128
PLACE = "EPSG:32633", 500_000.0, 5_300_000.0, 10.0
FROM_FILES = "files to a map"


class Bounds(NamedTuple):
    """How far two engines' answers may lie apart."""

    probability: float
    agreement: float
    """Share of the pixels that must get the same class."""


ON_CPUS = Bounds(1e-3, 0.999)
ELSEWHERE = Bounds(2e-2, 0.98)  # convolutions on GPUs run in TF32, of 11 significant bits, unless told otherwise


@dataclass(frozen=True)
class Run:
    """An engine to be tried."""

    name: str
    weights: Path
    options: EngineOptions
    bounds: Bounds = ON_CPUS


@dataclass(frozen=True)
class Trial:
    """What came of trying something."""

    name: str
    passed: bool | None
    """None if it could not be tried."""
    says: str
    seconds: float


def run_self_test(runs: Sequence[Run]) -> list[Trial]:
    """Try engines, the first of which the others are compared with, and then a whole prediction.

    Parameters
    ----------
    runs : sequence of Run

    Returns
    -------
    list of Trial
        One for each engine, then one for predicting from files to a map.
    """
    trials = []
    expected: _Answer | None = None
    with ExitStack() as stack:
        for run in runs:
            trial, answer = _try_engine(run, expected, stack)
            trials.append(trial)
            expected = expected or answer
        if expected:
            trials.append(_try_predicting(expected))
    return trials


class _Answer(NamedTuple):
    name: str
    engine: Engine
    probabilities: Float32


def _try_engine(run: Run, expected: _Answer | None, stack: ExitStack) -> tuple[Trial, _Answer | None]:
    """Try one; its answer is returned if there is one, and its engine closed with the stack if it is the first."""
    started = time.monotonic()
    answer = None
    try:
        engine = load_engine(run.weights, run.options)
        stack.callback(engine.close)
        answer = _Answer(run.name, engine, engine.predict(*make_patches(engine.card)))
        passed, says = _judge(answer, expected, run.bounds)
    except UnavailableError as error:
        passed, says = None, f"cannot run: {error}"
    except Exception as error:  # a self-test reports all that breaks
        passed, says = False, f"failed: {_one_line(error)}"
    return Trial(run.name, passed, says, time.monotonic() - started), answer


def _judge(answer: _Answer, expected: _Answer | None, bounds: Bounds) -> tuple[bool, str]:
    if expected is None:
        finite = bool(np.isfinite(answer.probabilities).all())
        return finite, "the others are compared with it" if finite else "failed: answers with numbers that are none"
    apart = float(np.abs(answer.probabilities - expected.probabilities).max())
    alike = float((answer.probabilities.argmax(1) == expected.probabilities.argmax(1)).mean())
    agrees = apart <= bounds.probability and alike >= bounds.agreement  # not so if NaN
    return agrees, f"{'agrees' if agrees else 'DISAGREES'}: {apart:.1g} apart, same class in {alike:.2%} of the pixels"


def _try_predicting(answer: _Answer) -> Trial:
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
    return f"{SIDE} x {SIDE} pixels were predicted, written, and read back intact"


def make_patches(card: Card, side: int = SIDE) -> tuple[Float32, Float32]:
    """Make one tile of each sensor: fields of 16 pixels with values as in training, and noise.

    Returns
    -------
    optical, sar : float32 arrays, shapes (1, Bo, side, side) and (1, Bs, side, side)
        Always the same ones.
    """
    random = np.random.default_rng(0)

    def draw(mean: Sequence[float], std: Sequence[float]) -> Float32:
        fields = random.normal(0, 1, (len(mean), -(-side // 16), -(-side // 16)))
        image = np.kron(fields, np.ones((16, 16)))[:, :side, :side] + random.normal(0, 0.2, (len(mean), side, side))
        values = np.asarray(mean)[:, None, None] + np.asarray(std)[:, None, None] * image.clip(-2, 2)
        return np.asarray(values[None], np.float32)

    return draw(card.optical.mean, card.optical.std), draw(card.sar.mean, card.sar.std)


def write_pair(folder: Path, card: Card) -> tuple[Path, Path]:
    """Write the tiles of `make_patches` as the files that `refnet predict` takes; return their paths."""
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
    """Make a list of the engines to try.

    Parameters
    ----------
    torch_weights, onnx_weights : Path, optional
        Files of the same network; None leaves an engine out.
    scans : mapping
        For each device of torch, the scan kernels to try.
    providers : sequence of str
        Execution providers of ONNX Runtime to try.

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
