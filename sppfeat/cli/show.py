"""``sppfeat show``: draws pictures of a feature file, or of an image."""

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
from sppfeat.cli.command import Command, Group
from sppfeat.cli.options import Parsed, count, flag, given_options, option, path, together
from sppfeat.cli.output import print_json, say
from sppfeat.config.specs import DEFAULT_BOX_SIZE, DEFAULT_LEVELS, DEFAULT_SIZE
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from sppfeat.analysis.show.figure import Picture

__all__ = ["show"]

# Options that contradict --from, whose file records these settings.
_RECORDED = ("backbone", "seed", "layers", "size", "levels", "pool", "exif")


def _box(text: str) -> tuple[float, ...]:
    x0, y0, x1, y1 = map(float, text.split(","))
    return x0, y0, x1, y1


_BOX = Parsed("box", _box, refusal="{!r} is not four numbers such as 10,20,110,220")

_picture_option = options.output("The picture to write: .png, .svg or .pdf.")
_seed_option = count("--seed", "Of all that is drawn.", least=0, most=2**32 - 1, default=0)

_file_and_output = together(options.feature_file(), _picture_option, options.overwrite)


@click.group(
    cls=Group,
    former={"neighbours": "neighbors"},
    short_help="Draw pictures of an image, or of a feature file.",
)
def show() -> None:
    """Draw pictures, as .png, .svg or .pdf.

    Needs matplotlib: pip install 'sppfeat[plot]'. No window is opened and no display is needed.
    """


@show.command(cls=Command, short_help="The pyramid's bins on a photograph, and what is pooled in them.")
@click.argument("photo", required=False)
@_picture_option
@options.overwrite
@option(
    "--box",
    "boxes",
    type=_BOX,
    multiple=True,
    metavar="X0,Y0,X1,Y1",
    help="A box in pixels of the photograph as displayed; repeatable. [default: the whole image]",
)
@count("--channel", "Show this channel. [default: all, by their l2 norm]", least=0)
@path("--from file", "FEATURES", "A feature file: its network and all its settings.")
@option(
    "--row",
    type=int,
    metavar="N",
    help="Show this row of --from: its image and box; then without PHOTO and --box.",
)
@option("--root", type=click.Path(), help="Folder of the images of --from now. [default: as recorded]")
@options.backbone
@options.size(f"{DEFAULT_SIZE}; {DEFAULT_BOX_SIZE} with --box")
@options.levels(DEFAULT_LEVELS)
@options.pool
@option("--projection", help="How boxes become cells. [default: sppnet, or of --from]")
@option(
    "--margin",
    type=float,
    metavar="PIXELS",
    help="Network-input pixels by which each box is tightened on each side (sppnet only). [default: 0, or of --from]",
)
@options.exif
@options.device
@options.json
def image(photo: str | None, as_json: bool, layers: tuple[str, ...], **values: Any) -> None:
    """Draw the pyramid's bins on a photograph, what is pooled in them, and where it came from.

    For PHOTO, or boxes in it, and each layer: the network input with the box (dashed) and its region, the cells that
    are pooled (solid); the map; for each level the pooled vectors, as the l2 norm over all channels; and below
    them the bins with all their cells, and how many channels have their maximum in which cell. Values are those
    before scaling, from one run of the network.

    With --from FEATURES everything is as that file was made; with --row N, too, that row of it is drawn. Up to
    6 boxes of layers, and 6 levels.
    """
    if values["file"] is None:
        values["layer"] = layers
    else:
        for name in given_options(_RECORDED):
            raise ConfigError(f"{name} is given, and --from, which has it already: leave one of them out")
        unused = {*_RECORDED, *(() if given_options(["weights"]) else ("weights",))}
        values = {name: value for name, value in values.items() if name not in unused}
    with download_bar() as on_download:
        picture = sppfeat.show_image(photo, values.pop("output"), on_download=on_download, **values)
    if as_json:
        print_json(picture.found)
    else:
        _say_picture(picture)


@show.command(cls=Command, short_help="Rows as points of a plane, coloured by class, with pictures.")
@_file_and_output
@options.selection
@option(
    "--method",
    type=click.Choice(EMBEDDINGS),
    default=DEFAULT_EMBEDDING,
    help="The two directions of largest variance; or neighbourhoods, of 50 principal components. umap: pip install "
    "'sppfeat[umap]'.",
)
@count(
    "--max-rows",
    "Of more rows so many are drawn at random; they are in memory, twice.",
    default=MOST_EMBEDDED,
    former={"--most": None},
)
@count(
    "--thumbnails",
    "How many rows at most are pictured.",
    least=0,
    default=MOST_PICTURED,
    former={"--pictures": None},
)
@options.root
@_seed_option
def embedding(file: Path, output: Path, **values: Any) -> None:
    """Draw rows as points of a plane, coloured by class, some of them as pictures of their image or box.

    Classes have a colour and a shape; of more than 20 the most frequent ones, and the others are grey. Needs
    scikit-learn, too: pip install 'sppfeat[sklearn]'.
    """
    _say_picture(sppfeat.show_embedding(file, output, **values))


@show.command(cls=Command, short_help="A contact sheet: rows beside the rows that are nearest to them.")
@options.feature_file()
@click.argument("queries", nargs=-1, metavar="[QUERY]...")
@_picture_option
@options.overwrite
@options.neighbors(SHEET_NEIGHBORS, most=50)
@count(
    "--random n_random",
    "Without a QUERY: so many rows, drawn at random.",
    most=100,
    default=SHEET_QUERIES,
)
@options.metric
@flag("--one-per-image", "Of each image only its nearest row, and none of the query's own.")
@options.selection
@options.root
@options.recorded_weights
@_seed_option
@options.quiet
def neighbors(file: Path, queries: tuple[str, ...], output: Path, quiet: bool, **values: Any) -> None:
    """Draw a contact sheet: in each line a query, then the rows that are nearest to it, with distance and class.

    A QUERY is what `sppfeat search` takes: an image, a box of one (photo.jpg#x0,y0,x1,y1), a row of the file
    (row:17), a list of such (@FILE), or - for a list on standard input. Without any, rows are drawn at random, of
    different classes. Neighbours of the query's class have a tick and a solid frame, others a cross and a dashed
    one. Boxes are outlined in what surrounds them.
    """
    with Bar("searching", 0, unit="row", shown=not quiet) as bar:
        picture = sppfeat.show_neighbors(file, output, queries, on_progress=bar.move_to, **values)
    _say_picture(picture)


@show.command(cls=Command, short_help="Histograms of the norms of descriptors, layer by layer.")
@_file_and_output
@options.rows
@options.columns
@count(
    "--max-rows",
    "Of more rows so many are drawn at random.",
    default=MOST_NORMS,
    former={"--most": None},
)
@_seed_option
def norms(file: Path, output: Path, **values: Any) -> None:
    """Draw histograms of the l2 norms of descriptors, one per layer.

    The norms are those of the file, after its --normalize. Rows that are zero throughout a layer are counted.
    """
    _say_picture(sppfeat.show_norms(file, output, **values))


@show.command(cls=Command, short_help="Widths by heights of images or boxes, with histograms.")
@_file_and_output
@option(
    "--of",
    type=click.Choice(SIZES_OF),
    default=SIZES_OF[0],
    help="Sizes of images as displayed; or of boxes, as far as they lie inside their image.",
)
def sizes(file: Path, output: Path, **values: Any) -> None:
    """Draw widths by heights of images or boxes, with a histogram of either and lines of common aspect ratios.

    Images that failed are left out, and counted.
    """
    _say_picture(sppfeat.show_sizes(file, output, **values))


def _say_picture(picture: "Picture") -> None:
    for note in picture.notes:
        say(f"note: {note}")
    for line in picture.details:
        say(line)
    say(f"wrote {picture.path} ({picture.summary})")
