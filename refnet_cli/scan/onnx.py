"""The selective scan as an ONNX function, for models that run without torch.

Two levels, as in `refnet_cli.scan.two_level`: the chunks are the rows of the image for directions 0 and 2, and its
columns for 1 and 3. Per-pixel values are computed on full images. One ONNX Scan steps through all rows in parallel,
column by column; another scans the rows' ends for the states from which the rows should have started. Source: Mamba
(arXiv 2312.00752), VMamba (arXiv 2401.10166).
"""

from __future__ import annotations

import onnx
import onnx.parser

DOMAIN, NAME, VERSION = "refnet", "SelectiveScan", 1
INPUTS = ("u", "projection", "dt_weight", "dt_bias", "a_log", "d_skip")


def schema() -> onnx.defs.OpSchema:
    """Return the function's schema for exporters; its inputs are those of `refnet_cli.scan.selective_scan`."""
    parameter = onnx.defs.OpSchema.FormalParameter
    return onnx.defs.OpSchema(
        NAME, DOMAIN, VERSION,
        inputs=[parameter(name, "T") for name in INPUTS],
        outputs=[parameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
    )  # fmt: skip


def make_function(rank: int, states: int, opset: int) -> onnx.FunctionProto:
    """Return the function for networks whose dt has rank R, with S states.

    Parameters
    ----------
    rank, states : int
        R and S.
    opset : int
        Version of the ONNX operator set, 18 or later.
    """
    # With one state, the S axis has length 1 and needs no sum.
    add_states = "ReduceSum <keepdims = 0>" if states > 1 else "Squeeze"
    return onnx.parser.parse_function(f"""
<domain: "{DOMAIN}", opset_import: ["": {opset}]>
{NAME} ({", ".join(INPUTS)}) => (y)
{{
  zero = Constant <value_float = 0.0> ()
  one = Constant <value_float = 1.0> ()
  first = Constant <value_ints = [0]> ()
  chunk_axis = Constant <value_ints = [1]> ()
  before_last = Constant <value_ints = [-2]> ()
  last = Constant <value_ints = [-1]> ()
  sizes = Constant <value_ints = [{rank}, {states}, {states}]> ()
  weights = Transpose <perm = [0, 2, 1]> (dt_weight)
  a_exp = Exp(a_log)
  a_negative = Neg(a_exp)
  a_by_state = Transpose <perm = [0, 2, 1]> (a_negative)
  {_chunks("rows", (2, 0, 1, 3), 0, add_states)}
  {_chunks("columns", (1, 0, 2, 3), 1, add_states)}
  skips = ReduceSum <keepdims = 0> (d_skip, first)
  skipped = Mul(u, skips)
  with_rows = Add(skipped, rows_y)
  y = Add(with_rows, columns_y)
}}
""")


def _chunks(name: str, order: tuple[int, int, int, int], forward: int, add_states: str) -> str:
    """Return the scans along an axis and back: u is (T, N, L, D), L chunks of T steps; states are (N, L, S, D)."""
    back = [order.index(axis) for axis in range(4)]
    return f"""
  {name}_u = Transpose <perm = {list(order)}> (u)
  {name}_projection = Transpose <perm = {[*order, 4]}> (projection)
  {_direction(forward, name, add_states, reverse=0)}
  {_direction(forward + 2, name, add_states, reverse=1)}
  {name}_sum = Add(y{forward}, y{forward + 2})
  {name}_y = Transpose <perm = {back}> ({name}_sum)
"""


def _direction(k: int, name: str, add_states: str, reverse: int) -> str:
    """Return one direction's y, (T, N, L, D), without the skip."""
    return _inputs(k, name) + _scans(k, add_states, reverse)


def _inputs(k: int, name: str) -> str:
    """Return decay, input x and C of each step of one direction."""
    # ONNX Runtime's Softplus is slow and loses the digits of small steps. This is max(z, 0) + log1p(e) with
    # e = exp(-|z|); log1p(e) is log(1 + e) with a correction for the digits of e that 1 + e loses (Kahan).
    return f"""
  k{k} = Constant <value_int = {k}> ()
  own_projection{k} = Gather <axis = 3> ({name}_projection, k{k})
  low{k}, b_flat{k}, c_flat{k} = Split <axis = 3> (own_projection{k}, sizes)
  w{k} = Gather <axis = 0> (weights, k{k})
  bias{k} = Gather <axis = 0> (dt_bias, k{k})
  a{k} = Gather <axis = 0> (a_by_state, k{k})
  product{k} = MatMul(low{k}, w{k})
  z{k} = Add(product{k}, bias{k})
  size{k} = Abs(z{k})
  negative{k} = Neg(size{k})
  e{k} = Exp(negative{k})
  e_and_one{k} = Add(e{k}, one)
  e_rounded{k} = Sub(e_and_one{k}, one)
  all_lost{k} = Equal(e_rounded{k}, zero)
  log{k} = Log(e_and_one{k})
  rounding{k} = Div(e{k}, e_rounded{k})
  log_mended{k} = Mul(log{k}, rounding{k})
  log1p{k} = Where(all_lost{k}, e{k}, log_mended{k})
  positive{k} = Relu(z{k})
  dt{k} = Add(positive{k}, log1p{k})
  dt_u{k} = Mul(dt{k}, {name}_u)
  dt_s{k} = Unsqueeze(dt{k}, before_last)
  dt_u_s{k} = Unsqueeze(dt_u{k}, before_last)
  b{k} = Unsqueeze(b_flat{k}, last)
  c{k} = Unsqueeze(c_flat{k}, last)
  dt_a{k} = Mul(dt_s{k}, a{k})
  decay{k} = Exp(dt_a{k})
  x{k} = Mul(dt_u_s{k}, b{k})"""


def _scans(k: int, add_states: str, reverse: int) -> str:
    """Return the scan of all chunks, and of their ends for the states from which the chunks should have started."""
    return f"""
  state_shape{k} = Shape <start = 1> (x{k})
  zeros{k} = Expand(zero, state_shape{k})
  ones{k} = Expand(one, state_shape{k})
  end{k}, decayed{k}, own{k}, passed{k} = Scan <
    num_scan_inputs = 3,
    scan_input_directions = [{reverse}, {reverse}, {reverse}], scan_output_directions = [{reverse}, {reverse}],
    body = step{k} (float[] h_before, float[] decay_before, float[] decay, float[] x, float[] c)
        => (float[] h, float[] decay_since_start, float[] own, float[] passed)
    {{
      h_left = Mul(decay, h_before)
      h = Add(h_left, x)
      decay_since_start = Mul(decay, decay_before)
      ch = Mul(c, h)
      own = {add_states}(ch, before_last)
      passed = Mul(c, decay_since_start)
    }}
  > (zeros{k}, ones{k}, decay{k}, x{k}, c{k})
  chunk_zeros{k} = ReduceMin <keepdims = 0> (zeros{k}, chunk_axis)
  last_state{k}, start{k} = Scan <
    num_scan_inputs = 2, scan_input_axes = [1, 1], scan_output_axes = [1],
    scan_input_directions = [{reverse}, {reverse}], scan_output_directions = [{reverse}],
    body = carry{k} (float[] before, float[] end, float[] decayed) => (float[] after, float[] start)
    {{
      start = Identity(before)
      left = Mul(decayed, before)
      after = Add(left, end)
    }}
  > (chunk_zeros{k}, end{k}, decayed{k})
  carried_s{k} = Mul(passed{k}, start{k})
  carried{k} = {add_states}(carried_s{k}, before_last)
  y{k} = Add(own{k}, carried{k})
"""
