"""Sizes of images or boxes, as a plot of widths and heights with their histograms."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import SIZES_OF
from sppfeat.analysis.show.figure import COLORS, HEAT, Picture, check_picture_path, new_figure, write_picture
from sppfeat.config.values import StrPath, check_choice
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Sizes", "draw_sizes", "measure_sizes", "show_sizes", "sizes_text"]

# Aspect ratios to draw as lines, width to height. On logarithmic axes, lines of the first ones would lie too close
# together.
_RATIOS = ((16, 9), (4, 3), (1, 1), (3, 4), (9, 16))
_LOG_RATIOS = ((4, 1), (1, 1), (1, 4))
_GRAY = "#8A8A8A"
_WIDE_RANGE = 8  # ratio of the largest to the smallest side at which axes become logarithmic
_VERY_WIDE_RANGE = 1000  # ratio at which only powers of ten are labeled
_N_BINS = 40
_WHAT = {
    "images": ("image as displayed", "images as displayed"),
    "boxes": ("box, as far as inside its image", "boxes, as far as inside their image"),
}
_SIDE = 5.4  # inches


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


def show_sizes(file: StrPath, output: StrPath, *, of: str = "images", overwrite: bool = False) -> Picture:
    """Draws widths by heights of images or boxes, with a histogram of either and lines of common aspect ratios.

    Args:
        file: the feature file.
        output: the picture to write: .png, .svg or .pdf.
        of: ``"images"`` (as displayed) or ``"boxes"`` (as far as they lie inside their image).
        overwrite: replace the output if it exists.

    Returns:
        The picture's path, its caption, and the :class:`Sizes` that it shows, in pixels.

    Raises:
        ConfigError: the output is no picture or an input, ``of`` is unknown, the file has no boxes, or matplotlib is
            not installed.
        StoreError: the file cannot be read, or the output exists or cannot be written.
    """
    path = Path(output)
    check_picture_path(path, inputs=[file], overwrite=overwrite)
    with FeatureFile(file) as features:
        sizes = measure_sizes(features, of=of)
    write_picture(lambda: draw_sizes(sizes, title=sizes_text(sizes)), path, overwrite=overwrite)
    return Picture(path, (sizes_text(sizes),), sizes)


def measure_sizes(file: FeatureTable, *, of: str = "images") -> Sizes:
    """Measures all images that have a known size and did not fail, or all boxes that have a descriptor."""
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


def sizes_text(sizes: Sizes) -> str:
    """Describes sizes in one line."""
    n = len(sizes.widths)
    text = counted(n, *_WHAT[sizes.of], thousands=",")
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


def draw_sizes(sizes: Sizes, *, title: str = "", side: float = _SIDE) -> "Figure":
    """Draws widths by heights, their histograms, and a key to the colors, ``side`` inches wide; inside ``drawing``."""
    figure = new_figure(side, side)
    figure.suptitle(title, x=0.01, ha="left", wrap=True)
    shares = {"width_ratios": (5, 1.1), "height_ratios": (1.1, 5)}
    panels: dict[str, Axes] = figure.subplot_mosaic([["above", "key"], ["plot", "right"]], gridspec_kw=shares)
    axes = panels["plot"]
    panels["above"].sharex(axes)
    panels["right"].sharey(axes)
    sides = np.concatenate([sizes.widths, sizes.heights])
    low, high = (float(sides.min()), float(sides.max())) if len(sides) else (0.5, 1.0)
    is_log = high / low > _WIDE_RANGE
    limits = (low / 1.15, high * 1.15) if is_log else (0.0, high * 1.08)
    if is_log:
        axes.set(xscale="log", yscale="log")
    axes.set(xlim=limits, ylim=limits, xlabel="width in pixels", ylabel="height in pixels")
    _draw_ratios(axes, limits, _LOG_RATIOS if is_log else _RATIOS)
    _draw_cells(axes, panels["key"], sizes, limits, is_log=is_log)
    edges = (np.geomspace if is_log else np.linspace)(*limits, _N_BINS + 1)
    _draw_histogram(panels["above"], sizes.widths, edges, "vertical")
    _draw_histogram(panels["right"], sizes.heights, edges, "horizontal")
    if is_log:
        from matplotlib.ticker import LogLocator, NullFormatter

        subs = (1, 2, 5) if high / low < _VERY_WIDE_RANGE else (1,)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, subs=subs))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    return figure


def _draw_ratios(axes: "Axes", limits: tuple[float, float], ratios: tuple[tuple[int, int], ...]) -> None:
    """Draws lines of constant aspect ratio, labeled at the edge of the plot."""
    low, high = limits
    for width, height in ratios:
        ratio = width / height
        ends: npt.NDArray[np.float64] = np.array([max(low, low * ratio), min(high, high * ratio)])
        axes.plot(ends, ends / ratio, color=_GRAY, linewidth=0.6, linestyle=":", zorder=1)
        offset, va = ((-2, 2), "bottom") if ratio > 1 else ((-3 if ratio < 1 else -12, -1), "top")
        look: dict[str, Any] = {"ha": "right", "va": va, "fontsize": 6, "color": _GRAY, "zorder": 1}
        end = (ends[1], ends[1] / ratio)
        axes.annotate(f"{width}:{height}", end, offset, textcoords="offset points", **look)


def _draw_cells(
    axes: "Axes", key: "Axes", sizes: Sizes, limits: tuple[float, float], *, is_log: bool
) -> None:
    """Draws a two-dimensional histogram, with a key to its colors."""
    from matplotlib.colors import LogNorm

    scale = dict.fromkeys(("xscale", "yscale"), "log" if is_log else "linear")
    extent = (*(np.log10(limits) if is_log else limits),) * 2
    look: Any = {"cmap": HEAT, "edgecolors": _GRAY, "linewidths": 0.3, "zorder": 2}
    look |= {"gridsize": 45, "extent": extent, "mincnt": 1, **scale}
    cells = axes.hexbin(sizes.widths, sizes.heights, **look)
    most = int(np.max(np.asarray(cells.get_array()), initial=1))
    cells.set_norm(LogNorm(1, max(2, most)))
    key.axis("off")
    place = key.inset_axes((0, 0, 0.15, 0.8))
    bar = key.figure.colorbar(cells, cax=place, ticks=[1, most], format="{x:,.0f}")
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    bar.ax.set_title(sizes.of, fontsize=7, loc="left")


def _draw_histogram(
    axes: "Axes",
    values: npt.NDArray[np.float64],
    edges: npt.NDArray[np.float64],
    orientation: Literal["vertical", "horizontal"],
) -> None:
    """Draws a histogram with the count of the largest bar at its end."""
    histogram: Any = axes.hist(values, bins=edges.tolist(), color=COLORS[6], orientation=orientation)
    axes.axis("off")
    counts, _, bars = histogram
    labels = [""] * len(counts)
    if counts.any():
        labels[counts.argmax()] = f"{counts.max():,.0f}"
    axes.bar_label(bars, labels, fontsize=7, padding=2)
