"""``sppfeat export``: writes the features of a file in a format of other programs."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sppfeat
from sppfeat.analysis.choices import EXPORT_DTYPES, EXPORT_FORMATS
from sppfeat.cli import options
from sppfeat.cli.bars import Bar
from sppfeat.cli.command import command
from sppfeat.cli.options import option
from sppfeat.cli.output import print_json, say, standard_output
from sppfeat.config.wording import counted, human_bytes
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from sppfeat.analysis.export import ExportResult

__all__ = ["export"]


@command(short_help="Write features as NumPy, Parquet, LIBSVM, MATLAB or CSV files.")
@options.feature_file()
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
    type=click.Choice(EXPORT_FORMATS),
    help="[default: by the suffix of the output]",
)
@option(
    "--dtype",
    type=click.Choice(EXPORT_DTYPES),
    help="Of the numbers. [default: as in the file; float32 for float16 in parquet, mat]",
)
@options.selection
@option(
    "--classes-from",
    "like",
    type=click.Path(),
    metavar="FEATURES",
    help="Number the classes as this feature file does. [default: as FILE does]",
)
@options.overwrite
@options.json
@options.quiet
def export(file: Path, output: str, as_json: bool, quiet: bool, **values: Any) -> None:
    """Write features of FILE in a format of others, with row numbers, paths, labels and boxes.

    Rows keep their order. Only those that have a descriptor are written, unless --rows status=any asks for all:
    those without hold NaN. Rows are written a block at a time: memory does not depend on their number, but for
    100 to 200 bytes for each, paths and texts of boxes. The output appears when it is complete.
    """
    is_stream = output == "-"
    if is_stream and as_json:
        raise ConfigError("--json prints to standard output, where -o - writes the features")
    with Bar("writing", 0, unit="row", shown=not quiet) as bar:
        target = standard_output() if is_stream else output
        result = sppfeat.export(file, target, on_progress=bar.move_to, **values)
    if not result.rows:
        say("note: no row that has a descriptor is selected: the output will have none")
    if as_json:
        found = dataclasses.asdict(result)
        print_json({name: found[name] for name in found if name not in ("stored_dtype", "unknown_names")})
    elif not is_stream:
        say(_text(result, wanted=values["dtype"]))


def _text(result: "ExportResult", *, wanted: str | None) -> str:
    note = "" if result.dtype == result.stored_dtype or wanted else f" (the file has {result.stored_dtype})"
    lines = [
        f"{counted(result.rows, 'row')} x {result.dimension} {result.dtype}{note}, {result.format}, "
        f"{human_bytes(result.bytes)}"
    ]
    n = result.rows_without_descriptor
    if n:
        lines.append(
            f"note: {counted(n, 'row has no descriptor: it holds NaN', 'rows have no descriptor: they hold NaN')}"
        )
    return "\n".join([*lines, *result.paths])
