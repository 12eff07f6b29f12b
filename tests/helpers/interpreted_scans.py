"""Triton kernels in Triton's interpreter, which ``TRITON_INTERPRET=1`` switches on before Triton is imported.

test_scan_gpu.py runs this file in a process of its own with that set; set here, it would hold for all tests of a
process that looks through this file. The interpreter takes milliseconds for each step of a scan, so the images are
small, and so are the chunks and blocks, of which there must be several.
"""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch
from torch import Tensor

from refnet_cli.scan import available_scans, selective_scan
from refnet_cli.scan import triton as our_triton
from refnet_cli.scan.fla import selective_scan_fla
from tests.helpers.quick import few
from tests.scan.test_scan import assert_close, make, value_and_gradients


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(our_triton, "CHUNK", 5)
    monkeypatch.setattr(our_triton, "BLOCK", 4)


def compare(arguments: list[Tensor]) -> None:
    assert_close(value_and_gradients(arguments, "triton"), value_and_gradients(arguments, "loop"), 5e-6)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels", "rank", "states"),
    few(
        [(1, 1, 7, 3, 2, 1), (1, 4, 3, 4, 3, 1), (3, 1, 2, 5, 1, 1), (1, 3, 2, 3, 2, 4), (1, 2, 3, 3, 1, 16)],
        (1, 3, 2, 3, 2, 4),
    ),
)
def test_values_and_gradients(batch: int, height: int, width: int, channels: int, rank: int, states: int) -> None:
    compare(make(batch, height, width, channels, rank, states))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dt", few([-25.0, 12.0], 12.0))
def test_tiny_and_large_time_steps(dt: float) -> None:
    compare(make(1, 2, 3, 3, 2, 1, dt))


@pytest.mark.long
@pytest.mark.parametrize(
    ("height", "width", "channels", "rank", "states"), [(13, 5, 35, 3, 1), (13, 5, 7, 2, 4), (24, 18, 8, 1, 1)]
)
def test_chunks_and_blocks_of_full_size(height: int, width: int, channels: int, rank: int, states: int) -> None:
    compare(make(1, height, width, channels, rank, states))


@pytest.mark.long
@pytest.mark.usefixtures("small_chunks")
def test_the_same_input_gives_the_same_bits() -> None:
    arguments = make(1, 1, 3, 5, 1, 1)
    first, second = (value_and_gradients(arguments, "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("small_chunks")
def test_half_precision_inputs_scan_in_single_precision() -> None:
    arguments = [a.detach().bfloat16() for a in make(1, 2, 3, 3, 1, 1)]
    y = selective_scan(*arguments, scan="triton")
    assert y.dtype == torch.bfloat16
    oracle = selective_scan(*(a.float() for a in arguments), scan="loop").bfloat16()
    # The same bits but where float32 sums that differ in their last bit round to neighbours.
    assert (y != oracle).sum() <= 1


@pytest.mark.usefixtures("small_chunks")
def test_half_precision_gradients_have_the_inputs_type() -> None:
    arguments = [a.detach().bfloat16().requires_grad_() for a in make(1, 2, 3, 3, 1, 1)]
    found = value_and_gradients(arguments, "triton")
    single = [a.detach().float().requires_grad_() for a in arguments]
    for ours, oracle in zip(found, value_and_gradients(single, "loop"), strict=True):
        assert ours.dtype == torch.bfloat16
        assert float((ours.float() - oracle).norm()) <= 1e-2 * float(oracle.norm())


def test_the_interpreter_makes_the_kernel_available() -> None:
    assert available_scans("cpu")["triton"] is None


@pytest.mark.long
def test_fla_core_itself() -> None:
    """Its own forward kernel, up to one chunk of it: the rest calls what the interpreter lacks.

    The autotuner would need a GPU's clock, so it gets one configuration to choose from.
    """
    pytest.importorskip("fla", reason="fla-core is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chunk = importlib.import_module("fla.ops.hgrn.chunk")
    del chunk.chunk_hgrn_fwd_kernel_h.configs[1:]
    arguments = [a.detach() for a in make(1, 3, 4, 5, 2, 1)]
    assert_close([selective_scan_fla(*arguments)], [selective_scan(*arguments, scan="loop")])
