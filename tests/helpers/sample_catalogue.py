"""The sample scene as a catalogue serves it, for the notebook in docs/tutorials.

    python -m tests.helpers.sample_catalogue        # writes STAC_URL=... and serves until Ctrl-C
    python -m tests.helpers.sample_catalogue --write   # executes the notebook again and keeps what it showed
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from shapely.geometry import mapping

from tests.helpers.stac_items import COG, Json, item, lonlat, write_cog
from tests.helpers.stac_servers import catalogue, store

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "tutorials" / "notebook.ipynb"
EPSG = 32722
OFFSET = 1000
"""What baselines from 04.00 on add to stored values."""


def sample_items(folder: Path, url: str) -> list[Json]:
    """Write the bands of the sample scene as files of their own, and return its two Items as on Planetary Computer.

    Sentinel-2 gets the offset of baseline 05.10 and Sentinel-1 is in power, as they are there.
    """
    with rasterio.open(ROOT / "sample_data" / "s2.tif") as file:
        stored, names, place, bounds = file.read(), file.descriptions, file.transform, tuple(file.bounds)
        grid = {"crs": file.crs, "transform": place, "height": file.height, "width": file.width}
    optical = dict(zip(names, np.where(stored > 0, stored + OFFSET, 0).astype(np.uint16), strict=True))
    with rasterio.open(ROOT / "sample_data" / "s1.tif") as file, WarpedVRT(
        file, resampling=Resampling.bilinear, **grid
    ) as warped:
        power = warped.read()
    sar = dict(zip(("vv", "vh"), np.where(np.isnan(power), -32768, power).astype(np.float32), strict=True))
    around = lonlat(bounds, EPSG)
    geometry = {"geometry": mapping(around), "bbox": list(around.bounds)}

    def assets(bands: dict[str, NDArray[Any]], nodata: float) -> Json:
        found = {}
        for name, band in bands.items():
            write_cog(folder / f"{name}.tif", band, place, EPSG, nodata)
            described = {"nodata": nodata, "data_type": str(band.dtype), "spatial_resolution": 10}
            found[name] = {"href": f"{url}/{name}.tif", "type": COG, "roles": ["data"], "raster:bands": [described],
                           "proj:shape": list(band.shape), "proj:transform": list(place)[:6]}  # fmt: skip
        return found

    place_of = {"proj:code": f"EPSG:{EPSG}", "proj:epsg": EPSG}
    seen = {"datetime": "2022-03-18T13:32:21Z", "s2:processing_baseline": "05.10", "eo:cloud_cover": 0.0}
    passed = {"datetime": "2022-03-17T08:55:02Z", "sat:orbit_state": "descending", "sat:relative_orbit": 68}
    return [
        item("sample-s2", "sentinel-2-l2a", seen | place_of, assets(optical, 0), geometry),
        item("sample-s1", "sentinel-1-rtc", passed | place_of, assets(sar, -32768), geometry),
    ]


@contextmanager
def sample_catalogue(folder: Path) -> Iterator[str]:
    """Serve the sample scene and yield the address of the catalogue."""
    with store(folder / "files") as files, catalogue(
        sample_items(folder / "files", files.url), folder / "catalogue"
    ) as front:
        yield front.url


def execute(url: str, folder: Path) -> Any:
    """Run the notebook in an empty folder against a catalogue, and return it with what it showed."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(NOTEBOOK, as_version=4)
    before = os.environ.get("STAC_URL")
    os.environ["STAC_URL"] = url
    try:
        place = {"metadata": {"path": str(folder)}}
        NotebookClient(book, timeout=300, kernel_name="python3", resources=place).execute()
    finally:
        os.environ.pop("STAC_URL")
        if before is not None:
            os.environ["STAC_URL"] = before
    return book


def plain(book: Any) -> Any:
    """Leave out what differs from machine to machine: times, paths in warnings and in texts that stand beside HTML."""
    book.metadata = {"kernelspec": book.metadata["kernelspec"], "language_info": {"name": "python"}}
    for cell in book.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
            for each in cell.outputs:
                if "text/html" in each.get("data", {}):
                    each["data"].pop("text/plain", None)
    return book


def main() -> None:
    """Serve, or write the notebook again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="execute the notebook and keep what it showed")
    with tempfile.TemporaryDirectory() as folder, sample_catalogue(Path(folder)) as url:
        if parser.parse_args().write:
            import nbformat

            book = execute(url, Path(folder))
            nbformat.write(plain(book), NOTEBOOK)
        else:
            sys.stderr.write(f"export STAC_URL={url}\n")
            while True:
                time.sleep(60)


if __name__ == "__main__":
    main()
