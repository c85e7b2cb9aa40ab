"""``sppfeat predict``: classifies the rows of a feature file with a saved classifier."""

from pathlib import Path
from typing import Any

import click

import sppfeat
from sppfeat.cli import options
from sppfeat.cli.bars import Bar
from sppfeat.cli.command import command
from sppfeat.cli.option_types import OUTPUT_FILE
from sppfeat.cli.options import flag, path
from sppfeat.cli.output import say, standard_output
from sppfeat.config.wording import counted

__all__ = ["predict"]


@command(examples=("sppfeat predict model.npz features.h5 -o predictions.csv",))
@click.argument("model", type=click.Path(path_type=Path))
@options.feature_file("features")
@path("-o --output", "CSV|-", "CSV file to write. [default: standard output]", OUTPUT_FILE)
@flag("--scores with_scores", "Add a column with the score of each class.")
@options.rows
@options.labels
@options.overwrite
@options.quiet
def predict(model: Path, features: Path, output: Path | None, quiet: bool, **values: Any) -> None:
    """Classify the rows of a feature file with a saved classifier.

    MODEL is a file of 'sppfeat probe --save'; FEATURES must have the settings of the file that the model was fitted on.
    The output is CSV. If the rows have labels, the accuracy is printed on standard error.
    """
    with Bar("predicting", 0, unit="row", shown=not quiet) as bar:
        target = standard_output() if output is None or str(output) == "-" else output
        found = sppfeat.predict(model, features, target, on_progress=bar.move_to, **values)
    if found.n_without:
        rows = counted(found.n_without, "row has no descriptor and was", "rows have no descriptor and were")
        say(f"note: {rows} skipped")
    if found.n_unknown:
        say(
            f"note: {counted(found.n_unknown, 'row is', 'rows are')} of classes that the classifier does not know"
        )
    if found.n_learned:
        were = "was" if found.n_learned == 1 else "were"
        say(
            f"note: {found.n_learned} of {counted(len(found.rows), 'row')} {were} used to fit the classifier; "
            "'sppfeat probe' estimates the accuracy on unseen images"
        )
    if found.n_known:
        share = 100 * found.n_right / found.n_known
        say(f"accuracy on {counted(found.n_known, 'labeled row')}: {share:.1f} %")
