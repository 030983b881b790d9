"""Plots as PNG bytes, drawn by matplotlib (the extra ``[eval]``) without a display."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from nnface.errors import DependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart by people with any colour vision, and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")


def lines(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    title: str,
    x: str,
    y: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> bytes:
    """A line for each name, as PNG.

    Args:
        curves: name in the legend to x and y values, (n,) each.
        title: says what is shown, on which data, by which protocol.
        x: label of the x axis, with its unit.
        y: label of the y axis.
        x_range: limits of the axis; None: those of the values.
        y_range: likewise.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    figure, axes = _figure(title, x, y)
    for number, (name, (across, up)) in enumerate(curves.items()):
        style = STYLES[number % len(STYLES)]
        axes.plot(across, up, style, color=COLOURS[number % len(COLOURS)], linewidth=1.8, label=_plain(name))
    if x_range is not None:
        axes.set_xlim(*x_range)
    if y_range is not None:
        axes.set_ylim(*y_range)
    axes.legend(loc="best", frameon=False)
    return _png(figure)


def bars(
    values: Mapping[str, float],
    *,
    title: str,
    x: str,
    y: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    y_range: tuple[float, float] | None = None,
) -> bytes:
    """A bar for each name, its value written below it, as PNG; NaN bars are left out.

    Args:
        values: name below the bar to height.
        title: as in :func:`lines`.
        x: label of the x axis.
        y: label of the y axis.
        intervals: name to the bounds of an error bar.
        y_range: limits of the axis.
    """
    # A value is written below each bar, so that many bars need a wider picture.
    figure, axes = _figure(title, x, y, (max(6.4, 0.62 * len(values)), 4.4))
    shown = {name: value for name, value in values.items() if value == value}
    places = range(len(shown))
    axes.bar(places, list(shown.values()), color=COLOURS[0], width=0.62)
    for place, (name, value) in zip(places, shown.items(), strict=True):
        if intervals is not None and name in intervals:
            low, high = intervals[name]
            axes.errorbar(place, value, [[max(0, value - low)], [max(0, high - value)]], color="black", capsize=4)
    axes.set_xticks(list(places), [f"{_plain(name)}\n{value:.1f}" for name, value in shown.items()])
    if y_range is not None:
        axes.set_ylim(*y_range)
    return _png(figure)


def matrix(counts: ArrayLike, names: Sequence[str], *, title: str, x: str, y: str) -> bytes:
    """A square table of counts as shares of each row, darker for more, with the per cent written in, as PNG.

    Args:
        counts: (n, n).
        names: of rows and columns.
        title: as in :func:`lines`.
        x: what the columns are.
        y: what the rows are.
    """
    side = max(4.4, 0.42 * len(names))
    figure, axes = _figure(title, x, y, (max(6.4, side), side))
    table = np.asarray(counts, float)
    shares = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.grid(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(shares):
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color="white" if value > 55 else "black"
        )
    places = range(len(names))
    axes.set_xticks(list(places), [_plain(name) for name in names], rotation=35, ha="right", fontsize=8)
    axes.set_yticks(list(places), [_plain(name) for name in names], fontsize=8)
    return _png(figure)


def _figure(title: str, x: str, y: str, size: tuple[float, float] = (6.4, 4.4)) -> tuple["Figure", "Axes"]:
    """``size``: width and height in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DependencyError("plots need matplotlib: pip install 'nnface[eval]'") from error
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.set_title(_plain(title), fontsize=11, loc="left", wrap=True)
    axes.set_xlabel(_plain(x))
    axes.set_ylabel(_plain(y))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: "Figure") -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plain(text: str) -> str:
    """Dollar signs would start a formula, and a leading underscore would hide a legend's entry."""
    return text.replace("$", r"\$") if not text.startswith("_") else " " + text.replace("$", r"\$")
