"""Histograms of a file: norms of descriptors, and widths by heights of images or boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import MOST_NORMS, SIZES_OF
from sppfeat.analysis.rows import check_described, draw_rows
from sppfeat.analysis.show.figure import (
    COLORS,
    HEAT,
    Picture,
    check_picture_path,
    new_figure,
    write_picture,
)
from sppfeat.analysis.wording import nonfinite_text, rounded, sample_text
from sppfeat.boxes.table import clip_boxes
from sppfeat.config.values import StrPath, check_choice
from sppfeat.config.wording import counted, one_line
from sppfeat.errors import ConfigError
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.reader import FeatureFile, Selection
from sppfeat.store.schema import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Norms",
    "Sizes",
    "draw_norms",
    "draw_sizes",
    "measure_norms",
    "measure_sizes",
    "norms_text",
    "show_norms",
    "show_sizes",
    "sizes_text",
]

_BLOCK_NBYTES = 16 << 20  # size of a block of descriptors; float64 copies take four times as much

_HISTOGRAM, _SENTENCE = 2.5, 0.6  # heights in inches
_FEWEST_BINS, _MOST_BINS = 9, 41
_NARROW = 1e-4  # norms with a smaller relative spread count as equal

# Aspect ratios to draw as lines, width to height; fewer on logarithmic axes, where lines are closer together.
_RATIOS = ((16, 9), (4, 3), (1, 1), (3, 4), (9, 16))
_LOG_RATIOS = ((4, 1), (1, 1), (1, 4))
_GRAY = "#8A8A8A"
_WIDE_RANGE = 8  # ratio of the largest to the smallest side at which axes become logarithmic
# Leading digits of the labels of logarithmic axes, by the ratio of the limits below which the labels fit.
_LABELED = {100: (1, 2, 5), 1000: (1, 3), float("inf"): (1,)}
_N_BINS = 40
_NOUNS = {"images": ("image", "images"), "boxes": ("box", "boxes")}
_SIDE = 5.4  # inches


@dataclass(frozen=True)
class Norms:
    """l2 norms of each layer's part of the stored (normalized) descriptors.

    Attributes:
        layers: names of the ``L`` layers.
        values: ``(n, L)`` float64, norms of the rows without NaN and infinities.
        n_zero: number of these rows with norm zero, for each layer.
        n_nonfinite: number of rows with NaN or infinities.
        n_rows: number of rows that were sampled from.
        normalize: normalization of the descriptors; in reduced files, the one after the reduction.
    """

    layers: tuple[str, ...]
    values: npt.NDArray[np.float64]
    n_zero: tuple[int, ...]
    n_nonfinite: int
    n_rows: int
    normalize: str

    def is_uniform(self, layer: int) -> bool:
        """True if the norms of a layer hardly differ, as after normalization."""
        values = self.values[:, layer]
        return not len(values) or bool(np.ptp(values) <= _NARROW * values.max())


def show_norms(
    file: StrPath,
    output: StrPath,
    *,
    max_rows: int = MOST_NORMS,
    seed: int = 0,
    overwrite: bool = False,
    **selection: Any,
) -> Picture:
    """Draws histograms of the l2 norms of descriptors, one per layer.

    Args:
        file: the feature file.
        output: the picture to write: .png, .svg or .pdf.
        max_rows: measure at most this many rows, drawn at random.
        seed: random seed.
        overwrite: replace the output if it exists.
        **selection: rows, layers and levels; see :meth:`sppfeat.store.reader.FeatureFile.select`.

    Returns:
        The picture's path, a line about each layer, and the :class:`Norms`.

    Raises:
        ConfigError: the output is not a picture or is also an input, the file lacks such rows or columns, a row has no
            descriptor, or matplotlib is not installed.
        StoreError: the file cannot be read, or the output exists or cannot be written.
    """
    path = check_picture_path(output, inputs=[file], overwrite=overwrite)
    with FeatureFile(file) as features:
        norms = measure_norms(features.select(**selection), most=max_rows, seed=seed)
    numbers = range(len(norms.layers))
    write_picture(lambda: draw_norms(norms, numbers, has_titles=True), path, overwrite=overwrite)
    texts = tuple(norms_text(norms, i) for i in numbers)
    if len(texts) == 1:
        return Picture(path, texts[0], norms)
    return Picture(path, f"{len(texts)} layers", norms, details=texts)


def measure_norms(selection: Selection, *, most: int = MOST_NORMS, seed: int = 0) -> Norms:
    """Measures the norms of at most ``most`` rows of a selection, layer by layer."""
    check_described(selection)
    drawn = draw_rows(selection, most, seed=seed)
    ranges = selection.columns.layer_ranges()
    values = np.empty((len(drawn), len(ranges)))
    for part, rows in drawn.blocks(nbytes=_BLOCK_NBYTES):
        block = rows.astype(np.float64)
        for i, columns in enumerate(ranges.values()):
            values[part, i] = np.linalg.norm(block[:, columns], axis=1)
    finite = np.isfinite(values).all(axis=1)
    kept, file = values[finite], selection.file
    return Norms(
        layers=tuple(ranges),
        values=kept,
        n_zero=tuple((kept == 0).sum(axis=0).tolist()),
        n_nonfinite=int((~finite).sum()),
        n_rows=len(selection),
        normalize=(file.config.descriptor if file.reduction is None else file.reduction.spec).normalize,
    )


def draw_norms(norms: Norms, layers: Sequence[int], *, has_titles: bool = False) -> "Figure":
    """Draws a histogram, or writes a sentence if all norms are equal, for each of the numbered layers.

    Panels are one below the other. Call this inside ``drawing``.
    """
    from matplotlib.ticker import MaxNLocator

    heights = [_SENTENCE if norms.is_uniform(layer) else _HISTOGRAM for layer in layers]
    figure = new_figure(5.5 if has_titles else 3.2, sum(heights))
    panels = figure.subplots(len(layers), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    how = "" if norms.normalize == "none" else f", after --normalize {norms.normalize}"
    for axes, layer in zip(panels, layers, strict=True):
        if norms.is_uniform(layer):
            axes.axis("off")
            equal = f"\nAll l2 norms are equal{how}." if len(norms.values) else ""
            axes.text(0, 0.5, norms_text(norms, layer) + equal, va="center", wrap=True)
            continue
        values = norms.values[:, layer]
        # Few values get few bins; otherwise most would be empty.
        n_bins = min(max(2 * int(len(values) ** 0.5) + 1, _FEWEST_BINS), _MOST_BINS)
        axes.hist(values, bins=n_bins, color=COLORS[6])
        axes.set(xlabel=f"l2 norm{how}", ylabel="rows")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if has_titles:
            axes.set_title(norms_text(norms, layer), wrap=True)
    return figure


def norms_text(norms: Norms, layer: int) -> str:
    """Describes the norms of one layer in one line."""
    values = norms.values[:, layer]
    rows = sample_text(len(values), n_nonfinite=norms.n_nonfinite, n_rows=norms.n_rows)
    text = f"{one_line(norms.layers[layer], longest=60)}: {rows}"
    if len(values):
        low, median, high = np.quantile(values, (0, 0.5, 1)).tolist()
        spread = "all" if norms.is_uniform(layer) else f"{rounded(low)} to {rounded(high)}, median"
        text += f", {spread} {rounded(median)}"
    if norms.n_zero[layer]:
        text += "; " + counted(norms.n_zero[layer], "is", "are", thousands=",") + " zero"
    return text + nonfinite_text(norms.n_nonfinite)


@dataclass(frozen=True)
class Sizes:
    """Sizes of images as displayed, or of boxes clipped to their images, in pixels.

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
    """Draws widths by heights of images or boxes, with histograms of both and lines of common aspect ratios.

    Args:
        file: the feature file.
        output: the picture to write: .png, .svg or .pdf.
        of: ``"images"`` (as displayed) or ``"boxes"`` (clipped to their images).
        overwrite: replace the output if it exists.

    Returns:
        The picture's path, its caption, and the :class:`Sizes`.

    Raises:
        ConfigError: the output is not a picture or is also an input, ``of`` is unknown, the file has no boxes, or
            matplotlib is not installed.
        StoreError: the file cannot be read, or the output exists or cannot be written.
    """
    path = check_picture_path(output, inputs=[file], overwrite=overwrite)
    with FeatureFile(file) as features:
        sizes = measure_sizes(features, of=of)
    write_picture(lambda: draw_sizes(sizes, title=sizes_text(sizes)), path, overwrite=overwrite)
    return Picture(path, sizes_text(sizes), sizes)


def measure_sizes(file: FeatureTable, *, of: str = "images") -> Sizes:
    """Measures all images that have a known size and did not fail, or all boxes that have a descriptor."""
    check_choice("of", of, SIZES_OF)
    if of == "images":
        heights_widths = file.image_hw.astype(np.float64)
        known = (file.status != Status.FAILED) & (heights_widths > 0).all(axis=1)
        heights, widths = heights_widths[known].T
        return Sizes(of, widths, heights, int((~known).sum()))
    if not file.has_boxes:
        raise ConfigError(
            f"--of boxes needs a file with boxes; the rows of {str(file.path)!r} are whole images"
        )
    rows = file.rows_with_descriptor()
    clipped, _ = clip_boxes(file.boxes[rows], file.image_hw[file.image_index[rows]])
    sides = clipped[:, 2:] - clipped[:, :2]
    widths, heights = sides[(sides > 0).all(axis=1)].T
    return Sizes(of, widths, heights, file.n_rows - len(widths))


def sizes_text(sizes: Sizes) -> str:
    """Describes sizes in one line."""
    text = counted(len(sizes.widths), *_NOUNS[sizes.of], thousands=",")
    if len(sizes.widths):
        n_sizes = len(np.unique(np.stack([sizes.widths, sizes.heights]), axis=1).T)
        median = f"{np.median(sizes.widths):.0f} x {np.median(sizes.heights):.0f} (width x height)"
        text += f", all {median}" if n_sizes == 1 else f", {n_sizes:,} sizes, median {median}"
    if sizes.n_left_out:
        why = "failed or of unknown size" if sizes.of == "images" else "without a descriptor"
        text += f"; {sizes.n_left_out:,} {why} not shown"
    return text


def draw_sizes(sizes: Sizes, *, title: str = "", side: float = _SIDE) -> "Figure":
    """Draws widths by heights, histograms, and a color key, ``side`` inches wide; inside ``drawing``."""
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

        subs = next(digits for ratio, digits in _LABELED.items() if high / low < ratio)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, subs=subs))
            axis.set_major_formatter("{x:,.6g}")
            axis.set_minor_formatter(NullFormatter())
    return figure


def _draw_ratios(axes: "Axes", limits: tuple[float, float], ratios: tuple[tuple[int, int], ...]) -> None:
    """Draws lines of constant aspect ratio, labeled outside the plot, where no points are."""
    low, high = limits
    for width, height in ratios:
        ratio = width / height
        ends: npt.NDArray[np.float64] = np.array([max(low, low * ratio), min(high, high * ratio)])
        axes.plot(ends, ends / ratio, color=_GRAY, linewidth=0.6, linestyle=":", zorder=1)
        style: Any = {"ha": "left" if ratio >= 1 else "center", "va": "center" if ratio > 1 else "bottom"}
        offset = (2 * (ratio >= 1), 2 * (ratio <= 1))
        end = (ends[1], ends[1] / ratio)
        axes.annotate(
            f"{width}:{height}", end, offset, textcoords="offset points", fontsize=6, color=_GRAY, **style
        )


def _draw_cells(
    axes: "Axes", key: "Axes", sizes: Sizes, limits: tuple[float, float], *, is_log: bool
) -> None:
    """Draws a two-dimensional histogram, with a key to its colors."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, LogNorm

    # Without its darkest part, which is invisible on dark pages.
    colors = ListedColormap(colormaps[HEAT](np.linspace(0.25, 1, 256)))
    scale = dict.fromkeys(("xscale", "yscale"), "log" if is_log else "linear")
    extent = (*(np.log10(limits) if is_log else limits),) * 2
    style: Any = {"cmap": colors, "edgecolors": _GRAY, "linewidths": 0.3, "zorder": 2}
    style |= {"gridsize": 45, "extent": extent, "mincnt": 1, **scale}
    cells = axes.hexbin(sizes.widths, sizes.heights, **style)
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
    """Draws a histogram, with the count of its largest bar."""
    histogram: Any = axes.hist(values, bins=edges.tolist(), color=COLORS[6], orientation=orientation)
    axes.axis("off")
    counts, _, bars = histogram
    labels = [""] * len(counts)
    if counts.any():
        labels[counts.argmax()] = f"{counts.max():,.0f}"
    axes.bar_label(bars, labels, fontsize=7, padding=2)
