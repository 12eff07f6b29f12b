"""Plots of training progress, confusion matrices, predictions and shifts.

Figures use matplotlib's objects only, without pyplot and its global state, so they can be drawn in any thread. Sizes
are in inches.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray

from refnet_cli.classes.schemes import ClassScheme
from refnet_cli.errors import InputError
from refnet_cli.scene.registration import TOLERANCE
from refnet_cli.system.atomic import replacing
from refnet_cli.system.marks import MARK
from refnet_cli.types import Bool, Float32, Float64, UInt8
from refnet_cli.version import __version__

if TYPE_CHECKING:
    from refnet_cli.scene.coregistration import PairShift

DPI = 160
SMALL, NORMAL, LARGE = 8.5, 10, 11  # points
GAP, LINE = 0.1, 0.26
BLUE, ORANGE, RED = "#0072b2", "#e69f00", "#d55e00"  # colour-blind safe palette of Okabe and Ito
GREY = "#555555"
HATCH: dict[str, Any] = {"facecolor": "#e2e2e2", "edgecolor": "#b0b0b0", "hatch": "////"}
"""Style of missing data: hatched, because class schemes may use white and grey."""


class View(NamedTuple):
    """A crop of a scene with its labels and its prediction."""

    name: str
    optical: Float32
    """Reflectance x 10,000, shape (B, H, W): red, green and blue, or one band for grey. NaN where invalid."""
    sar: Float32
    """Backscatter in dB, shape (B, H, W), NaN where invalid."""
    labels: UInt8
    """The network's class indices, shape (H, W); 0 is no class."""
    predicted: UInt8
    """Predicted class indices, in the same form."""


def draw_curves(path: Path, losses: Sequence[tuple[int, float]], validations: Sequence[Mapping[str, Any]]) -> None:
    """Draw the curves of loss and scores during a training.

    Parameters
    ----------
    path : Path
        The PNG to create or replace.
    losses : sequence of (int, float)
        Step and main loss.
    validations : sequence of mapping
        Entries with ``step``, ``overall_accuracy`` and ``mean_iou``.

    Raises
    ------
    OutputError, StorageError
        If the file cannot be created or written.
    """
    _save(_curves_figure(losses, validations), path)


def draw_confusion(path: Path, matrix: NDArray[np.integer[Any]], names: Sequence[str], title: str = "") -> None:
    """Draw a confusion matrix as shares of each row; the diagonal is the recall.

    Parameters
    ----------
    path : Path
        The PNG to create or replace.
    matrix : int array, shape (classes, classes)
        Pixel counts, labels by row, predictions by column; classes in neither are omitted.
    names : sequence of str
        Class names.
    title : str
        Title of the figure.

    Raises
    ------
    InputError
        If the matrix is empty.
    OutputError, StorageError
        If the file cannot be created or written.
    """
    _save(_confusion_figure(np.asarray(matrix), names, title), path)


def draw_views(path: Path, views: Sequence[View], scheme: ClassScheme) -> None:
    """Draw views in rows: optical, SAR, label and prediction side by side, with a legend of the classes below.

    Optical values are stretched between the 2nd and the 98th percentile of the view and brightened. Two SAR bands are
    shown as (first, second, first - second), for example (VV, VH, VV - VH), each stretched likewise. Pixels without
    data, label or prediction are hatched.

    Parameters
    ----------
    path : Path
        The PNG to create or replace.
    views : sequence of View
    scheme : ClassScheme
        Names and colours of the classes.

    Raises
    ------
    OutputError, StorageError
        If the file cannot be created or written.
    """
    _save(_views_figure(views, scheme), path)


def draw_shift(path: Path, found: PairShift) -> None:
    """Draw the shift of each window as an arrow over the optical image, before and after SAR is moved.

    Parameters
    ----------
    path : Path
        The PNG to create or replace.
    found : PairShift

    Raises
    ------
    OutputError, StorageError
        If the file cannot be created or written.
    """
    _save(_shift_figure(found), path)


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None, MARK: __version__})  # type: ignore[no-untyped-call]
    with replacing(path) as temporary:
        temporary.write_bytes(picture.getvalue())


def _figure(width: float, height: float, layout: Any = None) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)


def _wrapped(text: str, characters: int, most_lines: int) -> str:
    lines = textwrap.wrap(text, characters)
    if len(lines) > most_lines:
        lines[most_lines - 1 :] = [lines[most_lines - 1][: characters - 1].rstrip() + "…"]
    return "\n".join(lines)


CURVE_PIECES = 500
"""Most points of a curve; twice as many where extremes are kept."""
FEW = 80
"""Curves with fewer points mark each point."""


def _curves_figure(losses: Sequence[tuple[int, float]], validations: Sequence[Mapping[str, Any]]) -> Figure:
    figure = _figure(8, 6, "constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    _plot_losses(upper, losses)
    _plot_scores(lower, validations)
    lower.set_xlabel("step")
    steps = [step for step, _ in losses] + [validation["step"] for validation in validations]
    if len(set(steps)) <= 1:
        lower.set_xlim(min(steps, default=1) - 1, max(steps, default=1) + 1)
    lower.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    lower.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    for axes in (upper, lower):
        axes.grid(color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=9)
    return figure


def _plot_losses(axes: Axes, losses: Sequence[tuple[int, float]]) -> None:
    table = np.array(losses, np.float64).reshape(-1, 2)
    table = table[np.argsort(table[:, 0], kind="stable")]
    finite = np.isfinite(table[:, 1])
    steps, values = table[finite].T
    axes.set_ylabel("loss")
    if not len(table):
        _say(axes, "no losses yet")
    if not len(values):
        axes.set_ylim(0, 1)
    elif len(values) < FEW:
        axes.plot(steps, values, ".-", color=BLUE, label="loss")
    else:
        shown, places = _extremes(values), _spaced(values)
        axes.plot(steps[shown], values[shown], color=BLUE, alpha=0.3, linewidth=0.8, label="single steps")
        axes.plot(steps[places], _running_median(values, places), color=BLUE, linewidth=1.8, label="running median")
    if len(values) and 0 < 10 * values.min() < values.max():
        _scale_by_decades(axes, np.log10(values.max() / values.min()))
    if not finite.all():
        lost = table[~finite, 0]
        lost = lost[_spaced(lost)]
        across, top = axes.get_xaxis_transform(), np.full(len(lost), 0.97)
        axes.plot(lost, top, "x", color=RED, transform=across, label="not finite")


def _scale_by_decades(axes: Axes, decades: float) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def _extremes(values: Float64) -> NDArray[np.intp]:
    """Return the indices of the minimum and maximum of each piece, so that no spike is lost."""
    if len(values) <= 2 * CURVE_PIECES:
        return np.arange(len(values))
    cuts = np.linspace(0, len(values), CURVE_PIECES + 1).astype(int)
    pieces = [(start, values[start:stop]) for start, stop in pairwise(cuts)]
    return np.unique([start + place for start, piece in pieces for place in (piece.argmin(), piece.argmax())])


def _spaced(values: Float64) -> NDArray[np.intp]:
    """Return evenly spaced indices, including the first and the last."""
    return np.linspace(0, len(values) - 1, min(len(values), CURVE_PIECES)).astype(np.intp)


def _running_median(values: Float64, places: NDArray[np.intp]) -> Float64:
    """Return running medians; windows are shorter at the start, to keep the steep fall of the loss."""
    reaches = np.minimum(places, len(values) // 40)
    ranges = zip(places - reaches, places + reaches + 1, strict=True)
    return np.array([np.median(values[start:stop]) for start, stop in ranges])


def _plot_scores(axes: Axes, validations: Sequence[Mapping[str, Any]]) -> None:
    axes.set_ylabel("score")
    axes.set_ylim(0, 1)
    if not validations:
        _say(axes, "no validation yet")
        return
    keys = ("step", "overall_accuracy", "mean_iou")
    table = np.array([[row[key] for key in keys] for row in validations], np.float64)
    steps, accuracy, iou = table[np.argsort(table[:, 0], kind="stable")].T
    size = 4 if len(steps) < FEW else 0
    axes.plot(steps, accuracy, "s--", color=ORANGE, label="overall accuracy", markersize=size, clip_on=False)
    axes.plot(steps, iou, "o-", color=BLUE, label="mIoU", markersize=size, clip_on=False)
    if np.isfinite(iou).any():
        best = np.nanargmax(iou)
        label = f"best mIoU: {iou[best]:.3f} at step {steps[best]:,.0f}"
        axes.plot(steps[best], iou[best], "*", color=RED, markersize=12, clip_on=False, zorder=3, label=label)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, color=GREY, ha="center", va="center", transform=axes.transAxes)


WHAT_CELLS_SHOW = "Share of each row; the diagonal is the recall"
ROOM = 3.2
"""Inches for names and title, next to and above the cells."""
LETTERS = 11
"""Letters of a name per inch, at least."""
PALE_TO_DARK = matplotlib.colormaps["Blues"].with_extremes(bad="#e4e4e4")


def _confusion_figure(matrix: NDArray[np.integer[Any]], names: Sequence[str], title: str) -> Figure:
    if matrix.shape != (len(names), len(names)):
        raise ValueError(f"A confusion matrix of shape {matrix.shape} does not fit {len(names)} names.")
    present = np.flatnonzero(matrix.sum(0) + matrix.sum(1)).tolist()
    if not present:
        raise InputError("The confusion matrix is empty: no pixel has both a label and a prediction.")
    matrix = matrix[np.ix_(present, present)]
    totals = matrix.sum(1)
    columns = [_wrapped(names[index], 26, 2) for index in present]
    rows = [f"{name} ({total:,})" for name, total in zip(columns, totals, strict=True)]

    cell = max(0.5, min(1.1, 5 / len(present)))
    side = cell * len(present) + ROOM
    figure = _figure(side, side, "constrained")
    axes = figure.add_subplot()
    _fill_cells(axes, matrix / np.where(totals > 0, totals, np.nan)[:, None])
    figure.suptitle(_wrapped(title, int(10 * side), 3), x=GAP / side, ha="left", fontsize=LARGE, parse_math=False)
    axes.set_title(WHAT_CELLS_SHOW, loc="right", fontsize=SMALL, color=GREY)
    axes.set_xlabel("prediction", fontsize=NORMAL)
    axes.set_ylabel("label (pixels)", fontsize=NORMAL)
    upright = max(len(line) for name in columns for line in name.splitlines()) > LETTERS * cell
    turned: dict[str, Any] = {"rotation": 90, "multialignment": "right"} if upright else {}
    axes.set_xticks(range(len(present)), columns, fontsize=SMALL, parse_math=False, **turned)
    axes.set_yticks(range(len(present)), rows, fontsize=SMALL, parse_math=False)
    axes.tick_params(length=0)
    return figure


def _shift_figure(found: PairShift) -> Figure:
    shift, (height, width) = found.shift, found.grid.shape
    panels = 2 if found.move else 1
    side = 5.6
    tall = side * min(max(height / width, 0.3), 1.6)
    figure = _figure(panels * side + 0.8, tall + 1.6, "constrained")
    axes = figure.subplots(1, panels, squeeze=False, sharey=True)[0]
    for each in axes:
        _show_grey(each, found)
    axes[0].set_ylabel("row")
    if not found.move:
        figure.suptitle("No window could be compared", fontsize=LARGE)
        return figure
    vectors = np.array(shift.vectors, np.float64).reshape(-1, 5)
    moves = vectors[:, 2:4]
    left = moves - (shift.columns, shift.rows)
    agree = np.hypot(*left.T) <= TOLERANCE
    length = max(float(np.percentile(np.hypot(*moves.T), 90)), 1.0)
    for each, arrows, title in zip(axes, (moves, left), ("before", "after moving SAR"), strict=True):
        key = _draw_arrows(each, vectors[:, 1], vectors[:, 0], arrows, agree, length)
        each.set_title(f"{title}: {np.median(np.hypot(*arrows.T)):.1f} pixels (median)", fontsize=NORMAL)
    axes[0].quiverkey(
        key, 0.06, 0.02, length, f"{length:.1f} pixels", labelpos="E", coordinates="figure", color=GREY,
        fontproperties={"size": SMALL},
    )  # fmt: skip
    state = "accepted" if shift.accepted else "not accepted"
    figure.suptitle(f"SAR must move {found.move} ({state})", fontsize=LARGE)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _show_grey(axes: Axes, found: PairShift) -> None:
    """Show the optical image in light greys, on which arrows stand out."""
    height, width = found.grid.shape
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xlabel="column", facecolor="#eeeeee")
    if found.picture is not None and np.isfinite(found.picture).any():
        grey = 0.45 + 0.55 * _stretched(found.picture)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0), interpolation="nearest")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))


def _draw_arrows(
    axes: Axes, columns: Float64, rows: Float64, moves: Float64, agree: Bool, length: float
) -> Any:
    """Draw moves as arrows of which one of a length is a tenth of the panel wide."""
    arrows = None
    for chosen, colour, label in (
        (agree, BLUE, f"windows within {TOLERANCE:g} pixels of the shift"),
        (~agree, RED, "other windows"),
    ):
        if chosen.any():
            arrows = axes.quiver(
                columns[chosen], rows[chosen], *moves[chosen].T, color=colour, angles="xy", scale_units="width",
                scale=10 * length, width=0.005, edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            axes.plot([], [], color=colour, label=label)
    return arrows


def _fill_cells(axes: Axes, shares: Float64) -> None:
    axes.imshow(shares, cmap=PALE_TO_DARK, norm=Normalize(0, 1), interpolation="nearest")
    for row, column in np.argwhere(shares > 0):
        share = shares[row, column]
        red, green, blue, _ = PALE_TO_DARK(share)
        dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.18
        colour = "white" if dark else "black" if share >= 0.005 else GREY
        axes.text(column, row, f"{share:.2f}", color=colour, fontsize=SMALL, ha="center", va="center")


SIDE = 3.2
"""Longer side of a view's panels: 512 pixels of the picture."""


def _views_figure(views: Sequence[View], scheme: ClassScheme) -> Figure:
    shapes = [view.labels.shape for view in views] or [(1, 4)]
    heights, widths = SIDE * np.array([np.divide(shape, max(shape)) for shape in shapes]).T
    column = widths.max(initial=1.3)
    keys = _keys(views, scheme)
    columns = max(1, int(4 * column / max((0.6 + len(str(key.get_label())) / LETTERS for key in keys), default=1)))
    names = [_wrapped(view.name, int(22 * column), 2) for view in views]
    lines = 2 + sum(name.count("\n") + 1 for name in names) + math.ceil(len(keys) / columns)
    layout = ConstrainedLayoutEngine(w_pad=GAP / 2, h_pad=GAP / 4, wspace=0, hspace=0)
    figure = _figure(4 * (column + GAP), heights.sum() + LINE * lines, layout)
    rows = figure.subplots(len(shapes), 4, squeeze=False, height_ratios=heights)
    for axes, title in zip(rows[0], ("Optical", "SAR", "Label", "Prediction"), strict=True):
        axes.set_title(title, fontsize=LARGE)
    for axes in rows.flat:
        axes.set(xticks=(), yticks=())
        axes.patch.set(**HATCH)
    for panels, view, name in zip(rows, views, names, strict=False):
        panels[0].set_xlabel(name, loc="left", fontsize=NORMAL, color=GREY, parse_math=False)
        for axes, picture in zip(panels, _pictures(view, scheme), strict=True):
            mixing = "nearest" if picture.dtype == np.uint8 else "antialiased"  # class colours must not be mixed
            axes.imshow(picture, interpolation=mixing)
    legend = figure.legend(handles=keys, loc="outside lower left", ncols=columns, frameon=False, fontsize=NORMAL)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _pictures(view: View, scheme: ClassScheme) -> tuple[NDArray[Any], ...]:
    """Return the four panels as RGBA, shape (H, W, 4)."""
    optical = view.optical[:3] if len(view.optical) > 2 else view.optical[:1]
    sar = view.sar
    if len(sar) > 1:
        sar = np.stack((sar[0], sar[1], sar[0] - sar[1]))
    palette = np.array([(0, 0, 0, 0), *((*colour, 255) for colour in scheme.colours)], np.uint8)
    return (
        _picture(_stretched(optical) ** 0.7),
        _picture(np.concatenate([_stretched(band[None]) for band in sar])),
        palette[view.labels],
        palette[view.predicted],
    )


def _stretched(bands: Float32) -> Float32:
    """Return values stretched from 0 at the 2nd percentile to 1 at the 98th; NaN is kept."""
    known = bands[np.isfinite(bands)]
    low, high = np.percentile(known, (2, 98)) if known.size else (0, 1)
    return np.clip((bands - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def _picture(bands: Float32) -> Float32:
    """Return one or three bands as RGBA."""
    known: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(bands))
    colours = np.broadcast_to(np.where(known, bands, 0), (3, *known.shape))
    return np.concatenate((colours, known[None])).transpose(1, 2, 0).astype(np.float32)


def _keys(views: Sequence[View], scheme: ClassScheme) -> list[Patch]:
    """Return legend entries for each class in labels and predictions, and for the hatching if any."""
    indexes = [array for view in views for array in (view.labels, view.predicted)]
    counts = sum((np.bincount(array.ravel(), minlength=scheme.classes) for array in indexes), np.zeros(scheme.classes))
    gaps = counts[0] or not all(np.isfinite(bands).all() for view in views for bands in (view.optical, view.sar))
    keys = [
        Patch(
            facecolor="#{:02x}{:02x}{:02x}".format(*colour), edgecolor=GREY, linewidth=0.5, label=_wrapped(name, 60, 1)
        )
        for name, colour, count in zip(scheme.names, scheme.colours, counts[1:], strict=True)
        if count
    ]
    return keys + ([Patch(label="no data or no label", **HATCH)] if gaps else [])
