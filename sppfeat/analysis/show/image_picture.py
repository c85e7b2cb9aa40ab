"""Pictures of the pooling of one image: regions, bins, pooled values, and the cells that hold the maxima."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sppfeat.analysis.show.activations import PooledLayer, PooledLevel, View, pooled_boxes, view_of_row
from sppfeat.analysis.show.figure import (
    HEAT,
    Picture,
    check_picture_path,
    cut_middle,
    new_figure,
    write_picture,
)
from sppfeat.analysis.show.image_numbers import ImageNumbers, pooled_numbers
from sppfeat.analysis.show.image_panels import (
    MAXIMA,
    draw_bins,
    draw_input,
    draw_map,
    draw_maxima,
    draw_pooled,
    map_limits,
    panel_heights,
    pooled_limits,
)
from sppfeat.analysis.wording import network_text
from sppfeat.config.regions import RowFlag
from sppfeat.config.specs import DEFAULT_BOX_SIZE, DEFAULT_SIZE
from sppfeat.config.values import StrPath
from sppfeat.config.wording import escaped
from sppfeat.errors import ConfigError
from sppfeat.extractor import Extractor
from sppfeat.files.downloads import OnDownload
from sppfeat.store.reader import FeatureFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["draw_image", "show_image"]

_MAX_PANEL_ROWS = 6  # boxes times layers
_MAX_LEVELS = 6

# Inches.
_COLUMN = 1.96  # width, for a panel and its title
_BARS = 0.7  # height of color bars with their labels
_AROUND_PANELS = 1.0 + _BARS  # height of a block without its panels: texts, titles and color bars
_AROUND_BLOCKS = 0.85  # height of the picture's title and footer
_LEAST_WIDTH = 5.55  # room for three color bars

_LONGEST_NAME = 60


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
    rows = [panel_heights(layer) for layer in layers]
    width = max(_LEAST_WIDTH, _COLUMN * (1 + len(layers[0].levels)))
    heights = [sum(own) + _AROUND_PANELS for own in rows]
    figure = new_figure(width, sum(heights) + _AROUND_BLOCKS)
    figure.suptitle(
        f"Spatial pyramid of {cut_middle(title, _LONGEST_NAME)}", x=0.01, ha="left", size=11, weight="bold"
    )
    style: dict[str, Any] = {"size": 7, "color": "0.35", "wrap": True}
    figure.supxlabel(f"{_legend(layers)}\n{note}", x=0.01, ha="left", **style)
    parts = figure.subfigures(len(layers), 1, squeeze=False, height_ratios=heights)[:, 0]
    for i, (part, layer) in enumerate(zip(parts, layers, strict=True)):
        number = f"{i + 1} of {len(layers)}: " if len(layers) > 1 else ""
        part.suptitle(number + _layer_text(layer), x=0.01, ha="left", wrap=True)
        ratios = (sum(rows[i]) + _AROUND_PANELS - _BARS, _BARS)
        upper, lower = part.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
        _draw_panels(upper, layer, channel, rows[i])
        _draw_bars(lower, layer, channel)
    return figure


def _draw_panels(
    part: "SubFigure", layer: PooledLayer, channel: int | None, heights: Sequence[float]
) -> None:
    grid = part.subplots(2, 1 + len(layer.levels), gridspec_kw={"height_ratios": heights})
    draw_input(grid[0, 0], layer)
    grid[0, 0].set_title("network input")
    draw_map(grid[1, 0], layer, channel)
    grid[1, 0].set_title("feature map")
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
        (HEAT, map_limits(layer, channel), f"strength of a cell\n({unit})"),
        (HEAT, pooled_limits(layer, channel), f"strength of a bin\n({unit})"),
        (MAXIMA, (0.0, 1.0), "share of maxima won by a cell\n(relative to the busiest cell)"),
    ]
    all_axes = part.subplots(1, 3, gridspec_kw={"wspace": 0.15})
    for axes, (colors, limits, label) in zip(all_axes, bars, strict=True):
        if colors == MAXIMA and layer.levels[0].cells is None:
            axes.remove()
            continue
        settings: dict[str, Any] = {"orientation": "horizontal", "ticks": MaxNLocator(4), "format": "%g"}
        bar = part.colorbar(ScalarMappable(Normalize(*limits), colors), cax=axes, label=label, **settings)
        bar.outline.set_visible(False)
        axes.tick_params(length=2, pad=1)


def _layer_text(layer: PooledLayer) -> str:
    """Describes the path from a box to the descriptor, and the geometry of the map."""
    x0, y0, x1, y1 = layer.region
    (map_h, map_w), (in_h, in_w) = layer.map_hw, layer.input_hw
    if layer.view.box_px is None:
        source = "whole image"
    else:
        source = "box " + ", ".join(f"{value:.6g}" for value in layer.view.box_px)
        source += " (clipped to the image)" if layer.flag & RowFlag.CLIPPED else ""
        source += " (smaller than a cell)" if layer.flag & RowFlag.SUB_CELL else ""
    source += ", mirrored" if layer.view.mirrored else ""
    n_bins, n_channels = [level.level**2 for level in layer.levels], len(layer.map)
    bins = f"{' + '.join(map(str, n_bins))} = {sum(n_bins)}" if len(n_bins) > 1 else str(n_bins[0])
    if layer.geometry is None:
        cells = "spread evenly (no stride can be computed for this network)"
    else:
        stride, offset = (
            " and ".join(f"{v:g}" for v in (value[::-1] if isinstance(value, tuple) else (value,)))
            for value in layer.geometry
        )
        cells = f"stride {stride}, offset {offset} pixels"
    is_part = (x1 - x0, y1 - y0) != (map_w, map_h)
    part = f"cells x {x0} to {x1 - 1}, y {y0} to {y1 - 1} of a " if is_part else ""
    arrow = "\N{RIGHTWARDS ARROW}"
    return (
        f"{source} {arrow} {y1 - y0} x {x1 - x0} cells {arrow} {bins} {'bin' if sum(n_bins) == 1 else 'bins'} of "
        f"{n_channels:,} channels {arrow} {sum(n_bins) * n_channels:,} values\n"
        f"layer {escaped(layer.name)}: {part}feature map of {map_h} x {map_w} cells, {cells}; network input {in_h} x "
        f"{in_w} pixels (height x width)"
    )


def _legend(layers: Sequence[PooledLayer]) -> str:
    has_box = any(layer.view.box_px is not None for layer in layers)
    text = "Dashed: the box. Solid: its region, the cells that are pooled. " if has_box else ""
    text += "A cell is drawn over the pixels closest to its center. "
    text += "Bins may share cells. " if any(len(layer.levels) > 1 for layer in layers) else ""
    if layers[0].levels[0].cells is None:
        return f"{text}The value of a bin is the mean of all its cells."
    return f"{text}Maxima that several cells of a bin hold (mostly zeros) are not counted."
