"""Options of ``sppfeat extract`` alone: path patterns, boxes, shards, and Ray actors."""

import re

import click

from sppfeat.cli.option_types import ANY_PATH, Parsed
from sppfeat.cli.options import count, flag, option, setting, together
from sppfeat.cli.output import joined_numbers
from sppfeat.config.distribution import parse_shard
from sppfeat.config.regions import BOX_FORMATS, BOX_ORIGINS, BOX_STYLES, MULTIVIEW_SCALES, RegionSpec

__all__ = ["CHANNELS", "box_options", "path_options", "ray_options", "shard_options"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _nbytes(text: str) -> int:
    """Parses a number of bytes from a text such as ``2GB``."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([KMGT]?)(I?)B?", text.strip().upper())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is not a size; allowed: bytes, such as 500MB, 2GB or 1GiB")
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
        help="Skip matching paths, as in .gitignore; repeatable.",
    ),
    option(
        "--include",
        multiple=True,
        metavar="GLOB",
        help="Use only matching paths; --exclude wins; repeatable.",
    ),
)

# Boxes of images, in place of whole images.
box_options = together(
    option(
        "--boxes",
        type=ANY_PATH,
        metavar="SOURCE",
        help="Boxes to describe: an annotation file or folder, grid:ROWSxCOLS or multiview.",
    ),
    option(
        "--box-style",
        type=click.Choice(list(BOX_STYLES)),
        metavar="STYLE",
        help=f"Box coordinates as in {', '.join(list(BOX_STYLES)[:-1])} or {list(BOX_STYLES)[-1]}. "
        "[default: by file format]",
    ),
    option(
        "--box-format",
        type=click.Choice(BOX_FORMATS),
        metavar="FORMAT",
        help=f"Format of the box file: {', '.join(BOX_FORMATS[:-1])} or {BOX_FORMATS[-1]}. [default: recognized]",
    ),
    option(
        "--box-label",
        metavar="NAME",
        help="Column, key or attribute of the box file that holds the class. [default: label, class or category]",
    ),
    option(
        "--box-names",
        metavar="SOURCE",
        help="Image names of annotations: inside (<filename>, imagePath) or file (name of the annotation file). "
        "[default: file if it matches an input]",
    ),
    option(
        "--box-images",
        type=ANY_PATH,
        metavar="JSON",
        help="COCO instances file with the images of a results file.",
    ),
    option(
        "--box-categories",
        type=ANY_PATH,
        metavar="JSON",
        help="COCO instances file with the categories of a results file.",
    ),
    option(
        "--box-coords",
        metavar="COORDS",
        help="Numbers of a box: xyxy (corners), xywh (corner, size) or cxcywh (center, size); overrides --box-style.",
    ),
    option(
        "--box-units",
        metavar="UNITS",
        help="Units: absolute (pixels), normalized (0 to 1) or percent; overrides --box-style.",
    ),
    option(
        "--box-origin",
        type=click.Choice([str(origin) for origin in BOX_ORIGINS]),
        help="Pixel index convention: 0-based or 1-based; overrides --box-style.",
    ),
    option(
        "--box-ends",
        metavar="ENDS",
        help="Position x1,y1: edges (exclusive) or inclusive (last pixel itself); overrides --box-style.",
    ),
    option("--box-order", help="Order of each pair of numbers; overrides --box-style."),
    option(
        "--scales",
        type=_SCALES,
        metavar="PIXELS,...",
        help="Short sides; each box is pooled at the scale that brings it closest to 224 x 224. [default: --size; "
        f"multiview: {joined_numbers(MULTIVIEW_SCALES)}]",
    ),
    setting(
        RegionSpec,
        "projection",
        "Mapping of boxes to feature-map cells: sppnet (released code), paper (appendix A) or roi_pool (Fast R-CNN).",
        metavar="RULE",
    ),
    option(
        "--margin",
        type=float,
        default=RegionSpec.margin,
        metavar="PIXELS",
        help="Shrink boxes on each side by this many network-input pixels; negative values grow them (sppnet only).",
    ),
    flag(
        "--drop-duplicates",
        "Write one row for boxes of an image that cover the same cells; /box_row maps each input box to its row.",
    ),
)

shard_options = together(
    option(
        "--shard",
        type=_SHARD,
        metavar="I/N|auto",
        help="Extract the I-th of N shards for 'sppfeat merge'; auto: rank of torchrun or srun.",
    ),
    flag("--shared", "Write all shards into one output, which processes of this machine fill together."),
    option(
        "--shard-size",
        type=_NBYTES,
        metavar="SIZE",
        help="Write all shards in turn, each with at most this many bytes of descriptors, such as 2GB.",
    ),
)

ray_options = together(
    option("--engine", default="local", help="Run locally or on a Ray cluster."),
    option(
        "--ray-address",
        metavar="ADDRESS",
        help="Running cluster: HOST:PORT, or auto for one on this machine. [default: RAY_ADDRESS, or a new local Ray]",
    ),
    count(
        "--actors",
        "Number of actors, each with its own network. [default: one per GPU, or one per 8 cores]",
        metavar="N",
    ),
    option(
        "--gpus-per-actor",
        type=click.FloatRange(0, 1),
        metavar="FRACTION",
        help="GPU share of each actor; 0.5 puts two on one GPU. [default: 1 if the cluster has GPUs]",
    ),
    count(
        "--cpus-per-actor", "Cores of each actor, for network and decoding. [default: up to 8]", metavar="N"
    ),
    flag(
        "--copy",
        "Copy the descriptors into the output, which otherwise refers to the actors' part files.",
    ),
    click.option("--merge", type=click.Choice(["virtual", "copy"]), hidden=True),  # former form of --copy
)
