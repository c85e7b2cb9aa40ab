"""``sppfeat show``: draws pictures of a feature file or an image."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sppfeat
from sppfeat.analysis.choices import (
    DEFAULT_EMBEDDING,
    EMBEDDINGS,
    MOST_EMBEDDED,
    MOST_NORMS,
    MOST_PICTURED,
    SHEET_NEIGHBORS,
    SHEET_QUERIES,
    SIZES_OF,
)
from sppfeat.cli import options
from sppfeat.cli.bars import Bar, download_bar
from sppfeat.cli.command import Group
from sppfeat.cli.option_types import Parsed
from sppfeat.cli.options import count, flag, given_options, option, path, together
from sppfeat.cli.output import print_json, say
from sppfeat.config.specs import DEFAULT_BOX_SIZE, DEFAULT_LEVELS, DEFAULT_SIZE
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from sppfeat.analysis.show.figure import Picture

__all__ = ["show"]

# Options that --from excludes: the feature file records these settings.
_RECORDED = ("backbone", "seed", "layers", "size", "levels", "pool", "exif")


def _box(text: str) -> tuple[float, ...]:
    x0, y0, x1, y1 = map(float, text.split(","))
    return x0, y0, x1, y1


_BOX = Parsed("box", _box, refusal="{!r} is not four numbers such as 10,20,110,220")

_picture_option = options.output("Picture to write: .png, .svg or .pdf.")
_seed_option = count("--seed", "Random seed.", least=0, most=2**32 - 1, default=0)

_file_and_output = together(options.feature_file(), _picture_option, options.overwrite)


@click.group(cls=Group, former={"neighbours": "neighbors"})
def show() -> None:
    """Plot pyramids, embeddings, nearest neighbors, norms and image sizes.

    Pictures are .png, .svg or .pdf files; no display is needed. Requires matplotlib: pip install 'sppfeat[plot]'.
    """


@show.command(
    examples=(
        "sppfeat show image photo.jpg -o pyramid.png",
        "sppfeat show image --from regions.h5 --row 7 -o row7.png",
    ),
    groups={
        "Output": "--output --overwrite --json",
        "Row of a feature file": "--from --row --root",
        "Image": "--box --channel --size | --exif",
        "Network": "--backbone --weights --layer --device | --weights-dir --seed",
        "Pyramid": "--levels --pool | --projection --margin",
    },
)
@click.argument("photo", required=False)
@_picture_option
@options.overwrite
@option(
    "--box",
    "boxes",
    type=_BOX,
    multiple=True,
    metavar="X0,Y0,X1,Y1",
    help="Box in pixels of the upright image; repeatable. [default: whole image]",
)
@count("--channel", "Show one channel. [default: l2 norm of all channels]", least=0)
@path("--from file", "FEATURES", "Use the network and settings of this feature file.")
@option("--row", type=int, metavar="N", help="Show this row of --from, with its image and box.")
@options.root
@options.backbone
@options.size(f"{DEFAULT_SIZE}; {DEFAULT_BOX_SIZE} with --box")
@options.levels(DEFAULT_LEVELS)
@options.pool
@option(
    "--projection",
    metavar="RULE",
    help="Mapping of boxes to cells: sppnet, paper or roi_pool. [default: sppnet, or as in --from]",
)
@option(
    "--margin",
    type=float,
    metavar="PIXELS",
    help="Shrink boxes on each side by this many network-input pixels (sppnet only). [default: 0, or as in --from]",
)
@options.exif
@options.device
@options.json
def image(photo: str | None, as_json: bool, layers: tuple[str, ...], **values: Any) -> None:
    """Draw the pyramid's bins on a photograph, with the pooled values.

    For PHOTO or its boxes, and for each layer, the picture shows the network input with the box (dashed) and the pooled
    cells (solid), the feature map, the pooled vectors of each level, and the cells that hold the maxima. Values are
    taken before normalization.

    With --from FEATURES, the file gives all settings; --row N draws one of its rows.
    """
    if values["file"] is None:
        values["layer"] = layers
    else:
        for name in given_options(_RECORDED):
            raise ConfigError(f"{name} and --from exclude each other: the feature file sets {name}")
        unused = {*_RECORDED, *(() if given_options(["weights"]) else ("weights",))}
        values = {name: value for name, value in values.items() if name not in unused}
    with download_bar() as on_download:
        picture = sppfeat.show_image(photo, values.pop("output"), on_download=on_download, **values)
    if as_json:
        print_json(picture.found)
    else:
        _say_picture(picture)


@show.command(
    examples=("sppfeat show embedding features.h5 -o embedding.png --method tsne",),
    groups={
        "Output": "--output --overwrite",
        **options.SELECTION_GROUP,
        "Embedding": "--method --max-rows --thumbnails --root --seed",
    },
)
@_file_and_output
@options.selection
@option(
    "--method",
    type=click.Choice(EMBEDDINGS),
    default=DEFAULT_EMBEDDING,
    help="Method: principal components, or t-SNE or UMAP of 50 of them (umap: pip install 'sppfeat[umap]').",
)
@count(
    "--max-rows",
    "Plot at most this many randomly chosen rows (held in memory twice).",
    default=MOST_EMBEDDED,
    former="--most",
)
@count(
    "--thumbnails",
    "Number of rows shown as thumbnails.",
    least=0,
    default=MOST_PICTURED,
    former="--pictures",
)
@options.root
@_seed_option
def embedding(file: Path, output: Path, **values: Any) -> None:
    """Plot rows as points of a plane, colored by class, with thumbnails.

    Each class has a color and a shape; if there are more than 20 classes, the rare ones are gray. Requires
    scikit-learn: pip install 'sppfeat[sklearn]'.
    """
    _say_picture(sppfeat.show_embedding(file, output, **values))


@show.command(
    examples=("sppfeat show neighbors features.h5 row:0 query.jpg -o neighbors.png",),
    groups={
        "Output": "--output --overwrite --quiet",
        "Neighbors": "--neighbors --random --metric --one-per-image --seed",
        **options.SELECTION_GROUP,
        **options.RECORDED_GROUP,
    },
)
@options.feature_file()
@click.argument("queries", nargs=-1, metavar="[QUERY]...")
@_picture_option
@options.overwrite
@options.neighbors(SHEET_NEIGHBORS, most=50)
@count("--random n_random", "Number of random queries if no QUERY is given.", most=100, default=SHEET_QUERIES)
@options.metric
@flag("--one-per-image", "Show only the nearest row of each image, and none of the query's own image.")
@options.selection
@options.root
@options.recorded_weights
@_seed_option
@options.quiet
def neighbors(file: Path, queries: tuple[str, ...], output: Path, quiet: bool, **values: Any) -> None:
    """Draw a contact sheet of queries and their nearest rows.

    A QUERY is an image, a box (photo.jpg#x0,y0,x1,y1), a row of the file (row:17), @FILE (a list of queries) or - (a
    list on standard input). Without QUERY, random rows of different classes are drawn.

    Neighbors of the query's class have a tick and a solid frame, others a cross and a dashed frame.
    """
    with Bar("searching", 0, unit="row", shown=not quiet) as bar:
        picture = sppfeat.show_neighbors(file, output, queries, on_progress=bar.move_to, **values)
    _say_picture(picture)


@show.command(examples=("sppfeat show norms features.h5 -o norms.png",))
@_file_and_output
@options.rows
@options.columns
@count(
    "--max-rows",
    "Measure at most this many randomly chosen rows.",
    default=MOST_NORMS,
    former="--most",
)
@_seed_option
def norms(file: Path, output: Path, **values: Any) -> None:
    """Plot histograms of the l2 norms of descriptors, one per layer.

    Norms are measured after --normalize of 'sppfeat extract'. Rows that are zero in a layer are counted.
    """
    _say_picture(sppfeat.show_norms(file, output, **values))


@show.command(examples=("sppfeat show sizes regions.h5 -o sizes.png --of boxes",))
@_file_and_output
@option(
    "--of", type=click.Choice(SIZES_OF), default=SIZES_OF[0], help="Sizes of images, or of boxes inside them."
)
def sizes(file: Path, output: Path, **values: Any) -> None:
    """Plot widths and heights of images or boxes, with histograms.

    Lines show common aspect ratios. Failed images are left out and counted.
    """
    _say_picture(sppfeat.show_sizes(file, output, **values))


def _say_picture(picture: "Picture") -> None:
    for note in picture.notes:
        say(f"note: {note}")
    for line in picture.details:
        say(line)
    say(f"wrote {picture.path} ({picture.summary})")
