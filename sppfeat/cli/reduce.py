"""``sppfeat reduce``: writes a feature file with fewer dimensions."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sppfeat
from sppfeat.analysis.wording import dimensions_text, variance_text
from sppfeat.cli import options
from sppfeat.cli.bars import Bar
from sppfeat.cli.command import command
from sppfeat.cli.options import auto_or_int, flag, given_options, option, path, setting
from sppfeat.cli.output import print_json, say
from sppfeat.config.specs import REDUCED_NORMALIZATIONS, ReductionSpec
from sppfeat.config.wording import counted, human_bytes
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from sppfeat.analysis.reduce import ReduceReport

__all__ = ["reduce"]

_STAGE_LABELS = {"fit": "fitting", "write": "writing"}


@command(short_help="Reduce descriptors to fewer dimensions: PCA, whitening, random projection.")
@options.feature_file()
@options.output("The feature file to write.")
@path(
    "--from like",
    "REDUCED",
    "Reduce as this file was reduced, which must be of descriptors made in the same way; nothing is fitted.",
)
@setting(ReductionSpec, "method", "Principal components, or a Gaussian random projection.")
@setting(ReductionSpec, "components", "Dimension afterwards.", type=click.IntRange(1))
@flag("--whiten", "Bring every component to variance 1; pca alone.")
@setting(
    ReductionSpec,
    "normalize",
    "Scaling of the reduced descriptors.",
    type=click.Choice(REDUCED_NORMALIZATIONS),
)
@options.columns
@option(
    "--fit-rows",
    multiple=True,
    metavar="CONDITION",
    help="Fit on these rows alone; all rows are written: label=NAME, image=PATH (* and ? stand for anything), A:B, "
    "::K (every K-th), N,N,..., flag=ok|clipped|...; repeatable. [default: all that have a descriptor]",
)
@setting(ReductionSpec, "seed", "Of what is random in it.", type=click.IntRange(0, 2**32 - 1))
@auto_or_int(
    "--batch-size",
    "Fit incrementally, at least N rows at a time; auto: all at once where they take at most 2 GB.",
)
@options.dtype("Of the reduced descriptors.")
@options.overwrite
@options.json
@options.quiet
def reduce(file: Path, output: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Reduce the descriptors of a feature file to fewer dimensions: PCA, whitening, random projection.

    The output is a feature file, too: with every image, row, box and label of FILE, with the reduced descriptors, and
    with what reduced them, which --from applies to other files. Rows without descriptor stay so.

    Rows are written in blocks, whatever the size of the file. What is more than 2 GB of rows is fitted incrementally,
    which is slower and slightly less exact: to fit on every K-th row (--fit-rows ::K) is often the better way.
    """
    like = values["like"]
    if like is not None:
        of_output = {name: values.pop(name) for name in ("like", "dtype", "overwrite")}
        for name in given_options(values):
            raise ConfigError(f"{name} would have no effect: --from reduces as that file was reduced")
        values = of_output
    with Bar("reducing", 0, unit="row", shown=not quiet) as bar:
        report = sppfeat.reduce(
            file,
            output,
            on_progress=lambda stage, done, rows: bar.move_to(done, rows, label=_STAGE_LABELS[stage]),
            **values,
        )
    if as_json:
        found = {"file": str(file), "from": None if like is None else str(like), "output": str(output)}
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
