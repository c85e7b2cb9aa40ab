"""The panels of a picture of one image: photograph, feature map, pooled values, and maxima."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.show.activations import PooledLayer, PooledLevel, strength
from sppfeat.analysis.show.figure import COLORS, HEAT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "MAXIMA",
    "draw_bins",
    "draw_input",
    "draw_map",
    "draw_maxima",
    "draw_pooled",
    "map_limits",
    "panel_heights",
    "pooled_limits",
    "window_of",
]

MAXIMA = "YlOrRd"
"""Color map for shares of maxima."""

_PANEL_WIDTH, _PANEL_HEIGHT = 1.87, 2.0  # maximum, in inches
_LEVEL_COLORS = (COLORS[0], COLORS[1], COLORS[2], COLORS[4], COLORS[5], COLORS[3])
_LEAST_CELLS = 5  # minimum side of the visible window, in cells, without its margin
_AROUND = 0.6  # margin of the window around region and box, in strides
_INSET = 0.13  # strides between the edge of a bin and its outline, which tell overlapping bins apart
_LIGHTENED = 0.45  # share of the contrast that a photograph in gray keeps
_GRAYS = 32  # few enough for small .png files
_TINT = 0.6  # opacity of colors over the photograph
_ALIKE = 1e-4  # relative difference below which values count as equal
_LETTER_POINTS = (10, 5.1)  # height of a line, width of a digit
_LEAST_BIN_POINTS = 2.5


def draw_input(axes: "Axes", layer: PooledLayer) -> None:
    """Draws the network input with the box (dashed) and its region."""
    _draw_photograph(axes, layer, layer.pixels, _whole_input(layer))
    _outline_region(axes, layer)


def draw_map(axes: "Axes", layer: PooledLayer, channel: int | None) -> None:
    """Draws the strength of each cell of the feature map over the photograph, with the box and its region."""
    _draw_gray(axes, layer)
    _draw_heat(axes, strength(layer.map, channel), _edges(layer), HEAT, map_limits(layer, channel))
    _outline_region(axes, layer)


def draw_pooled(axes: "Axes", layer: PooledLayer, level: PooledLevel, channel: int | None) -> None:
    """Draws the strength of each bin over the photograph; bins get equal parts of the region, so all are visible."""
    _draw_gray(axes, layer)
    values, limits = strength(level.values, channel), pooled_limits(layer, channel)
    n, (x0, y0, x1, y1) = level.level, layer.areas_in(layer.region).tolist()
    x, y = np.linspace(x0, x1, n + 1), np.linspace(y0, y1, n + 1)
    _draw_heat(axes, values, (x, y), HEAT, limits, _TINT)
    bin_points = min(x1 - x0, y1 - y0) / n * _points_per_pixel(layer)
    style: Any = {"color": "white", "linewidth": min(1.2, bin_points / 12), "zorder": 3}
    axes.vlines(x[1:-1], y0, y1, **style)
    axes.hlines(y[1:-1], x0, x1, **style)
    texts = [[f"{v:.0f}" if 100 <= abs(v) < 1e6 else f"{v:#.3g}" for v in row] for row in values.tolist()]
    letters_hw = np.array((y1 - y0, x1 - x0)) / n * _points_per_pixel(layer) / _LETTER_POINTS
    if letters_hw[0] < 1 or letters_hw[1] < 0.5 + max(len(text) for row in texts for text in row):
        return  # the numbers would overlap
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="black", alpha=0.6)]
    for i, j in np.ndindex(n, n):
        place = (x[j] + x[j + 1]) / 2, (y[i] + y[i + 1]) / 2
        settings: Any = {"ha": "center", "va": "center", "clip_on": True, "zorder": 4, "path_effects": halo}
        axes.text(*place, texts[i][j], color="white", size=7, weight="bold", **settings)


def draw_maxima(axes: "Axes", layer: PooledLayer, level: PooledLevel, channel: int | None) -> None:
    """Draws the photograph in gray and, for max pooling, the number of maxima that each cell holds."""
    _draw_gray(axes, layer)
    if level.cells is not None:
        counts = level.count_maxima(layer.map_hw, channel)
        share = np.ma.masked_equal(counts / max(1, counts.max()), 0)
        alpha = np.where(counts > 0, 0.2 + 0.8 * share.filled(0) ** 0.5, 0)
        _draw_heat(axes, share, _edges(layer), MAXIMA, (0, 1), alpha)
    _outline_box(axes, layer)


def draw_bins(axes: "Axes", layer: PooledLayer, position: int) -> None:
    """Outlines the bins of the level at a position; cells shared by several bins are darker."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    color, stride = _LEVEL_COLORS[position], layer.stride
    boxes = layer.areas_in(layer.levels[position].bins).reshape(-1, 4)
    boxes += np.tile(stride * _INSET, 2) * [1, 1, -1, -1]
    bins = [Rectangle((x0, y0), x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes.tolist()]
    bin_points = _points_per_pixel(layer) * float((boxes[:, 2:] - boxes[:, :2]).min())
    if bin_points < _LEAST_BIN_POINTS:
        return  # the outlines would merge
    width = min(1.1, 0.2 + 0.13 * _points_per_pixel(layer) * float(stride.min()), bin_points / 12)
    axes.add_collection(PatchCollection(bins, facecolor=color, alpha=0.1, linewidth=0))
    for linewidth, edgecolor in ((width * 2, (0, 0, 0, 0.55)), (width, color)):
        style: Any = {"edgecolor": edgecolor, "linewidth": linewidth}
        axes.add_collection(PatchCollection(bins, facecolor="none", zorder=3, **style))


def _whole_input(layer: PooledLayer) -> tuple[int, int, int, int]:
    return 0, 0, layer.input_hw[1], layer.input_hw[0]


def window_of(layer: PooledLayer) -> npt.NDArray[np.float64]:
    """The visible part of the network input, ``x0, y0, x1, y1`` ``(4,)`` in pixels: region, box and a margin."""
    region_in, stride = layer.areas_in(layer.region), layer.stride
    first, last = np.minimum(region_in[:2], layer.box_in[:2]), np.maximum(region_in[2:], layer.box_in[2:])
    around = np.maximum(_AROUND, (_LEAST_CELLS - (last - first) / stride) / 2) * stride
    return np.clip(np.concatenate((first - around, last + around)), 0, 2 * layer.input_hw[::-1])


def map_limits(layer: PooledLayer, channel: int | None) -> tuple[float, float]:
    """Smallest and largest strength of the visible cells."""
    (x, y), (left, top, right, bottom) = _edges(layer), window_of(layer)
    rows, columns = (y[1:] > top) & (y[:-1] < bottom), (x[1:] > left) & (x[:-1] < right)
    return _limits(strength(layer.map, channel)[rows][:, columns])


def pooled_limits(layer: PooledLayer, channel: int | None) -> tuple[float, float]:
    """Smallest and largest strength of the bins of all levels."""
    return _limits(np.concatenate([strength(level.values, channel).ravel() for level in layer.levels]))


def _limits(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Smallest and largest finite value, moved apart if they hardly differ."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    size = max(abs(low), abs(high))
    spread = (0.1 * size or 1.0) if high - low <= _ALIKE * size else 0.0
    return low - spread, high + spread


def panel_heights(layer: PooledLayer) -> tuple[float, float]:
    """Heights in inches of the upper panels, which include the whole network input, and of the lower ones."""
    window = window_of(layer)
    lower = float((window[3] - window[1]) * _inches_per_pixel(window))
    return max(lower, layer.input_hw[0] * _inches_per_pixel(_whole_input(layer))), lower


def _inches_per_pixel(window: Any) -> float:
    """Inches per pixel of the network input in a panel that shows this window."""
    return float(min(_PANEL_WIDTH / (window[2] - window[0]), _PANEL_HEIGHT / (window[3] - window[1])))


def _points_per_pixel(layer: PooledLayer) -> float:
    """Points (1/72 inch) per pixel of the network input in a panel that shows the layer's window."""
    return 72 * _inches_per_pixel(window_of(layer))


def _edges(layer: PooledLayer) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Edges of the map's columns ``(W' + 1,)`` and rows ``(H' + 1,)``, in pixels of the network input."""
    height, width = layer.map_hw
    x, y = (layer.areas_in(np.tile(np.arange(n + 1)[:, None], 4)) for n in (width, height))
    return x[:, 0], y[:, 1]


def _draw_photograph(axes: "Axes", layer: PooledLayer, pixels: npt.NDArray[Any], window: Any) -> None:
    """Draws pixels of the network input, cut to a window."""
    import matplotlib

    grays = matplotlib.colormaps["gray"].resampled(_GRAYS)
    x0, y0, x1, y1 = window
    extent = (0, layer.input_hw[1], layer.input_hw[0], 0)
    axes.imshow(pixels, grays, vmin=0, vmax=255, extent=extent, interpolation="antialiased", zorder=1)
    axes.set(xlim=(x0, x1), ylim=(y1, y0), xticks=[], yticks=[], anchor="NW")
    axes.spines[:].set_visible(False)


def _draw_gray(axes: "Axes", layer: PooledLayer) -> None:
    """Draws the visible part of the network input in light gray."""
    gray = layer.pixels @ np.array([0.299, 0.587, 0.114])
    _draw_photograph(axes, layer, 255 - (255 - gray) * _LIGHTENED, window_of(layer))


def _draw_heat(
    axes: "Axes",
    values: npt.NDArray[Any],
    edges: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]],
    colors: str,
    limits: tuple[float, float],
    alpha: Any = None,
) -> None:
    """Draws values ``(h, w)`` as colored rectangles between edges ``(w + 1,)`` and ``(h + 1,)``."""
    style: Any = {"cmap": colors, "vmin": limits[0], "vmax": limits[1], "alpha": alpha}
    axes.pcolormesh(*edges, np.ma.masked_invalid(values), **style, rasterized=True, zorder=2)


def _outline_region(axes: "Axes", layer: PooledLayer) -> None:
    if layer.view.box_px is not None:
        _outline(axes, layer.areas_in(layer.region), "white", "solid")
        _outline_box(axes, layer)


def _outline_box(axes: "Axes", layer: PooledLayer) -> None:
    if layer.view.box_px is not None:
        _outline(axes, np.array(layer.box_in), COLORS[3], (0, (3, 2)))


def _outline(axes: "Axes", box: npt.NDArray[np.float64], color: str, style: Any) -> None:
    """Draws a rectangle, clipped at the border, that stands out on bright and dark pictures."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x0, y0, x1, y1 = np.clip(box, (left, top, left, top), (right, bottom, right, bottom))
    corners = (x0, x1, x1, x0, x0), (y0, y0, y1, y1, y0)
    axes.plot(*corners, color="black", linewidth=2, zorder=4, clip_on=False)
    axes.plot(*corners, color=color, linewidth=1, linestyle=style, zorder=4, clip_on=False)
