"""The panels of a picture of one image: the network input, its map, bins, pooled values and maxima."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.show.activations import LayerActivations, PooledBox
from sppfeat.analysis.show.figure import COLORS, HEAT
from sppfeat.analysis.show.pooled_levels import PooledLevel, strength

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MAXIMA", "LayerPanels", "draw_bins", "draw_map", "draw_maxima", "draw_overview", "draw_pooled"]

MAXIMA = "magma_r"
_BOX_COLOR, _REGION_COLOR = COLORS[3], "white"
_LEVEL_COLORS = (COLORS[0], COLORS[1], COLORS[2], COLORS[4], COLORS[5], COLORS[3])
_LEAST_CELLS = 5  # minimum side of the visible window, in cells, without its margin
_AROUND = 0.6  # margin of the window around region and box, in strides
_INSET = (
    0.13  # strides between an outline and the edge of its bin, so that overlapping bins can be told apart
)
_POINTS = 72  # per inch
_LIGHTENED = 0.7  # share of the contrast that a picture in gray keeps
_LETTER_POINTS = (10, 4.5)  # height of a line, width of a digit
_ALIKE = 1e-4  # relative difference below which values get the same color
_LEAST_BIN_POINTS = 2.5  # outlines of smaller bins would merge into gray


@dataclass(frozen=True)
class LayerPanels:
    """The panels of one layer of one box.

    Attributes:
        box: the box.
        layer: one of its pooled layers.
        channel: the only channel to draw; None for the l2 norm over all channels.
    """

    box: PooledBox
    layer: LayerActivations
    channel: int | None

    @property
    def region_in(self) -> npt.NDArray[np.float64]:
        """``(4,)`` float64, the region as ``x0, y0, x1, y1`` in pixels of the network input."""
        return self.box.cells_in(self.layer, np.array(self.layer.region))

    @property
    def stride(self) -> npt.NDArray[np.float64]:
        """``(2,)`` float64, pixels of the network input from one cell to the next, along x and y."""
        cell = self.box.cells_in(self.layer, np.array([0, 0, 1, 1]))
        return cell[2:] - cell[:2]

    @property
    def window(self) -> npt.NDArray[np.float64]:
        """``(4,)``, the visible part of the network input as ``x0, y0, x1, y1`` in pixels: region, box and a margin."""
        first = np.minimum(self.region_in[:2], self.box.box_in[:2])
        last = np.maximum(self.region_in[2:], self.box.box_in[2:])
        around = np.maximum(_AROUND, (_LEAST_CELLS - (last - first) / self.stride) / 2) * self.stride
        height, width = self.box.input_hw
        return np.concatenate(
            (np.maximum(first - around, 0), np.minimum(last + around, (width, height)))
        ).astype(np.float64)

    @property
    def map_limits(self) -> tuple[float, float]:
        """Smallest and largest strength of the visible cells."""
        x0, y0, x1, y1 = self.window
        height, width = self.layer.map_hw
        cells = self.box.cells_in(
            self.layer, np.array([[i, i, i + 1, i + 1] for i in range(max(height, width))])
        )
        shown_x = (cells[:width, 2] > x0) & (cells[:width, 0] < x1)
        shown_y = (cells[:height, 3] > y0) & (cells[:height, 1] < y1)
        return _limits(strength(self.layer.map, self.channel)[shown_y][:, shown_x])

    @property
    def pooled_limits(self) -> tuple[float, float]:
        """Smallest and largest strength of the bins of all levels."""
        return _limits(np.concatenate([level.strength(self.channel).ravel() for level in self.layer.levels]))


def draw_overview(axes: "Axes", panels: LayerPanels) -> None:
    """Draws the whole network input, with the box (dashed) and the region (solid)."""
    height, width = panels.box.input_hw
    _show(axes, panels.box.pixels, (0, 0, width, height))
    _outline(axes, panels.region_in, _REGION_COLOR, "solid")
    _outline_box(axes, panels)


def draw_map(axes: "Axes", panels: LayerPanels) -> None:
    """Draws the strength of each cell of the map, and the region."""
    _show_gray(axes, panels)
    height, width = panels.layer.map_hw
    extent = panels.box.cells_in(panels.layer, np.array([0, 0, width, height]))
    _heat(axes, panels, strength(panels.layer.map, panels.channel), extent, panels.map_limits)
    _outline(axes, panels.region_in, _REGION_COLOR, "solid")
    _outline_box(axes, panels)


def draw_pooled(axes: "Axes", panels: LayerPanels, level: PooledLevel) -> None:
    """Draws the strength of each bin's pooled vector; bins get equal parts of the region, so that none is hidden."""
    _show_gray(axes, panels)
    values = level.strength(panels.channel)
    height, width = panels.box.input_hw
    extent = np.clip(panels.region_in, 0, [width, height, width, height])
    _heat(axes, panels, values, extent, panels.pooled_limits)
    _write_numbers(axes, values, extent, panels.pooled_limits)


def draw_bins(axes: "Axes", panels: LayerPanels, position: int) -> None:
    """Draws the bins of the level at a position, each with all its cells; cells of several bins are darker.

    Draws nothing if the bins are too small to tell apart.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    level = panels.layer.levels[position]
    color = _LEVEL_COLORS[position % len(_LEVEL_COLORS)]
    inset = np.tile(panels.stride * _INSET, 2) * [1, 1, -1, -1]
    height, width = panels.box.input_hw
    cells = panels.box.cells_in(panels.layer, level.bins).reshape(-1, 4)
    boxes = np.clip(cells, 0, [width, height, width, height]) + inset
    bins = [Rectangle((x0, y0), x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes.tolist()]
    points = _points_per_pixel(axes)
    line_width = min(1.1, 0.2 + 0.13 * points * float(panels.stride.min()))
    bin_points = points * float((boxes[:, 2:] - boxes[:, :2]).min())
    if bin_points < _LEAST_BIN_POINTS:
        return
    line_width = min(line_width, bin_points / 12)
    axes.add_collection(PatchCollection(bins, facecolor=color, alpha=0.1, linewidth=0))
    for line, line_color in ((line_width * 2, (0, 0, 0, 0.55)), (line_width, color)):
        axes.add_collection(
            PatchCollection(bins, facecolor="none", edgecolor=line_color, linewidth=line, zorder=3)
        )


def draw_maxima(axes: "Axes", panels: LayerPanels, level: PooledLevel) -> None:
    """Draws the picture in gray and, if the level holds maxima, the number of maxima found in each cell."""
    _show_gray(axes, panels)
    if level.cells is not None:
        counts = level.count_maxima(panels.layer.map_hw, panels.channel).astype(np.float64)
        share = counts / max(1.0, counts.max())
        height, width = panels.layer.map_hw
        x0, y0, x1, y1 = panels.box.cells_in(panels.layer, np.array([0, 0, width, height]))
        axes.imshow(
            np.ma.masked_equal(share, 0),
            cmap=MAXIMA,
            vmin=0,
            vmax=1,
            alpha=np.where(share > 0, 0.45 + 0.55 * share, 0),
            extent=(x0, x1, y1, y0),
            interpolation="nearest",
            zorder=2,
        )
        _set_window(axes, panels.window)
    _outline_box(axes, panels)


def _show(axes: "Axes", pixels: npt.NDArray[Any], window: Any) -> None:
    height, width = pixels.shape[:2]
    axes.imshow(pixels, extent=(0, width, height, 0), cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    _set_window(axes, window)


def _show_gray(axes: "Axes", panels: LayerPanels) -> None:
    """Shows the window of the picture in light gray."""
    gray = panels.box.pixels @ np.array([0.299, 0.587, 0.114])
    _show(axes, 255 - (255 - gray) * _LIGHTENED, panels.window)


def _set_window(axes: "Axes", window: Any) -> None:
    x0, y0, x1, y1 = window
    axes.set_xlim(x0, x1)
    axes.set_ylim(y1, y0)


def _heat(
    axes: "Axes",
    panels: LayerPanels,
    values: npt.NDArray[np.float64],
    extent: npt.NDArray[np.float64],
    limits: tuple[float, float],
) -> None:
    x0, y0, x1, y1 = extent
    axes.imshow(
        np.ma.masked_invalid(values),
        cmap=HEAT,
        vmin=limits[0],
        vmax=limits[1],
        extent=(x0, x1, y1, y0),
        interpolation="nearest",
        zorder=2,
    )
    _set_window(axes, panels.window)


def _write_numbers(
    axes: "Axes",
    values: npt.NDArray[np.float64],
    extent: npt.NDArray[np.float64],
    limits: tuple[float, float],
) -> None:
    """Writes each value on its part of the extent, if there is room for it."""
    (n_y, n_x), (x0, y0, x1, y1) = values.shape, extent
    texts = [[_number(value) for value in row] for row in values.tolist()]
    points = _points_per_pixel(axes)
    letters_hw = (y1 - y0) / n_y * points / _LETTER_POINTS[0], (x1 - x0) / n_x * points / _LETTER_POINTS[1]
    if letters_hw[0] < 1 or letters_hw[1] < 1 + max(len(text) for row in texts for text in row):
        return
    for i, j in np.ndindex(n_y, n_x):
        is_bright = values[i, j] > sum(limits) / 2
        axes.text(
            x0 + (j + 0.5) * (x1 - x0) / n_x,
            y0 + (i + 0.5) * (y1 - y0) / n_y,
            texts[i][j],
            color="black" if is_bright else "white",
            size=7,
            ha="center",
            va="center",
            clip_on=True,
            zorder=3,
        )


def _number(value: float) -> str:
    """Formats a number in few letters."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def _limits(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if high - low <= _ALIKE * max(abs(low), abs(high)):
        spread = 0.1 * max(abs(low), abs(high)) or 1.0
        return low - spread, high + spread
    return low, high


def _outline_box(axes: "Axes", panels: LayerPanels) -> None:
    if panels.box.view.box_px is not None:
        _outline(axes, np.array(panels.box.box_in), _BOX_COLOR, (0, (3, 2)))


def _outline(axes: "Axes", box: npt.NDArray[np.float64], color: str, style: Any) -> None:
    """Draws a rectangle that stands out on bright and dark pictures, clipped at the border."""
    from matplotlib.patches import Rectangle

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x0, y0 = np.maximum(box[:2], (left, top))
    x1, y1 = np.minimum(box[2:], (right, bottom))
    for width, line_color, line_style in ((2.0, "black", "solid"), (1.0, color, style)):
        axes.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor=line_color,
                linewidth=width,
                linestyle=line_style,
                zorder=4,
                clip_on=False,
            )
        )


def _points_per_pixel(axes: "Axes") -> float:
    """Points of the page per pixel of the network input."""
    left, right = axes.get_xlim()
    return float(axes.bbox.width / axes.figure.dpi * _POINTS / (right - left))
