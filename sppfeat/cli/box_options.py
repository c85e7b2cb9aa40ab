"""Options of ``sppfeat extract`` about boxes."""

import click

from sppfeat.cli.options import option, setting_option, together
from sppfeat.cli.output import joined_numbers
from sppfeat.cli.values import Parsed, complete_files
from sppfeat.config.regions import BOX_FORMATS, BOX_ORIGINS, MULTIVIEW_SCALES, RegionSpec

__all__ = ["box_options"]

_SCALES = Parsed(
    "pixels,...",
    lambda text: tuple(map(int, text.split(","))),
    refusal="{!r} is not a list of pixels such as 480,576,688,864,1200",
)
# Boxes of images, in place of whole ones.
box_options = together(
    option(
        "--boxes",
        shell_complete=complete_files,
        metavar="FILE|grid:RxC[:OVERLAP]|multiview",
        help="One row per box: of an annotation file or folder, of a grid over each image, or the paper's views.",
    ),
    option("--box-format", type=click.Choice(BOX_FORMATS), help="Of the box file. [default: recognised]"),
    option(
        "--box-coords",
        help="What its four numbers are: two corners, corner and size, centre and size. [default: of the format]",
    ),
    option("--box-units", help="Pixels, or fractions of width and height. [default: of the format]"),
    option(
        "--box-origin",
        type=click.Choice([str(origin) for origin in BOX_ORIGINS]),
        help="Number of the first pixel. [default: of the format]",
    ),
    option(
        "--box-ends",
        help="Whether x1 is the edge behind the last pixel, or that pixel. [default: of the format]",
    ),
    option("--box-order", help="xy, or yx where y comes first in each pair. [default: xy]"),
    option(
        "--scales",
        type=_SCALES,
        metavar="PIXELS,...",
        help="Short sides; each box is pooled from the one at which it is nearest to 224 x 224. [default: --size; "
        f"for multiview {joined_numbers(MULTIVIEW_SCALES)}]",
    ),
    setting_option(
        RegionSpec,
        "projection",
        "How boxes become cells: as the released code, appendix A of the paper, or Fast R-CNN.",
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
