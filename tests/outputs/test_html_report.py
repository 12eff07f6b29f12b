"""The page that describes a map, and its quicklooks: contents, escapes, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image

from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.outputs.context import MapContext
from refnet_cli.outputs.pictures.charts import histogram
from refnet_cli.outputs.pictures.html_report import HtmlReport
from refnet_cli.outputs.pictures.quicklook import Quicklook
from refnet_cli.outputs.rows import Rows
from tests.helpers.quick import examples
from tests.outputs.test_outputs import GRIDS, as_probabilities, random_codes, utm_grid

SCHEME = SCHEMES["esri-io"]
NASTY = ("<script>alert(1)</script>", "\"><img src=x onerror='x'>", "ليل &amp; 湖 </title>", "$name ${map} %s {x}")
FACTS: dict[str, Any] = {
    "version": "1.2.3",
    "weights": {"name": "small", "sha256": "ab" * 32, "notice": "Look before you rely on it."},
    "optical": "s2.tif",
    "sar": "s1.tif",
    "grid": {"crs": "EPSG:32633", "transform": [10, 0, 0, 0, -10, 0], "height": 40, "width": 60},
    "decisions": [{"what": "optical.scale", "value": 1.0, "how": "tag: said so."}],
    "warnings": ["B02 is far from training."],
    "drift": {"B02": -3.25},
    "translation": None,
    "options": {"overlap": 64, "strict": False, "bounds": None},
    "areas_hectares": dict.fromkeys(SCHEME.names, 0.0) | {"Water": 1234.5, "Trees": 411.5},
    "valid_share": 0.958,
    "counts": {"sar_clamped": 12},
    "files": {"classes": [{"name": "lulc.tif", "sha256": "cd" * 32, "bytes": 70211}]},
}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is there")


class Reader(HTMLParser):
    """Tags, attributes and texts of a page, whose tags have to close as they opened."""

    VOID = frozenset({"meta", "img", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is there twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def inside(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def picture_of(page: str, key: str) -> NDArray[np.uint8]:
    """A picture of the page as RGBA."""
    (image,) = (image for image in Reader(page).of("img") if image.get("id") == f"picture-{key}")
    data = base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "P"
        return np.asarray(picture.convert("RGBA"))


def rows_of(codes: NDArray[np.uint8], scheme: ClassScheme, confidence: NDArray[np.uint8] | None) -> Rows:
    if confidence is None:
        confidence = np.where(codes > 0, codes * np.uint8(20), np.uint8(255))
    return Rows(0, None, codes > 0, scheme, found={"codes": codes, "confidence": np.stack([confidence] * 3)})


def make_page(
    path: Path,
    codes: NDArray[np.uint8],
    facts: Mapping[str, Any] = FACTS,
    look: Quicklook | None = None,
    scheme: ClassScheme = SCHEME,
    confidence: NDArray[np.uint8] | None = None,
    grid: GeoBox | None = None,
    tags: dict[str, str] | None = None,
) -> str:
    context = MapContext(path / "map.tif", grid or utm_grid(*codes.shape), scheme, tags or {}, look=look)
    with HtmlReport(path / "page.html", context) as output:
        output.write(rows_of(codes, scheme, confidence))
        output.complete(facts)
    return (path / "page.html").read_text("utf-8")


def some_look(height: int, width: int, seed: int = 0) -> Quicklook:
    random = np.random.default_rng(seed)
    look = Quicklook(height, width, ("B02", "B03", "B04", "B08"), ("VV", "VH"))
    optical = random.uniform(100, 3000, (4, height, width)).astype(np.float32)
    sar = random.uniform(-20, -5, (2, height, width)).astype(np.float32)
    optical[:, :, : width // 4] = np.nan
    look.add(0, 0, optical, sar)
    return look


def test_everything_that_is_known_is_told(tmp_path: Path) -> None:
    page = make_page(tmp_path, random_codes(40, 60), look=some_look(40, 60), tags={"REFNET_VERSION": "1.2.3"})
    reader = Reader(page)
    texts = [text for _, text in reader.texts]
    for text in (
        "lulc.tif", "1,646.0 ha", "95.8 %", "Water", "1,234.5", "75.0 %", "s2.tif", "s1.tif", "EPSG:32633",
        "B02 is far from training.", "Look before you rely on it.", "optical.scale", "tag: said so.", "1.2.3",
        "ab" * 32, "cd" * 32, "70,211", "-3.25", "overlap", "64", "sar_clamped", "12", "60 × 40 pixels of 10 m",
        "100 m",
    ):  # fmt: skip
        assert text in texts, text
    assert {"name": "REFNET_VERSION", "content": "1.2.3"} in reader.of("meta")
    names = [text for text in texts if text in SCHEME.names]
    assert names[names.index("Water") :][:2] == ["Water", "Trees"]
    assert "Crops" not in names
    for drawing in reader.of("svg"):
        assert drawing["role"] == "img"
        assert drawing["aria-label"]
    assert all("alt" in image for image in reader.of("img"))


def test_without_facts_less_is_told(tmp_path: Path) -> None:
    codes = np.full((10, 10), SCHEME.codes[0], np.uint8)
    codes[:, 5:] = SCHEME.codes[1]
    codes[0, 0] = 0
    page = make_page(tmp_path, codes, {})
    texts = [text for _, text in Reader(page).texts]
    assert {"Land cover map", "50.5 %", "49.5 %", "Reference system"} <= set(texts)
    assert not {"Warnings", "About the weights", "Options", "Hectares"} & set(texts)
    assert "picture-optical" not in [image.get("id") for image in Reader(page).of("img")]


def test_a_map_without_data(tmp_path: Path) -> None:
    page = make_page(tmp_path, np.zeros((10, 10), np.uint8), {})
    assert "No pixel has a class." in Reader(page).inside("p")
    assert not picture_of(page, "classes")[..., 3].any()


@pytest.mark.parametrize("name", GRIDS)
def test_any_grid_has_a_page_and_those_with_north_up_a_scale(name: str, tmp_path: Path) -> None:
    page = make_page(tmp_path, random_codes(*GRIDS[name].shape), {}, grid=GRIDS[name])
    assert ('class="scale"' in page) == (name not in ("rotated", "south up"))


def test_the_scale_is_that_of_the_ground_and_the_arrow_shows_north(tmp_path: Path) -> None:
    """At 60 degrees north, Web Mercator shows everything at twice its size; LAEA far in the west turns to the left."""
    mercator = GeoBox((200, 200), Affine(10, 0, 1_000_000, 0, -10, 8_399_738 + 1000), "EPSG:3857")
    page = make_page(tmp_path, random_codes(200, 200), {}, grid=mercator)
    assert "200 m" in Reader(page).inside("span")
    (share,) = re.findall(r'class="bar" style="width:([\d.]+)%"', page)
    assert float(share) == pytest.approx(20, rel=0.01)
    assert 'transform="rotate(0.0)"' in page
    world = GeoBox((100, 100), Affine(400_750, 0, -20_037_500, 0, -400_750, 20_037_500), "EPSG:3857")
    assert "10000 km" in Reader(make_page(tmp_path, random_codes(100, 100), {}, grid=world)).inside("span")
    western = GeoBox((200, 200), Affine(20, 0, 2_700_000, 0, -20, 1_900_000), "EPSG:3035")
    (turn,) = re.findall(r'transform="rotate\((.*?)\)"', make_page(tmp_path, random_codes(200, 200), {}, grid=western))
    assert 10 < float(turn) < 16


def test_names_may_contain_anything(tmp_path: Path) -> None:
    scheme = ClassScheme("nasty", (1, 2, 3, 4), NASTY, ((1, 2, 3), (40, 50, 60), (70, 80, 90), (100, 110, 120)))
    facts = json.loads(json.dumps(FACTS)) | {
        "areas_hectares": {name: 10.0 + number for number, name in enumerate(NASTY)},
        "warnings": list(NASTY),
        "decisions": [{"what": NASTY[0], "value": {NASTY[1]: list(NASTY)}, "how": NASTY[2]}],
        "options": {name: name for name in NASTY},
        "drift": {NASTY[0]: 1.0},
        "counts": {NASTY[1]: 1},
        "optical": NASTY[0],
        "sar": NASTY[1],
        "translation": {"lines": list(NASTY)},
        "weights": {"name": NASTY[0], "sha256": NASTY[1], "notice": NASTY[2]},
        "files": {"classes": [{"name": NASTY[0], "sha256": NASTY[1], "bytes": 1}]},
        "version": NASTY[3],
    }
    codes = np.random.default_rng(0).integers(0, 5, (30, 40)).astype(np.uint8)
    look = Quicklook(30, 40, NASTY, NASTY[:2])
    page = make_page(tmp_path, codes, facts, look, scheme, tags={name: name for name in NASTY})
    tame = ClassScheme("tame", (1, 2, 3, 4), ("a", "b", "c", "d"), scheme.colours)
    plain = Reader(make_page(tmp_path, codes, {}, some_look(30, 40), tame))
    reader = Reader(page)
    for tag in ("script", "img", "style", "title", "h1", "input"):
        assert len(reader.of(tag)) == len(plain.of(tag)), tag
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    assert reader.inside("script") == plain.inside("script")
    texts = [text for _, text in reader.texts]
    for name in NASTY:
        assert texts.count(name) >= 4, name
    assert {name: name for name in NASTY}.items() <= {
        meta["name"]: meta["content"] for meta in reader.of("meta") if "name" in meta
    }.items()


def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    page = make_page(tmp_path, random_codes(10, 10), {"optical": "s2\udcff.tif"})
    assert "s2?.tif" in Reader(page).inside("bdi")


def test_nothing_is_asked_of_elsewhere(tmp_path: Path) -> None:
    page = make_page(tmp_path, random_codes(40, 60), look=some_look(40, 60))
    reader = Reader(page)
    (policy,) = (meta["content"] for meta in reader.of("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).split("; ")[:4] == [
        "default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", "script-src 'unsafe-inline'"
    ]  # fmt: skip
    for tag, attributes in reader.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "a"}
        for name, value in attributes.items():
            assert name not in {"href", "srcset", "action", "xlink:href"}
            assert name != "src" or str(value).startswith("data:image/png;base64,")
    assert not re.search(r"https?:|url\(|@import", page)


@pytest.mark.long
def test_a_page_of_the_greatest_pictures_is_below_3_mb(tmp_path: Path) -> None:
    """Of the sensors mere noise, which no compression helps with; of the classes patches of a few pixels."""
    random = np.random.default_rng(0)
    look = Quicklook(1000, 1000, ("B02", "B03", "B04"), ("VV", "VH"))
    look.add(
        0, 0, random.uniform(100, 3000, (3, 1000, 1000)).astype(np.float32),
        random.uniform(-20, -5, (2, 1000, 1000)).astype(np.float32),
    )  # fmt: skip
    page = make_page(tmp_path, random_codes(250, 250).repeat(4, 0).repeat(4, 1), look=look)
    assert 2_000_000 < len(page) < 3_000_000


def test_bytes_do_not_depend_on_how_the_quicklook_came_to_be(tmp_path: Path) -> None:
    codes = random_codes(90, 1100)
    random = np.random.default_rng(1)
    optical = random.uniform(100, 3000, (3, 90, 1100)).astype(np.float32)
    sar = random.uniform(-20, -5, (2, 90, 1100)).astype(np.float32)
    pages = []
    for cut in (90, 31):
        look = Quicklook(90, 1100, ("B04", "B03", "B02"), ("VV", "VH"))
        for top in reversed(range(0, 90, cut)):
            look.add(top, 0, optical[:, top : top + cut], sar[:, top : top + cut])
        pages.append(make_page(tmp_path, codes, look=look))
    assert pages[0] == pages[1]


def test_the_map_shows_the_commonest_class_of_each_cell(tmp_path: Path) -> None:
    codes = random_codes(7, 2300)
    picture = picture_of(make_page(tmp_path, codes, {}), "classes")
    assert picture.shape == (3, 767, 4)
    colours = dict(zip(SCHEME.codes, SCHEME.colours, strict=True))
    for row, column in np.ndindex(3, 767):
        cell = codes[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        code = int(np.bincount(cell.ravel()).argmax())
        assert picture[row, column, 3] == 255 * (code > 0)
        if code:
            assert tuple(picture[row, column, :3]) == colours[code]


def test_the_histogram_counts_pixels_by_probability(tmp_path: Path) -> None:
    codes = np.full((50, 60), SCHEME.codes[0], np.uint8)
    steps = np.random.default_rng(0).integers(0, 251, (50, 60)).astype(np.uint8)
    codes[:5], steps[:5] = 0, 255
    page = make_page(tmp_path, codes, {}, confidence=steps)
    known = steps[5:].astype(int)
    titles = [text for text in Reader(page).inside("title") if " to " in text]
    assert len(titles) == 50
    for number, title in enumerate(titles):
        count = ((known // 5 == number) | ((known == 250) & (number == 49))).sum()
        assert title == f"{number / 50:.2f} to {(number + 1) / 50:.2f}: {count / known.size:.2%}"
    low = (known < 125).mean()
    middle = np.sort(known.ravel())[(known.size - 1) // 2] / 250
    told = f"Half of the pixels have a probability of {middle:.2f} or more; {100 * low:.1f} % have less than 0.5."
    assert told in Reader(page).inside("p")


def test_a_histogram_of_nothing() -> None:
    assert Reader(histogram([0] * 50, "nothing")).of("rect")


def test_probabilities_of_the_network_are_taken(tmp_path: Path) -> None:
    codes = random_codes(20, 30)
    with HtmlReport(tmp_path / "page.html", MapContext(tmp_path / "map.tif", utm_grid(20, 30), SCHEME, {})) as output:
        output.write(Rows(0, *as_probabilities(codes), SCHEME))
    assert "Half of the pixels have a probability of 0.27 or more" in (tmp_path / "page.html").read_text("utf-8")


def test_a_quicklook_of_another_grid_is_refused(tmp_path: Path) -> None:
    context = MapContext(tmp_path / "map.tif", utm_grid(40, 60), SCHEME, {}, look=some_look(40, 61))
    with pytest.raises(ValueError, match=r"quicklook has \(40, 61\) pixels, and the grid \(40, 60\)"):
        HtmlReport(tmp_path / "page.html", context)
    assert list(tmp_path.iterdir()) == []


def render(page: Path, profile: Path, *arguments: str) -> str:
    """What a browser writes of a page."""
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            f"--user-data-dir={profile}", "--virtual-time-budget=3000", *arguments, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


SCRIPT = """
const results = [];
const find = (id) => document.getElementById(id);
const tell = () => results.push([
  find("above-image").style.opacity, find("above-image").style.clipPath, find("above-image").alt,
  find("below-image").hidden ? "" : find("below-image").alt, find("divider").getAttribute("aria-valuenow"),
]);
const set = (id, value) => { find(id).value = value; find(id).dispatchEvent(new Event("input")); tell(); };
const press = (key) => { find("divider").dispatchEvent(new KeyboardEvent("keydown", {key: key})); tell(); };
tell(); set("opacity", "30"); set("below", "picture-sar"); set("above", "picture-optical"); set("below", "");
press("ArrowLeft"); press("Home"); press("PageUp"); press("End");
const box = find("map").getBoundingClientRect();
find("map").dispatchEvent(new MouseEvent("click", {clientX: box.left + box.width / 4})); tell();
document.addEventListener("securitypolicyviolation", (event) => results.push(event.effectiveDirective));
fetch("http://localhost:9/").catch(() => {});
setTimeout(() => { document.body.dataset.results = JSON.stringify(results); }, 500);
"""


@needs_chromium
def test_a_browser_runs_its_script(tmp_path: Path) -> None:
    page = make_page(tmp_path, random_codes(40, 60), look=some_look(40, 60))
    copy = tmp_path / "copy.html"
    copy.write_text(page.replace("</body>", f"<script>{SCRIPT}</script></body>"), "utf-8")
    reader = Reader(render(copy, tmp_path / "profile", "--dump-dom"))
    ((html,), (body,)) = reader.of("html"), reader.of("body")
    assert html["data-ready"] == "yes"
    results = json.loads(str(body["data-results"]))
    (clicked,) = re.findall(r"inset\(0px ([\d.]+)% 0px 0px\)", results[9].pop(1))
    assert float(clicked) == pytest.approx(75, abs=0.2)  # it was on a whole pixel
    alts = {str(image["id"]): image["alt"] for image in Reader(page).of("img") if "picture" in str(image.get("id"))}
    classes, optical, sar = (alts[f"picture-{key}"] for key in ("classes", "optical", "sar"))
    assert results == [
        ["1", "inset(0px 35% 0px 0px)", classes, optical, "65"],
        ["0.3", "inset(0px 35% 0px 0px)", classes, optical, "65"],
        ["0.3", "inset(0px 35% 0px 0px)", classes, sar, "65"],
        ["0.3", "inset(0px 35% 0px 0px)", optical, sar, "65"],
        ["0.3", "inset(0px 35% 0px 0px)", optical, "", "65"],
        ["0.3", "inset(0px 37% 0px 0px)", optical, "", "63"],
        ["0.3", "inset(0px 100% 0px 0px)", optical, "", "0"],
        ["0.3", "inset(0px 90% 0px 0px)", optical, "", "10"],
        ["0.3", "inset(0px 0% 0px 0px)", optical, "", "100"],
        ["0.3", optical, "", "25"],
        "connect-src",
    ]


@needs_chromium
def test_a_browser_shows_the_map_and_the_quicklook_beside_it(tmp_path: Path) -> None:
    codes = np.full((60, 60), SCHEME.codes[1], np.uint8)
    look = Quicklook(60, 60, ("B08",), ("VV",))
    optical = np.linspace(0, 3000, 3600, dtype=np.float32).reshape(1, 60, 60)
    look.add(0, 0, optical, np.full((1, 60, 60), -10, np.float32))
    make_page(tmp_path, codes, look=look)
    for width, at_least in ((1200, 100_000), (500, 40_000)):
        shot = tmp_path / f"{width}.png"
        render(tmp_path / "page.html", tmp_path / "profile", f"--screenshot={shot}", f"--window-size={width},1600")
        with Image.open(shot) as image:
            picture = np.asarray(image.convert("RGB"))
        assert (picture == SCHEME.colours[1]).all(axis=2).sum() > at_least
        grey = (picture[..., 0] == picture[..., 1]) & (picture[..., 1] == picture[..., 2])
        assert len(np.unique(picture[..., 0][grey & (picture[..., 0] < 200)])) > 100


@needs_chromium
def test_without_a_quicklook_only_the_opacity_is_offered(tmp_path: Path) -> None:
    make_page(tmp_path, random_codes(40, 60))
    reader = Reader(render(tmp_path / "page.html", tmp_path / "profile", "--dump-dom"))
    by_id = {attributes["id"]: attributes for _, attributes in reader.tags if "id" in attributes}
    assert "hidden" in by_id["divider"]
    assert "hidden" not in by_id["controls"]
    assert "clip-path: inset(0px 0% 0px 0px)" in str(by_id["above-image"]["style"])
    assert sum("hidden" in label for label in reader.of("label")) == 2


def slow_sums(values: NDArray[np.float32], factor: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixel by pixel: sums of rounded values and their counts in each cell."""
    bands, height, width = values.shape
    sums = np.zeros((bands, -(-height // side), -(-width // side)), np.int64)
    counts = np.zeros_like(sums)
    for band, row, column in np.argwhere(np.isfinite(values)):
        value = float(np.clip(values[band, row, column], np.float32(-32_767 / factor), np.float32(32_767 / factor)))
        whole = int(np.rint(np.float32(value) * np.float32(factor)))
        sums[band, row // side, column // side] += whole
        counts[band, row // side, column // side] += 1
    return sums, counts


@settings(max_examples=examples(30), deadline=None)
@given(
    height=st.integers(1, 6),
    width=st.one_of(st.integers(1, 20), st.integers(1001, 3500)),
    turned=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_quicklooks_hold_the_same_sums_for_any_cut_and_order(
    height: int, width: int, turned: bool, seed: int, data: st.DataObject
) -> None:
    if turned:
        height, width = width, height
    random = np.random.default_rng(seed)
    optical = random.uniform(-100, 10_000, (4, height, width)).astype(np.float32)
    sar = random.uniform(-40, 10, (2, height, width)).astype(np.float32)
    for values in (optical, sar):
        places = random.random(values.shape)
        for number, odd in enumerate((np.nan, np.inf, -np.inf, 3e38, -3e38, 0.5, 1.5)):
            values[(places > 0.02 * number) & (places < 0.02 * number + 0.02)] = odd
    cuts = [
        [0, *sorted(data.draw(st.sets(st.integers(1, max(size - 1, 1)), max_size=4)) - {size}), size]
        for size in (height, width)
    ]
    windows = [(*rows, *columns) for rows in pairwise(cuts[0]) for columns in pairwise(cuts[1])]
    looks = [Quicklook(height, width, ("B02", "B03", "B04", "B08"), ("VH", "VV")) for _ in range(2)]
    for number, (top, bottom, left, right) in enumerate(data.draw(st.permutations(windows))):
        part = np.s_[:, top:bottom, left:right]
        looks[number % 2].add(top, left, optical[part], sar[part])
    looks[0].merge(looks[1])
    arrays = looks[0].to_arrays()
    side = -(-max(height, width) // 1000)
    for name, values, factor in (("optical", optical[[2, 1, 0]], 1), ("sar", sar[[1, 0]], 100)):
        sums, counts = slow_sums(values, factor, side)
        np.testing.assert_array_equal(arrays[f"{name}_sums"], sums)
        np.testing.assert_array_equal(arrays[f"{name}_counts"], counts)


def test_cells_of_more_rows_than_a_byte_counts() -> None:
    height = 600_001
    values = np.random.default_rng(0).uniform(20_000, 40_000, (1, height, 1)).astype(np.float32)
    look = Quicklook(height, 1, ("B08",), ("VV",))
    look.add(0, 0, values, np.full_like(values, 300))
    arrays = look.to_arrays()
    whole = np.pad(np.rint(np.minimum(values.ravel(), 32_767)), (0, 601 * 999 - height)).astype(np.int64)
    np.testing.assert_array_equal(arrays["optical_sums"].ravel(), whole.reshape(999, 601).sum(1))
    assert arrays["sar_sums"].ravel()[:-1].tolist() == [601 * 30_000] * 998


def test_quicklooks_can_be_stored(tmp_path: Path) -> None:
    look = some_look(50, 1200)
    np.savez(tmp_path / "look.npz", **look.to_arrays())
    with np.load(tmp_path / "look.npz", allow_pickle=False) as arrays:
        again = Quicklook.from_arrays(arrays)
        wrong = dict(arrays) | {"shape": np.array([50, 1300])}
    assert (again.shape, again.optical_bands, again.sar_bands) == ((50, 1200), ("B04", "B03", "B02"), ("VV", "VH"))
    np.testing.assert_array_equal(again.optical_picture(), look.optical_picture())
    np.testing.assert_array_equal(again.sar_picture(), look.sar_picture())
    again.merge(some_look(50, 1200, seed=1))
    with pytest.raises(ValueError, match=r"\(3, 25, 600\); expected \(3, 25, 650\)"):
        Quicklook.from_arrays(wrong)


@pytest.mark.parametrize(
    ("optical", "sar", "shown"),
    [
        (("B02", "B03", "B04", "B08"), ("VH", "VV"), (("B04", "B03", "B02"), ("VV", "VH"))),
        (("B08", "B11", "B12", "B02"), ("HV", "HH"), (("B08", "B11", "B12"), ("HH", "HV"))),
        (("B08", "B02"), ("VH",), (("B08",), ("VH",))),
        (("B02",), ("a", "b", "c"), (("B02",), ("a", "b"))),
    ],
)
def test_bands_that_are_shown(
    optical: tuple[str, ...], sar: tuple[str, ...], shown: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    look = Quicklook(10, 10, optical, sar)
    assert (look.optical_bands, look.sar_bands) == shown
    assert look.optical_picture().tolist() == np.zeros((10, 10, 4)).tolist()
    assert look.sar_picture().tolist() == np.zeros((10, 10, 4)).tolist()


def test_pictures_are_stretched_and_transparent_where_nothing_was_seen() -> None:
    look = Quicklook(1, 200, ("B04", "B03", "B02"), ("VV", "VH"))
    ramp = np.linspace(1000, 3000, 200, dtype=np.float32)[None]
    optical = np.stack([ramp, ramp, ramp])
    optical[0, 0, 199] = np.nan
    sar = np.stack([ramp / 100 - 30, np.full_like(ramp, -17)])
    look.add(0, 0, optical, sar)
    picture = look.optical_picture()
    assert picture[0, 199].tolist() == [0, 0, 0, 0]
    assert (picture[0, :199, 3] == 255).all()
    assert (picture[0, 0, 0], picture[0, 198, 0]) == (0, 255)
    assert (np.diff(picture[0, :199, 0].astype(int)) >= 0).all()
    assert picture[0, 100, 0] > 140  # lifted
    radar = look.sar_picture()
    assert (radar[0, 0, 0], radar[0, 199, 0], radar[0, 199, 2]) == (0, 255, 255)
    assert set(radar[0, :, 1].tolist()) == {128}  # VH hardly differs: from -27 to -7 dB


@pytest.mark.parametrize(
    ("row", "column", "shape", "message"),
    [
        (-1, 0, (1, 5, 5), "is not on a grid"),
        (6, 0, (1, 5, 5), "is not on a grid"),
        (0, 6, (1, 5, 5), "is not on a grid"),
        (0, 0, (2, 5, 5), "expected"),
    ],
)
def test_windows_that_do_not_fit_are_refused(row: int, column: int, shape: tuple[int, ...], message: str) -> None:
    look = Quicklook(10, 10, ("B02",), ("VV",))
    with pytest.raises(ValueError, match=message):
        look.add(row, column, np.zeros(shape, np.float32), np.zeros((1, 5, 5), np.float32))


def test_quicklooks_of_other_grids_or_bands_are_not_merged() -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        some_look(10, 10).merge(some_look(10, 11))
    with pytest.raises(ValueError, match="bands of both sensors"):
        Quicklook(10, 10, ("B02",), ())
