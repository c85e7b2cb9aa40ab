"""``sppfeat show image``: draws the pyramid on an image."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sppfeat.cli.bars import download_bar
from sppfeat.cli.options import (
    backbone_options,
    device_option,
    exif_option,
    given_options,
    is_given,
    json_option,
    levels_option,
    option,
    output_option,
    overwrite_output_option,
    pool_option,
    size_option,
)
from sppfeat.cli.output import joined_numbers, print_json, say
from sppfeat.cli.values import Parsed, native_to_none
from sppfeat.config.regions import PROJECTIONS
from sppfeat.config.specs import DEFAULT_BOX_SIZE, DEFAULT_LEVELS, DEFAULT_SIZE
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from sppfeat.analysis.show.activations import LayerActivations, PooledBox, View
    from sppfeat.extractor import Extractor
    from sppfeat.files.downloads import OnDownload
    from sppfeat.store.reader import FeatureFile

__all__ = ["image"]

# Options that contradict --from, whose file records these settings.
_RECORDED = ("backbone", "seed", "layers", "size", "levels", "pool", "exif")


def _box(text: str) -> tuple[float, ...]:
    x0, y0, x1, y1 = map(float, text.split(","))
    return x0, y0, x1, y1


_BOX = Parsed("box", _box, refusal="{!r} is not four numbers such as 10,20,110,220")


@click.command(short_help="The pyramid's bins on a photograph, and what is pooled in them.")
@click.argument("photo", required=False)
@output_option("The picture to write: .png, .svg or .pdf.")
@overwrite_output_option
@option(
    "--box",
    "boxes",
    type=_BOX,
    multiple=True,
    metavar="X0,Y0,X1,Y1",
    help="A box in pixels of the photograph as displayed; repeatable. [default: the whole image]",
)
@option("--channel", type=click.IntRange(0), help="Show this channel. [default: all, by their l2 norm]")
@option(
    "--from",
    "file",
    type=click.Path(path_type=Path),
    metavar="FEATURES",
    help="A feature file: its network and all its settings.",
)
@option(
    "--row",
    type=int,
    metavar="N",
    help="Show this row of --from: its image and box; then without PHOTO and --box.",
)
@option("--root", type=click.Path(), help="Folder of the images of --from now. [default: as recorded]")
@backbone_options
@size_option(f"{DEFAULT_SIZE}; {DEFAULT_BOX_SIZE} with --box")
@levels_option(DEFAULT_LEVELS)
@pool_option
@option(
    "--projection",
    type=click.Choice(PROJECTIONS),
    help="How boxes become cells. [default: sppnet, or of --from]",
)
@option(
    "--margin",
    type=float,
    metavar="PIXELS",
    help="Network-input pixels by which each box is tightened on each side (sppnet only). [default: 0, or of --from]",
)
@exif_option
@device_option
@json_option
def image(photo: str | None, **options: Any) -> None:
    """Draw the pyramid's bins on a photograph, what is pooled in them, and where it came from.

    For PHOTO, or boxes in it, and each layer: the network input with the box (dashed) and its region, the cells that
    are pooled (solid); the map; for each level the pooled vectors, as the l2 norm over all channels; and below
    them the bins with all their cells, and how many channels have their maximum in which cell. Values are those
    before scaling, from one run of the network.

    With --from FEATURES everything is as that file was made; with --row N, too, that row of it is drawn. Up to
    6 boxes of layers, and 6 levels.
    """
    from sppfeat.analysis.show.activations import pooled_boxes
    from sppfeat.analysis.show.figure import check_picture_path, drawing, save_figure
    from sppfeat.analysis.show.image_picture import check_extent, draw_image

    output, channel = options["output"], options["channel"]
    given = [path for path in (photo, options["file"]) if path is not None]
    check_picture_path(output, inputs=given, overwrite=options["overwrite"])
    with download_bar() as on_download:
        source = _source(photo, options, on_download)
    check_picture_path(output, inputs=[source.path], overwrite=options["overwrite"])  # a row's photograph
    config = source.extractor.config
    check_extent(len(source.views), len(config.backbone.layers), len(config.descriptor.levels))
    boxes = pooled_boxes(
        source.extractor,
        source.path,
        source.views,
        projection=options["projection"],
        margin=options["margin"],
    )
    with drawing():
        notes = _notes(source.extractor, boxes[0])
        figure = draw_image(boxes, title=source.title, notes=notes, channel=channel)
        save_figure(figure, output, overwrite=options["overwrite"])
    if options["as_json"]:
        print_json(_numbers(source, boxes, output, channel))
    else:
        width, height = map(int, figure.bbox.size)  # truncated, like matplotlib's output
        say(f"{width} x {height} pixels (width x height): {output}")


class _Source(NamedTuple):
    """The image to draw, the views of it, and the network."""

    extractor: "Extractor"
    path: str
    title: str
    views: list["View"]


def _source(photo: str | None, options: dict[str, Any], on_download: "OnDownload") -> _Source:
    from sppfeat.analysis.show.activations import View

    views = [View(box) for box in options["boxes"]] or [View()]
    if options["file"] is not None:
        return _source_of_file(photo, options, views, on_download)
    for name in ("row", "root"):
        if options[name] is not None:
            raise ConfigError(f"--{name} is about a feature file, but there is none: --from")
    if photo is None:
        raise ConfigError("no PHOTO, and no --from with --row; allowed: one of them")
    return _Source(_extractor(options, on_download), photo, os.path.basename(photo), views)


def _extractor(options: dict[str, Any], on_download: "OnDownload") -> "Extractor":
    from sppfeat.extractor import Extractor

    size = options["size"]
    if size is None:
        size = DEFAULT_BOX_SIZE if options["boxes"] else DEFAULT_SIZE
    return Extractor(
        options["backbone"],
        weights=options["weights"],
        weights_dir=options["weights_dir"],
        layer=options["layers"],
        seed=options["seed"],
        size="native" if native_to_none(size) is None else size,
        levels=options["levels"],
        pool=options["pool"],
        exif=options["exif"],
        device=options["device"],
        on_download=on_download,
    )


def _source_of_file(
    photo: str | None, options: dict[str, Any], views: list["View"], on_download: "OnDownload"
) -> _Source:
    from sppfeat.analysis.show.activations import view_of_row
    from sppfeat.extractor import Extractor
    from sppfeat.store.reader import FeatureFile

    for flag in given_options(_RECORDED):
        raise ConfigError(f"{flag} is given, and --from, which has it already: leave one of them out")
    row = options["row"]
    if (photo is None) == (row is None):
        raise ConfigError("--from is given; with it allowed: either PHOTO, or --row")
    if row is not None and options["boxes"]:
        raise ConfigError("--box and --row are both given; allowed: one of them")
    if row is not None and (options["projection"] or options["margin"] is not None):
        raise ConfigError("--row is drawn as it was made: leave out --projection and --margin")
    with FeatureFile(options["file"]) as file:
        path, title = photo, os.path.basename(photo or "")
        if path is None:
            index, view = view_of_row(file, row)
            path = _path_of(file, index, options["root"])
            views, title = [view], f"{os.path.basename(path)}, row {row} of {file.path.name}"
        extractor = Extractor.from_file(
            file,
            weights=options["weights"] if is_given("weights") else None,
            weights_dir=options["weights_dir"],
            device=options["device"],
            on_download=on_download,
        )
    return _Source(extractor, path, title, views)


def _path_of(file: "FeatureFile", image: int, root: str | None) -> str:
    """Path of an image of a feature file, given by its index.

    Raises:
        ImageError: there is no such image.
    """
    from sppfeat.errors import ImageError
    from sppfeat.inputs.lookup import find_image
    from sppfeat.inputs.roots import is_url

    path = os.path.join(root or file.root, file.path_of(image))
    try:
        if not is_url(os.fsencode(path)):  # looking for a URL would download it
            find_image(b"", os.fsencode(path))
    except ImageError as error:
        raise ImageError(f"{path!r}: {error}; --root says where the images are now") from error
    return path


def _notes(extractor: "Extractor", box: "PooledBox") -> list[str]:
    from sppfeat.analysis.wording import network_text

    config = extractor.config
    height, width = box.image_hw
    text = (
        f"{network_text(config.backbone)}; {config.descriptor.pool} over levels "
        f"{joined_numbers(config.descriptor.levels)}; image of {height} x {width} pixels (height x width)"
    )
    return [f"{text}; descriptors are the mean with the mirror image's" if config.input.flip else text]


def _numbers(source: _Source, boxes: list["PooledBox"], output: Path, channel: int | None) -> dict[str, Any]:
    """JSON result: the numbers in the picture."""
    from sppfeat.config.regions import RowFlag

    return {
        "output": str(output),
        "image": source.path,
        "image_hw": boxes[0].image_hw,
        "channel": channel,
        "boxes": [
            {
                "box_px": box.view.box_px,
                "mirrored": box.view.mirrored,
                "clipped": bool(box.flag & RowFlag.CLIPPED),
                "sub_cell": bool(box.flag & RowFlag.SUB_CELL),
                "input_hw": box.input_hw,
                "box_in": box.box_in,
                "layers": [_numbers_of_layer(layer, channel) for layer in box.layers],
            }
            for box in boxes
        ],
    }


def _numbers_of_layer(layer: "LayerActivations", channel: int | None) -> dict[str, Any]:
    import numpy as np

    levels = []
    for level in layer.levels:
        counts = level.count_maxima(layer.map_hw, channel)
        strength = level.strength(channel)
        levels.append(
            {
                "level": level.level,
                "bins": level.bins.reshape(-1, 4).tolist(),
                "strength": [value if np.isfinite(value) else None for value in strength.ravel().tolist()],
                "maxima": [[y, x, int(counts[y, x])] for y, x in np.argwhere(counts).tolist()],
            }
        )
    geometry = layer.geometry
    return {
        "layer": layer.layer,
        "channels": len(layer.map),
        "map_hw": layer.map_hw,
        "stride": None if geometry is None else np.broadcast_to(geometry.stride, 2).tolist(),
        "offset": None if geometry is None else np.broadcast_to(geometry.offset, 2).tolist(),
        "region": layer.region,
        "levels": levels,
    }
