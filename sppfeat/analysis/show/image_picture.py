"""Pictures of the pooling of one image: regions, bins, pooled values, and the cells that hold the maxima."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.show.activations import (
    PooledLayer,
    PooledLevel,
    View,
    layer_text,
    pooled_boxes,
    strength,
    view_of_row,
)
from sppfeat.analysis.show.figure import (
    COLORS,
    HEAT,
    Picture,
    check_picture_path,
    cut_middle,
    new_figure,
    widened,
    write_picture,
)
from sppfeat.analysis.show.image_numbers import ImageNumbers, pooled_numbers
from sppfeat.analysis.wording import network_text
from sppfeat.config.specs import DEFAULT_BOX_SIZE, DEFAULT_SIZE
from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError
from sppfeat.extractor import Extractor
from sppfeat.files.downloads import OnDownload
from sppfeat.store.reader import FeatureFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["draw_bins", "draw_image", "draw_maxima", "draw_pooled", "show_image", "window_of"]

_MAX_PANEL_ROWS = 6  # boxes times layers
_MAX_LEVELS = 6

# Inches.
_COLUMN = 1.96  # width, for a panel and its title
_PANEL_WIDTH, _PANEL_HEIGHT = 1.87, 2.0  # maximum
_BARS = 0.7  # height of color bars with their labels
_AROUND_PANELS = 1.0 + _BARS  # height of a block without its panels: texts, titles and color bars
_AROUND_BLOCKS = 0.85  # height of the picture's title and footer
_LEAST_WIDTH = 5.55  # room for three color bars

_LONGEST_NAME = 60
_MAXIMA = "YlOrRd"
_LEVEL_COLORS = (COLORS[0], COLORS[1], COLORS[2], COLORS[4], COLORS[5], COLORS[3])
_LEAST_CELLS = 5  # minimum side of the visible window, in cells, without its margin
_AROUND = 0.6  # margin of the window around region and box, in strides
_INSET = 0.13  # strides between the edge of a bin and its outline, which tell overlapping bins apart
_LIGHTENED = 0.45  # share of the contrast that a photograph in gray keeps
_GRAYS = 32  # few enough for small .png files
_TINT = 0.6  # opacity of colors over the photograph
_LETTER_POINTS = (10, 5.1)  # height of a line, width of a digit
_LEAST_BIN_POINTS = 2.5


def show_image(
    image: StrPath | None,
    output: StrPath,
    *,
    boxes: Sequence[Sequence[float]] = (),
    channel: int | None = None,
    file: StrPath | None = None,
    row: int | None = None,
    root: StrPath | None = None,
    projection: str | None = None,
    margin: float | None = None,
    overwrite: bool = False,
    on_download: OnDownload = lambda name, done, total: None,
    **network: Any,
) -> Picture:
    """Draws the pyramid of an image: its bins, their pooled values, and the cells that hold the maxima.

    Args:
        image: path of the image; None to draw a row of ``file``.
        output: the picture to write: .png, .svg or .pdf.
        boxes: ``x0, y0, x1, y1`` of each box in pixels of the image as displayed; none for the whole image.
        channel: draw only this channel; None to draw the l2 norm over all channels.
        file: feature file whose network and settings to use.
        row: row of ``file`` to draw: its image and its box.
        root: folder that now holds the images of ``file``; the recorded one if None.
        projection, margin: conversion of boxes to cells; see :class:`sppfeat.Extractor`. None takes the settings of
            ``file``, or the defaults.
        overwrite: replace the output if it exists.
        on_download: called during a download with the name of a weights file, the bytes done, and the total.
        **network: arguments of :class:`sppfeat.Extractor`; with ``file`` only ``weights``, ``weights_dir`` and
            ``device``.

    Returns:
        The picture's path and its size; ``found`` holds the numbers in the picture, as plain values.

    Raises:
        ConfigError: arguments contradict each other, the output is not a picture or is also an input, or there are too
            many boxes, layers or levels.
        BoxError: a box has no area inside the image.
        ImageError: the image cannot be read.
        WeightsError: weights cannot be loaded.
        StoreError: the file cannot be read, its row has no descriptor, or the output exists or cannot be written.
    """
    path = check_picture_path(output, inputs=[image, file], overwrite=overwrite)
    is_row, is_converted = row is not None, projection is not None or margin is not None
    for is_wrong, message in (
        (file is None and is_row, "--row needs a feature file: add --from FILE"),
        (file is None and root is not None, "--root needs a feature file: add --from FILE"),
        (file is None and image is None, "nothing to draw: give a PHOTO, or --from FILE with --row N"),
        (file and (image is None) != is_row, "--from needs either a PHOTO or --row N"),
        (is_row and boxes, "--box and --row exclude each other"),
        (
            is_row and is_converted,
            "--row is drawn with its own settings: leave out --projection and --margin",
        ),
    ):
        if is_wrong:
            raise ConfigError(message)
    found, title = os.fspath(image or ""), os.path.basename(image or "")
    views = [View((x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes] or [View()]
    if file is None:
        size = network.pop("size", None) or (DEFAULT_BOX_SIZE if boxes else DEFAULT_SIZE)
        extractor = Extractor(size=size, on_download=on_download, **network)
    else:
        with FeatureFile(file) as features:
            if row is not None:
                found, view = view_of_row(features, row, root=root)
                views, title = [view], f"{os.path.basename(found)}, row {row} of {features.path.name}"
            extractor = Extractor.from_file(features, on_download=on_download, **network)
    check_picture_path(path, inputs=[found], overwrite=overwrite)  # the row's image
    config = extractor.config
    n_boxes, n_layers, n_levels = len(views), len(config.backbone.layers), len(config.descriptor.levels)
    if n_boxes * n_layers > _MAX_PANEL_ROWS:
        rows = f"{n_boxes} boxes x {n_layers} layers = {n_boxes * n_layers} rows of panels"
        raise ConfigError(f"{rows}; a picture holds at most {_MAX_PANEL_ROWS}")
    if n_levels > _MAX_LEVELS:
        raise ConfigError(f"{n_levels} levels; a picture holds at most {_MAX_LEVELS}")
    pooled = pooled_boxes(extractor, found, views, projection=projection, margin=margin)
    height, width = image_hw = pooled[0][0].image_hw
    note = (
        f"{network_text(config.backbone)}; {config.descriptor.pool} over levels "
        f"{','.join(map(str, config.descriptor.levels))}; image of {height} x {width} pixels (height x width)"
    )
    if config.input.flip:
        note += "; descriptors are averaged with those of the mirror image, not shown"
    layers = [layer for of_box in pooled for layer in of_box]
    page = write_picture(
        lambda: draw_image(layers, title=title, note=note, channel=channel), path, overwrite=overwrite
    )
    numbers: ImageNumbers = {
        "output": str(path),
        "image": found,
        "image_hw": image_hw,
        "channel": channel,
        "boxes": [pooled_numbers(of_box, channel) for of_box in pooled],
    }
    return Picture(path, f"{page[0]} x {page[1]}", numbers)


def draw_image(
    layers: Sequence[PooledLayer], *, title: str, note: str = "", channel: int | None = None
) -> "Figure":
    """Draws pooled layers of the boxes of one image; inside :func:`sppfeat.analysis.show.figure.drawing`.

    For each box and layer, the left column shows the network input with the box (dashed) and its region, and the
    feature map. Each level has a column: its bins over the photograph, colored by their pooled values, and below them
    the cells that hold the maxima.
    """
    for layer in layers:
        if channel is not None and not 0 <= channel < (n := len(layer.map)):
            raise ConfigError(f"--channel is {channel}; layer {layer.name!r} has channels 0 to {n - 1}")
    rows = [_panel_heights(layer) for layer in layers]
    width = max(_LEAST_WIDTH, _COLUMN * (1 + len(layers[0].levels)))
    heights = [sum(own) + _AROUND_PANELS for own in rows]
    figure = new_figure(width, sum(heights) + _AROUND_BLOCKS)
    figure.suptitle(
        f"Spatial pyramid of {cut_middle(title, _LONGEST_NAME)}", x=0.01, ha="left", size=11, weight="bold"
    )
    look: dict[str, Any] = {"size": 7, "color": "0.35", "wrap": True}
    figure.supxlabel(f"{_legend(layers)}\n{note}", x=0.01, ha="left", **look)
    parts = figure.subfigures(len(layers), 1, squeeze=False, height_ratios=heights)[:, 0]
    for i, (part, layer) in enumerate(zip(parts, layers, strict=True)):
        number = f"{i + 1} of {len(layers)}: " if len(layers) > 1 else ""
        part.suptitle(number + layer_text(layer), x=0.01, ha="left", wrap=True)
        ratios = (sum(rows[i]) + _AROUND_PANELS - _BARS, _BARS)
        upper, lower = part.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
        _draw_panels(upper, layer, channel, rows[i])
        _draw_bars(lower, layer, channel)
    return figure


def _draw_panels(
    part: "SubFigure", layer: PooledLayer, channel: int | None, heights: Sequence[float]
) -> None:
    grid = part.subplots(2, 1 + len(layer.levels), gridspec_kw={"height_ratios": heights})
    overview, feature_map = grid[:, 0]
    _draw_photograph(overview, layer, layer.pixels, _whole(layer))
    overview.set_title("network input")
    _draw_gray(feature_map, layer)
    _draw_heat(feature_map, strength(layer.map, channel), _edges(layer), HEAT, _map_limits(layer, channel))
    feature_map.set_title("feature map")
    for axes in (overview, feature_map):
        if layer.view.box_px is not None:
            _outline(axes, layer.areas_in(layer.region), "white", "solid")
            _outline_box(axes, layer)
    for position, level in enumerate(layer.levels):
        above, below = grid[:, 1 + position]
        draw_pooled(above, layer, level, channel)
        vector = "value" if channel is not None else "vector"
        pooled = f"strength of the pooled {vector}{'s' if level.level > 1 else ''}"
        above.set_title(f"level {level.level} ({level.level} x {level.level}):\n{pooled}")
        draw_maxima(below, layer, level, channel)
        draw_bins(below, layer, position)
        below.set_title(_maxima_title(layer, level, channel))


def _maxima_title(layer: PooledLayer, level: PooledLevel, channel: int | None) -> str:
    if level.cells is None:
        return f"{level.level} x {level.level} {'bin' if level.level == 1 else 'bins'}"
    counts = level.count_maxima(layer.map_hw, channel)
    n_maxima, n_counted = level.level**2 * (len(layer.map) if channel is None else 1), int(counts.sum())
    if n_maxima == 1:
        return "where the maximum comes from" if n_counted else "several cells hold\nthe maximum"
    share = f"the {n_maxima:,}" if n_counted == n_maxima else f"{n_counted:,} of {n_maxima:,}"
    return f"where {share} maxima\ncome from (at most {counts.max():,} per cell)"


def _draw_bars(part: "SubFigure", layer: PooledLayer, channel: int | None) -> None:
    """Draws the color bars of a layer's panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    unit = f"l2 norm of its {len(layer.map):,} channels" if channel is None else f"channel {channel}"
    bars = [
        (HEAT, _map_limits(layer, channel), f"strength of a cell\n({unit})"),
        (HEAT, _pooled_limits(layer, channel), f"strength of a bin\n({unit})"),
        (_MAXIMA, (0.0, 1.0), "share of maxima won by a cell\n(relative to the busiest cell)"),
    ]
    all_axes = part.subplots(1, 3, gridspec_kw={"wspace": 0.15})
    for axes, (colors, limits, label) in zip(all_axes, bars, strict=True):
        if colors == _MAXIMA and layer.levels[0].cells is None:
            axes.remove()
            continue
        how: dict[str, Any] = {"orientation": "horizontal", "ticks": MaxNLocator(4), "format": "%g"}
        bar = part.colorbar(ScalarMappable(Normalize(*limits), colors), cax=axes, label=label, **how)
        bar.outline.set_visible(False)
        axes.tick_params(length=2, pad=1)


def _legend(layers: Sequence[PooledLayer]) -> str:
    has_box = any(layer.view.box_px is not None for layer in layers)
    text = "Dashed: the box. Solid: its region, the cells that are pooled. " if has_box else ""
    text += "A cell is drawn over the pixels closest to its center. "
    text += "Bins may share cells. " if any(len(layer.levels) > 1 for layer in layers) else ""
    if layers[0].levels[0].cells is None:
        return f"{text}The value of a bin is the mean of all its cells."
    return f"{text}Maxima that several cells of a bin hold (mostly zeros) are not counted."


def draw_pooled(axes: "Axes", layer: PooledLayer, level: PooledLevel, channel: int | None) -> None:
    """Draws the strength of each bin over the photograph; bins get equal parts of the region, so all are visible."""
    _draw_gray(axes, layer)
    values, limits = strength(level.values, channel), _pooled_limits(layer, channel)
    n, (x0, y0, x1, y1) = level.level, layer.areas_in(layer.region).tolist()
    x, y = np.linspace(x0, x1, n + 1), np.linspace(y0, y1, n + 1)
    _draw_heat(axes, values, (x, y), HEAT, limits, _TINT)
    bin_points = min(x1 - x0, y1 - y0) / n * _points_per_pixel(layer)
    look: Any = {"color": "white", "linewidth": min(1.2, bin_points / 12), "zorder": 3}
    axes.vlines(x[1:-1], y0, y1, **look)
    axes.hlines(y[1:-1], x0, x1, **look)
    texts = [[f"{v:.0f}" if 100 <= abs(v) < 1e6 else f"{v:#.3g}" for v in row] for row in values.tolist()]
    letters_hw = np.array((y1 - y0, x1 - x0)) / n * _points_per_pixel(layer) / _LETTER_POINTS
    if letters_hw[0] < 1 or letters_hw[1] < 0.5 + max(len(text) for row in texts for text in row):
        return  # the numbers would overlap
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2, foreground="black", alpha=0.6)]
    for i, j in np.ndindex(n, n):
        place = (x[j] + x[j + 1]) / 2, (y[i] + y[i + 1]) / 2
        how: Any = {"ha": "center", "va": "center", "clip_on": True, "zorder": 4, "path_effects": halo}
        axes.text(*place, texts[i][j], color="white", size=7, weight="bold", **how)


def draw_maxima(axes: "Axes", layer: PooledLayer, level: PooledLevel, channel: int | None) -> None:
    """Draws the photograph in gray and, for max pooling, the number of maxima that each cell holds."""
    _draw_gray(axes, layer)
    if level.cells is not None:
        counts = level.count_maxima(layer.map_hw, channel)
        share = np.ma.masked_equal(counts / max(1, counts.max()), 0)
        alpha = np.where(counts > 0, 0.2 + 0.8 * share.filled(0) ** 0.5, 0)
        _draw_heat(axes, share, _edges(layer), _MAXIMA, (0, 1), alpha)
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
        look: Any = {"edgecolor": edgecolor, "linewidth": linewidth}
        axes.add_collection(PatchCollection(bins, facecolor="none", zorder=3, **look))


def window_of(layer: PooledLayer) -> npt.NDArray[np.float64]:
    """The visible part of the network input, ``x0, y0, x1, y1`` ``(4,)`` in pixels: region, box and a margin."""
    region_in, stride = layer.areas_in(layer.region), layer.stride
    first, last = np.minimum(region_in[:2], layer.box_in[:2]), np.maximum(region_in[2:], layer.box_in[2:])
    around = np.maximum(_AROUND, (_LEAST_CELLS - (last - first) / stride) / 2) * stride
    return np.clip(np.concatenate((first - around, last + around)), 0, 2 * layer.input_hw[::-1])


def _map_limits(layer: PooledLayer, channel: int | None) -> tuple[float, float]:
    """Smallest and largest strength of the visible cells."""
    (x, y), (left, top, right, bottom) = _edges(layer), window_of(layer)
    rows, columns = (y[1:] > top) & (y[:-1] < bottom), (x[1:] > left) & (x[:-1] < right)
    return _limits(strength(layer.map, channel)[rows][:, columns])


def _pooled_limits(layer: PooledLayer, channel: int | None) -> tuple[float, float]:
    """Smallest and largest strength of the bins of all levels."""
    return _limits(np.concatenate([strength(level.values, channel).ravel() for level in layer.levels]))


def _limits(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return widened(float(finite.min()), float(finite.max()), 0.1) if len(finite) else (-1.0, 1.0)


def _panel_heights(layer: PooledLayer) -> tuple[float, float]:
    """Heights in inches of the upper panels, which include the whole network input, and of the lower ones."""
    window = window_of(layer)
    lower = float((window[3] - window[1]) * _inches_per_pixel(window))
    return max(lower, layer.input_hw[0] * _inches_per_pixel(_whole(layer))), lower


def _inches_per_pixel(window: Any) -> float:
    """Inches per pixel of the network input in a panel that shows this window."""
    return float(min(_PANEL_WIDTH / (window[2] - window[0]), _PANEL_HEIGHT / (window[3] - window[1])))


def _points_per_pixel(layer: PooledLayer) -> float:
    """Points (1/72 inch) per pixel of the network input in a panel that shows the layer's window."""
    return 72 * _inches_per_pixel(window_of(layer))


def _whole(layer: PooledLayer) -> tuple[int, int, int, int]:
    return 0, 0, layer.input_hw[1], layer.input_hw[0]


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
    look: Any = {"cmap": colors, "vmin": limits[0], "vmax": limits[1], "alpha": alpha}
    axes.pcolormesh(*edges, np.ma.masked_invalid(values), **look, rasterized=True, zorder=2)


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
