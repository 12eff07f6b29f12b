"""Every scan kernel against the step-by-step one, in values and in all gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from refnet_cli.errors import UnavailableError
from refnet_cli.scan import selective_scan
from refnet_cli.scan.loop import scan_orders
from refnet_cli.scan.two_level import linear_recurrence
from tests.helpers.quick import examples, few

# The kernels for GPUs have tests of their own in test_scan_gpu.py.
FAST = ["torch", "cpu"]


def make(
    batch: int, height: int, width: int, channels: int, rank: int, states: int, dt: float = -2.0, seed: int = 0
) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    arguments = [
        normal(batch, height, width, channels),
        normal(batch, height, width, 4, rank + 2 * states),
        0.3 * normal(4, channels, rank),
        dt + normal(4, channels),
        0.5 * normal(4, channels, states),
        normal(4, channels),
    ]
    return [argument.requires_grad_() for argument in arguments]


def value_and_gradients(arguments: list[Tensor], scan: str) -> list[Tensor]:
    y = selective_scan(*arguments, scan=scan)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), arguments)]


def assert_close(ours: list[Tensor], oracle: list[Tensor], bar: float = 2e-6) -> None:
    for a, b in zip(ours, oracle, strict=True):
        assert a.shape == b.shape
        assert torch.isfinite(a).all()
        assert float((a - b).norm()) <= bar * float(b.norm()) + 1e-12


@pytest.mark.parametrize("scan", FAST)
@pytest.mark.parametrize(("height", "width"), few([(1, 7), (13, 5), (24, 18)], (1, 7), (13, 5)))
@pytest.mark.parametrize(
    ("batch", "channels", "rank", "states"), [(1, 32, 2, 1), (3, 70, 3, 1), (1, 70, 9, 1), (1, 20, 4, 4), (3, 6, 1, 16)]
)
def test_values_and_gradients(
    scan: str, height: int, width: int, batch: int, channels: int, rank: int, states: int
) -> None:
    arguments = make(batch, height, width, channels, rank, states)
    assert_close(value_and_gradients(arguments, scan), value_and_gradients(arguments, "loop"))


@pytest.mark.parametrize("scan", FAST)
@pytest.mark.parametrize("dt", [-25.0, 12.0])
def test_tiny_and_large_time_steps(scan: str, dt: float) -> None:
    arguments = make(1, 9, 11, 16, 2, 1, dt)
    assert_close(value_and_gradients(arguments, scan), value_and_gradients(arguments, "loop"), 5e-6)


@pytest.mark.parametrize("scan", FAST)
def test_longer_than_several_chunks(scan: str) -> None:
    arguments = make(1, 16, 27, 8, 1, 1)
    assert_close(value_and_gradients(arguments, scan), value_and_gradients(arguments, "loop"), 5e-6)


@pytest.mark.parametrize("scan", ["loop", *FAST])
def test_not_a_number_comes_out_where_it_went_in(scan: str) -> None:
    arguments = [a.detach() for a in make(1, 4, 5, 8, 1, 1)]
    arguments[0][0, 2, 3, 5] = torch.nan
    y = selective_scan(*arguments, scan=scan)
    assert torch.isnan(y[0, 2, 3, 5])
    assert torch.isfinite(y[..., :5]).all()


@pytest.mark.parametrize("scan", ["loop", *FAST])
def test_half_precision_inputs_scan_in_single_precision(scan: str) -> None:
    arguments = [a.detach().bfloat16() for a in make(1, 8, 8, 8, 1, 1)]
    y = selective_scan(*arguments, scan=scan)
    assert y.dtype == torch.bfloat16
    oracle = selective_scan(*(a.float() for a in arguments), scan="loop").bfloat16()
    # The same bits but where float32 sums that differ in their last bit round to neighbours.
    assert (y != oracle).float().mean() < 0.02


@given(height=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=examples(25), deadline=None)
def test_orders_visit_each_pixel_once(height: int, width: int) -> None:
    for order in scan_orders(height, width):
        assert sorted(order.tolist()) == list(range(height * width))


@given(length=st.integers(1, 70))
@settings(max_examples=examples(25), deadline=None)
def test_recurrence_sums_when_nothing_decays(length: int) -> None:
    x = torch.arange(1.0, length + 1).view(1, length, 1)
    assert torch.equal(linear_recurrence(torch.ones_like(x), x), x.cumsum(1))


def test_operator_is_sound() -> None:
    arguments = make(1, 3, 4, 6, 2, 1)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.refnet.selective_scan.default, (*arguments, True), test_utils=checks)


def test_unknown_kernel_is_refused() -> None:
    with pytest.raises(UnavailableError, match="Unknown scan kernel 'fast'"):
        selective_scan(*make(1, 2, 2, 4, 1, 1), scan="fast")
