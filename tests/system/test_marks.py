"""Files of refnet are known by what they carry, and nothing else is taken for one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
import shapely
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from refnet_cli.batch.sidecar import write_sidecar as write_task_sidecar
from refnet_cli.batch.task import Task
from refnet_cli.errors import OutputError
from refnet_cli.outputs import OUTPUTS
from refnet_cli.outputs.base import write_sidecar
from refnet_cli.outputs.block_file import Shard
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.journal import Journal
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.plots import draw_confusion, draw_curves
from refnet_cli.prediction.options import PredictOptions
from refnet_cli.system.marks import check_replaceable, is_refnet_output
from refnet_cli.training.history import History, HistoryFiles, Step
from tests.helpers.scenes import PLACE, make_pair
from tests.helpers.small_models import write_model
from tests.outputs.test_outputs import DATES, SCHEME, TAGS, feed, random_codes, utm_grid, write_map

GRID, CODES = utm_grid(60, 53), random_codes(60, 53)
FACTS = {"version": "1.2.3", "weights": {"name": "w", "sha256": "0" * 64}}
PLACES = [(kind, ending) for kind, what in OUTPUTS.items() for ending in what.suffixes]


def make_output(kind: str, path: Path, map: Path) -> list[Path]:
    """Write an output as a prediction does, and return all its files."""
    output = OUTPUTS[kind].make(path, MapContext(map, GRID, SCHEME, TAGS, acquired=DATES))
    feed(output, CODES, [])
    output.complete({"files": {}} | ({"version": "1.2.3"} if kind == "stac" else {}))
    output.finish()
    return output.files


@pytest.mark.parametrize(("kind", "ending"), PLACES)
def test_every_file_of_every_output_is_known(kind: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"map{ending}"
    made = make_output(kind, path, tmp_path / "map.tif")
    assert made == [path, *OUTPUTS[kind].companions(path, tmp_path / "map.tif")]
    for file in made:
        assert is_refnet_output(file), file
        with file.open("ab") as changed:
            changed.write(b"\0\0 something else")
        renamed = file.rename(tmp_path / "renamed.bin")
        file.write_text("notes of mine")
        assert not is_refnet_output(file)
        renamed.unlink()


def test_files_besides_outputs_are_known(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, 8, 8)
    map = write_map(tmp_path / "map.tif", GRID, CODES)
    write_sidecar(map, "0" * 64)
    write_task_sidecar(map, "0" * 16, [], {"report": {"version": "1.2.3"}})
    task = Task(PredictOptions(*pair, map), id="0" * 16)
    (tmp_path / "tasks.jsonl").write_text(f"{task.to_line()}\n{task.to_line()}\n")
    history = History([Step(1, 0.5, 0.25, 1e-4)])
    with closing(HistoryFiles(tmp_path, history)) as files:
        scores = dict.fromkeys(("overall_accuracy", "balanced_accuracy", "mean_iou", "mean_f1", "kappa"), 0.5)
        files.add_validation({"step": 1, "iou": {"a, b": 0.5}} | scores)
    draw_curves(tmp_path / "curves.png", [(1, 0.5)], [])
    draw_confusion(tmp_path / "confusion.png", np.ones((2, 2), int), ["a", "b"])
    write_model(tmp_path / "small.onnx")
    with closing(Journal(tmp_path / "journal", {}, {"codes": (np.uint8, 1)})):
        pass
    look = Quicklook(*GRID.shape, ("B04",), ("VV",))
    context = MapContext(tmp_path / "map.tif", GRID, SCHEME, TAGS, look=look)
    with Shard(tmp_path / "block.shard", context, ("codes",)) as shard:
        feed(shard, CODES, [])
    for file in filter(Path.is_file, tmp_path.iterdir()):
        assert is_refnet_output(file) == (file not in pair), file


def raster(path: Path) -> None:
    with rasterio.open(path, "w", driver="GTiff", dtype="uint8", count=1, height=4, width=4, transform=PLACE) as file:
        file.write(np.ones((1, 4, 4), np.uint8))


def cog(path: Path) -> None:
    raster(path.with_suffix(".plain"))
    rasterio.shutil.copy(path.with_suffix(".plain"), path, driver="COG")


def copy_of_a_map(path: Path) -> None:
    write_map(path.with_suffix(".plain"), GRID, CODES)
    rasterio.shutil.copy(path.with_suffix(".plain"), path, driver="GTiff")
    with rasterio.open(path) as file:
        assert "REFNET_VERSION" in file.tags()


def painted_map(path: Path) -> None:
    write_map(path, GRID, CODES)
    assert is_refnet_output(path)
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.write(np.ones((1, 60, 53), np.uint8))


def layer(path: Path, name: str = "fields", append: bool = False) -> None:
    box = np.array([shapely.to_wkb(shapely.box(0, 0, 1, 1))], object)
    pyogrio.raw.write(
        path, box, [np.array([1])], ["a"], layer=name, geometry_type="Polygon", crs="EPSG:4326", append=append
    )


def polygons_with_another_layer(path: Path) -> None:
    make_output("polygons", path, path)
    assert is_refnet_output(path)
    layer(path, "mine", append=True)


def edited_polygons(path: Path) -> None:
    make_output("polygons", path, path)
    assert is_refnet_output(path)
    _, _, shapes, values = pyogrio.raw.read(path, max_features=1)
    fields_ = pyogrio.read_info(path)
    pyogrio.raw.write(
        path, shapes, values, list(fields_["fields"]), layer=fields_["layer_name"], geometry_type="Polygon",
        crs=fields_["crs"], driver="GPKG", append=True,
    )  # fmt: skip


def extended_table(path: Path) -> None:
    make_output("areas", path, path)
    with path.open("a") as file:
        file.write("my notes,a,b,c\n")


def text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


FOREIGN: dict[str, tuple[str, Callable[[Path], None]]] = {
    "raster": (".tif", raster),
    "cloud optimized raster": (".tif", cog),
    "copy of a map": (".tif", copy_of_a_map),
    "map that was painted on": (".tif", painted_map),
    "picture": (".png", lambda path: Image.new("RGB", (3, 3)).save(path)),
    "GeoPackage": (".gpkg", layer),
    "GeoPackage with another layer": (".gpkg", polygons_with_another_layer),
    "GeoPackage with edited polygons": (".gpkg", edited_polygons),
    "FlatGeobuf": (".fgb", layer),
    "table with notes": (".csv", extended_table),
    "table": (".csv", text("a,b\n1,2\n")),
    "table of areas by another program": (".csv", text("class_code,class_name,area\n1,Water,2\n")),
    "JSON": (".json", text('{"tags": {"a": 1}, "files": [], "id": 1}')),
    "list": (".json", text("[1, 2]")),
    "list of tasks of another program": (".jsonl", text('{"id": 1, "output": "x"}\n{"id": 2}\n')),
    "GeoJSON": (".geojson", text('{"type": "FeatureCollection", "features": []}')),
    "STAC Item": (".json", text('{"type": "Feature", "properties": {"processing:software": {"other": "1"}}}')),
    "style": (".qml", text('<qgis version="3.22"><pipe/></qgis>')),
    "statistics": (".aux.xml", text("<PAMDataset><PAMRasterBand band='1'/></PAMDataset>")),
    "page": (".html", text("<!DOCTYPE html><html><head><title>refnet</title></head></html>")),
    "page that tells of refnet": (".html", text("<!DOCTYPE html><p>REFNET_VERSION refnet</p>")),
    "checksums": (".sha256", text(f"{'0' * 64}  a.tif\n{'1' * 64}  b.tif\n")),
    "weights": (".safetensors", lambda path: save_file({"a": np.ones(3)}, path)),
    "arrays": (".npz", lambda path: np.savez(path, a=np.ones(3))),
    "notes": (".txt", text("REFNET_VERSION is what I look for.\n")),
    "line feed": (".txt", text("\n")),
    "deep JSON": (".json", text('{"a":' * 100_000)),
}


@pytest.mark.parametrize(("ending", "make"), FOREIGN.values(), ids=FOREIGN)
def test_files_of_others_are_never_replaced_unasked(
    ending: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / f"mine{ending}"
    make(path)
    with pytest.raises(OutputError, match=r"mine\S* would be replaced.*--overwrite"):
        check_replaceable([None, path], overwrite=False)
    check_replaceable([None, path], overwrite=True)


@given(content=st.binary(min_size=1, max_size=200), begin=st.sampled_from([
    b"", b"II*\0", b"II+\0\x08\0\0\0", b"MM\0*", b"\x89PNG\r\n\x1a\n", b"SQLite format 3\0", b"fgb\3fgb\1", b"PAR1",
    b"PK\3\4", b"{", b"<", b"\x08\x08", b"\x10\0\0\0\0\0\0\0{", b"step,loss,auxiliary_loss,learning_rate\n",
]))  # fmt: skip
def test_any_bytes_are_no_output(content: bytes, begin: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(begin + content)
    assert is_refnet_output(path) is False


def test_many_files_are_listed_and_counted(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abcde"]
    for file in files:
        file.write_text("x")
    with pytest.raises(OutputError, match=r"/a, .*/b, .*/c and 2 more would be replaced"):
        check_replaceable(files, overwrite=False)


def test_empty_files_and_what_is_no_file_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    check_replaceable([tmp_path / "empty", tmp_path / "folder", tmp_path / "missing", Path("/dev/null")], False)


def test_tables_that_others_extended_are_told_apart_by_their_cells(tmp_path: Path) -> None:
    path, _ = make_output("areas", tmp_path / "areas.csv", tmp_path / "map.tif")
    lines = path.read_text().splitlines()
    for changed in ([*lines, "see my notes"], [*lines, "x,Water,1,1"], [f"{lines[0]},note", *lines[1:]]):
        path.write_text("\n".join(changed))
        assert not is_refnet_output(path)
    assert json.loads(path.with_suffix(".json").read_text())["tags"] == TAGS
