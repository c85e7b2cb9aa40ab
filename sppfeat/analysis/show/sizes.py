"""Sizes of images or boxes, as a plot of widths and heights with their histograms."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import SIZES_OF
from sppfeat.analysis.show.figure import COLORS, HEAT, new_figure
from sppfeat.config.values import check_choice
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.schema import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Sizes", "draw_sizes", "measure_sizes", "sizes_figure", "sizes_text"]

# Aspect ratios to draw as lines, width to height. On logarithmic axes, lines of the first ones would lie too close
# together.
_RATIOS = ((16, 9), (4, 3), (1, 1), (3, 4), (9, 16))
_LOG_RATIOS = ((4, 1), (1, 1), (1, 4))
_GRAY = "#8A8A8A"
_WIDE_RANGE = 8  # ratio of the largest to the smallest side at which axes become logarithmic
_MOST_POINTS = (
    1000  # maximum number of different sizes to draw as dots; more become a two-dimensional histogram
)
_MOST_EXAMPLES = 4  # maximum number of dots in the key
_N_BINS = 40
_WHAT = {
    "images": ("image as displayed", "images as displayed"),
    "boxes": ("box, as far as inside its image", "boxes, as far as inside their image"),
}
_SMALL = 7  # points
# Inches.
_SIDE, _TITLE_LINE, _LEFT, _EDGE, _TOP, _BOTTOM = 5.4, 0.17, 0.6, 0.08, 0.12, 0.45
_TITLE_LETTERS = 90  # maximum number of letters in a line


@dataclass(frozen=True)
class Sizes:
    """Sizes of images as displayed, or of the parts of boxes inside their images, in pixels.

    Attributes:
        of: ``"images"`` or ``"boxes"``.
        widths, heights: ``(n,)`` float64, pixels of the images as displayed.
        n_left_out: number of images that failed or have no known size, or of boxes without a descriptor.
    """

    of: str
    widths: npt.NDArray[np.float64]
    heights: npt.NDArray[np.float64]
    n_left_out: int


def measure_sizes(file: FeatureTable, *, of: str = "images") -> Sizes:
    """Measures all images that have a known size and did not fail, or all boxes that have a descriptor.

    Raises:
        ConfigError: ``of`` is neither ``"images"`` nor ``"boxes"``, or it is ``"boxes"`` and the file has none.
    """
    check_choice("of", of, SIZES_OF)
    if of == "images":
        heights_widths = file.image_hw.astype(np.float64)
        known = (file.status != Status.FAILED) & (heights_widths > 0).all(axis=1)
        heights, widths = heights_widths[known].T
        return Sizes(of, widths, heights, int((~known).sum()))
    if not file.has_boxes:
        raise ConfigError(f"sizes are of boxes, but the rows of {str(file.path)!r} are whole images")
    rows = file.rows_with_descriptor()
    hw = file.image_hw[file.image_index[rows]].astype(np.float64)
    x0, y0, x1, y1 = file.boxes[rows].T
    widths = np.clip(x1, 0, hw[:, 1]) - np.clip(x0, 0, hw[:, 1])
    heights = np.clip(y1, 0, hw[:, 0]) - np.clip(y0, 0, hw[:, 0])
    known = (widths > 0) & (heights > 0)
    return Sizes(of, widths[known], heights[known], file.n_rows - int(known.sum()))


def sizes_figure(sizes: Sizes) -> "Figure":
    """Draws a plot of widths and heights; inside :func:`~sppfeat.analysis.show.figure.drawing`."""
    lines = textwrap.wrap(sizes_text(sizes), _TITLE_LETTERS)
    title = _TITLE_LINE * len(lines)
    figure = new_figure(_SIDE, _SIDE + title)
    draw_sizes(figure, sizes, title=title)
    figure.text(0.02, 1 - 0.05 / (_SIDE + title), "\n".join(lines), va="top", linespacing=1.3)
    return figure


def draw_sizes(figure: "Figure", sizes: Sizes, *, title: float = 0.0) -> None:
    """Draws a plot of widths and heights, their histograms, and a key to dots and colors into a figure.

    Args:
        figure: an empty figure.
        sizes: sizes of images or boxes.
        title: height in inches to leave free at the top.
    """
    width, height = figure.get_size_inches().tolist()
    grid = figure.add_gridspec(
        2,
        2,
        width_ratios=(5, 1.1),
        height_ratios=(1.1, 5),
        wspace=0.04,
        hspace=0.04,
        left=_LEFT / width,
        right=1 - _EDGE / width,
        top=1 - (title + _TOP) / height,
        bottom=_BOTTOM / height,
    )
    axes = figure.add_subplot(grid[1, 0])
    above, right = figure.add_subplot(grid[0, 0], sharex=axes), figure.add_subplot(grid[1, 1], sharey=axes)
    corner = figure.add_subplot(grid[0, 1])
    corner.axis("off")
    limits, is_log = _range(sizes)
    if is_log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    _draw_ratios(axes, limits, _LOG_RATIOS if is_log else _RATIOS)
    _draw_points(axes, corner, sizes, limits, is_log=is_log)
    edges = np.geomspace(*limits, _N_BINS + 1) if is_log else np.linspace(*limits, _N_BINS + 1)
    _draw_histogram(above, sizes.widths, edges, "vertical")
    _draw_histogram(right, sizes.heights, edges, "horizontal")
    _label_axes(axes, is_log=is_log)


def sizes_text(sizes: Sizes) -> str:
    """Describes sizes in one line."""
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
    """Limits of both axes in pixels, and True if the axes are logarithmic."""
    sides = np.concatenate([sizes.widths, sizes.heights])
    if not len(sides):
        return (0.0, 1.0), False
    low, high = float(sides.min()), float(sides.max())
    is_log = high / low > _WIDE_RANGE
    return (low / 1.15, high * 1.15) if is_log else (0.0, high * 1.08), is_log


def _draw_ratios(axes: "Axes", limits: tuple[float, float], ratios: Sequence[tuple[int, int]]) -> None:
    """Draws lines of constant aspect ratio, labeled at the edge of the plot."""
    low, high = limits
    for width, height in ratios:
        ratio = width / height
        ends: npt.NDArray[np.float64] = np.array([max(low, low * ratio), min(high, high * ratio)])
        axes.plot(ends, ends / ratio, color=_GRAY, linewidth=0.6, linestyle=":", zorder=1)
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
            color=_GRAY,
            zorder=1,
        )


def _draw_points(
    axes: "Axes", corner: "Axes", sizes: Sizes, limits: tuple[float, float], *, is_log: bool
) -> None:
    """Draws each size as a dot whose area grows with its count; too many sizes become a two-dimensional histogram."""
    pairs = np.stack([sizes.widths, sizes.heights], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    if len(found) > _MOST_POINTS:
        _draw_cells(axes, corner, sizes, limits, is_log=is_log)
        return
    order = np.argsort(-counts, kind="stable")  # small dots over large ones
    (widths, heights), areas = found[order].T, _dot_area(counts[order])
    axes.scatter(widths, heights, s=areas, c=COLORS[4], alpha=0.5, linewidths=0, zorder=2, clip_on=False)
    most = int(counts.max(initial=0))
    examples = sorted({10**i for i in range(len(str(most)))} | {most})[-_MOST_EXAMPLES:]
    if most > 1:
        for n in examples:
            corner.scatter([], [], s=_dot_area(n), c=COLORS[4], alpha=0.5, linewidths=0, label=f"{n:,}")
        corner.legend(
            loc="upper left",
            bbox_to_anchor=(0, 1.06),
            title=sizes.of,
            title_fontsize=_SMALL,
            fontsize=_SMALL,
            borderpad=0,
            handletextpad=0.6,
            alignment="left",
        )


def _dot_area(count: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Area of a dot in square points; grows with the count, but slowly enough to leave room for other dots."""
    return np.asarray(8 * (1 + np.log2(count)))


def _draw_cells(
    axes: "Axes", corner: "Axes", sizes: Sizes, limits: tuple[float, float], *, is_log: bool
) -> None:
    scale: Literal["log", "linear"] = "log" if is_log else "linear"
    extent = np.log10(limits) if is_log else np.array(limits)
    cells = axes.hexbin(
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
    bar = axes.figure.colorbar(cells, cax=corner.inset_axes((0.05, 0.0, 0.16, 0.8)), format="{x:,.0f}")
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=_SMALL, length=2, pad=1)
    bar.ax.set_title(sizes.of, fontsize=_SMALL, loc="left", pad=4)


def _draw_histogram(
    axes: "Axes",
    values: npt.NDArray[np.float64],
    edges: npt.NDArray[np.float64],
    orientation: Literal["vertical", "horizontal"],
) -> None:
    """Draws a histogram with the count of the largest bar at its end."""
    counts, _, _ = axes.hist(values, bins=edges.tolist(), color=COLORS[6], orientation=orientation)
    axes.axis("off")
    most, at = int(np.max(counts)), int(np.argmax(counts))
    if not most:
        return
    if orientation == "vertical":
        axes.set_ylim(0, most * 1.2)
        axes.text(edges[at], most, f"{most:,}", ha="left", va="bottom", fontsize=_SMALL)
    else:
        axes.set_xlim(0, most * 1.6)
        axes.text(most * 1.05, edges[at], f"{most:,}", ha="left", va="bottom", fontsize=_SMALL)


def _label_axes(axes: "Axes", *, is_log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if is_log:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("width in pixels")
    axes.set_ylabel("height in pixels")
