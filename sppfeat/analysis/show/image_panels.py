"""The panels of a picture of one image: the network input, its map, bins, pooled values and maxima."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.show.activations import LayerActivations, PooledBox, PooledLevel, strength
from sppfeat.analysis.show.figure import COLORS, HEAT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "MAXIMA",
    "LayerPanels",
    "draw_bins",
    "draw_map",
    "draw_maxima",
    "draw_overview",
    "draw_pooled",
    "panel_size",
]

MAXIMA = "magma_r"
_BOX_COLOR, _REGION_COLOR = COLORS[3], "white"
_LEVEL_COLORS = (COLORS[0], COLORS[1], COLORS[2], COLORS[4], COLORS[5], COLORS[3])
_PANEL_WIDTH, _PANEL_HEIGHT = 2.05, 2.2  # inches, at most
_LEAST_CELLS = 5  # minimum side of the visible window, in cells, without its margin
_AROUND = 0.6  # margin of the window around region and box, in strides
# Strides between an outline and the edge of its bin, so that overlapping bins can be told apart.
_INSET = 0.13
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
        return self.layer.cells_in(self.layer.region)

    @property
    def map_in(self) -> npt.NDArray[np.float64]:
        """``(4,)`` float64, the whole map as ``x0, y0, x1, y1`` in pixels of the network input."""
        return self.layer.cells_in((0, 0, self.layer.map_hw[1], self.layer.map_hw[0]))

    @property
    def stride(self) -> npt.NDArray[np.float64]:
        """``(2,)`` float64, pixels of the network input from one cell to the next, along x and y."""
        cell = self.layer.cells_in((0, 0, 1, 1))
        return cell[2:] - cell[:2]

    @property
    def window(self) -> npt.NDArray[np.float64]:
        """``(4,)``, the visible part of the network input as ``x0, y0, x1, y1`` in pixels: region, box and a margin."""
        first = np.minimum(self.region_in[:2], self.box.box_in[:2])
        last = np.maximum(self.region_in[2:], self.box.box_in[2:])
        around = np.maximum(_AROUND, (_LEAST_CELLS - (last - first) / self.stride) / 2) * self.stride
        return self.inside(np.concatenate((first - around, last + around)))

    @property
    def map_limits(self) -> tuple[float, float]:
        """Smallest and largest strength of the visible cells."""
        x0, y0, x1, y1 = ((self.window - np.tile(self.map_in[:2], 2)) / np.tile(self.stride, 2)).tolist()
        rows, columns = slice(max(0, int(y0)), int(np.ceil(y1))), slice(max(0, int(x0)), int(np.ceil(x1)))
        return _limits(strength(self.layer.map, self.channel)[rows, columns])

    @property
    def pooled_limits(self) -> tuple[float, float]:
        """Smallest and largest strength of the bins of all levels."""
        return _limits(np.concatenate([level.strength(self.channel).ravel() for level in self.layer.levels]))

    @property
    def points_per_pixel(self) -> float:
        """Points of the page (1/72 inch) per pixel of the network input, in a panel that shows the window."""
        return 72 * panel_size(self.window)[0] / float(self.window[2] - self.window[0])

    def inside(self, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Clips boxes ``(..., 4)`` to the network input."""
        height, width = self.box.input_hw
        return np.clip(boxes, 0, [width, height, width, height])


def panel_size(window: Any) -> tuple[float, float]:
    """Width and height in inches of a panel that shows this part of an image."""
    width, height = window[2] - window[0], window[3] - window[1]
    scale = min(_PANEL_WIDTH / width, _PANEL_HEIGHT / height)
    return float(width * scale), float(height * scale)


def draw_overview(axes: "Axes", panels: LayerPanels) -> None:
    """Draws the whole network input, with the box (dashed) and the region (solid)."""
    height, width = panels.box.input_hw
    _show(axes, panels.box.pixels, (0, 0, width, height), (0, 0, width, height))
    _outline(axes, panels.region_in, _REGION_COLOR, "solid")
    _outline_box(axes, panels)


def draw_map(axes: "Axes", panels: LayerPanels) -> None:
    """Draws the strength of each cell of the map, and the region."""
    _show_gray(axes, panels)
    values = strength(panels.layer.map, panels.channel)
    _show(axes, values, panels.map_in, panels.window, HEAT, panels.map_limits)
    _outline(axes, panels.region_in, _REGION_COLOR, "solid")
    _outline_box(axes, panels)


def draw_pooled(axes: "Axes", panels: LayerPanels, level: PooledLevel) -> None:
    """Draws the strength of each bin's pooled vector; bins get equal parts of the region, so that none is hidden."""
    _show_gray(axes, panels)
    values, extent = level.strength(panels.channel), panels.inside(panels.region_in)
    _show(axes, values, extent, panels.window, HEAT, panels.pooled_limits)
    n, (x0, y0, x1, y1) = level.level, extent
    texts = [[f"{v:.0f}" if 100 <= abs(v) < 1e6 else f"{v:.3g}" for v in row] for row in values.tolist()]
    letters_hw = np.array((y1 - y0, x1 - x0)) / n * panels.points_per_pixel / _LETTER_POINTS
    if letters_hw[0] < 1 or letters_hw[1] < 1 + max(len(text) for row in texts for text in row):
        return  # the numbers would cover each other
    for i, j in np.ndindex(n, n):
        color = "black" if values[i, j] > sum(panels.pooled_limits) / 2 else "white"
        x, y = x0 + (j + 0.5) * (x1 - x0) / n, y0 + (i + 0.5) * (y1 - y0) / n
        axes.text(x, y, texts[i][j], color=color, size=7, ha="center", va="center", clip_on=True, zorder=3)


def draw_maxima(axes: "Axes", panels: LayerPanels, level: PooledLevel) -> None:
    """Draws the picture in gray and, if the level holds maxima, the number of maxima found in each cell."""
    _show_gray(axes, panels)
    if level.cells is not None:
        counts = level.count_maxima(panels.layer.map_hw, panels.channel).astype(np.float64)
        share = np.ma.masked_equal(counts / max(1.0, counts.max()), 0)
        alpha = np.where(counts > 0, 0.45 + 0.55 * share.filled(0), 0)
        _show(axes, share, panels.map_in, panels.window, MAXIMA, (0, 1), alpha)
    _outline_box(axes, panels)


def draw_bins(axes: "Axes", panels: LayerPanels, position: int) -> None:
    """Draws the bins of the level at a position, each with all its cells; cells of several bins are darker.

    Draws nothing if the bins are too small to tell apart.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    level = panels.layer.levels[position]
    color = _LEVEL_COLORS[position % len(_LEVEL_COLORS)]
    boxes = panels.inside(panels.layer.cells_in(level.bins).reshape(-1, 4))
    boxes += np.tile(panels.stride * _INSET, 2) * [1, 1, -1, -1]
    bins = [Rectangle((x0, y0), x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes.tolist()]
    bin_points = panels.points_per_pixel * float((boxes[:, 2:] - boxes[:, :2]).min())
    if bin_points < _LEAST_BIN_POINTS:
        return
    line_width = min(1.1, 0.2 + 0.13 * panels.points_per_pixel * float(panels.stride.min()), bin_points / 12)
    axes.add_collection(PatchCollection(bins, facecolor=color, alpha=0.1, linewidth=0))
    for line, line_color in ((line_width * 2, (0, 0, 0, 0.55)), (line_width, color)):
        outlines = PatchCollection(bins, facecolor="none", edgecolor=line_color, linewidth=line, zorder=3)
        axes.add_collection(outlines)


def _show(
    axes: "Axes",
    values: npt.NDArray[Any],
    extent: Any,
    window: Any,
    colors: str = "gray",
    limits: tuple[float, float] = (0, 255),
    alpha: Any = None,
) -> None:
    """Draws values over an extent, and shows the window; both are ``x0, y0, x1, y1``."""
    (x0, y0, x1, y1), (left, top, right, bottom) = extent, window
    axes.imshow(
        values if values.dtype == np.uint8 else np.ma.masked_invalid(values),
        cmap=colors,
        vmin=limits[0],
        vmax=limits[1],
        alpha=alpha,
        extent=(x0, x1, y1, y0),
        interpolation="antialiased" if colors == "gray" else "nearest",
        zorder=1 if colors == "gray" else 2,
    )
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], anchor="NW")
    axes.spines[:].set_visible(False)


def _show_gray(axes: "Axes", panels: LayerPanels) -> None:
    """Shows the window of the picture in light gray."""
    height, width = panels.box.input_hw
    gray = panels.box.pixels @ np.array([0.299, 0.587, 0.114])
    _show(axes, 255 - (255 - gray) * _LIGHTENED, (0, 0, width, height), panels.window)


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
        look: dict[str, Any] = {"edgecolor": line_color, "linewidth": width, "linestyle": line_style}
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, zorder=4, clip_on=False, **look))
