"""``sppfeat export``: writes the features of a file in a format of other programs."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sppfeat
from sppfeat.analysis.choices import EXPORT_DTYPES, EXPORT_FORMATS, TEXT_FORMATS
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


@command(
    examples=(
        "sppfeat export features.h5 -o features.npz",
        "sppfeat export features.h5 -o features.pt",
        "sppfeat export features.h5 -o features.parquet",
        "sppfeat export features.h5 -o - --format csv --rows 'label=cat'",
    ),
    groups={
        "Output": "--output --format --dtype --overwrite --json --quiet",
        "Rows and labels": "--rows --levels --layer --labels --classes-from | --encoding",
    },
)
@options.feature_file()
@option(
    "-o",
    "--output",
    required=True,
    type=click.Path(),
    metavar="FILE|-",
    help="File to write: .npz, .npy, .pt, .safetensors, .zarr, .parquet, .svm, .mat, .csv, .tsv or .csv.gz; - is "
    "standard output, with --format.",
)
@option(
    "--format",
    "export_format",
    type=click.Choice(EXPORT_FORMATS),
    metavar="FORMAT",
    help=f"Format: {', '.join(EXPORT_FORMATS[:-1])} or {EXPORT_FORMATS[-1]}. [default: by suffix]",
)
@option(
    "--dtype",
    type=click.Choice(EXPORT_DTYPES),
    metavar="TYPE",
    help="Data type: float32, float16 or float64. [default: as in the file; in parquet and mat at least float32]",
)
@options.selection
@option(
    "--classes-from",
    "like",
    type=click.Path(),
    metavar="FEATURES",
    help="Number the classes as in this feature file.",
)
@options.overwrite
@options.json
@options.quiet
def export(file: Path, output: str, as_json: bool, quiet: bool, **values: Any) -> None:
    """Write features as NumPy, PyTorch, Parquet, CSV, MATLAB or other files.

    The output has row numbers, paths, labels and boxes beside the features, in the order of the file. Rows without
    descriptor are skipped; --rows status=any writes them as NaN. Files of any size are exported in little memory.
    """
    is_stream = output == "-"
    if is_stream and as_json:
        raise ConfigError("--json and -o - both write to standard output; give -o a file")
    with Bar("writing", 0, unit="row", shown=not quiet) as bar:
        target = standard_output() if is_stream else output
        if is_stream and values["export_format"] not in (None, *TEXT_FORMATS) and sys.stdout.isatty():
            raise ConfigError("-o - would print bytes on the terminal; redirect or pipe standard output")
        result = sppfeat.export(file, target, on_progress=bar.move_to, **values)
    if not result.rows:
        say("note: no row with a descriptor is selected; the output is empty")
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
            f"note: {counted(n, 'row has no descriptor and holds NaN', 'rows have no descriptor and hold NaN')}"
        )
    if result.left_out:
        lines.append(
            f"note: left out {', '.join(result.left_out)}, too long for the header of a .safetensors file; a .pt file "
            "holds them"
        )
    return "\n".join([*lines, *result.paths])
