"""``sppfeat predict``: classifies the rows of a feature file with a saved classifier."""

from pathlib import Path
from typing import Any

import click

import sppfeat
from sppfeat.cli import options
from sppfeat.cli.bars import Bar
from sppfeat.cli.command import command
from sppfeat.cli.options import flag, path
from sppfeat.cli.output import say, standard_output
from sppfeat.config.wording import counted

__all__ = ["predict"]


@command(short_help="Classify the rows of a feature file with a saved classifier.")
@click.argument("model", type=click.Path(path_type=Path))
@options.feature_file("features")
@path("-o --output", "CSV|-", "File to write. [default: standard output]")
@flag("--scores with_scores", "A column for the score of each class, too.")
@options.rows
@options.labels
@options.overwrite
@options.quiet
def predict(model: Path, features: Path, output: Path | None, quiet: bool, **values: Any) -> None:
    """Classify the rows of a feature file with a classifier of 'sppfeat probe --save', as CSV.

    The file's descriptors must have been made with the settings of those that the classifier was fitted on. Where
    rows have labels, the accuracy is said on standard error.
    """
    with Bar("predicting", 0, unit="row", shown=not quiet) as bar:
        target = standard_output() if output is None or str(output) == "-" else output
        found = sppfeat.predict(model, features, target, on_progress=bar.move_to, **values)
    if found.n_without:
        one, many = "row of the file has no descriptor and is", "rows of the file have no descriptor and are"
        say(f"note: {counted(found.n_without, one, many)} left out")
    if found.n_unknown:
        say(
            f"note: {counted(found.n_unknown, 'row is', 'rows are')} of classes that the classifier does not know"
        )
    if found.n_learned:
        are = "is" if found.n_learned == 1 else "are"
        say(
            f"note: {found.n_learned} of {counted(len(found.rows), 'row')} {are} among those that the classifier "
            "learned from: of others it gets fewer right, as 'sppfeat probe' says"
        )
    if found.n_known:
        share = 100 * found.n_right / found.n_known
        say(f"accuracy: {share:.1f} % of {counted(found.n_known, 'row')} of classes that it knows")
