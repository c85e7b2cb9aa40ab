"""``sppfeat reduce``: writes a feature file with fewer dimensions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sppfeat.analysis.wording import dimensions_text, variance_text
from sppfeat.cli.bars import Bar
from sppfeat.cli.options import (
    dtype_option,
    feature_file_argument,
    given_options,
    json_option,
    option,
    output_option,
    overwrite_output_option,
    quiet_option,
    setting_option,
    settings_from,
)
from sppfeat.cli.output import human_bytes, print_json, say
from sppfeat.cli.selection_options import columns_options
from sppfeat.cli.values import AUTO_OR_INT, auto_to_none
from sppfeat.config.specs import REDUCED_NORMALIZATIONS, REDUCTIONS, ReductionSpec
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from sppfeat.analysis.reduce import ReduceReport

__all__ = ["reduce"]

_FIT_OPTIONS = (
    "method",
    "components",
    "whiten",
    "normalize",
    "seed",
    "layers",
    "levels",
    "fit_rows",
    "batch_size",
)


@click.command(short_help="Reduce descriptors to fewer dimensions: PCA, whitening, random projection.")
@feature_file_argument()
@output_option("The feature file to write.")
@option(
    "--from",
    "origin",
    type=click.Path(path_type=Path),
    metavar="REDUCED",
    help="Reduce as this file was reduced, which must be of descriptors made in the same way; nothing is fitted.",
)
@setting_option(
    ReductionSpec,
    "method",
    "Principal components, or a Gaussian random projection.",
    type=click.Choice(REDUCTIONS),
)
@setting_option(ReductionSpec, "components", "Dimension afterwards.", type=click.IntRange(1))
@option("--whiten", is_flag=True, help="Bring every component to variance 1; pca alone.")
@setting_option(
    ReductionSpec,
    "normalize",
    "Scaling of the reduced descriptors.",
    type=click.Choice(REDUCED_NORMALIZATIONS),
)
@columns_options
@option(
    "--fit-rows",
    multiple=True,
    metavar="CONDITION",
    help="Fit on these rows alone; all rows are written: label=NAME, image=PATH (* and ? stand for anything), A:B, "
    "::K (every K-th), N,N,..., flag=ok|clipped|...; repeatable. [default: all that have a descriptor]",
)
@setting_option(ReductionSpec, "seed", "Of what is random in it.", type=click.IntRange(0, 2**32 - 1))
@option(
    "--batch-size",
    type=AUTO_OR_INT,
    metavar="auto|N",
    default="auto",
    help="Fit incrementally, at least N rows at a time; auto: all at once where they take at most 2 GB.",
)
@dtype_option("Of the reduced descriptors.")
@overwrite_output_option
@json_option
@quiet_option
def reduce(file: Path, as_json: bool, **options: Any) -> None:
    """Reduce the descriptors of a feature file to fewer dimensions: PCA, whitening, random projection.

    The output is a feature file, too: with every image, row, box and label of FILE, with the reduced descriptors, and
    with what reduced them, which --from applies to other files. Rows without descriptor stay so.

    Rows are written in blocks, whatever the size of the file. What is more than 2 GB of rows is fitted incrementally,
    which is slower and slightly less exact: to fit on every K-th row (--fit-rows ::K) is often the better way.
    """
    how = _fit_settings(options)
    report = _reduce(file, how, options)
    found = _result(file, options["origin"], options["output"], report)
    if as_json:
        print_json(found)
    else:
        say(_text(found))


def _fit_settings(options: dict[str, Any]) -> Path | ReductionSpec:
    """Makes the settings of the fit from options, or the path of the file to take the reduction from."""
    if options["origin"] is None:
        return settings_from(ReductionSpec, options, layers=options["layers"] or None)
    for flag in given_options(_FIT_OPTIONS):
        raise ConfigError(f"{flag} would have no effect: --from reduces as that file was reduced")
    origin: Path = options["origin"]
    return origin


def _reduce(file: Path, how: Path | ReductionSpec, options: dict[str, Any]) -> "ReduceReport":
    from sppfeat.analysis.reduce import reduce_file

    with Bar("reducing", 0, unit="row", shown=not options["quiet"]) as bar:
        return reduce_file(
            file,
            options["output"],
            how,
            dtype=options["dtype"],
            batch_size=auto_to_none(options["batch_size"]),
            overwrite=options["overwrite"],
            on_fit=lambda done, rows: bar.move_to(done, rows, note="fit"),
            on_rows=lambda done, rows: bar.move_to(done, rows, note="write"),
        )


def _result(file: Path, origin: Path | None, output: Path, report: "ReduceReport") -> dict[str, Any]:
    record, spec = report.reduction.record, report.reduction.spec
    return {
        "file": str(file),
        "from": None if origin is None else str(origin),
        "output": str(output),
        "rows": report.rows,
        "with_descriptor": report.with_descriptor,
        "method": spec.method,
        "whiten": spec.whiten,
        "normalize": spec.normalize,
        "source_dimension": report.reduction.source_dimension,
        "selected": record.selection.width,
        "dimension": spec.components,
        "fitted_rows": record.fitted_rows,
        "explained_variance": record.explained_variance,
        "source_bytes": report.bytes[0],
        "bytes": report.bytes[1],
        "fit_seconds": round(report.fit_seconds, 3),
        "seconds": round(report.seconds, 3),
    }


def _text(found: dict[str, Any]) -> str:
    rows = counted(found["rows"], "row")
    if found["with_descriptor"] < found["rows"]:
        rows += f", {found['with_descriptor']} with a descriptor"
    dimensions = dimensions_text(
        found["method"],
        selected=found["selected"],
        source_dimension=found["source_dimension"],
        dimension=found["dimension"],
    )
    lines = [
        f"{found['output']}: {rows}; {dimensions}; "
        f"{human_bytes(found['source_bytes'])} -> {human_bytes(found['bytes'])}"
    ]
    if found["explained_variance"] is not None:
        lines.append(variance_text(found["explained_variance"], found["fitted_rows"]))
    lines.append(f"{found['seconds']:.1f} s, of which {found['fit_seconds']:.1f} s to fit")
    return "\n".join(lines)
