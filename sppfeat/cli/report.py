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


@command(short_help="One page about a feature file: pictures, probe, failures, settings.")
@options.feature_file()
@options.output("The page to write: .html.")
@options.overwrite
@option("--title", metavar="TEXT", help="Of the page. [default: the file's name]")
@options.selection
@option(
    "--method",
    type=click.Choice(EMBEDDINGS),
    default=DEFAULT_EMBEDDING,
    help="Of the embedding; as 'sppfeat show embedding' has it.",
)
@count(
    "--max-rows",
    "Of more rows so many are drawn for the embedding, and as many for the probe.",
    default=MOST_EMBEDDED,
    former={"--most": None},
)
@flag("--no-probe", "Train no classifiers.")
@options.root
@count("--seed", "Of all that is drawn.", least=0, most=2**31, default=0)
@options.quiet
def report(file: Path, output: Path, no_probe: bool, quiet: bool, **values: Any) -> None:
    """Write one page about a feature file, for any browser; everything is in it, and it loads nothing.

    What is in the file, an embedding with pictures, rows beside their nearest rows, what a linear classifier makes of
    the classes and of each level and layer, distributions of norms and sizes, failures by reason, settings and
    provenance. Works while another process is writing the file, and without the images, whose pictures are missing
    then.

    Needs matplotlib, scikit-learn and jinja2: pip install 'sppfeat[report]'.
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
