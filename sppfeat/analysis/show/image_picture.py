"""Pictures of the pooling of one image: regions, bins, pooled values, and the cells where the maxima were found."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sppfeat.analysis.show.activations import PooledBox
from sppfeat.analysis.show.figure import HEAT, new_figure, plain
from sppfeat.analysis.show.image_panels import (
    MAXIMA,
    LayerPanels,
    draw_bins,
    draw_map,
    draw_maxima,
    draw_overview,
    draw_pooled,
)
from sppfeat.analysis.show.pooled_levels import PooledLevel
from sppfeat.config.regions import RowFlag
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MAX_LEVELS", "MAX_PANEL_ROWS", "check_extent", "draw_image"]

MAX_PANEL_ROWS = 6  # boxes times layers
MAX_LEVELS = 6

# Inches.
_MARGIN, _GAP = 0.15, 0.15
_PANEL_WIDTH, _PANEL_HEIGHT, _LEAST_WIDTH = 2.05, 2.2, 1.95
_TITLE, _LINE, _BAR, _BAR_WIDTH, _BAR_HEIGHT, _BAR_STEP = 0.2, 0.16, 0.55, 1.6, 0.09, 2.05
_HEADING, _PANELS_GAP = 0.26, 0.12
_LEAST_WIDTH_OF_ALL = 6.0  # room for three color bars
_LETTER = 0.058  # average width of a letter of 8 points
_SMALL = 7  # points
_BOLD = 0.88  # number of bold letters that take the width of one regular letter
_LONGEST_NAME = 80


def check_extent(n_boxes: int, n_layers: int, n_levels: int) -> None:
    """Refuses more boxes, layers or levels than fit into a picture.

    Raises:
        ConfigError: more than :data:`MAX_PANEL_ROWS` boxes of layers, or :data:`MAX_LEVELS` levels.
    """
    if n_boxes * n_layers > MAX_PANEL_ROWS:
        raise ConfigError(
            f"{n_boxes} boxes of {n_layers} layers are {n_boxes * n_layers} rows of panels; allowed: {MAX_PANEL_ROWS}"
        )
    if n_levels > MAX_LEVELS:
        raise ConfigError(f"{n_levels} levels do not fit into one picture; allowed: {MAX_LEVELS}")


def draw_image(
    boxes: Sequence[PooledBox], *, title: str, notes: Sequence[str] = (), channel: int | None = None
) -> "Figure":
    """Draws the pooling of an image; inside :func:`sppfeat.analysis.show.figure.drawing`.

    For each box and layer, panels show the network input with the box (dashed) and its region; the map; and for each
    level the pooled value of each bin as a color, above the bins and the cells where their maxima were found.

    Args:
        boxes: boxes of one image.
        title: title of the picture, such as the image's name.
        notes: lines of text about the network.
        channel: the only channel to draw; the l2 norm over all channels if None.

    Raises:
        ConfigError: there are too many boxes, layers or levels, or there is no such channel.
    """
    check_extent(len(boxes), len(boxes[0].layers), len(boxes[0].layers[0].levels))
    layouts = [_layout(LayerPanels(box, layer, channel)) for box in boxes for layer in box.layers]
    for layout in layouts:
        _check_channel(layout.panels)
    width = max(_LEAST_WIDTH_OF_ALL, *(layout.width for layout in layouts))
    n_letters = int(width / _LETTER)
    header = [line for note in notes for line in textwrap.wrap(note, n_letters)]
    footer = textwrap.wrap(_legend(layouts), int(width / (_LETTER * _SMALL / 8)))
    captions = [_captions(layout.panels, i, len(layouts), n_letters) for i, layout in enumerate(layouts)]
    heights = [
        _PANELS_GAP + _LINE * sum(map(len, own)) + layout.height
        for layout, own in zip(layouts, captions, strict=True)
    ]
    top = _MARGIN + _HEADING + _LINE * len(header)
    page = _Page(width + 2 * _MARGIN, top + sum(heights) + _LINE * len(footer) + _MARGIN)
    page.text(_MARGIN, _MARGIN, plain(_shortened(title)), size=10, weight="bold")
    page.lines(_MARGIN, _MARGIN + _HEADING, header)
    for layout, (what, where), height in zip(layouts, captions, heights, strict=True):
        start = page.lines(_MARGIN, top + _PANELS_GAP, what, weight="bold")
        _draw_panels(page, layout, page.lines(_MARGIN, start, where))
        top += height
    page.lines(_MARGIN, top, footer, color="0.35", size=_SMALL)
    return page.figure


class _Page:
    """A figure whose places are in inches from the left and upper edges."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = new_figure(width, height)
        self._width, self._height = width, height

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Adds axes at a place."""
        bottom = self._height - top - height
        return self.figure.add_axes(
            (left / self._width, bottom / self._height, width / self._width, height / self._height)
        )

    def text(self, left: float, top: float, text: str, **style: Any) -> None:
        """Writes a line whose upper left corner is at a place."""
        self.figure.text(left / self._width, 1 - top / self._height, text, va="top", **style)

    def lines(self, left: float, top: float, lines: Sequence[str], **style: Any) -> float:
        """Writes lines, and returns the top of the next line."""
        for line in lines:
            self.text(left, top, plain(line), **style)
            top += _LINE
        return top


@dataclass(frozen=True)
class _PanelsLayout:
    """Widths and heights in inches of the overview panel, and of the panels that show the window."""

    panels: LayerPanels
    overview: tuple[float, float]
    panel: tuple[float, float]

    @property
    def first_column(self) -> float:
        return max(self.overview[0], self.panel[0], _LEAST_WIDTH)

    @property
    def column(self) -> float:
        return max(self.panel[0], _LEAST_WIDTH)

    @property
    def upper_row(self) -> float:
        return max(self.overview[1], self.panel[1])

    @property
    def width(self) -> float:
        return self.first_column + len(self.panels.layer.levels) * (_GAP + self.column)

    @property
    def height(self) -> float:
        return 2 * _TITLE + self.upper_row + _GAP / 2 + self.panel[1] + _BAR


def _layout(panels: LayerPanels) -> _PanelsLayout:
    x0, y0, x1, y1 = panels.window
    height, width = panels.box.input_hw
    return _PanelsLayout(panels, _fitted(width, height), _fitted(x1 - x0, y1 - y0))


def _fitted(width: float, height: float) -> tuple[float, float]:
    """Width and height in inches of a panel that shows this many pixels."""
    scale = min(_PANEL_WIDTH / width, _PANEL_HEIGHT / height)
    return width * scale, height * scale


def _draw_panels(page: _Page, layout: _PanelsLayout, top: float) -> None:
    panels = layout.panels
    lower = top + _TITLE + layout.upper_row + _GAP / 2
    _titled(page, _MARGIN, top, layout.overview, "network input", lambda axes: draw_overview(axes, panels))
    _titled(page, _MARGIN, lower, layout.panel, "feature map", lambda axes: draw_map(axes, panels))
    left = _MARGIN + layout.first_column + _GAP
    for position, level in enumerate(panels.layer.levels):

        def draw_lower(axes: "Axes", position: int = position, level: PooledLevel = level) -> None:
            draw_maxima(axes, panels, level)
            draw_bins(axes, panels, position)

        def draw_upper(axes: "Axes", level: PooledLevel = level) -> None:
            draw_pooled(axes, panels, level)

        n = level.level
        bins = f"{n} x {n} bins" if n > 1 else "one bin"
        _titled(page, left, top, layout.panel, f"level {n}: {bins}, pooled", draw_upper)
        _titled(page, left, lower, layout.panel, _maxima_title(panels, level), draw_lower)
        left += layout.column + _GAP
    _draw_bars(page, layout, lower + _TITLE + layout.panel[1] + 0.1)


def _titled(page: _Page, left: float, top: float, size: tuple[float, float], title: str, draw: Any) -> None:
    page.text(left, top + 0.04, title, size=7.5)
    draw(page.axes(left, top + _TITLE, *size))


def _draw_bars(page: _Page, layout: _PanelsLayout, top: float) -> None:
    """Draws the color bars of a layer's panels."""
    panels = layout.panels
    n_channels = len(panels.layer.map)
    strength = f"l2 norm of {n_channels} channels" if panels.channel is None else f"channel {panels.channel}"
    _bar(page, _MARGIN, top, HEAT, panels.map_limits, f"map: {strength}")
    _bar(page, _MARGIN + _BAR_STEP, top, HEAT, panels.pooled_limits, f"pooled: {strength}")
    if _has_maxima(panels):
        _bar(page, _MARGIN + 2 * _BAR_STEP, top, MAXIMA, (0.0, 1.0), "maxima from a cell / the most")


def _bar(page: _Page, left: float, top: float, colors: str, limits: tuple[float, float], label: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    axes = page.axes(left, top, _BAR_WIDTH, _BAR_HEIGHT)
    bar = page.figure.colorbar(
        ScalarMappable(Normalize(*limits), colors),
        cax=axes,
        orientation="horizontal",
        ticks=MaxNLocator(4),
        format="%g",
    )
    bar.outline.set_visible(False)
    axes.tick_params(length=2, pad=1)
    axes.set_xlabel(label, labelpad=1, size=_SMALL)


def _maxima_title(panels: LayerPanels, level: PooledLevel) -> str:
    if level.n_cells is None:
        return "bins"
    n_cells = level.n_cells if panels.channel is None else level.n_cells[panels.channel]
    most = int(level.count_maxima(panels.layer.map_hw, panels.channel).max())
    return f"{int((n_cells == 1).sum())} of {n_cells.size} maxima, \u2264 {most} a cell"


def _has_maxima(panels: LayerPanels) -> bool:
    return any(level.cells is not None for level in panels.layer.levels)


def _captions(panels: LayerPanels, position: int, n_rows: int, n_letters: int) -> tuple[list[str], list[str]]:
    """Lines that name the box and layer of panels, and lines that describe its region."""
    box, layer = panels.box, panels.layer
    x0, y0, x1, y1 = layer.region
    number = f"{position + 1} of {n_rows}: " if n_rows > 1 else ""
    what = f"{number}{_box_text(box)}: {y1 - y0} x {x1 - x0} cells of layer {layer.layer}"
    (map_h, map_w), (in_h, in_w) = layer.map_hw, box.input_hw
    if layer.geometry is None:
        cells = "spread evenly over the image, as this network has no stride that could be computed"
    else:
        cells = f"stride {_numbers(layer.geometry.stride)}, offset {_numbers(layer.geometry.offset)} pixels"
    where = (
        f"region x {x0}..{x1 - 1}, y {y0}..{y1 - 1} of a map of {map_h} x {map_w} cells (height x width), {cells}; "
        f"network input {in_h} x {in_w} pixels"
    )
    return textwrap.wrap(what, int(n_letters * _BOLD)), textwrap.wrap(where, n_letters)


def _box_text(box: PooledBox) -> str:
    text = "the whole image"
    if box.view.box_px is not None:
        text = "box " + ", ".join(f"{value:.6g}" for value in box.view.box_px)
        text += " (clipped to the image)" if box.flag & RowFlag.CLIPPED else ""
        text += " (smaller than a cell)" if box.flag & RowFlag.SUB_CELL else ""
    return f"{text}, mirrored" if box.view.mirrored else text


def _legend(layouts: Sequence[_PanelsLayout]) -> str:
    """Legend: explains lines and colors of the panels."""
    has_box = any(layout.panels.box.view.box_px is not None for layout in layouts)
    text = "Dashed: the box; solid: its region, all cells that are pooled." if has_box else ""
    text += " Bins are drawn a little inside their cells, as neighbours share some."
    if any(_has_maxima(layout.panels) for layout in layouts):
        return (
            f"{text} Maxima: one per bin and channel, counted in the cell that it came from; not counted where several "
            "cells of a bin have it, mostly zeros."
        ).strip()
    return f"{text} Of means all cells of a bin have part: there is no cell that they came from.".strip()


def _numbers(value: float | tuple[float, float]) -> str:
    if isinstance(value, tuple):
        return " and ".join(f"{number:g}" for number in value[::-1])
    return f"{value:g}"


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST_NAME:
        return text
    half = (_LONGEST_NAME - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def _check_channel(panels: LayerPanels) -> None:
    n_channels = len(panels.layer.map)
    if panels.channel is not None and not 0 <= panels.channel < n_channels:
        raise ConfigError(
            f"channel is {panels.channel}; allowed: 0 to {n_channels - 1}, those of layer {panels.layer.layer}"
        )
