"""``sppfeat predict``: classifies the rows of a feature file with a saved classifier."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from sppfeat.cli.bars import Bar
from sppfeat.cli.options import feature_file_argument, option, overwrite_output_option, quiet_option
from sppfeat.cli.output import say, standard_output
from sppfeat.cli.selection_options import labels_from_option, rows_option
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
    from sppfeat.analysis.probe.classifier_file import load_classifier
    from sppfeat.analysis.probe.prediction import count_learned, select_for, write_predictions
    from sppfeat.files.outputs import check_new_file, refuse_input
    from sppfeat.store.reader import FeatureFile

    if output == _STANDARD_OUTPUT:
        output = None
    if output is not None:
        inputs = [model, features, Path(labels or features)]
        check_new_file(output, inputs=inputs, overwrite=overwrite)
    classifier = load_classifier(model)
    with FeatureFile(features) as file:
        if output is not None:
            refuse_input(output, file.read_paths)
        selection = select_for(classifier, file, rows=rows, labels=labels)
        n_learned = count_learned(classifier, selection)
        n_without = file.n_rows - len(file.rows_with_descriptor())
        with (
            _opened(output, overwrite) as target,
            Bar("predicting", len(selection), unit="row", shown=not quiet) as bar,
        ):
            tally = write_predictions(
                target, classifier, selection, with_scores=scores, on_progress=bar.move_to
            )
    if n_without:
        one, many = "row of the file has no descriptor and is", "rows of the file have no descriptor and are"
        say(f"note: {counted(n_without, one, many)} left out")
    if tally.n_unknown:
        say(
            f"note: {counted(tally.n_unknown, 'row is', 'rows are')} of classes that the classifier does not know"
        )
    if n_learned:
        are = "is" if n_learned == 1 else "are"
        say(
            f"note: {n_learned} of {counted(len(selection), 'row')} {are} among those that the classifier learned "
            "from: of others it gets fewer right, as 'sppfeat probe' says"
        )
    if tally.n_known:
        share = 100 * tally.n_right / tally.n_known
        say(f"accuracy: {share:.1f} % of {counted(tally.n_known, 'row')} of classes that it knows")


@contextlib.contextmanager
def _opened(output: Path | None, overwrite: bool) -> Iterator[BinaryIO]:
    from sppfeat.errors import StoreError
    from sppfeat.files.atomic import whole_file

    if output is None:
        target = standard_output()
        try:
            yield target
            target.flush()
        except BrokenPipeError:  # not an error: the reader of a pipe has closed it
            raise
        except OSError as error:
            raise StoreError(f"cannot write to standard output: {error.strerror}") from error
    else:
        with whole_file(output, overwrite=overwrite) as file:
            yield file
