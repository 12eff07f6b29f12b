"""The comparison with peers: their network is refnet's, their loops cover every pixel, and rows are whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from benchmarks.measure import Row
from benchmarks.peers import compare, loops, networks, scenes
from benchmarks.peers.watch import watch
from refnet_cli.engines.load import load_engine
from refnet_cli.engines.options import EngineOptions
from refnet_cli.export import draw_tiles
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.scan import selective_scan
from refnet_cli.tiles.gaps import fill_gaps
from tests.helpers.quick import few

SIZE = 300  # not a multiple of a tile


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.make_stack(tmp_path_factory.mktemp("stack") / "stack.tif", SIZE)


@pytest.mark.parametrize("states", [1, 2])
@pytest.mark.parametrize(
    ("batch", "height", "width"), few([(2, 5, 7), (1, 1, 1), (1, 8, 8), (1, 3, 40)], (2, 5, 7), (1, 1, 1))
)
def test_scan_of_torchscript_is_the_scan(states: int, batch: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    shape = batch, height, width
    u, projection = torch.randn(*shape, 6), torch.randn(*shape, 4, 3 + 2 * states)
    weights = torch.randn(4, 6, 3), torch.randn(4, 6), torch.randn(4, 6, states), torch.randn(4, 6)
    found = networks.scan_in_script(u, projection, *weights)
    torch.testing.assert_close(found, selective_scan(u, projection, *weights, "loop"), rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_the_network_at_any_size(tmp_path: Path) -> None:
    weights = default_weights()
    module = torch.jit.load(networks.export_torchscript(weights, tmp_path / "network.pt"))
    engine = load_engine(weights, EngineOptions(device="cpu"))
    optical, sar = map(fill_gaps, draw_tiles(engine.card, 2))
    for part in (np.s_[:], np.s_[:1, :, :64, :160], np.s_[:, :, :224, :96]):
        with torch.inference_mode():
            found = module(torch.from_numpy(np.concatenate([optical[part], sar[part]], 1))).numpy()
        assert np.abs(found - engine.predict(optical[part], sar[part]))[:, 1:].max() < networks.AGREEMENT


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("way", ["plain", "averaged", "onnx"])
def test_loops_map_every_pixel(stack: Path, tmp_path: Path, way: str) -> None:
    """With a network that copies bands, the class is that of the largest band, whatever the windows."""
    if way == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        network = networks.export_free_onnx(4, 2, 10, tmp_path / "free.onnx")
    else:
        network = networks.export_free_torchscript(10, tmp_path / "free.pt")
    loops.main(way, str(stack), str(network), str(tmp_path / "map.tif"))
    with rasterio.open(stack) as image, rasterio.open(tmp_path / "map.tif") as found:
        np.testing.assert_array_equal(found.read(1), 1 + image.read().argmax(0))
        assert found.transform == image.transform


def test_scene_has_data_but_in_the_wedge(stack: Path, tmp_path: Path) -> None:
    wedge = scenes.in_wedge(np.arange(SIZE), SIZE)
    assert 0.1 < wedge.mean() < 0.4
    for path, declared, missing in (
        (stack, True, np.zeros_like(wedge)),
        (scenes.make_stack(tmp_path / "wedge.tif", SIZE, wedge=True), True, wedge),
        (scenes.make_stack(tmp_path / "silent.tif", SIZE, wedge=True, declared=False), False, wedge),
    ):
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(np.isnan(file.read()).all(0), missing)
            np.testing.assert_array_equal(np.isnan(file.read()).any(0), missing)
            assert (file.nodata is not None) == declared


@pytest.mark.parametrize(
    ("code", "limits", "failed"),
    [
        ("x = b'1' * 50_000_000; import time; time.sleep(0.3)", {}, None),
        ("raise SystemExit('no such scene')", {}, "exit code 1: no such scene"),
        ("import time; time.sleep(60)", {"timeout": 0.2}, "not finished after 0 s"),
        ("x = b'1' * 200_000_000; import time; time.sleep(60)", {"limit_mb": 100}, "needs more than 100 MB"),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux tells it")
def test_programs_are_watched(tmp_path: Path, code: str, limits: dict[str, float], failed: str | None) -> None:
    found = watch([sys.executable, "-c", code], tmp_path, **limits)
    assert found.failed == failed
    assert found.seconds < 20
    if failed is None:
        assert 50 < found.megabytes < 200


def test_rows_measured_again_replace_earlier_ones() -> None:
    def row(peer: str, seconds: float) -> Row:
        return {"what": peer, "case": "free", "peer": peer, "seconds": seconds, "peak_mb": 1.0}

    failed = {"what": "terratorch", "case": "free", "peer": "terratorch", "failed": "not installed: no pip"}
    rows = compare.add_ratios(compare.merge_rows([row("plain-loop", 8), row("refnet", 4), failed], [row("refnet", 2)]))
    assert [(each["peer"], each.get("ratio")) for each in rows] == [
        ("refnet", 1.0), ("plain-loop", 4.0), ("terratorch", None)
    ]  # fmt: skip
    table = compare.to_table(rows).splitlines()
    assert len(table) == 4
    assert table[-1].endswith("failed: not installed: no pip")


def test_codes_become_numbers_of_classes() -> None:
    scheme = read_card(default_weights()).scheme
    codes = np.array([0, *scheme.codes, 255], np.uint8)
    assert compare.to_numbers(codes, scheme).tolist() == [*range(len(scheme.codes) + 1), 0]


@pytest.mark.long
def test_comparison_without_anything_installed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peers = ["refnet", "refnet-torchscript", "plain-loop"]
    rows = compare.run(only=peers, cases=["network", "free", "second-grid", "wedge"], sizes=[128], work=tmp_path)
    assert not [row for row in rows if "failed" in row], rows
    found = {(row["case"], row["peer"]): row for row in rows}
    assert len(found) == len(rows) == 5 * len(peers)
    for row in rows:
        assert row["ratio"] == pytest.approx(row["seconds"] / found[row["case"], "refnet"]["seconds"])
        assert row["peak_mb"] > 10
    for peer in ("refnet", "refnet-torchscript"):
        assert found["wedge, declared", peer]["kept_empty"] == 1
        assert found["wedge, declared", peer]["data_lost"] == 0
    assert found["wedge, declared", "plain-loop"]["kept_empty"] == 0
    assert json.dumps(rows)
    assert len(capsys.readouterr().err.splitlines()) >= len(rows)
