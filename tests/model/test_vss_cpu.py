"""The kernels of narrow VSS blocks against torch's layers, for any thread count and batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from refnet_cli.model import vss_cpu
from refnet_cli.model.refnet import VSSBlock
from refnet_cli.model.vss_cpu import NarrowVSSBlock
from tests.helpers.quick import examples


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def make(width: int, states: int = 1) -> VSSBlock:
    torch.manual_seed(0)
    block = VSSBlock(width, states, 0.0).eval().requires_grad_(False)
    for module in block.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    nn.init.normal_(block.mlp[0].bias, std=0.3)
    nn.init.normal_(block.mlp[2].bias, std=0.3)
    return block


def run_in_kernels(block: VSSBlock, x: Tensor) -> Tensor:
    narrow = NarrowVSSBlock(block)
    assert NarrowVSSBlock.suits(block)
    assert narrow._can_run(x)
    result: Tensor = narrow(x)
    return result


@given(
    width=st.sampled_from([16, 32, 48, 64]),
    states=st.sampled_from([1, 3]),
    samples=st.integers(1, 2),
    height=st.integers(1, 19),
    columns=st.integers(1, 35),
)
@settings(max_examples=examples(15), deadline=None)
def test_the_block_is_that_of_torch(width: int, states: int, samples: int, height: int, columns: int) -> None:
    block = make(width, states)
    x = 3 * torch.randn(samples, width, height, columns) + 1
    found, expected = run_in_kernels(block, x), block(x)
    assert found.shape == expected.shape
    assert float((found - expected).norm()) < 2e-6 * float(expected.norm())


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e4, 1e15])
def test_numbers_of_any_magnitude(factor: float) -> None:
    block = make(32)
    x = factor * torch.randn(1, 32, 6, 9)
    found, expected = run_in_kernels(block, x), block(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * (1 + factor))


def test_not_a_number_spreads_as_in_torch() -> None:
    block = make(16)
    x = torch.randn(1, 16, 5, 6)
    x[0, 3, 2, 2] = torch.nan
    assert torch.equal(run_in_kernels(block, x).isnan(), block(x).isnan())


def test_the_bytes_depend_neither_on_threads_nor_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    block = make(32)
    x = torch.randn(3, 32, 37, 41)
    expected = run_in_kernels(block, x)
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert torch.equal(run_in_kernels(block, x), expected)
    assert torch.equal(torch.cat([run_in_kernels(block, one) for one in x.split(1)]), expected)


def test_units_of_work_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    block = make(16)
    x = torch.randn(1, 16, 23, 29)
    expected = run_in_kernels(block, x)
    monkeypatch.setattr(vss_cpu, "ROWS", 5)
    monkeypatch.setattr(vss_cpu, "PIXELS", 37)
    assert torch.equal(run_in_kernels(block, x), expected)


def test_gelu_and_silu_over_all_magnitudes() -> None:
    from refnet_cli.model import vss_kernels

    x = torch.cat([torch.linspace(-12, 12, 100_001), torch.logspace(-38, 37, 2000), -torch.logspace(-38, 37, 2000)])
    gelu, silu = x.clone(), x.clone()
    vss_kernels.apply_gelu(gelu.view(1, -1).numpy(), np.zeros(len(x), np.float32))
    vss_kernels.apply_silu(silu.numpy())
    exact = nn.functional.gelu(x.double())
    assert float(((gelu - exact).abs() / (1 + x.abs())).max()) < 3e-7
    assert float(((silu - nn.functional.silu(x.double())).abs() / (1 + x.abs())).max()) < 3e-7


def test_the_layers_of_torch_run_where_the_kernels_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not NarrowVSSBlock.suits(make(24))
    assert not NarrowVSSBlock.suits(make(vss_cpu.WIDEST + vss_cpu.LANES))
    block = NarrowVSSBlock(make(16))
    x = torch.randn(1, 16, 4, 4)
    assert not block._can_run(x.double())
    with torch.inference_mode(False), torch.enable_grad():
        assert not block._can_run(x)
    block.block.ss2d.scan = "torch"
    assert not block._can_run(x)
    assert torch.equal(block(x), block.block(x))


def test_kernels_that_numba_cannot_compile_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("LLVM ERROR")

    monkeypatch.setattr(vss_cpu, "_kernels", broken)
    vss_cpu.can_compile.cache_clear()
    try:
        assert not NarrowVSSBlock(make(16))._can_run(torch.randn(1, 16, 4, 4))
        assert "LLVM ERROR" in caplog.text
    finally:
        vss_cpu.can_compile.cache_clear()
