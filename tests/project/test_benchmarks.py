"""The benchmarks run, and their results are whole: the figures are another matter."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import crops, fetch, folds, gpu, learning, memory, report, scan, scene, tile, train, variants
from benchmarks.__main__ import main
from benchmarks.measure import Row, check_limit, compare, medians
from benchmarks.networks import make_network
from refnet_cli.cli import main as cli
from refnet_cli.errors import InputMissingError
from refnet_cli.model.config import REFNetConfig
from refnet_cli.model.refnet import MDFVSSBlock, MSIEDecoder, VSSBlock
from refnet_cli.model.weight_files import default_weights, read_card
from refnet_cli.scan import available_scans
from tests.helpers.quick import few
from tests.helpers.scenes import make_labelled_scene, name_classes, write
from tests.helpers.stac_servers import RUSTAC

TINY = REFNetConfig(encoder="test_resnet", width=16)


def check(rows: list[Row]) -> None:
    """Every row measures something; ratios and bars agree with the numbers next to them."""
    assert rows
    for row in rows:
        assert sum(measure in row for measure in ("seconds", "megabytes", "difference")) == 1, row
        if "seconds" in row:
            assert row["seconds"] > 0
            assert row["ratio"] == pytest.approx(row["seconds"] / row["other_seconds"])
            assert row["over"]
        if "bar" in row:
            measure, at, bound, limit = row["bar"].split()
            assert (at, float(limit)) == ("at", row["limit"])
            kept = row[measure] <= row["limit"] if bound == "most" else row[measure] >= row["limit"]
            assert row["kept"] is kept
    assert len(report.to_table(rows).splitlines()) == 1 + len(rows)


def bars(rows: list[Row]) -> set[str]:
    return {row["bar"] for row in rows if "bar" in row}


def test_actions_are_taken_in_turn() -> None:
    done: list[str] = []
    taken = medians({name: lambda name=name: done.append(name) for name in "abc"}, repeats=2)  # type: ignore[misc]
    assert done == list("abcabc")
    assert list(taken) == list("abc")


@pytest.mark.parametrize(("megabytes", "kept"), [(10.0, True), (10.5, False)])
def test_a_bar_is_kept_or_not(megabytes: float, kept: bool) -> None:
    assert check_limit({"megabytes": megabytes}, "megabytes", at_most=10)["kept"] is kept
    assert check_limit({"megabytes": -megabytes}, "megabytes", at_least=-10)["kept"] is kept


def test_a_bar_that_is_not_kept_shows_in_the_table() -> None:
    rows = [check_limit(compare("a", 3.0, "b", 2.0), "ratio", at_most=1), compare("c", 1.0, "b", 2.0)]
    assert [line.split()[-1] for line in report.to_table(rows).splitlines()] == ["kept", "NO", "b"]


def test_results_are_json_with_machine_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    main(["scan", "--levels", "5", "--repeats", "1"])
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document.keys() == {"benchmark", "date", "settings", "machine", "versions", "results"}
    assert document["benchmark"] == "scan"
    assert document["settings"] == {"repeats": 1, "device": "cpu", "levels": [5]}
    assert {"processor", "usable_cores", "memory_gb", "torch_threads"} < document["machine"].keys()
    assert {"python", "refnet", "torch", "numba", "gdal"} < document["versions"].keys()
    assert {"level 5, loop forward", "level 5, cpu forward+backward"} < {row["what"] for row in document["results"]}
    check(document["results"])
    assert report.to_table(document["results"]) == captured.err.rstrip("\n")


@pytest.mark.parametrize(
    "arguments",
    [["scan", "--repeats", "0"], ["train", "--steps", "many"], ["scan", "--levels", "6"], ["scene", "--sizes", "huge"]],
)
def test_impossible_settings_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_the_first_level_is_held_to_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "TILE", 32)
    rows = scan.run(repeats=1, levels=[1])
    check(rows)
    assert bars(rows) == {"ratio at most 0.6", "ratio at most 2.5", "ratio at least 10"}


@pytest.mark.long
def test_onnx_runtime_is_measured_over_torch() -> None:
    weights = default_weights()
    (row,) = tile.measure_runtime("small", weights, weights.with_suffix(".onnx"), repeats=1, batches=[1])
    assert "ONNX Runtime" in row["what"]
    assert row["over"] == "torch"
    assert row["seconds"] > 0


@pytest.mark.long
def test_tiles_are_measured_over_their_arithmetic() -> None:
    rows = tile.measure_tiles("tiny", make_network(TINY), 64, 2, repeats=1, scans=["cpu", "torch", "loop"])
    check(rows)
    assert [row["over"] for row in rows] == ["floor"] * 3
    for row in rows:
        assert row["other_seconds"] == pytest.approx(row["gigaflop"] / row["gigaflop_per_second"])


def test_arithmetic_grows_with_the_pixels() -> None:
    net = make_network(TINY)
    assert tile.count_flop(net, 128) == pytest.approx(4 * tile.count_flop(net, 64), rel=0.01)


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read as Linux tells it")
def test_the_memory_of_a_forward_pass_is_measured() -> None:
    assert 1 < tile.measure_peak(TINY, 256)["megabytes"] < 1500


@pytest.mark.long
def test_training_steps_are_measured() -> None:
    rows = train.run(steps=2, config=TINY, batch=2, side=64)
    check(rows)
    assert bars(rows) == {"ratio at least 4", "difference at most 0.001"}
    assert rows[-1]["kept"]
    assert 0 < rows[-2]["difference"] < 0.01  # a rounding apart is apart
    for row in rows[:2]:
        assert row["other_seconds"] == pytest.approx(row["gigaflop"] / row["gigaflop_per_second"])


def test_every_kernel_trains_on_the_same() -> None:
    first, again, other = (train.make_batch(TINY, 2, 64, step) for step in (0, 0, 1))
    assert first.optical.shape == (2, 3, 64, 64)
    assert first.sar.shape == (2, 2, 64, 64)
    assert first.optical.equal(again.optical)
    assert first.labels.equal(again.labels)
    assert not first.optical.equal(other.optical)
    assert 0 < int(first.labels.min()) <= int(first.labels.max()) < TINY.classes


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux tells it")
def test_crops_are_measured(tmp_path: Path) -> None:
    rows = crops.run(512, steps=20, rounds=1, folder=tmp_path)
    check(rows)
    assert bars(rows) == {
        "seconds at most 5", "per_second at least 400", "megabytes at most 20", "ratio at most 1.1",
        "difference at most 0",
    }  # fmt: skip
    assert rows[-1]["kept"]
    for row in rows[1:3]:
        assert row["per_second"] == pytest.approx(1 / row["seconds"])


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read as Linux tells it")
def test_a_small_scene_is_measured(tmp_path: Path) -> None:
    rows = scene.measure_free(tmp_path, 512, repeats=1)
    check(rows)
    assert bars(rows) == {"ratio at most 2", "megabytes at most 2000"}
    assert 0 < rows[1]["megabytes"] < 2000


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read as Linux tells it")
def test_a_small_fetch_is_measured() -> None:
    for library in ("odc.stac", "pystac_client"):
        pytest.importorskip(library)
    if not RUSTAC:
        pytest.skip("rustac is not installed")
    rows = fetch.run(size=1200)
    check(rows)
    assert bars(rows) == {"megabytes at most 2000", "ratio at most 1.1"}
    assert rows[0]["same_pixels"]
    assert 1 <= rows[2]["ratio"] < 1.1
    assert rows[3]["ratio"] > rows[2]["ratio"]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read as Linux tells it")
def test_what_a_prediction_takes_is_held_to_what_it_reckons_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(memory.ROWS, "default", 64)
    rows = memory.run(widths=[128], batches=[1], threads=[2], networks=["default"])
    check(rows)
    name = "default, 128 wide, batch 1, threads 2"
    assert {row["what"].removeprefix("least: ") for row in rows} == {name, f"{name}, first run"}
    assert bars(rows) == {"ratio at most 1", f"ratio at least {memory.LEAST}"}
    for row in rows:
        assert row["over"] == "reckoned"
        assert row["ratio"] == pytest.approx(row["megabytes"] / row["other_megabytes"])
    assert all(row["kept"] for row in rows)


@pytest.mark.long
def test_published_weights_are_made_to_be_predicted_with(tmp_path: Path) -> None:
    path = memory.published_weights(tmp_path)
    card = read_card(path)
    assert (card.network.encoder, card.network.width, card.network.msie) == ("resnet50", 128, True)
    assert path.stat().st_size > 100 * 2**20


@pytest.mark.long
def test_the_network_alone_is_measured(tmp_path: Path) -> None:
    row = scene.measure_network(tmp_path, 256, repeats=1)
    check([row])
    assert bars([row]) == {"ratio at most 1.15"}


@pytest.mark.long
def test_start_up_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here without the processes that are what takes the time."""
    codes = []

    def run_here(command: list[str], **how: object) -> None:
        assert command[:3] == [sys.executable, "-m", "refnet_cli"]
        codes.append(cli.run(command[3:]))

    monkeypatch.setattr(scene.subprocess, "run", run_here)
    row = scene.measure_start(tmp_path, repeats=2)
    assert codes == [0, 0, 0]
    check([row])
    assert bars([row]) == {"seconds at most 6"}


SMALL = variants.Budget(steps=2, batch=2, width=8, forest_pixels=200)


def count(net: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in net.modules())


def look(variant: str, optical: float = 0.0, sar: float = 0.0) -> Tensor:
    """What a variant makes of a fixed pair of images, one of them perhaps brightened."""
    torch.manual_seed(0)
    net = variants.NETWORKS[variant](SMALL.network).eval()
    images = torch.randn(2, 6, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits: Tensor = net(images[:, :4] + optical, images[:, 4:] + sar).logits
    return logits


@pytest.mark.parametrize("variant", variants.NETWORKS)
def test_each_network_classifies_by_the_sensors_it_may_see(variant: str) -> None:
    logits = look(variant)
    assert logits.shape == (2, 10, 64, 64)
    assert look(variant, optical=1.0).equal(logits) is (variant == "sar-only")
    assert look(variant, sar=1.0).equal(logits) is (variant == "optical-only")


@pytest.mark.parametrize(
    ("variant", "msie", "mdf", "vss"),
    [("refnet", 2, 5, 15), ("no-msie", 0, 5, 15), ("no-difference", 2, 5, 10), ("concatenation", 0, 0, 5),
     ("optical-only", 2, 5, 15), ("sar-only", 2, 5, 15), ("unet", 0, 0, 0)],
)  # fmt: skip
def test_each_network_has_the_parts_it_should_have(variant: str, msie: int, mdf: int, vss: int) -> None:
    net = variants.NETWORKS[variant](SMALL.network).train()
    assert (count(net, MSIEDecoder), count(net, MDFVSSBlock), count(net, VSSBlock)) == (msie, mdf, vss)
    prediction = net(torch.randn(2, 4, 64, 64), torch.randn(2, 2, 64, 64))
    assert (prediction.optical_logits is not None) is (msie > 0)


def test_without_difference_what_both_share_is_fused() -> None:
    block = variants.without_difference(SMALL.network).mdf_blocks[0].eval()
    assert not list(block.difference_vss.parameters())
    share, difference, fused = block(torch.randn(1, 8, 16, 16), torch.randn(1, 8, 16, 16))
    assert not difference.any()
    assert fused.equal(block.fuse(share))


def test_an_encoder_that_sees_nothing_keeps_its_statistics() -> None:
    net = variants.OneSensor(SMALL.network, "sar").train()
    assert net.optical_encoder.training
    assert not net.sar_encoder.training
    assert net.head.training


def make_place(name: str, *classes: int, width: int = 202) -> folds.Scene:
    """Stripes of classes, 70 pixels high; all bands are the number of the class."""
    labels = np.resize(np.repeat(np.array(classes, np.uint8), 70), (70 * len(classes), 1)).repeat(width, 1)
    brightness = labels.astype(np.float32)
    return folds.Scene(name, np.stack([brightness] * 4), np.stack([brightness] * 2), labels)


def test_a_place_that_is_tested_is_never_learned_from() -> None:
    places = [make_place("a", 1, 2), make_place("b", 2, 4), make_place("c", 1, 4, 5), make_place("snow", 7)]
    made = list(folds.hold_out_places(places))
    assert [fold.name for fold in made] == ["a", "b", "c"]  # nobody else could teach snow
    for fold in made:
        assert [scene.name for scene in fold.tested] == [fold.name]
        assert {scene.name for scene in fold.training} == {"a", "b", "c", "snow"} - {fold.name}
        pixels = np.concatenate([scene.sar[0].ravel() for scene in fold.training])
        np.testing.assert_allclose((pixels.mean(), pixels.std()), (0, 1), atol=1e-5)
    assert np.unique(made[2].tested[0].labels).tolist() == [0, 1, 4]  # nor class 5


def test_columns_that_are_tested_lie_behind_a_gap() -> None:
    place = make_place("a", 1, 2, width=224)
    columns = np.broadcast_to(np.arange(224, dtype=np.float32), place.labels.shape)
    fold = folds.hold_out_columns([place._replace(optical=np.stack([columns] * 4))])
    (training,), (tested,) = fold.training, fold.tested
    numbers = np.arange(130)
    assert (training.labels.shape[1], tested.labels.shape[1]) == (130, 86)
    np.testing.assert_allclose(training.optical[0, 0], (numbers - numbers.mean()) / numbers.std(), rtol=1e-5)
    np.testing.assert_allclose(tested.optical[0, 0, 0], (138 - numbers.mean()) / numbers.std(), rtol=1e-5)


def test_crops_are_the_same_for_all_and_keep_together() -> None:
    scenes = [make_place("a", 1, 2), make_place("b", 2, 4)]
    first, again, other = (variants.draw_batch(scenes, SMALL, 0, step) for step in (0, 0, 1))
    assert first.optical.shape == (2, 4, 64, 64)
    assert first.sar.shape == (2, 2, 64, 64)
    assert first.optical[:, 0].equal(first.labels.float())
    assert first.labels.equal(again.labels)
    assert not first.labels.equal(other.labels)


@pytest.mark.parametrize("variant", ["refnet", "forest"])
def test_any_size_of_scene_is_classified_whole(variant: str) -> None:
    place = make_place("a", 1, 2, width=71)
    predicted = variants.VARIANTS[variant]([place], SMALL, 0).predict(place)
    assert predicted.shape == (140, 71)
    assert predicted.min() > 0
    if variant == "forest":
        assert (predicted == place.labels).mean() > 0.98


@pytest.mark.long
def test_learning_goes_on_where_it_was_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(4):
        name_classes(make_labelled_scene(tmp_path / "made" / f"scene-{seed}", seed=seed).labels)
    output = tmp_path / "runs.json"
    command = ["learning", "--data", str(tmp_path / "made"), "--output", str(output), "--steps", "2"]
    main([*command, "--only", "no-msie", "--seeds", "0"])
    capsys.readouterr()
    main([*command, "--only", "no-msie", "unet", "--seeds", "0", "1"])
    captured = capsys.readouterr()
    runs = json.loads(output.read_text())
    names = [(run["variant"], run["seed"]) for run in runs]
    assert names == [("no-msie", 0), ("unet", 0), ("no-msie", 1), ("unet", 1)]
    assert captured.err.count("held-out scenes") == 3
    assert {run["steps"] for run in runs} == {2}
    monkeypatch.setattr(learning, "VARIANTS", {})  # nothing is left to be done
    main([*command, "--only", "no-msie", "unet", "--seeds", "0", "1"])
    document = json.loads(capsys.readouterr().out)
    assert document["settings"]["data"] == ["made"]
    assert [row["variant"] for row in document["results"]] == ["no-msie", "unet"]
    assert learning.to_table(document["results"]) in captured.err


def test_places_are_read_and_split(tmp_path: Path) -> None:
    folder = tmp_path / "real"
    for kind in ("S2L2A", "S1RTC", "LULC"):
        (folder / kind).mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, classes in (("a", (1, 2)), ("b", (2, 4))):
        labels = make_place(name, *classes).labels[35:105]
        sar = random.normal(-10, 3, (2, *labels.shape)) - np.array([0, 6])[:, None, None]
        optical = random.integers(100, 3000, (12, *labels.shape))
        write(folder / "S2L2A" / f"{name}.tif", optical.astype(np.int16), ("bands",) * 12, nodata=None)
        write(folder / "S1RTC" / f"{name}.tif", sar, ("bands",) * 2, nodata=None)
        write(folder / "LULC" / f"{name}.tif", labels[None], ("labels",), nodata=None)
    places, columns = folds.find_data_sets(folder)
    assert (places.name, columns.name) == ("real: places", "real: columns")
    assert [fold.name for fold in places.folds] == ["a", "b"]
    assert [scene.name for scene in columns.folds[0].tested] == ["a", "b"]
    with pytest.raises(InputMissingError, match="neither"):
        list(folds.find_data_sets(tmp_path))


def test_scores_are_those_of_all_folds_together() -> None:
    matrix = np.zeros((9, 9), int)
    matrix[0, :2], matrix[1, 1], matrix[1, 4] = (3, 1), 3, 1
    run = {"data_set": "d", "variant": "v", "seed": 0, "parameters": None, "seconds": 1.0}
    halves = [run | {"confusion_matrix": half.tolist()} for half in (matrix // 2, matrix - matrix // 2)]
    accuracy, mean_iou = learning.judge(halves)
    assert accuracy == pytest.approx(6 / 8)
    assert mean_iou == pytest.approx((3 / 4 + 3 / 5) / 2)  # a class that is nowhere, but was predicted, is not one
    (row,) = learning.summarise([*halves, *(half | {"seed": 1} for half in halves)])
    assert (row["seeds"], row["seconds"], row["mean_iou_spread"]) == (2, 2.0, 0.0)
    assert learning.to_table([row]).splitlines()[-1] == "| v | 0.750 ± 0.000 | 0.675 ± 0.000 |  | 2 | 2 |"


def test_another_budget_is_another_run() -> None:
    task = learning.Task("d", folds.Fold("f", [], []), "v", 0, SMALL)
    runs = [task.key | {"seconds": 1.0}]
    assert learning.find_run(runs, task) == runs[0]
    assert learning.find_run(runs, task._replace(budget=replace(SMALL, steps=3))) is None


@pytest.mark.long
@pytest.mark.parametrize("variant", few(["scan torch", "onnx cpu"], "onnx cpu"))
def test_ways_to_predict_are_measured_beside_the_plain_one(variant: str) -> None:
    rows = gpu.measure_tiles("default", variant, "cpu", 2, 1)
    check(rows)
    (row,) = rows
    assert variant in row["what"]
    assert (row["over"], row["batch_held"], row["same_class"]) == ("fp32", min(2, row["batch_held"]), 1)
    assert 0 < row["apart"] < 1e-3
    assert row["first_seconds"] > 0


def test_one_kernel_is_measured() -> None:
    rows = gpu.measure_kernel("cpu", "cpu", [5], 1)
    check(rows)
    assert [row["what"] for row in rows] == ["level 5, cpu forward", "level 5, cpu forward+backward"]


@pytest.mark.long
def test_what_fails_costs_one_row() -> None:
    rows = gpu.measure_in_child("tiles", network="default", variant="bf16", device="cpu", batch=1, repeats=1)
    assert [row["what"] for row in rows] == ["tiles: default, bf16, cpu, 1, 1"]
    assert "Precision bf16 is for GPUs" in rows[0]["failed"]
    assert "failed: exit code 1" in report.to_table(rows)


@pytest.mark.long
def test_whole_predictions_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here without processes."""

    def run_here(command: list[str], **how: object) -> SimpleNamespace:
        assert command[:3] == [sys.executable, "-m", "refnet_cli"]
        return SimpleNamespace(returncode=cli.run(command[3:]), stderr="")

    monkeypatch.setattr(gpu.subprocess, "run", run_here)
    rows = gpu.measure_scene("onnx cpu", "cpu", 128, 1)
    check(rows)
    assert rows[0]["what"] == "predict, 128 x 128, onnx cpu"
    assert rows[0]["same_class"] > 0.999
    with pytest.raises(RuntimeError, match="ended with 64"):
        gpu.measure_scene("bf16", "cpu", 128, 1)


def test_all_gpus_are_measured_and_all_is_in_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which GPUs there are is pretended, and nothing is measured."""
    plans: list[dict[str, object]] = []

    def note(measure: str, **settings: object) -> list[Row]:
        plans.append({"measure": measure} | settings)
        return [compare(measure, 1.0, "fp32", 2.0)]

    monkeypatch.setattr(gpu, "measure_in_child", note)
    monkeypatch.setattr(gpu, "_run_command", lambda *command: {"exit_code": 0, "stdout": [command[0]], "stderr": []})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    main(["gpu", "--networks", "default", "--batches", "4", "--repeats", "1"])
    document = json.loads(capsys.readouterr().out)
    assert document["doctor"]["exit_code"] == 0
    assert document["installed"]["numpy"] == document["versions"]["numpy"]
    assert len(document["results"]) == len(plans)
    assert [plan["devices"] for plan in plans if plan["measure"] == "devices"] == ["cuda:0,cuda:1"]
    kernels = {name for name, missing in available_scans("cuda").items() if missing is None}
    assert {plan["kernel"] for plan in plans if plan["measure"] == "kernel"} == kernels >= {"loop", "torch"}
    tried = {str(plan["variant"]) for plan in plans if plan["measure"] == "tiles"}
    assert {"fp32", "bf16", "fp16", "bf16 compiled", "onnx cuda", "onnx tensorrt"} < tried
    assert not {"deterministic", "onnx cpu"} & tried
    assert {plan["size"] for plan in plans if plan["measure"] == "scene"} == {None, gpu.SIZE}
