"""What refnet makes of the sample scene and of ten real pairs, as hashes; and the record of them.

    python -m tests.helpers.record_results

makes ``tests/golden/results.json``, which `tests.project.test_recorded_results` compares with. Run it after a change of
results that is intended, and say in the commit which items changed and why. It needs ``../shared/data``.

Everything is made by the command line in processes of one thread, with a small network that is trained first. Replaced
before hashing are the version of refnet, the checksum of the weights, whose card holds the version, and checksums and
sizes of whole files, which areas, reports and STAC Items state of the others. No result holds a time or the path of a
folder.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import Affine

from refnet_cli import __version__

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
SAMPLE = ROOT / "sample_data"
SIZES = re.compile(rb'(?<="file:size": )\d+|(?<=<bdi>)[\d,]+(?=</bdi></td><td><bdi>map)')
"""Sizes of files, in STAC Items and in reports, where checksums have become names."""
CHECKSUM = "REFNET_CHECKSUM"  # a map's tag, which depends on its pixels
RECORD = ROOT / "tests" / "golden" / "results.json"

KINDS = (
    "probabilities", "confidence", "quality", "preview", "polygons", "areas", "style", "report", "stac",
)  # fmt: skip
REGIONS = f"""
name = "tiny"
scheme = "esri-io"
encoder = "test_efficientnet"
width = 8
steps = 15
batch = 4
crop = 64
tile = 64
block = 1280
validation_share = 0.1
validate_every = 15
learning_rate = 1e-2
modality_dropout = 0.3
device = "cpu"

[[scenes]]
name = "sample"
optical = "{SAMPLE / "s2.tif"}"
sar = "{SAMPLE / "s1.tif"}"
labels = "{SAMPLE / "labels.tif"}"
"""
"""Regions file of the network; the sensors are left out in turn, so that each suffices alone."""

OPTICAL = ("--optical", SAMPLE / "s2.tif")
SAR = ("--sar", SAMPLE / "s1.tif")
CORNER = ("--bounds", "244160,6202220,246720,6204780")  # 256 x 256 pixels, some of which one sensor or none saw
SAMPLES: dict[str, tuple[object, ...]] = {
    "sample": (*OPTICAL, *SAR),
    "sample tta": (*OPTICAL, *SAR, *CORNER, "--tta"),
    "sample smooth": (*OPTICAL, *SAR, *CORNER, "--smooth", 2),
    "sample threshold": (*OPTICAL, *SAR, *CORNER, "--threshold", 0.3),
    "sample scheme": (*OPTICAL, *SAR, *CORNER, "--scheme", "worldcover"),
    "sample missing": (*OPTICAL, "--sar", "hole.tif", *CORNER, "--missing", "use-other"),
    "sample coreg": (*OPTICAL, "--sar", "moved.tif", *CORNER, "--coreg", "auto"),
    "sample optical alone": (*OPTICAL, *CORNER),
    "sample SAR alone": (*SAR, "--grid", SAMPLE / "s2.tif", *CORNER),
}
"""Words of ``refnet predict`` by the name of the result; relative paths are those of `make_inputs`."""
STRIP = ("--bounds", "239040,6202220,246720,6204780")  # 768 x 256 pixels, which blocks of 512 divide

TERRAMIND = (
    ("S2L2A", "282D_485L_3_3"), ("S2L2A", "433D_629L_3_1"), ("S2L1C", "38D_378R_2_3"), ("S2L1C", "609U_541L_3_0"),
)  # fmt: skip
EARTHNET = {
    "S2A_MSIL2A_20170613T101031_87_48": "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48",
    "S2B_MSIL2A_20180204T94161_57_38": "S1A_IW_GRDH_1SDV_20180204T043253_35VPK_57_38",
}
SSL4EO = {
    "s2a/0000200/20200813T054639_20200813T054952_T43RCP":
        "s1/0000200/S1A_IW_GRDH_1SDV_20200903T131212_20200903T131237_034195_03F8F5_AC1C",
    "s2c/0000200/20200604T054639_20200604T054831_T43RCP":
        "s1/0000200/S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457",
}  # fmt: skip
PLACES = ("de_bavaria", "fi_35VLG_58_44_20180413")


def _real_pairs() -> Iterator[tuple[str, Path, Path]]:
    for level, place in TERRAMIND:
        folder = DATA / "terramind"
        yield f"terramind {level} {place}", folder / level / f"{place}.tif", folder / "S1RTC" / f"{place}.tif"
    for optical, sar in EARTHNET.items():
        images, radar = (DATA / "bigearthnet" / f"BigEarthNet-{sensor}-Example" for sensor in ("S2", "S1"))
        yield f"bigearthnet {optical}", images / optical, radar / sar
    for optical, sar in SSL4EO.items():
        folder = DATA / "ssl4eo"
        yield f"ssl4eo {optical[:3]} {folder.joinpath(optical).name}", folder / optical, folder / sar
    for place in PLACES:
        folder = DATA / "places" / place
        yield f"places {place}", folder / "s2.tif", folder / "s1.tif"


PAIRS = {name: ("--optical", optical, "--sar", sar) for name, optical, sar in _real_pairs()}
"""Words of ``refnet predict`` for real scenes."""


def machine() -> dict[str, str]:
    """What the last bits of results depend on: the processor's instructions and the versions of libraries."""
    import torch
    from llvmlite import binding

    libraries = (
        "torch", "numpy", "scipy", "numba", "timm", "rasterio", "pyproj", "shapely", "odc-geo", "pyogrio", "pillow",
        "onnx", "onnxscript", "onnxruntime",
    )  # fmt: skip
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": binding.get_host_cpu_name(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "GDAL": rasterio.__gdal_version__,
        **{name: version(name) for name in libraries},
    }


def refnet(folder: Path, *words: object) -> None:
    """Run refnet in a folder, in one thread.

    Raises
    ------
    RuntimeError
        If it fails.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REFNET_")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "refnet_cli", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"refnet {' '.join(map(str, words))} ended with {done.returncode}: {done.stderr}")


def make_inputs(folder: Path) -> None:
    """Write what the commands read besides the sample scene: a regions file, SAR with a hole, SAR that was moved."""
    (folder / "regions.toml").write_text(REGIONS)
    for name in ("hole.tif", "moved.tif"):
        shutil.copyfile(SAMPLE / "s1.tif", folder / name)
    with rasterio.open(folder / "hole.tif", "r+") as raster:
        raster.write(np.full((2, 60, 80), np.nan, np.float32), window=((100, 160), (550, 630)))
    with rasterio.open(folder / "moved.tif", "r+") as raster:
        raster.transform @= Affine.translation(2, -1)


def train(folder: Path) -> dict[str, str]:
    """Train the network on the sample scene, and return the losses of each step and a hash of the tensors."""
    from safetensors.numpy import load_file

    make_inputs(folder)
    refnet(folder, "train", "regions.toml", "-o", "training")
    with (folder / "training" / "steps.csv").open(encoding="utf-8") as file:
        losses = {f"step {row['step']}": f"{row['loss']} {row['auxiliary_loss']}" for row in csv.DictReader(file)}
    tensors = load_file(_weights(folder))
    named = (f"{name} {tensors[name].shape} ".encode() + tensors[name].tobytes() for name in sorted(tensors))
    return losses | {"tensors": _hash(b"".join(named))}


def export(folder: Path) -> dict[str, str]:
    """Export the network, and return a hash of what ONNX Runtime makes of a tile."""
    import onnxruntime

    refnet(folder, "export", _weights(folder), "-o", "tiny.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "tiny.onnx", options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    tile = {
        "optical": random.uniform(0, 4000, (1, 4, 64, 64)).astype(np.float32),
        "sar": random.uniform(-25, 0, (1, 2, 64, 64)).astype(np.float32),
    }
    (probabilities,) = session.run(["probabilities"], tile)
    return {"probabilities": _hash(np.round(probabilities, 6).tobytes())}


def predict(folder: Path, name: str) -> dict[str, str]:
    """Map a scene of `SAMPLES` or `PAIRS` with all outputs, and return their hashes."""
    words = (SAMPLES | PAIRS)[name]
    out = folder / name
    outputs = [word for output in (out / "map.tif", *KINDS) for word in ("-o", output)]
    weights = _weights(folder)
    refnet(folder, "predict", *words, "--weights", weights, "--date", "2020-07-01", "-q", *outputs)
    return hash_files(out, _sha256_of(weights))


def run_batch(folder: Path) -> dict[str, str]:
    """Map the sample scene in blocks, merge them, and return the hashes of the outputs."""
    out, weights = folder / "batch", _weights(folder)
    out.mkdir()
    (out / "scenes.csv").write_text(f"optical,sar,output\n{SAMPLE / 's2.tif'},{SAMPLE / 's1.tif'},maps/map.tif\n")
    also = [word for kind in KINDS for word in ("--also", kind)]
    words = ("--weights", weights, "--date", "2020-07-01", "--blocks", 512, *STRIP, *also)
    refnet(out, "batch", "plan", "scenes.csv", "-o", "tasks.jsonl", *words)
    refnet(out, "batch", "run", "tasks.jsonl")
    refnet(out, "batch", "merge", "tasks.jsonl")
    return hash_files(out / "maps", _sha256_of(weights))


def _weights(folder: Path) -> Path:
    return folder / "training" / "tiny.safetensors"


def _sha256_of(weights: Path) -> str:
    from safetensors import safe_open

    with safe_open(weights, "numpy") as file:
        return str(json.loads(file.metadata()["refnet"])["sha256"])


def hash_files(folder: Path, weights: str) -> dict[str, str]:
    """Return the hash of each output in a folder; of a TIFF or PNG those of its parts.

    Parameters
    ----------
    folder : Path
        Folders in it, and what tells that a task of a batch is done, are left out.
    weights : str
        Checksum of the weights, which is replaced.
    """
    readers = {".tif": _read_tiff, ".png": _read_png, ".gpkg": _read_geopackage}
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.endswith(".tif.json")]
    words = {_hash(path.read_bytes()): path.name for path in paths} | {weights: "WEIGHTS", __version__: "VERSION"}
    found = {}
    for path in paths:
        for part, content in readers.get(path.suffix, _read_text)(path).items():
            cleaned = content if part == "pixels" else _clean(content, words)
            found[f"{path.name} {part}".strip()] = _hash(cleaned)
    return found


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _clean(content: bytes, words: dict[str, str]) -> bytes:
    for word, name in words.items():
        content = content.replace(word.encode(), name.encode())
    return SIZES.sub(b"SIZE", content)


def _read_text(path: Path) -> dict[str, bytes]:
    return {"": path.read_bytes()}


def _read_geopackage(path: Path) -> dict[str, bytes]:
    with closing(sqlite3.connect(path)) as database:
        return {"": "\n".join(database.iterdump()).encode()}


def _read_png(path: Path) -> dict[str, bytes]:
    with Image.open(path) as image:
        about = f"{image.mode} {image.size} {sorted(image.info.items())}"
        return {"pixels": image.convert("RGBA").tobytes(), "tags": about.encode()}


def _read_tiff(path: Path) -> dict[str, bytes]:
    """Pixels of all bands and overviews; refnet's checksum of them; tags, and all else that a reader is told."""
    pixels = io.BytesIO()
    with rasterio.open(path) as raster:
        pixels.write(raster.read().tobytes())
        about, checksum = _describe(raster), raster.tags().get(CHECKSUM, "")
        count = len(raster.overviews(1))
    for level in range(count):
        with rasterio.open(path, overview_level=level) as raster:
            pixels.write(raster.read().tobytes())
    return {"pixels": pixels.getvalue(), "checksum": checksum.encode(), "tags": about.encode()}


def _describe(raster: Any) -> str:
    bands = [(raster.tags(band), raster.overviews(band), raster.colorinterp[band - 1].name) for band in raster.indexes]
    try:
        colours = raster.colormap(1)
    except ValueError:  # it has none
        colours = {}
    described = raster.descriptions, raster.scales, raster.offsets, raster.units
    tags = {name: value for name, value in raster.tags().items() if name != CHECKSUM}
    spaces = [raster.tags(ns=space) for space in ("IMAGE_STRUCTURE", "REFNET")]
    return json.dumps([raster.profile, tags, spaces, bands, described, colours], default=str, sort_keys=True)


def main() -> None:
    """Make all results and write the record."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        results = {"training": train(folder), "export": export(folder), "batch": run_batch(folder)}
        results |= {name: predict(folder, name) for name in SAMPLES | PAIRS}
    RECORD.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
