"""The notebook of the docs runs from a catalogue to a map, and what it shows is what its cells make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tests.helpers.sample_catalogue import NOTEBOOK, ROOT, execute, sample_catalogue
from tests.helpers.stac_servers import RUSTAC

CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_it_was_executed_from_top_to_bottom() -> None:
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    kinds = {output["output_type"] for cell in CODE for output in cell["outputs"]}
    assert "error" not in kinds
    assert "image/png" in json.dumps(CODE)
    assert str(Path.home()) not in json.dumps(CELLS)
    assert "site-packages" not in json.dumps(CELLS)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # the code of rasterio, with affine 3
def test_it_maps_what_a_catalogue_serves(tmp_path: Path) -> None:
    for name in ("nbclient", "ipykernel", "odc.stac", "dask.array", "pystac_client", "matplotlib"):
        pytest.importorskip(name)
    if not RUSTAC:
        pytest.skip("rustac is not installed")
    with sample_catalogue(tmp_path) as url:
        book = execute(url, tmp_path)
    shown = [cell["outputs"] for cell in book.cells if cell.cell_type == "code"]
    text = "".join(output.get("text", "") for outputs in shown for output in outputs)
    assert "2022-03-18" in text
    assert "Crops" in text
    assert "differs from the training data" not in text  # units and offset are right
    with rasterio.open(tmp_path / "lulc.tif") as file, rasterio.open(ROOT / "sample_data" / "labels.tif") as truth:
        codes = file.read(1)
        assert file.crs == truth.crs
        labels = truth.read(1, window=truth.window(*file.bounds), boundless=True, fill_value=0)
    assert labels.shape == codes.shape
    known = (labels > 0) & (codes > 0)
    assert known.mean() > 0.9
    assert np.mean(labels[known] == codes[known]) > 0.45
