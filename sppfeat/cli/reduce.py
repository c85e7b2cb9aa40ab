"""``sppfeat reduce``: writes a feature file with fewer dimensions."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sppfeat.analysis.wording import dimensions_text, variance_text
from sppfeat.cli.bars import Bar
from sppfeat.cli.options import (
    columns_options,
    dtype_option,
    feature_file_argument,
    given_options,
    json_option,
    option,
    output_option,
    overwrite_output_option,
    quiet_option,
    setting_option,
)
from sppfeat.cli.output import human_bytes, print_json, say
from sppfeat.cli.values import AUTO_OR_INT
from sppfeat.config.specs import REDUCED_NORMALIZATIONS, ReductionSpec
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from sppfeat.analysis.reduce import ReduceReport

__all__ = ["reduce"]


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
@setting_option(ReductionSpec, "method", "Principal components, or a Gaussian random projection.")
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
def reduce(
    file: Path,
    output: Path,
    origin: Path | None,
    dtype: str,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **fit: Any,
) -> None:
    """Reduce the descriptors of a feature file to fewer dimensions: PCA, whitening, random projection.

    The output is a feature file, too: with every image, row, box and label of FILE, with the reduced descriptors, and
    with what reduced them, which --from applies to other files. Rows without descriptor stay so.

    Rows are written in blocks, whatever the size of the file. What is more than 2 GB of rows is fitted incrementally,
    which is slower and slightly less exact: to fit on every K-th row (--fit-rows ::K) is often the better way.
    """
    import sppfeat

    if origin is not None:
        for flag in given_options(fit):
            raise ConfigError(f"{flag} would have no effect: --from reduces as that file was reduced")
        fit = {}
    with Bar("reducing", 0, unit="row", shown=not quiet) as bar:
        report = sppfeat.reduce(
            file,
            output,
            like=origin,
            dtype=dtype,
            overwrite=overwrite,
            on_progress=lambda stage, done, rows: bar.move_to(done, rows, note=stage),
            **fit,
        )
    if as_json:
        found = {"file": str(file), "from": None if origin is None else str(origin), "output": str(output)}
        seconds = {name: round(getattr(report, name), 3) for name in ("fit_seconds", "seconds")}
        print_json({**found, **dataclasses.asdict(report), **seconds})
    else:
        say(_text(output, report))


def _text(output: Path, report: "ReduceReport") -> str:
    rows = counted(report.rows, "row")
    if report.with_descriptor < report.rows:
        rows += f", {report.with_descriptor} with a descriptor"
    dimensions = dimensions_text(
        report.method,
        selected=report.selected,
        source_dimension=report.source_dimension,
        dimension=report.dimension,
    )
    sizes = f"{human_bytes(report.source_bytes)} -> {human_bytes(report.bytes)}"
    lines = [f"{output}: {rows}; {dimensions}; {sizes}"]
    if report.explained_variance is not None:
        lines.append(variance_text(report.explained_variance, report.fitted_rows))
    lines.append(f"{report.seconds:.1f} s, of which {report.fit_seconds:.1f} s to fit")
    return "\n".join(lines)
