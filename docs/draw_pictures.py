"""Draw the pictures of README and the gallery, and write the gallery.

    python docs/draw_pictures.py [overview|fetch|gallery]

Everything is what ``refnet predict`` makes and says of the sample scene, or of it with a fault put in; and what
``refnet fetch`` makes of it out of a catalogue on this machine, which has it on three dates under clouds.
"""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rasterio.windows import Window

from refnet_cli.classes.schemes import SCHEMES

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
BANDS = {"s2.tif": ("B02", "B03", "B04", "B08"), "s1.tif": ("VV", "VH")}
SIDE = 256  # pixels of the gallery's part of the scene: one tile
_SOURCE = r'"data:image/png;base64,([^"]+)"'


class Made(NamedTuple):
    """What a command made: its pictures by key (``optical``, ``sar``, ``classes``), and its lines."""

    pictures: dict[str, Image.Image]
    said: list[str]
    code: int


def refnet(folder: Path, options: Sequence[str]) -> Made:
    """Run ``refnet predict`` in a folder, and take the pictures out of its HTML report."""
    command = [sys.executable, "-m", "refnet_cli", "predict", *options, "-o", "lulc.tif", "-o", "report", "--overwrite"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    lines = [line for line in done.stderr.splitlines() if not re.match(r"tiles |reading |.* written in ", line)]
    said = [part for line in lines for part in textwrap.wrap(line, 100, subsequent_indent="  ")]
    pictures = {}
    if done.returncode == 0:
        page = (folder / "lulc_report.html").read_text(encoding="utf-8")
        for key in ("classes", "optical", "sar"):
            found = re.search(rf'<img id="picture-{key}" [^>]*src={_SOURCE}', page)
            if found:
                pictures[key] = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGBA")
    return Made(pictures, said, done.returncode)


FONT = ImageFont.load_default(14)
SCHEME = SCHEMES["esri-io"]
WHITE, GREY, INK = (255, 255, 255), (226, 226, 226), (34, 34, 34)


def side_by_side(images: Sequence[tuple[str, Image.Image]], side: int) -> Image.Image:
    """Put pictures of one size next to each other with their names above, and the classes of the last below."""
    gap, top, line = 8, 26, 26
    width = len(images) * (side + gap) - gap
    entries = legend_entries(images[-1][1], width)
    sheet = Image.new("RGB", (width, top + side + 4 + line * (1 + max(row for row, *_ in entries))), WHITE)
    draw = ImageDraw.Draw(sheet)
    for number, (name, image) in enumerate(images):
        left = number * (side + gap)
        draw.text((left + 2, 4), name, fill=INK, font=FONT)
        # Classes have no mean.
        sampling = Image.Resampling.NEAREST if number == len(images) - 1 else Image.Resampling.LANCZOS
        small = image.resize((side, side), sampling)
        sheet.paste(GREY, (left, top, left + side, top + side))
        sheet.paste(small, (left, top), small)
    for row, left, name, colour in entries:
        above = top + side + 8 + row * line
        draw.rectangle((left, above + 2, left + 14, above + 16), fill=colour, outline=INK)
        draw.text((left + 20, above), name, fill=INK, font=FONT)
    return sheet


def legend_entries(classes: Image.Image, width: int) -> list[tuple[int, int, str, tuple[int, int, int]]]:
    """Return row, left edge in pixels, name and colour of each class that a picture of a map shows."""
    shown = {colour[:3] for _, colour in classes.getcolors(1 << 24) or [] if isinstance(colour, tuple) and colour[3]}
    entries, row, left = [], 0, 2
    for name, (red, green, blue) in zip(SCHEME.names, SCHEME.colours, strict=True):
        if (red, green, blue) in shown:
            size = 36 + int(FONT.getlength(name))
            if left + size > width:
                row, left = row + 1, 2
            entries.append((row, left, name, (red, green, blue)))
            left += size
    return entries


def save(image: Image.Image, name: str) -> None:
    """Write a picture in few colours, which keeps it small; those of the classes stay exact."""
    exact = [*SCHEME.colours, WHITE, GREY, INK]
    others = image.quantize(128, Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(value for colour in exact for value in colour), *others[: 3 * 128]])
    PICTURES.mkdir(exist_ok=True)
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(PICTURES / name, optimize=True)


def draw_overview() -> None:
    """Draw README's picture: optical, SAR and map of the whole sample scene."""
    with tempfile.TemporaryDirectory() as folder:
        data = ROOT / "sample_data"
        made = refnet(Path(folder), ["--optical", str(data / "s2.tif"), "--sar", str(data / "s1.tif")])
    names = {"optical": "Sentinel-2", "sar": "Sentinel-1", "classes": "refnet's map"}
    save(side_by_side([(name, made.pictures[key]) for key, name in names.items()], 300), "overview.png")


def optical_picture(bands: NDArray[Any]) -> Image.Image:
    """Draw red, green and blue as reflectance x 10,000, shape (3, H, W), 0 for no data."""
    shown = np.clip(bands / 3000, 0, 1) ** 0.7 * 255
    alpha = 255 * (bands > 0).all(axis=0, keepdims=True)
    return Image.fromarray(np.moveaxis(np.concatenate([shown, alpha]), 0, -1).astype(np.uint8), "RGBA")


def sar_picture(bands: NDArray[Any]) -> Image.Image:
    """Draw VV, VH and their ratio in dB, of power, shape (2, H, W)."""
    vv, vh = 10 * np.log10(np.maximum(bands, 1e-6))
    scaled = [(layer - low) / (high - low) for layer, low, high in ((vv, -18, -3), (vh, -25, -9), (vv - vh, 3, 12))]
    return Image.fromarray(np.moveaxis(np.clip(scaled, 0, 1) * 255, 0, -1).astype(np.uint8), "RGB").convert("RGBA")


def labels_picture(codes: NDArray[Any]) -> Image.Image:
    """Draw labels in the colours of their classes."""
    table = np.zeros((256, 4), np.uint8)
    for code, colour in zip(SCHEME.codes, SCHEME.colours, strict=True):
        table[code] = (*colour, 255)
    return Image.fromarray(table[codes], "RGBA")


def draw_fetch() -> None:
    """Draw README's second picture: what `refnet fetch` makes, next to the clearest date."""
    sys.path.insert(0, str(ROOT))  # the servers are those of the tests
    from tests.helpers import stac_scenes

    with tempfile.TemporaryDirectory() as name, stac_scenes.serving(Path(name)) as world:
        folder = Path(name)
        area = ["--bbox", "13.2,52.54,13.27,52.59", "--dates", stac_scenes.DATES, "--labels", "io-lulc"]
        source = ["--source", "local.toml", "--allow-host", "127.0.0.1", "-o", "berlin"]
        subprocess.run([sys.executable, "-m", "refnet_cli", "fetch", *area, *source], cwd=folder, check=True)
        with rasterio.open(folder / "berlin" / "s2.tif") as file:
            after, place, shape = file.read((3, 2, 1)), file.transform, file.shape
        with rasterio.open(folder / "berlin" / "s1.tif") as file:
            sar = sar_picture(file.read())
        with rasterio.open(folder / "berlin" / "labels.tif") as file:
            labels = labels_picture(file.read(1))
        first, before = next(iter(world.optical.values())), []
        for band in ("B04", "B03", "B02"):
            with rasterio.open(first.files[band]) as file:
                left, top = (round(number) for number in ~file.transform @ (place.c, place.f))
                before.append(file.read(1, window=Window(left, top, shape[1], shape[0])))
    cloudy = optical_picture(np.stack(before).astype(float))
    panels = [("the clearest date", cloudy), ("s2.tif", optical_picture(after.astype(float))), ("s1.tif", sar)]
    save(side_by_side([*panels, ("labels.tif", labels)], 224), "fetch.png")


Change = Callable[[NDArray[Any]], NDArray[Any]]


def write_part(
    folder: Path, name: str, change: Change | None = None, bands: Sequence[str] = (), moved: int = 0
) -> None:
    """Write a part of a file of the sample scene, changed if that is asked for.

    Parameters
    ----------
    folder : Path
    name : str
        ``s2.tif`` or ``s1.tif``.
    change : function, optional
        Of the array of shape (bands, height, width).
    bands : sequence of str, optional
        Names written to the file, in place of the true ones.
    moved : int
        Columns by which the place that the file states is wrong.
    """
    with rasterio.open(ROOT / "sample_data" / name) as file:
        window = Window(0, 0, file.width, file.height) if name == "s1.tif" else Window(256, 256, SIDE, SIDE)
        values, profile = file.read(window=window), file.profile
        place = file.transform @ Affine.translation(window.col_off + moved, window.row_off)
    values = values if change is None else change(values)
    profile |= {"height": values.shape[1], "width": values.shape[2], "transform": place, "dtype": values.dtype}
    with rasterio.open(folder / name, "w", **profile) as file:
        file.write(values)
        file.descriptions = tuple(bands) or BANDS[name]


class Case(NamedTuple):
    """One entry of the gallery."""

    key: str
    title: str
    text: str
    options: str = "--optical s2.tif --sar s1.tif"
    optical: Change | None = None
    bands: tuple[str, ...] = ()
    moved: int = 0
    shown: tuple[str, ...] = ("optical", "sar", "classes")


def _hazy(values: NDArray[Any]) -> NDArray[Any]:
    haze = np.array([1100, 800, 550, 200])[:, None, None]
    return np.where(values > 0, np.minimum(values + haze, 65535), 0).astype(values.dtype)


def _with_hole(values: NDArray[Any]) -> NDArray[Any]:
    values[:, 70:170, 80:190] = 0
    return values


def _standardised(values: NDArray[Any]) -> NDArray[Any]:
    values = values.astype(np.float32)
    means, deviations = values.mean((1, 2), keepdims=True), values.std((1, 2), keepdims=True)
    result: NDArray[Any] = (values - means) / deviations
    return result


GOOD = (
    Case("both", "Both sensors", "The scene is simulated: its towns and grass do not look like real ones."),
    Case(
        "optical",
        "Sentinel-2 alone",
        "The bundled weights can do without SAR.",
        "--optical s2.tif",
        shown=("optical", "classes"),
    ),
    Case(
        "sar",
        "Sentinel-1 alone",
        "These weights know water and trees from SAR alone, but neither towns nor most fields.",
        "--sar s1.tif --grid s2.tif",
        shown=("sar", "classes"),
    ),
    Case(
        "hole",
        "A hole in the optical image",
        "A square was cut out, as a masked cloud would be. `--missing use-other` writes classes there. The network "
        "sees SAR and the nearest optical pixels. Wedges of these show in the map: it is less accurate there.",
        "--optical s2.tif --sar s1.tif --missing use-other",
        _with_hole,
    ),
)
BAD = (
    Case(
        "shift", "SAR in the wrong place", "The SAR file states a place that is 6 of its columns too far east.", moved=6
    ),
    Case(
        "shift-corrected",
        "The same, corrected",
        "`--coreg auto` moves SAR back.",
        "--optical s2.tif --sar s1.tif --coreg auto",
        moved=6,
    ),
    Case(
        "bands",
        "Bands in the wrong order",
        "The file names its bands in reverse: B02 and B08 are exchanged, and B03 and B04.",
        bands=("B08", "B04", "B03", "B02"),
    ),
    Case(
        "haze",
        "Haze",
        "Haze lies over all of the image, most of it in blue. No cloud mask marks it. refnet sees that nothing is "
        "dark, and doubts the offset; it does not recognise haze as such here.",
        optical=_hazy,
    ),
    Case(
        "standardised",
        "Standardised numbers",
        "The values were standardised for another network. refnet needs reflectance.",
        optical=_standardised,
    ),
)


def draw_case(case: Case) -> str:
    """Run a case, draw its pictures, and return its part of the gallery."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_part(folder, "s2.tif", case.optical, case.bands)
        write_part(folder, "s1.tif", moved=case.moved)
        made = refnet(folder, case.options.split())
    lines = [f"### {case.title}", "", case.text, ""]
    if made.pictures:
        names = {"optical": "Sentinel-2", "sar": "Sentinel-1", "classes": "Map"}
        shown = [(names[key], made.pictures[key]) for key in case.shown]
        save(side_by_side(shown, 224), f"gallery-{case.key}.png")
        alt = f"{case.title}: {', '.join(names[key] for key in case.shown)}"
        lines += [f"![{alt}](pictures/gallery-{case.key}.png)", ""]
    lines += ["```sh", f"refnet predict {case.options} -o lulc.tif", "```", "", "```text", *made.said]
    lines += [f"(exit code {made.code})"] if made.code else []
    return "\n".join([*lines, "```", ""])


def write_gallery() -> None:
    """Write docs/gallery.md and its pictures."""
    parts = [
        "# Gallery",
        "",
        "`python docs/draw_pictures.py` makes this page. It shows a part of the simulated",
        "[sample scene](../sample_data/README.md), mapped with the bundled weights, and what refnet says on stderr.",
        "Grey is no data.",
        "",
        "## Maps",
        "",
        *map(draw_case, GOOD),
        "## What goes wrong",
        "",
        "A wrong map that looks right is the worst that can happen. These are faults that refnet finds or refuses;",
        "[it does not find all](explanation/accuracy.md).",
        "",
        *map(draw_case, BAD),
    ]
    (ROOT / "docs" / "gallery.md").write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    asked = set(sys.argv[1:]) or {"overview", "fetch", "gallery"}
    if "overview" in asked:
        draw_overview()
    if "fetch" in asked:
        draw_fetch()
    if "gallery" in asked:
        write_gallery()
