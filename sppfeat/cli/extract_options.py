"""Options of ``sppfeat extract`` alone: patterns of paths, boxes, shards, and actors on a Ray cluster."""

import re

import click

from sppfeat.cli.options import NumberRange, Parsed, complete_files, count, flag, option, setting, together
from sppfeat.cli.output import joined_numbers
from sppfeat.config.distribution import parse_shard
from sppfeat.config.regions import BOX_FORMATS, BOX_ORIGINS, MULTIVIEW_SCALES, RegionSpec

__all__ = ["CHANNELS", "box_options", "path_options", "ray_options", "shard_options"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _nbytes(text: str) -> int:
    """Parses a number of bytes from a text such as ``2GB``."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([KMGT]?)(I?)B?", text.strip().upper())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is no size; allowed: bytes, such as 500MB, 2GB or 1GiB")
    unit = _UNITS[match[2]]
    return int(float(match[1]) * (1024 ** (list(_UNITS).index(match[2])) if match[3] else unit))


CHANNELS = Parsed(
    "r,g,b",
    lambda text: tuple(map(float, text.split(","))),
    refusal="{!r} is not three numbers such as 0.485,0.456,0.406",
)
_SHARD = Parsed("I/N|auto", parse_shard)
_NBYTES = Parsed("bytes", _nbytes)
_SCALES = Parsed(
    "pixels,...",
    lambda text: tuple(map(int, text.split(","))),
    refusal="{!r} is not a list of pixels such as 480,576,688,864,1200",
)
path_options = together(
    option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Leave out files and folders below the inputs that match, as in .gitignore: thumbs, '*.png', 'cat/**'.",
    ),
    option(
        "--include",
        multiple=True,
        metavar="GLOB",
        help="Take only files that match, or that lie in a folder that does. --exclude comes first.",
    ),
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
        "--box-label",
        metavar="NAME",
        help="Column, key or region attribute that names the class. [default: label, class or category]",
    ),
    option(
        "--box-names",
        help="Name of an image that counts: inside an annotation (<filename>, imagePath), or that of its file. "
        "[default: the file's, where it is that of an input]",
    ),
    option(
        "--box-images",
        shell_complete=complete_files,
        metavar="INSTANCES.json",
        help="COCO instances that name the image ids of a results file.",
    ),
    option(
        "--box-categories",
        shell_complete=complete_files,
        metavar="INSTANCES.json",
        help="COCO instances that name the category ids of a results file.",
    ),
    option(
        "--box-coords",
        help="What its four numbers are: two corners, corner and size, centre and size. [default: of the format]",
    ),
    option(
        "--box-units", help="Pixels, or fractions or percent of width and height. [default: of the format]"
    ),
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
    setting(
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
    flag(
        "--drop-duplicates",
        "Boxes of an image that fall on the same region become one row, which keeps what was said of the first; "
        "/box_row leads from each box to its row.",
    ),
)


shard_options = together(
    option(
        "--shard",
        type=_SHARD,
        metavar="I/N",
        help="Do only the I-th of N parts of the work (1/N to N/N), into a file of its own for 'sppfeat merge': "
        "{shard} in the name of the output stands for its number. auto: as torchrun or srun says.",
    ),
    flag(
        "--shared",
        "With --shard: into its rows of one output, which other processes of this machine fill at the same time.",
    ),
    option(
        "--shard-size",
        type=_NBYTES,
        metavar="SIZE",
        help="Write all shards, one after the other, of at most so many bytes of descriptors each, such as 2GB; "
        "{shard} in the name of the output stands for their numbers.",
    ),
)

ray_options = together(
    option("--engine", default="local", help="Who does the work: this process, or actors on a Ray cluster."),
    option(
        "--ray-address",
        metavar="ADDRESS",
        help="Of a running cluster: HOST:PORT, or auto for the one of this machine. [default: RAY_ADDRESS; without "
        "that a Ray on this machine, for this run]",
    ),
    count(
        "--actors",
        "Processes with a network each. [default: one for each GPU of the cluster, else for up to 8 cores]",
        metavar="N",
    ),
    option(
        "--gpus-per-actor",
        type=NumberRange(0, 1),
        metavar="FRACTION",
        help="0.5: two actors share a GPU. [default: 1 if the cluster has any]",
    ),
    count(
        "--cpus-per-actor",
        "Cores of each actor, for its network and for decoding. [default: up to 8, as there are]",
        metavar="N",
    ),
    flag(
        "--copy",
        "Copy the descriptors of the actors' part files into the output, which otherwise refers to these files.",
        former={"--merge": {"virtual": False, "copy": True}},
    ),
)
