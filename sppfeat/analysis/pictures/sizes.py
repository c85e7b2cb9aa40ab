"""Widths and heights of images or boxes, with their histograms."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.distributions import Sizes
from sppfeat.analysis.pictures.figure import COLOURS, HEAT, new_figure
from sppfeat.texts import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_sizes", "sizes_figure", "sizes_text"]

# Width and height of the ratios that are drawn; on logarithmic axes, where lines of these would lie close together,
# of other ones.
_RATIOS = ((16, 9), (4, 3), (1, 1), (3, 4), (9, 16))
_LOG_RATIOS = ((4, 1), (1, 1), (1, 4))
_GREY = "#8A8A8A"
_WIDE_RANGE = 8  # of the largest side to the smallest, from which on axes are logarithmic
_MOST_POINTS = 2000  # drawn one by one; of more, cells are coloured by how many lie in them
_N_BINS = 40
_WHAT = {
    "images": ("image as displayed", "images as displayed"),
    "boxes": ("box, as far as inside its image", "boxes, as far as inside their image"),
}


def sizes_figure(sizes: Sizes) -> "Figure":
    """Widths by heights; inside :func:`~sppfeat.analysis.pictures.figure.drawing`."""
    figure = new_figure(5.6, 5.8)
    draw_sizes(figure, sizes)
    figure.suptitle(textwrap.fill(sizes_text(sizes), 100), x=0.02, y=0.985, ha="left", fontsize=8)
    return figure


def draw_sizes(figure: "Figure", sizes: Sizes) -> None:
    """Draw into a figure: widths by heights, and a histogram of either on its side."""
    grid = figure.add_gridspec(
        2,
        2,
        width_ratios=(5, 1),
        height_ratios=(1, 5),
        wspace=0.04,
        hspace=0.04,
        left=0.12,
        right=0.97,
        top=0.93,
        bottom=0.1,
    )
    axes = figure.add_subplot(grid[1, 0])
    above, right = figure.add_subplot(grid[0, 0], sharex=axes), figure.add_subplot(grid[1, 1], sharey=axes)
    limits, is_log = _range(sizes)
    if is_log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    _draw_ratios(axes, limits, _LOG_RATIOS if is_log else _RATIOS)
    _draw_points(axes, sizes, limits, is_log=is_log)
    edges = np.geomspace(*limits, _N_BINS + 1) if is_log else np.linspace(*limits, _N_BINS + 1)
    above.hist(sizes.widths, bins=edges.tolist(), color=COLOURS[6])
    right.hist(sizes.heights, bins=edges.tolist(), color=COLOURS[6], orientation="horizontal")
    for beside in (above, right):
        beside.axis("off")
    _label_axes(axes, is_log=is_log)


def sizes_text(sizes: Sizes) -> str:
    """What is to be said of sizes, in a line."""
    n = len(sizes.widths)
    one, many = _WHAT[sizes.of]
    text = counted(n, one, many, thousands=",")
    if n:
        same = len(np.unique(np.stack([sizes.widths, sizes.heights]), axis=1).T)
        median = f"{np.median(sizes.widths):.0f} x {np.median(sizes.heights):.0f}"
        text += (
            f": {counted(same, 'size', 'different sizes', thousands=',')}, median {median} (width x height)"
        )
    if sizes.n_left_out:
        why = "failed or of unknown size" if sizes.of == "images" else "without descriptor"
        text += f"; {sizes.n_left_out:,} {why} not counted"
    return text


def _range(sizes: Sizes) -> tuple[tuple[float, float], bool]:
    """The range of both axes, and whether they are logarithmic."""
    sides = np.concatenate([sizes.widths, sizes.heights])
    if not len(sides):
        return (0.0, 1.0), False
    low, high = float(sides.min()), float(sides.max())
    is_log = high / low > _WIDE_RANGE
    return (low / 1.15, high * 1.15) if is_log else (0.0, high * 1.08), is_log


def _draw_ratios(axes: "Axes", limits: tuple[float, float], ratios: Sequence[tuple[int, int]]) -> None:
    """Lines of aspect ratios, named where they leave the plot."""
    low, high = limits
    for width, height in ratios:
        ratio = width / height
        ends: npt.NDArray[np.float64] = np.array([max(low, low * ratio), min(high, high * ratio)])
        axes.plot(ends, ends / ratio, color=_GREY, linewidth=0.6, linestyle=":", zorder=1)
        x, y = high * min(1, ratio), high / max(1, ratio)
        offset, ha, va = ((-2, 2), "right", "bottom") if ratio > 1 else ((-3, -1), "right", "top")
        axes.annotate(
            f"{width}:{height}",
            (x, y),
            offset if ratio != 1 else (-12, -1),
            textcoords="offset points",
            ha=ha,
            va=va,
            fontsize=6,
            color=_GREY,
            zorder=1,
        )


def _draw_points(axes: "Axes", sizes: Sizes, limits: tuple[float, float], *, is_log: bool) -> None:
    if len(sizes.widths) <= _MOST_POINTS:
        axes.scatter(sizes.widths, sizes.heights, s=8, c=COLOURS[4], alpha=0.5, linewidths=0, zorder=2)
        return
    scale: Literal["log", "linear"] = "log" if is_log else "linear"
    extent = np.log10(limits) if is_log else np.array(limits)
    axes.hexbin(
        sizes.widths,
        sizes.heights,
        gridsize=45,
        xscale=scale,
        yscale=scale,
        extent=(*extent.tolist(), *extent.tolist()),
        mincnt=1,
        bins="log",
        cmap=HEAT,
        linewidths=0.1,
        zorder=2,
    )


def _label_axes(axes: "Axes", *, is_log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if is_log:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("width in pixels")
    axes.set_ylabel("height in pixels")
