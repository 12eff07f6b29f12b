"""The selective scan as an ONNX function, in ONNX Runtime, against the kernels in torch."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from refnet_cli.scan import onnx as onnx_scan
from refnet_cli.scan import selective_scan
from tests.helpers.quick import each_once
from tests.scan.test_scan import assert_close, make

SHAPES = {
    "u": ["n", "h", "w", "d"],
    "projection": ["n", "h", "w", 4, "p"],
    "dt_weight": [4, "d", "r"],
    "dt_bias": [4, "d"],
    "a_log": [4, "d", "s"],
    "d_skip": [4, "d"],
}


def make_model(rank: int, states: int, opset: int = 20) -> onnx.ModelProto:
    """The function as the only node of a model, all of whose sizes are free."""

    def tensor(name: str, shape: list[Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    node = helper.make_node(onnx_scan.NAME, onnx_scan.INPUTS, ["y"], domain=onnx_scan.DOMAIN)
    inputs = [tensor(name, shape) for name, shape in SHAPES.items()]
    model = helper.make_model(
        helper.make_graph([node], "scan", inputs, [tensor("y", SHAPES["u"])]),
        functions=[onnx_scan.make_function(rank, states, opset)], ir_version=10,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(onnx_scan.DOMAIN, onnx_scan.VERSION)],
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    return model


@cache
def session(rank: int, states: int, inlined: bool, opset: int = 20) -> Any:
    model = make_model(rank, states, opset)
    if inlined:
        model = onnx.inliner.inline_local_functions(model)
        assert not model.functions
        onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def scan(arguments: list[Tensor], inlined: bool = True, opset: int = 20) -> Tensor:
    rank, states = arguments[2].shape[-1], arguments[4].shape[-1]
    feed = {name: a.detach().numpy() for name, a in zip(onnx_scan.INPUTS, arguments, strict=True)}
    return torch.from_numpy(session(rank, states, inlined, opset).run(None, feed)[0])


def oracle(arguments: list[Tensor], name: str = "loop") -> Tensor:
    with torch.no_grad():
        return selective_scan(*arguments, scan=name)


SIZES = [(1, 1, 1, 1), (1, 1, 9, 4), (2, 9, 1, 4), (3, 13, 5, 7), (1, 5, 13, 32), (2, 24, 18, 3), (1, 2, 2, 1)]
"""Images, rows, columns and channels."""


@pytest.mark.parametrize(
    ("size", "rank_and_states", "inlined"), each_once(SIZES, [(1, 1), (3, 1), (2, 3), (1, 16)], [False, True])
)
def test_it_is_the_scan_of_any_size(
    size: tuple[int, int, int, int], rank_and_states: tuple[int, int], inlined: bool
) -> None:
    arguments = make(*size, *rank_and_states)
    ours = scan(arguments, inlined)
    assert_close([ours], [oracle(arguments)])
    assert_close([ours], [oracle(arguments, "cpu")])


@pytest.mark.parametrize("opset", [18, 21])
def test_it_holds_in_other_versions_of_the_operators(opset: int) -> None:
    for inlined in (False, True):
        arguments = make(2, 7, 6, 5, 2, 3)
        assert_close([scan(arguments, inlined, opset)], [oracle(arguments)])


@pytest.mark.parametrize(("z", "states"), each_once([-100.0, -20.0, -5.0, 0.0, 20.0, 100.0], [1, 3]))
def test_time_steps_from_nothing_to_forever(z: float, states: int) -> None:
    arguments = [a.detach() for a in make(2, 9, 11, 8, 2, states)]
    arguments[3] = torch.full_like(arguments[3], z)
    for weight in (0.0, 0.3):  # all steps alike, or spread about that one
        arguments[2] = weight * arguments[2].sign()
        assert_close([scan(arguments)], [oracle(arguments)], 5e-6)
        assert_close([scan(arguments)], [oracle(arguments, "cpu")], 5e-6)


@pytest.mark.parametrize("z", [-3.0, -12.0, -17.0, -20.0])
def test_tiny_steps_keep_their_digits_where_nothing_else_adds_to_them(z: float) -> None:
    arguments = [a.detach().abs() for a in make(1, 24, 32, 8, 1, 1)]
    arguments[2], arguments[3] = torch.zeros_like(arguments[2]), torch.full_like(arguments[3], z)
    arguments[5] = torch.zeros_like(arguments[5])  # no skip
    assert_close([scan(arguments)], [oracle(arguments)], 1e-4)


def test_numbers_too_large_for_an_exponential_stay_finite() -> None:
    arguments = [a.detach() for a in make(1, 6, 7, 4, 1, 1)]
    arguments[1][..., 0] = 1e4 * arguments[1][..., 0].sign()
    arguments[4] = torch.full_like(arguments[4], 5.0)  # states are forgotten at once
    assert_close([scan(arguments)], [oracle(arguments)], 5e-6)


def test_states_that_never_fade_are_carried_over_all_chunks() -> None:
    arguments = [a.detach() for a in make(1, 33, 47, 4, 1, 1)]
    arguments[4] = torch.full_like(arguments[4], -30.0)
    arguments[5] = torch.zeros_like(arguments[5])
    assert_close([scan(arguments)], [oracle(arguments)], 2e-5)  # sums of 1551 numbers in another order


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    arguments = [a.detach() for a in make(3, 6, 7, 5, 2, 1)]
    together = scan(arguments)
    for i in range(3):
        alone = scan([arguments[0][i : i + 1], arguments[1][i : i + 1], *arguments[2:]])
        assert_close([together[i : i + 1]], [alone], 1e-6)


@pytest.mark.parametrize("states", [1, 3])
def test_not_a_number_comes_out_where_it_went_in(states: int) -> None:
    arguments = [a.detach() for a in make(2, 4, 5, 8, 1, states)]
    arguments[0][0, 2, 3, 5] = torch.nan
    ours, wanted = scan(arguments), oracle(arguments)
    assert torch.isnan(ours[0, 2, 3, 5])
    assert torch.equal(torch.isnan(ours), torch.isnan(wanted))
    assert torch.isfinite(ours[..., :5]).all()
    assert torch.isfinite(ours[1]).all()


def test_not_a_number_in_the_steps_spreads_as_in_torch() -> None:
    arguments = [a.detach() for a in make(1, 4, 5, 6, 1, 1)]
    arguments[1][0, 1, 2, 2, 0] = torch.nan
    assert torch.equal(torch.isnan(scan(arguments)), torch.isnan(oracle(arguments)))


def test_the_same_input_gives_the_same_bits() -> None:
    arguments = make(2, 12, 9, 6, 2, 1)
    assert np.array_equal(scan(arguments).numpy(), scan(arguments).numpy())


def test_the_schema_names_the_functions_inputs() -> None:
    schema, function = onnx_scan.schema(), onnx_scan.make_function(2, 1, 20)
    assert [value.name for value in schema.inputs] == list(function.input) == list(onnx_scan.INPUTS)
    assert [value.name for value in schema.outputs] == list(function.output) == ["y"]
    assert (schema.domain, schema.name) == (function.domain, function.name)
    kinds = {node.op_type for node in function.node}
    assert "Scan" in kinds
    assert "Loop" not in kinds
