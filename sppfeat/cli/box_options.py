"""Options of ``sppfeat extract`` about boxes, and the part of the request that they set."""

from typing import Any

import click

from sppfeat.cli.options import option, together
from sppfeat.cli.output import joined_numbers
from sppfeat.cli.values import Parsed, complete_files, native_to_none, whole_numbers
from sppfeat.config.regions import (
    BOX_COORDS,
    BOX_ENDS,
    BOX_FORMATS,
    BOX_ORDERS,
    BOX_ORIGINS,
    BOX_UNITS,
    MULTIVIEW_SCALES,
    PROJECTIONS,
    RegionSpec,
)
from sppfeat.config.request import BoxChoice
from sppfeat.config.specs import DEFAULT_BOX_SIZE, DEFAULT_SIZE
from sppfeat.errors import ConfigError

__all__ = ["box_choice", "box_options", "size_settings"]

_SCALES = Parsed(
    "pixels,...", whole_numbers, refusal="{!r} is not a list of pixels such as 480,576,688,864,1200"
)
# Boxes of images, in place of whole ones.
box_options = together(
    option(
        "--boxes",
        shell_complete=complete_files,
        metavar="FILE|grid:RxC[:OVERLAP]|multiview",
        help="One row per box: of an annotation file or folder, of a grid over each image, or the paper's views.",
    ),
    option(
        "--box-format",
        type=click.Choice(BOX_FORMATS),
        help="Of the box file. [default: recognised]",
    ),
    option(
        "--box-coords",
        type=click.Choice(BOX_COORDS),
        help="What its four numbers are: two corners, corner and size, centre and size. [default: of the format]",
    ),
    option(
        "--box-units",
        type=click.Choice(BOX_UNITS),
        help="Pixels, or fractions of width and height. [default: of the format]",
    ),
    option(
        "--box-origin",
        type=click.Choice([str(origin) for origin in BOX_ORIGINS]),
        help="Number of the first pixel. [default: of the format]",
    ),
    option(
        "--box-ends",
        type=click.Choice(BOX_ENDS),
        help="Whether x1 is the edge behind the last pixel, or that pixel. [default: of the format]",
    ),
    option(
        "--box-order",
        type=click.Choice(BOX_ORDERS),
        help="xy, or yx where y comes first in each pair. [default: xy]",
    ),
    option(
        "--scales",
        type=_SCALES,
        metavar="PIXELS,...",
        help="Short sides; each box is pooled from the one at which it is nearest to 224 x 224. [default: --size; "
        f"for multiview {joined_numbers(MULTIVIEW_SCALES)}]",
    ),
    option(
        "--projection",
        type=click.Choice(PROJECTIONS),
        default=RegionSpec.projection,
        help="How boxes become cells: as the released code, appendix A of the paper, or Fast R-CNN.",
    ),
    option(
        "--margin",
        type=float,
        default=RegionSpec.margin,
        metavar="PIXELS",
        help="Network-input pixels by which each box is tightened on each side, or widened if negative (sppnet only).",
    ),
    option(
        "--drop-duplicates",
        is_flag=True,
        help="Boxes of an image that fall on the same region become one row, which keeps what was said of the first; "
        "/box_row leads from each box to its row.",
    ),
)
_ONLY_WITH_BOXES = (
    "box_format",
    "box_coords",
    "box_units",
    "box_origin",
    "box_ends",
    "box_order",
    "scales",
    "margin",
    "drop_duplicates",
)


def box_choice(options: dict[str, Any]) -> BoxChoice | None:
    """Makes the boxes of the request from options, or None for whole images.

    Raises:
        ConfigError: options about boxes are given without boxes, or do not apply to these boxes.
    """
    boxes = options["boxes"]
    given = [name for name in _ONLY_WITH_BOXES if options[name]]
    if options["projection"] != RegionSpec.projection:
        given.append("projection")
    if boxes is None:
        if given:
            raise ConfigError(f"--{given[0].replace('_', '-')} is about boxes, but there are none: --boxes")
        return None
    origin = options["box_origin"]
    choice = BoxChoice(
        boxes=boxes,
        box_format=options["box_format"],
        coords=options["box_coords"],
        units=options["box_units"],
        origin=None if origin is None else int(origin),
        ends=options["box_ends"],
        order=options["box_order"],
        projection=options["projection"],
        margin=options["margin"],
        drop_duplicates=options["drop_duplicates"],
    )
    of_files = [name for name in given if name.startswith("box_")]
    if of_files and not choice.is_file:
        raise ConfigError(f"--{of_files[0].replace('_', '-')} is about box files, not about {boxes!r}")
    if boxes == "multiview" and options["flip"]:
        raise ConfigError("multiview has the mirror image of each view as a row of its own: leave out --flip")
    return choice


def size_settings(options: dict[str, Any]) -> dict[str, Any]:
    """The option ``size`` or ``scales`` of the network input by name, as given or by default for images or boxes.

    Raises:
        ConfigError: both are given.
    """
    size, scales = options["size"], options["scales"]
    if size is not None and scales:
        raise ConfigError("--size and --scales are both given; allowed: one of them")
    if scales:
        return {"scales": scales}
    if size is None and options["boxes"] == "multiview":
        return {"scales": MULTIVIEW_SCALES}
    if size is None:
        return {"size": DEFAULT_SIZE if options["boxes"] is None else DEFAULT_BOX_SIZE}
    return {"size": native_to_none(size)}
