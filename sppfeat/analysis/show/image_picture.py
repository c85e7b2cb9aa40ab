"""Pictures of the pooling of one image: regions, bins, pooled values, and the cells where the maxima were found."""

import os
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sppfeat.analysis.show.activations import (
    PooledLayer,
    View,
    pooled_boxes,
    strength,
    view_of_row,
)
from sppfeat.analysis.show.figure import (
    HEAT,
    Picture,
    check_picture_path,
    cut_middle,
    new_figure,
    write_picture,
)
from sppfeat.analysis.show.image_panels import (
    MAXIMA,
    draw_bins,
    draw_map,
    draw_maxima,
    draw_overview,
    draw_pooled,
    map_limits,
    panel_size,
    pooled_limits,
    window_of,
)
from sppfeat.analysis.wording import network_text
from sppfeat.config.regions import RowFlag
from sppfeat.config.specs import DEFAULT_BOX_SIZE, DEFAULT_SIZE
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

__all__ = ["draw_image", "show_image"]

_MAX_PANEL_ROWS = 6  # boxes times layers
_MAX_LEVELS = 6

# Inches: width of a column (a panel and its title must fit), what a block has besides its panels (captions, titles,
# and color bars with their labels), and title and footer of the picture.
_COLUMN, _AROUND_PANELS, _AROUND_BLOCKS = 2.2, 1.5, 0.95
_BARS = 0.55  # of which for color bars
_LEAST_WIDTH = 6.0  # room for three color bars
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
    check_picture_path(path, inputs=[image, file], overwrite=overwrite)
    is_row, is_converted = row is not None, projection is not None or margin is not None
    for is_wrong, message in (
        (file is None and is_row, "--row is about a feature file, but there is none: --from"),
        (file is None and root is not None, "--root is about a feature file, but there is none: --from"),
        (file is None and image is None, "no PHOTO, and no --from with --row; allowed: one of them"),
        (file and (image is None) != is_row, "--from is given; with it allowed: either PHOTO, or --row"),
        (is_row and boxes, "--box and --row are both given; allowed: one of them"),
        (is_row and is_converted, "--row is drawn as it was made: leave out --projection and --margin"),
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
                found, view = _find_row(features, row, root)
                views, title = [view], f"{os.path.basename(found)}, row {row} of {features.path.name}"
            extractor = Extractor.from_file(features, on_download=on_download, **network)
    check_picture_path(path, inputs=[found], overwrite=overwrite)  # the image of a row
    config = extractor.config
    n_boxes, n_layers, n_levels = len(views), len(config.backbone.layers), len(config.descriptor.levels)
    if n_boxes * n_layers > _MAX_PANEL_ROWS:
        rows = f"{n_boxes} boxes of {n_layers} layers are {n_boxes * n_layers} rows of panels"
        raise ConfigError(f"{rows}; allowed: {_MAX_PANEL_ROWS}")
    if n_levels > _MAX_LEVELS:
        raise ConfigError(f"{n_levels} levels do not fit into one picture; allowed: {_MAX_LEVELS}")
    pooled = pooled_boxes(extractor, found, views, projection=projection, margin=margin)
    height, width = image_hw = pooled[0][0].image_hw
    note = (
        f"{network_text(config.backbone)}; {config.descriptor.pool} over levels "
        f"{','.join(map(str, config.descriptor.levels))}; image of {height} x {width} pixels (height x width)"
    )
    if config.input.flip:
        note += "; descriptors are the mean with the mirror image's"
    layers = list(chain.from_iterable(pooled))
    draw = partial(draw_image, layers, title=title, note=note, channel=channel)
    page = write_picture(draw, path, overwrite=overwrite)
    numbers: dict[str, Any] = {"output": str(path), "image": found, "image_hw": image_hw, "channel": channel}
    numbers["boxes"] = [_box_numbers(of_box, channel) for of_box in pooled]
    return Picture(path, (f"{page[0]} x {page[1]} pixels (width x height)",), numbers)


def _find_row(file: FeatureFile, row: int, root: StrPath | None) -> tuple[str, View]:
    index, view = view_of_row(file, row)
    found = os.path.join(root or file.root, file.path_of(index))
    try:
        if not is_url(os.fsencode(found)):  # looking for a URL would download it
            find_image(b"", os.fsencode(found))
    except ImageError as error:
        raise ImageError(f"{found!r}: {error}; --root says where the images are now") from error
    return found, view


def _box_numbers(layers: Sequence[PooledLayer], channel: int | None) -> dict[str, Any]:
    first = layers[0]
    return {
        "box_px": first.view.box_px,
        "mirrored": first.view.mirrored,
        "clipped": bool(first.flag & RowFlag.CLIPPED),
        "sub_cell": bool(first.flag & RowFlag.SUB_CELL),
        "input_hw": first.input_hw,
        "box_in": first.box_in,
        "layers": [
            {
                "layer": layer.name,
                "channels": len(layer.map),
                "map_hw": layer.map_hw,
                "stride": layer.geometry and np.broadcast_to(layer.geometry.stride, 2).tolist(),
                "offset": layer.geometry and np.broadcast_to(layer.geometry.offset, 2).tolist(),
                "region": layer.region,
                "levels": [
                    {
                        "level": level.level,
                        "bins": level.bins.reshape(-1, 4).tolist(),
                        "strength": strength(level.values, channel).ravel().tolist(),
                        "maxima": [[y, x, int(counts[y, x])] for y, x in np.argwhere(counts).tolist()],
                    }
                    for level in layer.levels
                    for counts in [level.count_maxima(layer.map_hw, channel)]
                ],
            }
            for layer in layers
        ],
    }


def draw_image(
    layers: Sequence[PooledLayer], *, title: str, note: str = "", channel: int | None = None
) -> "Figure":
    """Draws pooled layers of the boxes of one image; inside :func:`sppfeat.analysis.show.figure.drawing`.

    For each box and layer, panels show the network input with the box (dashed) and its region; the map; and for each
    level the pooled value of each bin as a color, above the bins and the cells where their maxima were found.
    """
    for layer in layers:
        if channel is not None and not 0 <= channel < (n := len(layer.map)):
            raise ConfigError(f"channel is {channel}; allowed: 0 to {n - 1}, those of layer {layer.name}")
    sizes = [(panel_size((0, 0, *of.input_hw[::-1])), panel_size(window_of(of))) for of in layers]
    rows = [(max(overview[1], panel[1]), panel[1]) for overview, panel in sizes]
    width = max(_LEAST_WIDTH, _COLUMN * (1 + len(layers[0].levels)))
    heights = [sum(own) + _AROUND_PANELS for own in rows]
    figure = new_figure(width, sum(heights) + _AROUND_BLOCKS)
    figure.suptitle(cut_middle(title, _LONGEST_NAME), x=0.01, ha="left", size=10, weight="bold")
    look: dict[str, Any] = {"size": 7, "color": "0.35", "wrap": True}
    figure.supxlabel(f"{note}\n{_legend(layers)}", x=0.01, ha="left", **look)
    parts = figure.subfigures(len(layers), 1, squeeze=False, height_ratios=heights)[:, 0]
    for i, (part, layer) in enumerate(zip(parts, layers, strict=True)):
        part.suptitle(_caption(layer, i, len(layers)), x=0.01, ha="left", wrap=True)
        ratios = (sum(rows[i]) + _AROUND_PANELS - _BARS, _BARS)
        upper, lower = part.subfigures(2, 1, squeeze=False, height_ratios=ratios)[:, 0]
        _draw_panels(upper, layer, channel, rows[i])
        _draw_bars(lower, layer, channel)
    return figure


def _draw_panels(
    part: "SubFigure", layer: PooledLayer, channel: int | None, heights: Sequence[float]
) -> None:
    grid = part.subplots(2, 1 + len(layer.levels), gridspec_kw={"height_ratios": heights})
    draw_overview(grid[0, 0], layer)
    grid[0, 0].set_title("network input")
    draw_map(grid[1, 0], layer, channel)
    grid[1, 0].set_title("feature map")
    for position, level in enumerate(layer.levels):
        above, below = grid[:, 1 + position]
        draw_pooled(above, layer, level, channel)
        bins = f"{level.level} x {level.level} bins" if level.level > 1 else "one bin"
        above.set_title(f"level {level.level}: {bins}, pooled")
        draw_maxima(below, layer, level, channel)
        draw_bins(below, layer, position)
        if level.cells is None:
            below.set_title("bins")
        else:
            counts = level.count_maxima(layer.map_hw, channel)
            n_maxima = level.level**2 * (len(layer.map) if channel is None else 1)
            below.set_title(f"{counts.sum()} of {n_maxima} maxima, \u2264 {counts.max()} a cell")


def _draw_bars(part: "SubFigure", layer: PooledLayer, channel: int | None) -> None:
    """Draws the color bars of a layer's panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    what = f"l2 norm of {len(layer.map)} channels" if channel is None else f"channel {channel}"
    bars = [
        (HEAT, map_limits(layer, channel), f"map: {what}"),
        (HEAT, pooled_limits(layer, channel), f"pooled: {what}"),
        (MAXIMA, (0.0, 1.0), "maxima from a cell / the most"),
    ]
    all_axes = part.subplots(1, 3, gridspec_kw={"wspace": 0.15})
    for axes, (colors, limits, label) in zip(all_axes, bars, strict=True):
        if colors == MAXIMA and layer.levels[0].cells is None:
            axes.remove()
            continue
        how: dict[str, Any] = {"orientation": "horizontal", "ticks": MaxNLocator(4), "format": "%g"}
        bar = part.colorbar(ScalarMappable(Normalize(*limits), colors), cax=axes, label=label, **how)
        bar.outline.set_visible(False)
        axes.tick_params(length=2, pad=1)


def _caption(layer: PooledLayer, position: int, n_blocks: int) -> str:
    """Names the box and its layer, and describes its region."""
    x0, y0, x1, y1 = layer.region
    what = f"{position + 1} of {n_blocks}: " if n_blocks > 1 else ""
    if layer.view.box_px is None:
        what += "the whole image"
    else:
        what += "box " + ", ".join(f"{value:.6g}" for value in layer.view.box_px)
        what += " (clipped to the image)" if layer.flag & RowFlag.CLIPPED else ""
        what += " (smaller than a cell)" if layer.flag & RowFlag.SUB_CELL else ""
    what += ", mirrored" if layer.view.mirrored else ""
    (map_h, map_w), (in_h, in_w) = layer.map_hw, layer.input_hw
    if layer.geometry is None:
        cells = "spread evenly over the image, as this network has no stride that could be computed"
    else:
        stride, offset = (
            " and ".join(f"{v:g}" for v in (value[::-1] if isinstance(value, tuple) else (value,)))
            for value in layer.geometry
        )
        cells = f"stride {stride}, offset {offset} pixels"
    return (
        f"{what}: {y1 - y0} x {x1 - x0} cells of layer {escaped(layer.name)}\n"
        f"region x {x0}..{x1 - 1}, y {y0}..{y1 - 1} of a map of {map_h} x {map_w} cells (height x width), {cells}; "
        f"network input {in_h} x {in_w} pixels"
    )


def _legend(layers: Sequence[PooledLayer]) -> str:
    has_box = any(layer.view.box_px is not None for layer in layers)
    text = "Dashed: the box; solid: its region, all cells that are pooled. " if has_box else ""
    text += "Bins are drawn a little inside their cells, as neighbours share some. "
    if layers[0].levels[0].cells is None:
        return f"{text}Of means all cells of a bin have part: there is no cell that they came from."
    return (
        f"{text}Maxima: one per bin and channel, counted in the cell that it came from; not counted where several "
        "cells of a bin have it, mostly zeros."
    )
