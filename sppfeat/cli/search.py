"""``sppfeat search``: finds the rows of a feature file that are nearest to queries."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sppfeat
from sppfeat.analysis.choices import DEFAULT_NEIGHBORS
from sppfeat.cli import options
from sppfeat.cli.bars import Bar, download_bar
from sppfeat.cli.command import command
from sppfeat.cli.options import flag
from sppfeat.cli.output import print_json_or_text, table
from sppfeat.config.wording import escaped

if TYPE_CHECKING:
    from sppfeat.analysis.search import Found

__all__ = ["search"]

_STAGE_LABELS = {"describing": "describing queries", "searching": "searching"}


@command(
    examples=(
        "sppfeat search features.h5 query.jpg",
        "sppfeat search features.h5 'photo.jpg#10,20,110,220' row:17 -k 5",
    ),
    groups={
        "Search": "--neighbors --metric --one-per-image --include-self",
        **options.SELECTION_GROUP,
        **options.RECORDED_GROUP,
        "Output": "--json --quiet",
    },
)
@options.feature_file()
@click.argument("queries", nargs=-1, required=True, metavar="QUERY...")
@options.neighbors(DEFAULT_NEIGHBORS)
@options.metric
@flag("--one-per-image", "Show only the nearest row of each image.")
@flag("--include-self", "Allow a row as its own neighbor, or its image with --one-per-image.")
@options.selection
@options.root
@options.recorded_weights
@options.json
@options.quiet
def search(file: Path, queries: tuple[str, ...], as_json: bool, quiet: bool, **values: Any) -> None:
    """Find the rows of a feature file that are nearest to an image, a box or a row.

    A QUERY is an image, a box (photo.jpg#x0,y0,x1,y1 in pixels of the upright image), a row of the file (row:17), @FILE
    (a list of queries) or - (a list on standard input). Images are described with the settings and weights of the file.

    The search is exact; rows at equal distance keep the order of the file. An invalid query stops the search before it
    begins.
    """
    with Bar("preparing", 0, unit="", shown=not quiet) as bar, download_bar() as on_download:
        found = sppfeat.search(
            file,
            queries,
            on_progress=lambda stage, done, total: bar.move_to(done, total, label=_STAGE_LABELS[stage]),
            on_download=on_download,
            **values,
        )
    as_objects = [
        {
            "query": result.query.text,
            "path": result.query.path,
            "box": result.query.box,
            "row": result.query.row,
            "hits": list(map(dataclasses.asdict, result.hits)),
        }
        for result in found
    ]
    print_json_or_text(as_objects, _text(found), as_json=as_json)


def _text(found: "list[Found]") -> str:
    """Formats hits as a table with a line for each; leaves out empty columns."""
    header = ["query", "rank", "distance", "row", "image", "label", "box", "score", "id"]
    lines = [
        [
            escaped(result.query.text),
            str(hit.rank),
            f"{hit.distance:.6g}",
            str(hit.row),
            escaped(hit.image),
            "" if hit.label is None else escaped(hit.label),
            "" if hit.box is None else ",".join(f"{side:.10g}" for side in hit.box),
            "" if hit.score is None else f"{hit.score:.6g}",
            "" if hit.id is None else escaped(hit.id),
        ]
        for result in found
        for hit in result.hits
    ]
    if not lines:
        return "no rows found"
    shown = [i for i in range(len(header)) if any(line[i] for line in lines)]
    right = {at for at, i in enumerate(shown) if header[i] in ("rank", "distance", "row", "score")}
    return table([header[i] for i in shown], [[line[i] for i in shown] for line in lines], right=right)
