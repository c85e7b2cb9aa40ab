"""Pictures of the pooling of one image: regions, bins, pooled values, and the cells where the maxima were found."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sppfeat.analysis.show.activations import (
    LayerActivations,
    PooledBox,
    PooledLevel,
    View,
    pooled_boxes,
    view_of_row,
)
from sppfeat.analysis.show.figure import HEAT, Picture, check_picture_path, new_figure, write_picture
from sppfeat.analysis.show.image_panels import (
    MAXIMA,
    LayerPanels,
    draw_bins,
    draw_map,
    draw_maxima,
    draw_overview,
    draw_pooled,
    panel_size,
)
from sppfeat.analysis.wording import network_text
from sppfeat.config.regions import RowFlag
from sppfeat.config.specs import DEFAULT_BACKBONE, DEFAULT_BOX_SIZE, DEFAULT_SIZE
from sppfeat.config.values import StrPath
from sppfeat.config.wording import escaped
from sppfeat.errors import ConfigError, ImageError
from sppfeat.extractor import Extractor
from sppfeat.files.downloads import OnDownload
from sppfeat.inputs.lookup import find_image
from sppfeat.inputs.names import is_url
from sppfeat.store.reader import FeatureFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

__all__ = ["MAX_LEVELS", "MAX_PANEL_ROWS", "draw_image", "show_image"]

MAX_PANEL_ROWS = 6  # boxes times layers
MAX_LEVELS = 6

# Inches: least width of a column (a panel's title must fit), the space between columns, a line of text, and what a
# block has besides its panels and captions: their titles, and color bars with their labels.
_COLUMN, _GAP, _LINE, _AROUND_PANELS = 1.95, 0.15, 0.16, 1.15
_BARS = 0.55  # of which for color bars
_LEAST_WIDTH = 6.0  # room for three color bars
_LETTER = 0.058  # average width of a letter of 8 points
_LONGEST_NAME = 80


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
    """Draws the pyramid's bins on an image, what is pooled in them, and where it came from.

    Args:
        image: path of the image; None to draw a row of ``file``.
        output: the picture to write: .png, .svg or .pdf.
        boxes: ``x0, y0, x1, y1`` of each box in pixels of the image as displayed; none for the whole image.
        channel: draw only this channel; None to draw the l2 norm over all channels.
        file: feature file whose network and settings to use.
        row: row of ``file`` to draw: its image and its box.
        root: folder that now holds the images of ``file``; the recorded one if None.
        projection, margin: conversion of boxes to cells; see :class:`sppfeat.Extractor`. If None, as in ``file``, or
            the defaults.
        overwrite: replace the output if it exists.
        on_download: called during a download with the name of a weights file, the bytes done, and the total.
        **network: network and settings, for :class:`sppfeat.Extractor`; with ``file`` only ``weights``,
            ``weights_dir`` and ``device``.

    Returns:
        The picture's path and its size in words; ``found`` holds the numbers in the picture, as plain values.

    Raises:
        ConfigError: arguments contradict each other, the output is no picture or an input, or there are too many boxes,
            layers or levels.
        BoxError: a box has no area inside the image.
        ImageError: the image cannot be read.
        WeightsError: weights cannot be loaded.
        StoreError: the file cannot be read, its row has no descriptor, or the output exists or cannot be written.
    """
    path = Path(output)
    check_picture_path(path, inputs=[p for p in (image, file) if p is not None], overwrite=overwrite)
    if file is None:
        source = _plain_source(image, boxes, row, root, network, on_download)
    else:
        if row is not None and (projection is not None or margin is not None):
            raise ConfigError("--row is drawn as it was made: leave out --projection and --margin")
        source = _source_in_file(image, boxes, file, row, root, network, on_download)
    check_picture_path(path, inputs=[source.path], overwrite=overwrite)  # the image of a row
    config = source.extractor.config
    _check_extent(len(source.views), len(config.backbone.layers), len(config.descriptor.levels))
    pooled = pooled_boxes(source.extractor, source.path, source.views, projection=projection, margin=margin)
    height, width = pooled[0].image_hw
    note = (
        f"{network_text(config.backbone)}; {config.descriptor.pool} over levels "
        f"{','.join(map(str, config.descriptor.levels))}; image of {height} x {width} pixels (height x width)"
    )
    if config.input.flip:
        note += "; descriptors are the mean with the mirror image's"
    size = write_picture(
        lambda: draw_image(pooled, title=source.title, note=note, channel=channel), path, overwrite=overwrite
    )
    found = {
        "output": str(path),
        "image": source.path,
        "image_hw": pooled[0].image_hw,
        "channel": channel,
        "boxes": [_box_numbers(box, channel) for box in pooled],
    }
    return Picture(path, (f"{size[0]} x {size[1]} pixels (width x height)",), found)


class _Source(NamedTuple):
    """The image to draw, the views of it, and the network."""

    extractor: Extractor
    path: str
    title: str
    views: list[View]


def _plain_source(
    image: StrPath | None,
    boxes: Any,
    row: int | None,
    root: Any,
    network: dict[str, Any],
    on_download: OnDownload,
) -> _Source:
    for name, value in (("row", row), ("root", root)):
        if value is not None:
            raise ConfigError(f"--{name} is about a feature file, but there is none: --from")
    if image is None:
        raise ConfigError("no PHOTO, and no --from with --row; allowed: one of them")
    size = network.pop("size", None) or (DEFAULT_BOX_SIZE if boxes else DEFAULT_SIZE)
    extractor = Extractor(
        network.pop("backbone", DEFAULT_BACKBONE), size=size, on_download=on_download, **network
    )
    return _Source(extractor, os.fspath(image), os.path.basename(image), _views(boxes))


def _source_in_file(
    image: StrPath | None,
    boxes: Any,
    path: StrPath,
    row: int | None,
    root: StrPath | None,
    network: dict[str, Any],
    on_download: OnDownload,
) -> _Source:
    if (image is None) == (row is None):
        raise ConfigError("--from is given; with it allowed: either PHOTO, or --row")
    if row is not None and boxes:
        raise ConfigError("--box and --row are both given; allowed: one of them")
    with FeatureFile(path) as file:
        if image is not None:
            found, title, views = os.fspath(image), os.path.basename(image), _views(boxes)
        else:
            index, view = view_of_row(file, row or 0)
            found, views = os.path.join(root or file.root, file.path_of(index)), [view]
            title = f"{os.path.basename(found)}, row {row} of {file.path.name}"
            try:
                if not is_url(os.fsencode(found)):  # looking for a URL would download it
                    find_image(b"", os.fsencode(found))
            except ImageError as error:
                raise ImageError(f"{found!r}: {error}; --root says where the images are now") from error
        extractor = Extractor.from_file(file, on_download=on_download, **network)
    return _Source(extractor, found, title, views)


def _views(boxes: Any) -> list[View]:
    return [View((x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes] or [View()]


def _check_extent(n_boxes: int, n_layers: int, n_levels: int) -> None:
    """Refuses more boxes, layers or levels than fit into a picture."""
    if n_boxes * n_layers > MAX_PANEL_ROWS:
        raise ConfigError(
            f"{n_boxes} boxes of {n_layers} layers are {n_boxes * n_layers} rows of panels; allowed: {MAX_PANEL_ROWS}"
        )
    if n_levels > MAX_LEVELS:
        raise ConfigError(f"{n_levels} levels do not fit into one picture; allowed: {MAX_LEVELS}")


def _box_numbers(box: PooledBox, channel: int | None) -> dict[str, Any]:
    return {
        "box_px": box.view.box_px,
        "mirrored": box.view.mirrored,
        "clipped": bool(box.flag & RowFlag.CLIPPED),
        "sub_cell": bool(box.flag & RowFlag.SUB_CELL),
        "input_hw": box.input_hw,
        "box_in": box.box_in,
        "layers": [_layer_numbers(layer, channel) for layer in box.layers],
    }


def _layer_numbers(layer: LayerActivations, channel: int | None) -> dict[str, Any]:
    geometry = layer.geometry
    return {
        "layer": layer.layer,
        "channels": len(layer.map),
        "map_hw": layer.map_hw,
        "stride": None if geometry is None else np.broadcast_to(geometry.stride, 2).tolist(),
        "offset": None if geometry is None else np.broadcast_to(geometry.offset, 2).tolist(),
        "region": layer.region,
        "levels": [
            {
                "level": level.level,
                "bins": level.bins.reshape(-1, 4).tolist(),
                "strength": level.strength(channel).ravel().tolist(),
                "maxima": [
                    [y, x, int(counts[y, x])]
                    for counts in [level.count_maxima(layer.map_hw, channel)]
                    for y, x in np.argwhere(counts).tolist()
                ],
            }
            for level in layer.levels
        ],
    }


def draw_image(
    boxes: Sequence[PooledBox], *, title: str, note: str = "", channel: int | None = None
) -> "Figure":
    """Draws the pooling of an image; inside :func:`sppfeat.analysis.show.figure.drawing`.

    For each box and layer, panels show the network input with the box (dashed) and its region; the map; and for each
    level the pooled value of each bin as a color, above the bins and the cells where their maxima were found.

    Args:
        boxes: boxes of one image.
        title: title of the picture, such as the image's name.
        note: a line of text about the network.
        channel: the only channel to draw; the l2 norm over all channels if None.

    Raises:
        ConfigError: there is no such channel.
    """
    blocks = [LayerPanels(box, layer, channel) for box in boxes for layer in box.layers]
    for panels in blocks:
        n_channels, name = len(panels.layer.map), panels.layer.layer
        if channel is not None and not 0 <= channel < n_channels:
            raise ConfigError(f"channel is {channel}; allowed: 0 to {n_channels - 1}, those of layer {name}")
    sizes = [[panel_size((0, 0, *p.box.input_hw[::-1])), panel_size(p.window)] for p in blocks]
    n_levels = len(blocks[0].layer.levels)
    columns = [[max(_COLUMN, o[0], p[0]), *[max(_COLUMN, p[0])] * n_levels] for o, p in sizes]
    width = max(_LEAST_WIDTH, *(sum(own) + _GAP * (n_levels + 1) for own in columns))
    n_letters = int(width / _LETTER)
    captions = [
        [line for text in _caption(panels, i, len(blocks)) for line in textwrap.wrap(text, n_letters)]
        for i, panels in enumerate(blocks)
    ]
    rows = [(max(overview[1], panel[1]), panel[1]) for overview, panel in sizes]
    heights = [
        len(lines) * _LINE + sum(own) + _AROUND_PANELS for lines, own in zip(captions, rows, strict=True)
    ]
    footer = [line for text in (note, _legend(blocks)) for line in textwrap.wrap(text, n_letters * 8 // 7)]
    figure = new_figure(width, sum(heights) + _LINE * (len(footer) + 3))
    half = (_LONGEST_NAME - 3) // 2
    shown = title if len(title) <= _LONGEST_NAME else f"{title[:half]}...{title[-half:]}"
    figure.suptitle(escaped(shown), x=0.01, ha="left", size=10, weight="bold")
    figure.supxlabel("\n".join(footer), x=0.01, ha="left", size=7, color="0.35")
    parts = figure.subfigures(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for i, (part, panels) in enumerate(zip(parts, blocks, strict=True)):
        part.suptitle("\n".join(map(escaped, captions[i])), x=0.01, ha="left")
        _draw_block(part, panels, columns[i], rows[i])
    return figure


def _draw_block(
    part: "SubFigure", panels: LayerPanels, columns: Sequence[float], rows: Sequence[float]
) -> None:
    """Draws the panels of a layer of a box, and their color bars; sizes are in inches."""
    ratios = (sum(rows) + _AROUND_PANELS - _BARS, _BARS)
    upper, lower = part.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
    levels = panels.layer.levels
    grid = upper.subplots(
        2, 1 + len(levels), gridspec_kw={"width_ratios": columns, "height_ratios": rows}, squeeze=False
    )
    draw_overview(grid[0, 0], panels)
    grid[0, 0].set_title("network input")
    draw_map(grid[1, 0], panels)
    grid[1, 0].set_title("feature map")
    for position, level in enumerate(levels):
        above, below = grid[:, 1 + position]
        draw_pooled(above, panels, level)
        bins = f"{level.level} x {level.level} bins" if level.level > 1 else "one bin"
        above.set_title(f"level {level.level}: {bins}, pooled")
        draw_maxima(below, panels, level)
        draw_bins(below, panels, position)
        below.set_title(_maxima_title(panels, level))
    _draw_bars(lower, panels)


def _draw_bars(part: "SubFigure", panels: LayerPanels) -> None:
    """Draws the color bars of a layer's panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    n_channels = len(panels.layer.map)
    what = f"l2 norm of {n_channels} channels" if panels.channel is None else f"channel {panels.channel}"
    bars = [
        (HEAT, panels.map_limits, f"map: {what}"),
        (HEAT, panels.pooled_limits, f"pooled: {what}"),
        (MAXIMA, (0.0, 1.0), "maxima from a cell / the most"),
    ]
    for axes, (colors, limits, label) in zip(
        part.subplots(1, 3, gridspec_kw={"wspace": 0.15}), bars, strict=True
    ):
        if colors == MAXIMA and not _has_maxima(panels):
            axes.remove()
            continue
        bar = part.colorbar(
            ScalarMappable(Normalize(*limits), colors),
            cax=axes,
            orientation="horizontal",
            ticks=MaxNLocator(4),
            format="%g",
            label=label,
        )
        bar.outline.set_visible(False)
        axes.tick_params(length=2, pad=1)


def _maxima_title(panels: LayerPanels, level: PooledLevel) -> str:
    if level.n_cells is None:
        return "bins"
    n_cells = level.n_cells if panels.channel is None else level.n_cells[panels.channel]
    most = int(level.count_maxima(panels.layer.map_hw, panels.channel).max())
    return f"{int((n_cells == 1).sum())} of {n_cells.size} maxima, \u2264 {most} a cell"


def _has_maxima(panels: LayerPanels) -> bool:
    return any(level.cells is not None for level in panels.layer.levels)


def _caption(panels: LayerPanels, position: int, n_blocks: int) -> tuple[str, str]:
    """Texts that name the box and layer of panels, and that describe its region."""
    box, layer = panels.box, panels.layer
    x0, y0, x1, y1 = layer.region
    what = f"{position + 1} of {n_blocks}: " if n_blocks > 1 else ""
    if box.view.box_px is None:
        what += "the whole image"
    else:
        what += "box " + ", ".join(f"{value:.6g}" for value in box.view.box_px)
        what += " (clipped to the image)" if box.flag & RowFlag.CLIPPED else ""
        what += " (smaller than a cell)" if box.flag & RowFlag.SUB_CELL else ""
    what += ", mirrored" if box.view.mirrored else ""
    (map_h, map_w), (in_h, in_w) = layer.map_hw, box.input_hw
    if layer.geometry is None:
        cells = "spread evenly over the image, as this network has no stride that could be computed"
    else:
        stride, offset = (
            " and ".join(f"{v:g}" for v in (value[::-1] if isinstance(value, tuple) else (value,)))
            for value in layer.geometry
        )
        cells = f"stride {stride}, offset {offset} pixels"
    return f"{what}: {y1 - y0} x {x1 - x0} cells of layer {layer.layer}", (
        f"region x {x0}..{x1 - 1}, y {y0}..{y1 - 1} of a map of {map_h} x {map_w} cells (height x width), {cells}; "
        f"network input {in_h} x {in_w} pixels"
    )


def _legend(blocks: Sequence[LayerPanels]) -> str:
    """Explains lines and colors of the panels."""
    has_box = any(panels.box.view.box_px is not None for panels in blocks)
    text = "Dashed: the box; solid: its region, all cells that are pooled. " if has_box else ""
    text += "Bins are drawn a little inside their cells, as neighbours share some. "
    if any(map(_has_maxima, blocks)):
        return (
            f"{text}Maxima: one per bin and channel, counted in the cell that it came from; not counted where several "
            "cells of a bin have it, mostly zeros."
        )
    return f"{text}Of means all cells of a bin have part: there is no cell that they came from."
