"""The scan kernels for GPUs as far as they can be tested without one, and the choice between kernels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refnet_cli import scan as scans
from refnet_cli.errors import UnavailableError
from refnet_cli.scan import SCANS, available_scans, choose_scan, fla, mamba, selective_scan
from tests.helpers.programs import environment, run_python
from tests.scan.test_scan import assert_close, make, value_and_gradients

ROOT = Path(__file__).resolve().parents[2]


def value_and_gradients_of(name: str, arguments: list[Tensor]) -> list[Tensor]:
    """As `value_and_gradients`, but without asking whether the kernel can run here: a stand-in plays its library."""
    y = SCANS[name].run(*arguments)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), arguments)]


def reference_selective_scan(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, delta_bias: Tensor, delta_softplus: bool
) -> Tensor:
    """mamba-ssm's ``selective_scan_fn`` step by step, for the arguments that refnet passes."""
    batch, channels, length = u.shape
    assert delta_softplus
    assert delta.shape == u.shape
    assert b.shape == c.shape == (batch, 4, a.shape[1], length)
    assert d.shape == delta_bias.shape == (channels,)
    assert {x.dtype for x in (u, delta, a, b, c, d, delta_bias)} == {torch.float32}
    delta = F.softplus(delta + delta_bias[:, None])
    b, c = (x.repeat_interleave(channels // 4, dim=1) for x in (b, c))
    h = u.new_zeros(batch, channels, a.shape[1])
    outputs = []
    for t in range(length):
        h = torch.exp(delta[..., t, None] * a) * h + delta[..., t, None] * b[..., t] * u[..., t, None]
        outputs.append((h * c[..., t]).sum(-1) + d * u[..., t])
    return torch.stack(outputs, dim=-1)


def reference_chunk_hgrn(x: Tensor, g: Tensor) -> tuple[Tensor, None]:
    """fla-core's ``chunk_hgrn`` step by step."""
    assert x.shape == g.shape
    assert x.dtype == g.dtype == torch.float32
    h = torch.zeros_like(x[:, 0])
    outputs = []
    for x_t, g_t in zip(x.unbind(1), g.unbind(1), strict=True):
        h = torch.exp(g_t) * h + x_t
        outputs.append(h)
    return torch.stack(outputs, dim=1), None


STAND_INS = {
    "mamba": ("mamba_ssm", "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn", reference_selective_scan),
    "fla": ("fla", "fla.ops.hgrn", "chunk_hgrn", reference_chunk_hgrn),
}


def forget() -> None:
    scans._found.clear()
    mamba._kernel.cache_clear()
    fla._kernel.cache_clear()


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither library, whatever this machine has, nor a wish of its owner."""
    monkeypatch.delenv("REFNET_SCAN", raising=False)
    monkeypatch.setattr(mamba, "is_installed", lambda module: module in sys.modules)
    monkeypatch.setattr(fla, "is_installed", lambda module: module in sys.modules)
    for name in [name for name in sys.modules if name.split(".")[0] in ("mamba_ssm", "fla")]:
        monkeypatch.delitem(sys.modules, name)
    forget()
    yield
    forget()


def install(monkeypatch: pytest.MonkeyPatch, name: str, works: bool = True) -> None:
    top, module, function, reference = STAND_INS[name]
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    assert top in sys.modules
    if works:
        setattr(sys.modules[module], function, reference)
    forget()


@pytest.mark.parametrize(
    ("name", "states"), [("mamba", 1), ("mamba", 4), ("mamba", 16), ("fla", 1)], ids=lambda value: str(value)
)
@pytest.mark.parametrize(("batch", "height", "width", "channels"), [(1, 1, 7, 5), (3, 13, 5, 6)])
def test_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch, name: str, states: int, batch: int, height: int, width: int, channels: int
) -> None:
    install(monkeypatch, name)
    arguments = make(batch, height, width, channels, 3, states)
    assert_close(value_and_gradients_of(name, arguments), value_and_gradients(arguments, "loop"))


@pytest.mark.parametrize("name", STAND_INS)
@pytest.mark.parametrize("dt", [-25.0, 12.0])
def test_tiny_and_large_time_steps(monkeypatch: pytest.MonkeyPatch, name: str, dt: float) -> None:
    install(monkeypatch, name)
    arguments = make(1, 9, 11, 16, 2, 1, dt)
    assert_close(value_and_gradients_of(name, arguments), value_and_gradients(arguments, "loop"), 5e-6)


@pytest.mark.parametrize("name", STAND_INS)
def test_half_precision_scans_in_single_precision(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch, name)
    arguments = [a.detach().bfloat16() for a in make(1, 8, 8, 8, 1, 1)]
    with torch.autocast("cpu", torch.bfloat16):
        y = SCANS[name].run(*arguments)
    assert y.dtype == torch.bfloat16
    oracle = selective_scan(*(a.float() for a in arguments), scan="loop").bfloat16()
    assert (y != oracle).float().mean() < 0.02


def test_fla_refuses_several_states(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "fla")
    with pytest.raises(UnavailableError, match="has one state, not 4"):
        SCANS["fla"].run(*make(1, 2, 2, 4, 1, 4))
    assert "not 4" in str(available_scans("cuda", states=4)["fla"])


def test_choice_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_scan("cpu").name == "cpu"
    assert choose_scan("mps").name == "torch"
    bare = choose_scan("cuda")
    assert bare.name == "torch"
    assert "pip install" in bare.reason
    install(monkeypatch, "fla")
    assert choose_scan("cuda").name == "fla"
    assert choose_scan("cuda", states=4).name == "torch"
    install(monkeypatch, "mamba")
    assert choose_scan("cuda", states=4).name == "mamba"


def test_environment_chooses_and_an_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = make(1, 2, 2, 4, 1, 1)
    monkeypatch.setenv("REFNET_SCAN", "loop")
    assert choose_scan("cuda").name == "loop"
    monkeypatch.setenv("REFNET_SCAN", "fast")
    with pytest.raises(UnavailableError, match=r"Unknown scan kernel 'fast'\. Use one of loop, torch"):
        selective_scan(*arguments)
    selective_scan(*arguments, scan="loop")


@pytest.mark.parametrize("name", ["mamba", "fla", "triton"])
def test_kernels_for_gpus_are_refused_elsewhere(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UnavailableError, match=f"'{name}' cannot be used: .* not on 'cpu'"):
        selective_scan(*make(1, 2, 2, 4, 1, 1), scan=name)


@pytest.mark.parametrize("name", STAND_INS)
def test_a_broken_library_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    install(monkeypatch, name, works=False)
    with pytest.raises(UnavailableError, match=r"cannot be imported .*REFNET_SCAN=torch"):
        SCANS[name].run(*make(1, 2, 2, 4, 1, 1))


def test_available_scans_say_what_to_install() -> None:
    on_gpu = available_scans("cuda")
    assert list(on_gpu) == list(SCANS)
    assert on_gpu["torch"] is None
    assert "refnet-cli[mamba]" in str(on_gpu["mamba"])
    assert "refnet-cli[gpu]" in str(on_gpu["fla"])


@pytest.mark.long
def test_importing_the_scan_needs_no_optional_library() -> None:
    code = (
        "import sys\n"
        "for name in ('triton', 'fla', 'mamba_ssm'): sys.modules[name] = None\n"
        "from refnet_cli.scan import available_scans\n"
        "assert 'not installed' in available_scans('cuda')['triton']"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


INTERPRETED = """
import sys
for name in [name for name in sys.modules if name.split(".")[0] == "triton" and "._C" not in name]:
    del sys.modules[name]  # loaded before the interpreter was switched on
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def run_interpreted(marks: str) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    options = ["-W", "error", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", marks]
    env = environment(TRITON_INTERPRET=1, PYTEST_ADDOPTS="")
    done = run_python("-c", INTERPRETED, *options, "tests/helpers/interpreted_scans.py", env=env, seconds=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_triton_kernels_in_the_interpreter() -> None:
    run_interpreted("not long")


@pytest.mark.long
def test_triton_kernels_in_the_interpreter_at_full_size() -> None:
    run_interpreted("long")
