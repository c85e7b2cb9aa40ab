"""``sppfeat report``: writes an HTML page about a feature file."""

from pathlib import Path
from typing import Any

import click

import sppfeat
from sppfeat.analysis.choices import DEFAULT_EMBEDDING, EMBEDDINGS, MOST_EMBEDDED
from sppfeat.cli import options
from sppfeat.cli.bars import Bar
from sppfeat.cli.command import command
from sppfeat.cli.options import count, flag, option
from sppfeat.cli.output import say
from sppfeat.config.wording import human_bytes

__all__ = ["report"]


@command(
    examples=("sppfeat report features.h5 -o report.html",),
    groups={
        "Output": "--output --overwrite --title --quiet",
        **options.SELECTION_GROUP,
        "Content": "--method --max-rows --no-probe --seed --root",
    },
)
@options.feature_file()
@options.output("HTML file to write.")
@options.overwrite
@option("--title", metavar="TEXT", help="Title of the page. [default: name of the file]")
@options.selection
@option("--method", type=click.Choice(EMBEDDINGS), default=DEFAULT_EMBEDDING, help="Method of the embedding.")
@count(
    "--max-rows",
    "Use at most this many randomly chosen rows, for the embedding and for the probe.",
    default=MOST_EMBEDDED,
    former="--most",
)
@flag("--no-probe", "Skip the linear classifier.")
@options.root
@count("--seed", "Random seed.", least=0, most=2**31, default=0)
@options.quiet
def report(file: Path, output: Path, no_probe: bool, quiet: bool, **values: Any) -> None:
    """Write a self-contained HTML report.

    The page shows an embedding with thumbnails, nearest neighbors, the scores of a linear classifier, norms, sizes,
    failures and settings. It loads nothing from elsewhere. FILE may be incomplete, and without the images only their
    thumbnails are missing.

    Requires matplotlib, scikit-learn and jinja2: pip install 'sppfeat[report]'.
    """
    with Bar("reporting", 0, unit="part", shown=not quiet) as bar:
        nbytes = sppfeat.report(
            file,
            output,
            probe=not no_probe,
            on_progress=lambda n, total, step: bar.move_to(n, total, note=step),
            **values,
        )
    say(f"wrote {output} ({human_bytes(nbytes)})")
