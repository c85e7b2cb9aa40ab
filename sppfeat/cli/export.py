"""``sppfeat export``: writes the features of a file in a format of other programs."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sppfeat.analysis.export.formats import EXPORT_DTYPES, EXPORT_FORMATS, format_of
from sppfeat.cli.bars import Bar
from sppfeat.cli.options import (
    feature_file_argument,
    json_option,
    option,
    overwrite_output_option,
    quiet_option,
)
from sppfeat.cli.output import human_bytes, print_json, say, standard_output
from sppfeat.cli.selection_options import selection_choice, selection_options
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from sppfeat.analysis.export.export import ExportResult
    from sppfeat.store.selection import Selection

__all__ = ["export"]

_STANDARD_OUTPUT = "-"


@click.command(short_help="Write features as NumPy, Parquet, LIBSVM, MATLAB or CSV files.")
@feature_file_argument()
@option(
    "-o",
    "--output",
    required=True,
    type=click.Path(),
    metavar="OUT|-",
    help="The file, with the suffix of a format: .npz .npy .parquet .svm .mat .csv .tsv .csv.gz; - for standard "
    "output, with --format csv, tsv or svmlight.",
)
@option(
    "--format",
    "export_format",
    type=click.Choice(tuple(EXPORT_FORMATS)),
    help="[default: by the suffix of the output]",
)
@option(
    "--dtype",
    type=click.Choice(EXPORT_DTYPES),
    help="Of the numbers. [default: as in the file; float32 for float16 in parquet, mat]",
)
@selection_options
@overwrite_output_option
@json_option
@quiet_option
def export(file: Path, output: str, **options: Any) -> None:
    """Write features of FILE in a format of others, with row numbers, paths, labels and boxes.

    Rows keep their order. Only those that have a descriptor are written, unless --rows status=any asks for all:
    those without hold NaN. Rows are written a block at a time: memory does not depend on their number, but for
    100 to 200 bytes for each, paths and texts of boxes. The output appears when it is complete.
    """
    from sppfeat.analysis.export.export import export_features, export_to_stream
    from sppfeat.store.reader import FeatureFile

    is_stream = output == _STANDARD_OUTPUT
    name = _format(output, options)
    choice = selection_choice(options)
    with FeatureFile(file) as features:
        selection = choice.of(features)
        _warn(selection)
        with Bar("writing", len(selection), unit="row", shown=not options["quiet"]) as bar:
            settings: dict[str, Any] = {
                "export_format": name,
                "dtype": options["dtype"],
                "on_progress": bar.move_to,
            }
            if is_stream:
                export_to_stream(selection, standard_output(), **settings)
                return
            result = export_features(
                selection, output, overwrite=options["overwrite"], inputs=choice.inputs, **settings
            )
        stored = features.dtype.name
    if options["as_json"]:
        print_json(dataclasses.asdict(result))
    else:
        say(_text(result, stored, wanted=options["dtype"]))


def _format(output: str, options: dict[str, Any]) -> str:
    name: str | None = options["export_format"]
    if output != _STANDARD_OUTPUT:
        return format_of(output, name)
    texts = [text for text, form in EXPORT_FORMATS.items() if form.is_text]
    if name not in texts:
        found = "is not given" if name is None else f"is {name}"
        raise ConfigError(f"for standard output the format {found}; allowed: --format {'|'.join(texts)}")
    if options["as_json"]:
        raise ConfigError("--json prints to standard output, where -o - writes the features")
    return name


def _warn(selection: "Selection") -> None:
    if selection.labels.n_unknown:
        say(
            "note: "
            + counted(selection.labels.n_unknown, "name of the labels is", "names of the labels are")
            + " no image of the file"
        )
    if not len(selection):
        say("note: no row that has a descriptor is selected: the output will have none")


def _text(result: "ExportResult", stored: str, *, wanted: str | None) -> str:
    note = "" if result.dtype == stored or wanted else f" (the file has {stored})"
    lines = [
        f"{counted(result.rows, 'row')} x {result.dimension} {result.dtype}{note}, {result.format}, "
        f"{human_bytes(result.bytes)}"
    ]
    if result.rows_without_descriptor:
        lines.append(
            "note: "
            + counted(
                result.rows_without_descriptor,
                "row has no descriptor: it holds NaN",
                "rows have no descriptor: they hold NaN",
            )
        )
    return "\n".join([*lines, *result.paths])
