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


@command(
    examples=(
        "sppfeat reduce train.h5 -o train256.h5 --components 256 --whiten",
        "sppfeat reduce val.h5 -o val256.h5 --from train256.h5",
    ),
    groups={
        "Output": "--output --overwrite --json --quiet | --dtype",
        "Reduction": "--from --method --components --whiten --normalize | --seed",
        "Columns and rows to fit on": "--levels --layer --fit-rows | --batch-size",
    },
)
@options.feature_file()
@options.output("Feature file to write.")
@path("--from like", "REDUCED", "Apply the reduction of this file, whose settings must match; fit nothing.")
@setting(ReductionSpec, "method", "Method: principal components or Gaussian random projection.")
@setting(ReductionSpec, "components", "Number of components.", type=click.IntRange(1))
@flag("--whiten", "Scale every component to variance 1 (pca only).")
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
    help="Fit on these rows, and write all: label=GLOB, image=GLOB, START:STOP, ::K (every K-th), N,N,... or "
    "flag=NAME; repeatable. [default: all rows with a descriptor]",
)
@setting(ReductionSpec, "seed", "Random seed.", type=click.IntRange(0, 2**32 - 1))
@auto_or_int("--batch-size", "Rows per step of an incremental fit; auto: one step up to 2 GB.")
@options.dtype("Data type of the reduced features.")
@options.overwrite
@options.json
@options.quiet
def reduce(file: Path, output: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Reduce features to fewer dimensions: PCA, whitening or random projection.

    The output is a feature file with every image, row, box and label of FILE. It also stores the reduction, which
    --from applies to other files.

    More than 2 GB of rows are fitted incrementally, which is slower and slightly less exact; fitting on every K-th row
    (--fit-rows ::K) is often better.
    """
    like = values["like"]
    if like is not None:
        of_output = {name: values.pop(name) for name in ("like", "dtype", "overwrite")}
        for name in given_options(values):
            raise ConfigError(f"{name} has no effect with --from, which applies the reduction of that file")
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
    lines.append(f"{report.seconds:.1f} s ({report.fit_seconds:.1f} s for the fit)")
    return "\n".join(lines)
