"""``sppfeat show``: draws pictures of a feature file; ``sppfeat show image`` has its own module."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

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
from sppfeat.cli.bars import Bar
from sppfeat.cli.groups import LazyGroup
from sppfeat.cli.options import (
    feature_file_argument,
    metric_option,
    option,
    output_option,
    overwrite_output_option,
    quiet_option,
    recorded_weights_options,
    root_option,
    together,
)
from sppfeat.cli.output import say
from sppfeat.cli.selection_options import (
    columns_options,
    rows_option,
    selection_choice,
    selection_options,
)
from sppfeat.config.wording import counted

if TYPE_CHECKING:
    from sppfeat.analysis.show.thumbnails import PictureSource, Thumbnail
    from sppfeat.store.reader import FeatureFile

__all__ = ["embedding", "neighbours", "norms", "show", "sizes"]

_MODULES = {
    "image": "show_image",
    "embedding": "show",
    "neighbours": "show",
    "norms": "show",
    "sizes": "show",
}

_PICTURE_SIDE = 128  # pixels
_MOST_LINES = 100

_Key = TypeVar("_Key", bound=Hashable)

_picture_option = output_option("The picture to write: .png, .svg or .pdf.")
_seed_option = option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Of all that is drawn.")

_file_and_output = together(feature_file_argument(), _picture_option, overwrite_output_option)


@click.group(cls=LazyGroup, modules=_MODULES, short_help="Draw pictures of an image, or of a feature file.")
def show() -> None:
    """Draw pictures, as .png, .svg or .pdf.

    Needs matplotlib: pip install 'sppfeat[plot]'. No window is opened and no display is needed.
    """


@click.command(short_help="Rows as points of a plane, coloured by class, with pictures.")
@_file_and_output
@selection_options
@option(
    "--method",
    type=click.Choice(EMBEDDINGS),
    default=DEFAULT_EMBEDDING,
    help="The two directions of largest variance; or neighbourhoods, of 50 principal components. umap: pip install "
    "'sppfeat[umap]'.",
)
@option(
    "--most",
    type=click.IntRange(1),
    default=MOST_EMBEDDED,
    help="Of more rows so many are drawn at random; they are in memory, twice.",
)
@option(
    "--pictures", type=click.IntRange(0), default=MOST_PICTURED, help="How many rows at most are pictured."
)
@root_option
@_seed_option
def embedding(
    file: Path,
    output: Path,
    overwrite: bool,
    method: str,
    most: int,
    pictures: int,
    root: str | None,
    seed: int,
    **selected: Any,
) -> None:
    """Draw rows as points of a plane, coloured by class, some of them as pictures of their image or box.

    Classes have a colour and a shape; of more than 20 the most frequent ones, and the others are grey. Needs
    scikit-learn, too: pip install 'sppfeat[sklearn]'.
    """
    from sppfeat.analysis.show.embedding import embed_rows
    from sppfeat.analysis.show.embedding_picture import caption, choose_pictured, embedding_figure
    from sppfeat.analysis.show.figure import check_picture_path, drawing, save_figure
    from sppfeat.analysis.show.thumbnails import find_row_pictures
    from sppfeat.errors import ConfigError
    from sppfeat.store.reader import FeatureFile

    choice = selection_choice(selected)
    check_picture_path(output, inputs=[file, *choice.inputs], overwrite=overwrite)
    with FeatureFile(file) as features:
        embedded = embed_rows(choice.of(features), method=method, most=most, seed=seed)
        if not len(embedded.selection):
            raise ConfigError(f"{str(file)!r}: no row to draw; allowed: rows that have a descriptor")
        pictured = choose_pictured(embedded, most=pictures, seed=seed)
        thumbnails = _read_thumbnails(features, find_row_pictures(features, list(pictured), root=root))
        with drawing():
            save_figure(embedding_figure(embedded, pictured, thumbnails), output, overwrite=overwrite)
        say(f"{caption(embedded)}: {output}")


@click.command(short_help="A contact sheet: rows beside the rows that are nearest to them.")
@feature_file_argument()
@click.argument("queries", nargs=-1, metavar="[QUERY]...")
@_picture_option
@overwrite_output_option
@option(
    "--neighbours",
    "-k",
    type=click.IntRange(1, 50),
    default=SHEET_NEIGHBORS,
    metavar="K",
    help="How many rows per query.",
)
@option(
    "--random",
    "n_random",
    type=click.IntRange(1, 100),
    default=SHEET_QUERIES,
    help="Without a QUERY: so many rows, drawn at random.",
)
@metric_option
@option(
    "--one-per-image", is_flag=True, help="Of each image only its nearest row, and none of the query's own."
)
@selection_options
@root_option
@recorded_weights_options
@_seed_option
@quiet_option
def neighbours(
    file: Path, queries: tuple[str, ...], output: Path, overwrite: bool, root: str | None, **options: Any
) -> None:
    """Draw a contact sheet: in each line a query, then the rows that are nearest to it, with distance and class.

    A QUERY is what `sppfeat search` takes: an image, a box of one (photo.jpg#x0,y0,x1,y1), a row of the file
    (row:17), a list of such (@FILE), or - for a list on standard input. Without any, rows are drawn at random, of
    different classes. Neighbours of the query's class have a tick and a solid frame, others a cross and a dashed
    one. Boxes are outlined in what surrounds them.
    """
    from sppfeat.analysis.search.queries import describe_queries, read_queries
    from sppfeat.analysis.show.contact_sheet import (
        contact_sheet_figure,
        draw_queries,
        make_contact_sheet,
        sheet_text,
    )
    from sppfeat.analysis.show.figure import check_picture_path, drawing, save_figure
    from sppfeat.analysis.show.thumbnails import find_query_pictures, find_row_pictures
    from sppfeat.errors import ConfigError
    from sppfeat.store.reader import FeatureFile

    asked = read_queries(queries) if queries else []
    choice = selection_choice(options)
    photos = [query.path for query in asked if query.path is not None]
    check_picture_path(output, inputs=[file, *choice.inputs, *photos], overwrite=overwrite)
    if len(asked) > _MOST_LINES:
        raise ConfigError(f"{len(asked)} queries; allowed: {_MOST_LINES} lines of one picture")
    with FeatureFile(file) as features:
        selection = choice.of(features)
        asked = asked or draw_queries(selection, options["n_random"], seed=options["seed"])
        if not asked:
            raise ConfigError(f"{str(file)!r}: no row to draw; allowed: rows that have a descriptor")
        descriptors = describe_queries(
            asked,
            selection,
            weights=options["weights"],
            weights_dir=options["weights_dir"],
            device=options["device"],
        )
        with Bar("searching", len(selection), unit="row", shown=not options["quiet"]) as bar:
            sheet = make_contact_sheet(
                selection,
                asked,
                descriptors,
                k=options["neighbours"],
                metric=options["metric"],
                one_per_image=options["one_per_image"],
                on_progress=bar.move_to,
            )
        pictured: dict[int | str, PictureSource] = {}
        pictured.update(find_row_pictures(features, sheet.rows, root=root).items())
        pictured.update(find_query_pictures(asked, exif=features.config.input.exif))
        thumbnails = _read_thumbnails(features, pictured)
        with drawing():
            save_figure(contact_sheet_figure(sheet, thumbnails), output, overwrite=overwrite)
        say(f"{sheet_text(sheet)}: {output}")


@click.command(short_help="Histograms of the norms of descriptors, layer by layer.")
@_file_and_output
@rows_option
@columns_options
@option(
    "--most", type=click.IntRange(1), default=MOST_NORMS, help="Of more rows so many are drawn at random."
)
@_seed_option
def norms(file: Path, output: Path, overwrite: bool, most: int, seed: int, **selected: Any) -> None:
    """Draw histograms of the l2 norms of descriptors, one per layer.

    The norms are those of the file, after its --normalize. Rows that are zero throughout a layer are counted.
    """
    from sppfeat.analysis.show.figure import check_picture_path, drawing, save_figure
    from sppfeat.analysis.show.norms import measure_norms, norms_figure, norms_text
    from sppfeat.store.reader import FeatureFile

    check_picture_path(output, inputs=[file], overwrite=overwrite)
    with FeatureFile(file) as features:
        measured = measure_norms(selection_choice(selected).of(features), most=most, seed=seed)
    with drawing():
        save_figure(norms_figure(measured), output, overwrite=overwrite)
    for i in range(len(measured.layers)):
        say(f"{norms_text(measured, i)}: {output}")


@click.command(short_help="Widths by heights of images or boxes, with histograms.")
@_file_and_output
@option(
    "--of",
    type=click.Choice(SIZES_OF),
    default=SIZES_OF[0],
    help="Sizes of images as displayed; or of boxes, as far as they lie inside their image.",
)
def sizes(file: Path, output: Path, overwrite: bool, of: str) -> None:
    """Draw widths by heights of images or boxes, with a histogram of either and lines of common aspect ratios.

    Images that failed are left out, and counted.
    """
    from sppfeat.analysis.show.figure import check_picture_path, drawing, save_figure
    from sppfeat.analysis.show.sizes import measure_sizes, sizes_figure, sizes_text
    from sppfeat.store.reader import FeatureFile

    check_picture_path(output, inputs=[file], overwrite=overwrite)
    with FeatureFile(file) as features:
        measured = measure_sizes(features, of=of)
    with drawing():
        save_figure(sizes_figure(measured), output, overwrite=overwrite)
    say(f"{sizes_text(measured)}: {output}")


def _read_thumbnails(
    file: "FeatureFile", pictured: "Mapping[_Key, PictureSource]"
) -> "dict[_Key, Thumbnail]":
    """Reads thumbnails, and prints a note about those that cannot be read."""
    from sppfeat.analysis.show.thumbnails import read_thumbnails

    thumbnails = read_thumbnails(pictured, exif=file.config.input.exif, side=_PICTURE_SIDE)
    unread = [thumbnail.reason for thumbnail in thumbnails.values() if thumbnail.pixels is None]
    if unread:
        say(
            f"note: {len(unread)} of {counted(len(thumbnails), 'image')} cannot be read; the first of them: {unread[0]}"
        )
    return thumbnails
