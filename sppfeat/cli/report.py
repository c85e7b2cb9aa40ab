"""``sppfeat report``: writes an HTML page about a feature file."""

from pathlib import Path
from typing import Any

import click

from sppfeat.analysis.choices import DEFAULT_EMBEDDING, EMBEDDINGS, MOST_EMBEDDED
from sppfeat.cli.bars import Bar
from sppfeat.cli.options import (
    feature_file_argument,
    option,
    output_option,
    overwrite_output_option,
    quiet_option,
    root_option,
)
from sppfeat.cli.output import human_bytes, say
from sppfeat.cli.selection_options import selection_choice, selection_options

__all__ = ["report"]


@click.command(short_help="One page about a feature file: pictures, probe, failures, settings.")
@feature_file_argument()
@output_option("The page to write: .html.")
@overwrite_output_option
@option("--title", metavar="TEXT", help="Of the page. [default: the file's name]")
@selection_options
@option(
    "--method",
    type=click.Choice(EMBEDDINGS),
    default=DEFAULT_EMBEDDING,
    help="Of the embedding; as 'sppfeat show embedding' has it.",
)
@option(
    "--most",
    type=click.IntRange(1),
    default=MOST_EMBEDDED,
    help="Of more rows so many are drawn for the embedding, and as many for the probe.",
)
@option("--no-probe", is_flag=True, help="Train no classifiers.")
@root_option
@option("--seed", type=click.IntRange(0, 2**31), default=0, help="Of all that is drawn.")
@quiet_option
def report(
    file: Path,
    output: Path,
    overwrite: bool,
    title: str | None,
    method: str,
    most: int,
    no_probe: bool,
    root: str | None,
    seed: int,
    quiet: bool,
    **selected: Any,
) -> None:
    """Write one page about a feature file, for any browser; everything is in it, and it loads nothing.

    What is in the file, an embedding with pictures, rows beside their nearest rows, what a linear classifier makes of
    the classes and of each level and layer, distributions of norms and sizes, failures by reason, settings and
    provenance. Works while another process is writing the file, and without the images, whose pictures are missing
    then.

    Needs matplotlib, scikit-learn and jinja2: pip install 'sppfeat[report]'.
    """
    from sppfeat.analysis.report import STEPS, gather_facts
    from sppfeat.analysis.report.facts import ReportSettings
    from sppfeat.analysis.report.page import check_page_path, render_page
    from sppfeat.files.atomic import replace_file
    from sppfeat.store.reader import FeatureFile

    choice = selection_choice(selected)
    check_page_path(output, inputs=[file, *choice.inputs], overwrite=overwrite)
    settings = ReportSettings(
        title=title or "",
        method=method,
        most_embedded=most,
        most_probed=0 if no_probe else most,
        seed=seed,
        root=root,
    )
    with FeatureFile(file) as features:
        selection = choice.of(features)
        with Bar("reporting", len(STEPS) + 1, unit="part", shown=not quiet) as bar:
            facts = gather_facts(selection, settings, on_step=lambda n, step: bar.move_to(n, note=step))
            page = render_page(facts).encode()
            bar.move_to(len(STEPS) + 1)
    replace_file(output, page, overwrite=overwrite)
    say(f"{human_bytes(len(page))}: {output}")
