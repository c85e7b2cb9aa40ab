"""The panels of a picture of one image: the network input, its map, bins, pooled values and maxima."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.show.activations import PooledLayer, PooledLevel, strength
from sppfeat.analysis.show.figure import COLORS, HEAT, widened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "MAXIMA",
    "draw_bins",
    "draw_map",
    "draw_maxima",
    "draw_overview",
    "draw_pooled",
    "map_limits",
    "panel_size",
    "pooled_limits",
    "window_of",
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
_LEAST_BIN_POINTS = 2.5  # outlines of smaller bins would merge into gray


def window_of(layer: PooledLayer) -> npt.NDArray[np.float64]:
    """``(4,)``, the visible part of the network input as ``x0, y0, x1, y1`` in pixels: region, box and a margin."""
    region_in, stride = layer.cells_in(layer.region), _stride(layer)
    first, last = np.minimum(region_in[:2], layer.box_in[:2]), np.maximum(region_in[2:], layer.box_in[2:])
    around = np.maximum(_AROUND, (_LEAST_CELLS - (last - first) / stride) / 2) * stride
    return _inside(layer, np.concatenate((first - around, last + around)))


def map_limits(layer: PooledLayer, channel: int | None) -> tuple[float, float]:
    """Smallest and largest strength of the visible cells."""
    x0, y0 = layer.cells_in((0, 0, 1, 1))[:2]
    left, top, right, bottom = (window_of(layer) - (x0, y0, x0, y0)) / np.tile(_stride(layer), 2)
    rows = slice(max(0, int(top)), int(np.ceil(bottom)))
    columns = slice(max(0, int(left)), int(np.ceil(right)))
    return _limits(strength(layer.map, channel)[rows, columns])


def pooled_limits(layer: PooledLayer, channel: int | None) -> tuple[float, float]:
    """Smallest and largest strength of the bins of all levels."""
    return _limits(np.concatenate([strength(level.values, channel).ravel() for level in layer.levels]))


def panel_size(window: Any) -> tuple[float, float]:
    """Width and height in inches of a panel that shows this part of an image."""
    width, height = window[2] - window[0], window[3] - window[1]
    scale = min(_PANEL_WIDTH / width, _PANEL_HEIGHT / height)
    return float(width * scale), float(height * scale)


def draw_overview(axes: "Axes", layer: PooledLayer) -> None:
    """Draws the whole network input, with the box (dashed) and the region (solid)."""
    _show(axes, layer.pixels, _whole(layer), _whole(layer))
    _outline(axes, layer.cells_in(layer.region), _REGION_COLOR, "solid")
    _outline_box(axes, layer)


def draw_map(axes: "Axes", layer: PooledLayer, channel: int | None) -> None:
    """Draws the strength of each cell of the map, and the region."""
    _show_gray(axes, layer)
    limits = map_limits(layer, channel)
    _show(axes, strength(layer.map, channel), _map_in(layer), window_of(layer), HEAT, limits)
    _outline(axes, layer.cells_in(layer.region), _REGION_COLOR, "solid")
    _outline_box(axes, layer)


def draw_pooled(axes: "Axes", layer: PooledLayer, level: PooledLevel, channel: int | None) -> None:
    """Draws the strength of each bin's pooled vector; bins get equal parts of the region, so that none is hidden."""
    _show_gray(axes, layer)
    values, limits = strength(level.values, channel), pooled_limits(layer, channel)
    extent = _inside(layer, layer.cells_in(layer.region))
    _show(axes, values, extent, window_of(layer), HEAT, limits)
    n, (x0, y0, x1, y1) = level.level, extent
    texts = [[f"{v:.0f}" if 100 <= abs(v) < 1e6 else f"{v:.3g}" for v in row] for row in values.tolist()]
    letters_hw = np.array((y1 - y0, x1 - x0)) / n * _points_per_pixel(layer) / _LETTER_POINTS
    if letters_hw[0] < 1 or letters_hw[1] < 1 + max(len(text) for row in texts for text in row):
        return  # the numbers would cover each other
    for i, j in np.ndindex(n, n):
        color = "black" if values[i, j] > sum(limits) / 2 else "white"
        x, y = x0 + (j + 0.5) * (x1 - x0) / n, y0 + (i + 0.5) * (y1 - y0) / n
        axes.text(x, y, texts[i][j], color=color, size=7, ha="center", va="center", clip_on=True, zorder=3)


def draw_maxima(axes: "Axes", layer: PooledLayer, level: PooledLevel, channel: int | None) -> None:
    """Draws the picture in gray and, if the level holds maxima, the number of maxima found in each cell."""
    _show_gray(axes, layer)
    if level.cells is not None:
        counts = level.count_maxima(layer.map_hw, channel)
        share = np.ma.masked_equal(counts / max(1, counts.max()), 0)
        alpha = np.where(counts > 0, 0.45 + 0.55 * share.filled(0), 0)
        _show(axes, share, _map_in(layer), window_of(layer), MAXIMA, (0, 1), alpha)
    _outline_box(axes, layer)


def draw_bins(axes: "Axes", layer: PooledLayer, position: int) -> None:
    """Draws the bins of the level at a position, each with all its cells; cells of several bins are darker.

    Draws nothing if the bins are too small to tell apart.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    color, stride = _LEVEL_COLORS[position % len(_LEVEL_COLORS)], _stride(layer)
    boxes = _inside(layer, layer.cells_in(layer.levels[position].bins).reshape(-1, 4))
    boxes += np.tile(stride * _INSET, 2) * [1, 1, -1, -1]
    bins = [Rectangle((x0, y0), x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes.tolist()]
    bin_points = _points_per_pixel(layer) * float((boxes[:, 2:] - boxes[:, :2]).min())
    if bin_points < _LEAST_BIN_POINTS:
        return
    width = min(1.1, 0.2 + 0.13 * _points_per_pixel(layer) * float(stride.min()), bin_points / 12)
    axes.add_collection(PatchCollection(bins, facecolor=color, alpha=0.1, linewidth=0))
    for linewidth, edgecolor in ((width * 2, (0, 0, 0, 0.55)), (width, color)):
        look: Any = {"edgecolor": edgecolor, "linewidth": linewidth}
        axes.add_collection(PatchCollection(bins, facecolor="none", zorder=3, **look))


def _stride(layer: PooledLayer) -> npt.NDArray[np.float64]:
    """``(2,)`` float64, pixels of the network input from one cell to the next, along x and y."""
    cell = layer.cells_in((0, 0, 1, 1))
    return cell[2:] - cell[:2]


def _map_in(layer: PooledLayer) -> npt.NDArray[np.float64]:
    return layer.cells_in((0, 0, layer.map_hw[1], layer.map_hw[0]))


def _whole(layer: PooledLayer) -> tuple[int, int, int, int]:
    return 0, 0, layer.input_hw[1], layer.input_hw[0]


def _inside(layer: PooledLayer, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Clips boxes ``(..., 4)`` to the network input."""
    return np.clip(boxes, 0, 2 * layer.input_hw[::-1])


def _points_per_pixel(layer: PooledLayer) -> float:
    """Points of the page (1/72 inch) per pixel of the network input, in a panel that shows the window."""
    window = window_of(layer)
    return 72 * panel_size(window)[0] / float(window[2] - window[0])


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
    shown = values if values.dtype == np.uint8 else np.ma.masked_invalid(values)
    look: Any = {"vmin": limits[0], "vmax": limits[1], "alpha": alpha, "extent": (x0, x1, y1, y0)}
    look["interpolation"], look["zorder"] = ("antialiased", 1) if colors == "gray" else ("nearest", 2)
    axes.imshow(shown, colors, **look)
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], anchor="NW")
    axes.spines[:].set_visible(False)


def _show_gray(axes: "Axes", layer: PooledLayer) -> None:
    """Shows the window of the picture in light gray."""
    gray = layer.pixels @ np.array([0.299, 0.587, 0.114])
    _show(axes, 255 - (255 - gray) * _LIGHTENED, _whole(layer), window_of(layer))


def _limits(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return widened(float(finite.min()), float(finite.max()), 0.1) if len(finite) else (-1.0, 1.0)


def _outline_box(axes: "Axes", layer: PooledLayer) -> None:
    if layer.view.box_px is not None:
        _outline(axes, np.array(layer.box_in), _BOX_COLOR, (0, (3, 2)))


def _outline(axes: "Axes", box: npt.NDArray[np.float64], color: str, style: Any) -> None:
    """Draws a rectangle that stands out on bright and dark pictures, clipped at the border."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x0, y0, x1, y1 = np.clip(box, (left, top, left, top), (right, bottom, right, bottom))
    corners = (x0, x1, x1, x0, x0), (y0, y0, y1, y1, y0)
    axes.plot(*corners, color="black", linewidth=2, zorder=4, clip_on=False)
    axes.plot(*corners, color=color, linewidth=1, linestyle=style, zorder=4, clip_on=False)
