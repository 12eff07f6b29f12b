"""Pictures of trainings and maps: what they show, that it can be read, and what is left behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from refnet_cli import plots as figures
from refnet_cli.classes.schemes import SCHEMES, ClassScheme
from refnet_cli.errors import InputError, OutputError
from refnet_cli.plots import View, draw_confusion, draw_curves, draw_views
from tests.helpers.quick import few

SCHEME = SCHEMES["c2seg-bw"]
NAN = float("nan")


def decaying(count: int, noise: float = 0.2) -> list[tuple[int, float]]:
    steps = np.arange(1, count + 1)
    values = (np.exp(-steps / count * 6) + 0.02) * np.random.default_rng(0).lognormal(0, noise, count)
    return list(zip(steps.tolist(), values.tolist(), strict=True))


def validations(*scores: tuple[int, float | None, float | None]) -> list[dict[str, float | None]]:
    return [{"step": step, "overall_accuracy": accuracy, "mean_iou": iou} for step, accuracy, iou in scores]


def random_matrix(classes: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(classes)
    shares = rng.dirichlet(np.full(classes, 0.3), classes) + np.eye(classes)
    return (shares * rng.lognormal(12, 2, classes)[:, None]).astype(np.int64)


def random_view(
    height: int, width: int, indexes: tuple[int, ...] = (0, 1, 2, 4), *, bands: tuple[int, int] = (3, 2), name: str = ""
) -> View:
    rng = np.random.default_rng(height * width)
    optical = rng.uniform(0, 4000, (bands[0], height, width)).astype(np.float32)
    sar = rng.uniform(-25, 0, (bands[1], height, width)).astype(np.float32)
    optical[:, : height // 4] = sar[:, :, : width // 4] = np.nan
    labels, predicted = (rng.choice(np.array(indexes, np.uint8), (height, width)) for _ in range(2))
    return View(name or f"{height} x {width}", optical, sar, labels, predicted)


CURVES: dict[str, tuple[Any, ...]] = {
    "long": (decaying(30_000), validations(*((step, 0.9, step / 4e4) for step in range(500, 30_000, 500)))),
    "no validation": (decaying(300), []),
    "single step": ([(1, 0.7)], validations((1, 1.0, 1.0))),
    "nothing": ([], []),
    "not finite": ([(1, NAN), (2, float("inf")), (3, 0.5)], validations((2, 0.5, NAN), (3, None, None))),
    "large steps": ([(1_000_000 + step, loss) for step, loss in decaying(500, 2)], validations((1_000_500, 1, 0))),
}
CONFUSIONS: dict[str, tuple[Any, ...]] = {
    "2 classes": (random_matrix(2), ["water", "land"], ""),
    "2 long names": (random_matrix(2), [SCHEME.names[3], SCHEME.names[4]], "A title that must be wrapped " * 5),
    "13 classes": (random_matrix(13), SCHEME.names, "berlin.tif"),
    "20 classes": (random_matrix(20), [f"{name} {name}" for name in (SCHEME.names * 2)[:20]], "twenty"),
    "odd names": (random_matrix(3), ["$a_b$ and $", "_hidden", "Überlanger" * 20], "$x$"),
    "one pixel": (np.array([[1]]), ["a"], ""),
}
ODD = ClassScheme("odd", (1, 2), ("$x^2$", "_" * 200), ((1, 2, 3), (4, 5, 6)))
VIEWS: dict[str, tuple[Any, ...]] = {
    "64 and 512 px, 13 classes": ([random_view(64, 64, tuple(range(14))), random_view(512, 512)], SCHEME),
    "wide and tall": ([random_view(30, 200), random_view(200, 30)], SCHEMES["worldcover"]),
    "narrow": ([random_view(200, 20, tuple(range(12)), name="a/very/long/name " * 20)], SCHEMES["worldcover"]),
    "one pixel": ([random_view(1, 1, (1,))], SCHEME),
    "few bands": ([random_view(20, 20, bands=(1, 1)), random_view(20, 20, bands=(2, 1))], SCHEME),
    "odd names": ([random_view(9, 9, (1, 2), name="$a_b$")], ODD),
    "nothing": ([], SCHEME),
}
ALL = {
    **{f"curves, {name}": partial(figures._curves_figure, *given) for name, given in CURVES.items()},
    **{f"confusion, {name}": partial(figures._confusion_figure, *given) for name, given in CONFUSIONS.items()},
    **{f"views, {name}": partial(figures._views_figure, *given) for name, given in VIEWS.items()},
}
CROWDED = [
    "curves, long", "curves, nothing", "confusion, 2 long names", "confusion, odd names", "views, narrow",
    "views, odd names",
]  # fmt: skip
DRAWN: dict[str, Callable[[Path], None]] = {
    "curves": lambda path: draw_curves(path, decaying(2000), validations((1000, 0.5, 0.4), (2000, 0.6, 0.5))),
    "confusion": lambda path: draw_confusion(path, random_matrix(4), SCHEME.names[:4], "title"),
    "views": lambda path: draw_views(path, [random_view(40, 60)], SCHEME),
}


def pixels(figure: Figure) -> NDArray[np.uint8]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def texts(figure: Figure) -> list[Text]:
    """All texts that show, tick labels outside the axes' limits left out."""
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        found += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in found if text.get_visible() and text.get_text()]


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts(figure)]


@pytest.mark.parametrize("name", few(ALL, *CROWDED))
def test_texts_lie_inside_and_apart(name: str) -> None:
    figure = ALL[name]()
    height, width, _ = pixels(figure).shape
    shown = texts(figure)
    boxes = np.array([text.get_window_extent().extents for text in shown])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    starts, stops = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    overlaps = np.argwhere(np.triu((stops - starts > 0.5).all(-1), 1))
    assert not [(shown[one].get_text(), shown[other].get_text()) for one, other in overlaps]
    assert not [text for text in shown if "$" in text.get_text() and text.get_parse_math()]
    assert 200 < width < 3000
    assert 50 < height < 3000


@pytest.mark.parametrize("kind", few(DRAWN, "views"))
def test_files_are_pngs_and_the_same_each_time_in_any_thread(kind: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(DRAWN[kind], paths))
    assert sorted(tmp_path.iterdir()) == paths
    assert len({path.read_bytes() for path in paths}) == 1
    with Image.open(paths[0]) as picture:
        assert picture.format == "PNG"
        assert set(picture.info) == {"dpi", "REFNET_VERSION"}
        assert min(picture.size) > 300


@pytest.mark.parametrize("kind", few(DRAWN, "confusion"))
def test_failures_leave_nothing_behind(kind: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(OutputError, match="cannot be created"):
            DRAWN[kind](path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder.png"]


@pytest.mark.long
def test_pyplot_is_never_loaded(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, numpy\nfrom refnet_cli.plots import draw_confusion, draw_curves\n"
        f"draw_curves(pathlib.Path({str(tmp_path / 'a.png')!r}), [(1, 2.0)], [])\n"
        f"draw_confusion(pathlib.Path({str(tmp_path / 'b.png')!r}), numpy.eye(2, dtype=int), 'ab')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_many_losses_are_thinned_and_keep_their_spikes() -> None:
    losses = decaying(200_000)
    losses[123_456] = (123_457, 1000.0)
    raw, median = figures._curves_figure(losses, []).axes[0].lines
    assert len(raw.get_xdata()) <= 1000
    assert len(median.get_xdata()) <= 500
    assert (123_457, 1000.0) in set(zip(raw.get_xdata(), raw.get_ydata(), strict=True))
    truth = np.exp(-median.get_xdata() / 200_000 * 6) + 0.02
    np.testing.assert_allclose(median.get_ydata()[100:], truth[100:], rtol=0.1)
    assert median.get_xdata()[[0, -1]].tolist() == [1, 200_000]


def test_the_median_follows_a_steep_start() -> None:
    values = 1 / np.arange(1, 1001)
    median = figures._running_median(values, figures._spaced(values))
    assert median[0] == 1
    assert (np.diff(median) < 0).all()


def test_losses_may_come_in_any_order() -> None:
    line = figures._curves_figure([(3, 0.3), (1, 0.1), (2, 0.2)], []).axes[0].lines[0]
    assert line.get_xydata().tolist() == [[1, 0.1], [2, 0.2], [3, 0.3]]


@pytest.mark.parametrize(
    ("values", "scale"), [((1, 9), "linear"), ((1, 11), "log"), ((0, 11), "linear"), ((-1, 50), "linear")]
)
def test_losses_over_more_than_a_decade_are_on_a_log_scale(values: tuple[float, ...], scale: str) -> None:
    upper, lower = figures._curves_figure(list(enumerate(values)), []).axes
    assert upper.get_yscale() == scale
    assert lower.get_ylim() == (0, 1)
    assert upper.get_xlim() == lower.get_xlim()


def test_losses_that_are_not_finite_are_marked() -> None:
    figure = ALL["curves, not finite"]()
    assert figure.axes[0].lines[-1].get_xdata().tolist() == [1, 2]
    assert "not finite" in words(figure)
    assert "not finite" not in words(ALL["curves, long"]())


def test_the_best_validation_is_marked() -> None:
    scores = validations((10, 0.5, None), (30, 0.7, 0.4), (20, 0.6, 0.45))
    figure = figures._curves_figure([(1, 1.0)], scores)
    assert figure.axes[1].lines[-1].get_xydata().tolist() == [[20, 0.45]]
    assert "best mIoU: 0.450 at step 20" in words(figure)
    assert "no validation yet" in words(ALL["curves, no validation"]())
    assert not [word for word in words(ALL["curves, not finite"]()) if "best" in word]


def test_cells_hold_the_shares_of_their_rows() -> None:
    matrix = np.array([[6, 0, 2, 0], [0, 0, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]])
    matrix[0, 3] = 1
    axes = figures._confusion_figure(matrix, ["a", "absent", "c", "only mapped"], "").axes[0]
    cells = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "0.67", (0, 1): "0.22", (0, 2): "0.11", (1, 0): "0.33", (1, 1): "0.67"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "c", "only mapped"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (9)", "c (3)", "only mapped (0)"]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Of the Web Content Accessibility Guidelines, which ask for 4.5 at least."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in colour[:3]]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_numbers_stand_out_from_their_cells() -> None:
    axes = Figure().add_subplot()
    shares = np.linspace(0.001, 1, 400).reshape(20, 20)
    figures._fill_cells(axes, shares)
    assert len(axes.texts) == 400
    for text, share in zip(axes.texts, shares.ravel(), strict=True):
        assert contrast(to_rgb(text.get_color()), figures.PALE_TO_DARK(share)) > 4.4, share


def test_confusion_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="matrix is empty"):
        draw_confusion(tmp_path / "a.png", np.zeros((2, 2), int), ["a", "b"])
    with pytest.raises(ValueError, match="does not fit 3 names"):
        draw_confusion(tmp_path / "a.png", np.ones((2, 2), int), ["a", "b", "c"])
    assert not list(tmp_path.iterdir())


def panel_colours(figure: Figure, number: int, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Colours in the middle of each pixel of a panel."""
    picture = pixels(figure)
    left, bottom, width, height = figure.axes[number].get_window_extent().bounds
    rows = len(picture) - bottom - height + (np.arange(shape[0]) + 0.5) * height / shape[0]
    columns = left + (np.arange(shape[1]) + 0.5) * width / shape[1]
    return picture[np.ix_(rows.astype(int), columns.astype(int))]


@pytest.mark.parametrize("shape", [(64, 64), (20, 50), (50, 20), (2, 3)])
def test_labels_and_predictions_are_in_the_colours_of_the_scheme(shape: tuple[int, int]) -> None:
    view = random_view(*shape)
    figure = figures._views_figure([view], SCHEME)
    for number, indexes in ((2, view.labels), (3, view.predicted)):
        colours, known = panel_colours(figure, number, shape), indexes > 0
        assert (colours[known] == np.array(SCHEME.colours)[indexes[known] - 1]).all()
        assert not (colours[~known, None] == np.array(SCHEME.colours)).all(-1).any()


def test_colours_are_not_mixed_where_the_picture_is_smaller_than_the_view() -> None:
    figure = figures._views_figure([random_view(610, 700, tuple(range(1, 14)))], SCHEME)
    colours = {tuple(colour) for colour in panel_colours(figure, 3, (440, 500))[4:-4, 4:-4].reshape(-1, 3).tolist()}
    assert colours <= set(SCHEME.colours)


def test_colours_and_names_of_absent_classes_are_nowhere(tmp_path: Path) -> None:
    view = random_view(64, 64, (1, 4, 10))
    flat = np.full((1, 64, 64), 500, np.float32)
    draw_views(tmp_path / "a.png", [view._replace(optical=flat, sar=flat)], SCHEME)
    with Image.open(tmp_path / "a.png") as picture:
        found = {colour for _, colour in picture.convert("RGB").getcolors(2**20)}
    coloured = {index: colour for index, colour in enumerate(SCHEME.colours, 1) if len(set(colour)) > 1}
    assert {index for index, colour in coloured.items() if colour in found} == {1, 4, 10}
    figure = figures._views_figure([view._replace(optical=flat, sar=flat)], SCHEME)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [SCHEME.names[0], SCHEME.names[3], SCHEME.names[9]]


def test_the_legend_lists_classes_of_all_views_and_says_what_hatching_is() -> None:
    views = [random_view(8, 8, (2,)), random_view(9, 9, (0, 3))]
    legend = [text.get_text() for text in figures._views_figure(views, SCHEME).legends[0].get_texts()]
    assert legend == [SCHEME.names[1], SCHEME.names[2], "no data or no label"]


def test_titles_and_names() -> None:
    shown = words(figures._views_figure([random_view(8, 8, name="first"), random_view(8, 8, name="second")], SCHEME))
    assert {"Optical", "SAR", "Label", "Prediction", "first", "second"} <= set(shown)


def test_optical_is_stretched_between_percentiles_and_brightened() -> None:
    ramp = np.arange(101 * 100, dtype=np.float32).reshape(1, 101, 100)
    view = random_view(101, 100)._replace(optical=ramp)
    picture = figures._pictures(view, SCHEME)[0]
    low, high = np.percentile(ramp, (2, 98))
    expected = np.clip((ramp[0] - low) / (high - low), 0, 1) ** 0.7
    np.testing.assert_allclose(picture, np.dstack([expected] * 3 + [np.ones_like(expected)]), atol=1e-6)


def test_bands_become_the_colours_they_are_given_as() -> None:
    optical = np.zeros((3, 30, 30), np.float32)
    for band in range(3):
        optical[band, band * 10 : band * 10 + 10] = 3000
    colours = panel_colours(figures._views_figure([random_view(30, 30)._replace(optical=optical)], SCHEME), 0, (30, 30))
    assert colours[[5, 15, 25], 15].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_two_sar_bands_are_shown_with_their_difference() -> None:
    sar = random_view(40, 40).sar
    picture = figures._pictures(random_view(40, 40)._replace(sar=sar), SCHEME)[1]
    known = np.isfinite(sar[0])
    for channel, band in enumerate((sar[0], sar[1], sar[0] - sar[1])):
        low, high = np.percentile(band[known], (2, 98))
        np.testing.assert_allclose(
            picture[known, channel], np.clip((band[known] - low) / (high - low), 0, 1), atol=1e-5
        )
    assert (picture[..., 3] == known).all()


def test_one_sar_band_is_grey() -> None:
    picture = figures._pictures(random_view(40, 40, bands=(2, 1)), SCHEME)[1]
    assert (picture[..., :1] == picture[..., :3]).all()


def test_places_without_data_are_hatched() -> None:
    view = random_view(40, 40, (1,))
    figure = figures._views_figure([view], SCHEME)
    nothing = panel_colours(figure, 0, (40, 40))[2:8, 2:-2].reshape(-1, 3)
    assert (nothing == nothing[:, :1]).all()
    assert len(np.unique(nothing)) > 1
    empty = np.full((3, 40, 40), np.nan, np.float32)
    hatched = figures._views_figure([view._replace(optical=empty, sar=empty[:2])], SCHEME)
    for number in (0, 1):
        colours = panel_colours(hatched, number, (40, 40))
        assert (colours == colours[..., :1]).all()
