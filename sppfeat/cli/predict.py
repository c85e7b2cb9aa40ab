"""``sppfeat predict``: classifies the rows of a feature file with a saved classifier."""

from pathlib import Path

import click

from sppfeat.cli.bars import Bar
from sppfeat.cli.options import (
    feature_file_argument,
    labels_from_option,
    option,
    overwrite_output_option,
    quiet_option,
    rows_option,
)
from sppfeat.cli.output import say, standard_output
from sppfeat.config.wording import counted

__all__ = ["predict"]

_STANDARD_OUTPUT = Path("-")


@click.command(short_help="Classify the rows of a feature file with a saved classifier.")
@click.argument("model", type=click.Path(path_type=Path))
@feature_file_argument("features")
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="CSV|-",
    help="File to write. [default: standard output]",
)
@option("--scores", is_flag=True, help="A column for the score of each class, too.")
@rows_option
@labels_from_option
@overwrite_output_option
@quiet_option
def predict(
    model: Path,
    features: Path,
    output: Path | None,
    scores: bool,
    rows: tuple[str, ...] | None,
    labels: str | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Classify the rows of a feature file with a classifier of 'sppfeat probe --save', as CSV.

    The file's descriptors must have been made with the settings of those that the classifier was fitted on. Where
    rows have labels, the accuracy is said on standard error.
    """
    import sppfeat

    with Bar("predicting", 0, unit="row", shown=not quiet) as bar:
        found = sppfeat.predict(
            model,
            features,
            standard_output() if output is None or output == _STANDARD_OUTPUT else output,
            with_scores=scores,
            rows=rows,
            labels=labels,
            overwrite=overwrite,
            on_progress=bar.move_to,
        )
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
