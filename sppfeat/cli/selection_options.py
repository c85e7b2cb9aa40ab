"""Options that select rows, columns and labels of a feature file.

Their parameters are called ``rows``, ``layers``, ``levels`` and ``labels``, like the arguments of
:meth:`sppfeat.store.reader.FeatureFile.select`; an option that is not given is None.
"""

from typing import Any

import click

from sppfeat.cli.options import option, together
from sppfeat.cli.values import LEVELS, complete_files

__all__ = ["columns_options", "labels_from_option", "rows_option", "selection_options"]


def _given(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> Any:  # noqa: ARG001
    """The values of a repeatable option; None if it is not given."""
    return values or None


rows_option = option(
    "--rows",
    multiple=True,
    callback=_given,
    metavar="CONDITION",
    help="Which rows: label=NAME, image=PATH (* and ? stand for anything), A:B, N,N,..., flag=ok|clipped|..., or "
    "status=any for those without descriptor, too; repeatable. [default: all that have a descriptor]",
)

labels_from_option = option(
    "--labels-from",
    "labels",
    shell_complete=complete_files,
    metavar="FILE|box|image",
    help="Labels: a .csv or .tsv with columns label, and path or row; or those of boxes or images. "
    "[default: as in the file]",
)

columns_options = together(
    option("--levels", type=LEVELS, metavar="N,N,...", help="Only these levels. [default: all of the file]"),
    option(
        "--layer",
        "layers",
        multiple=True,
        callback=_given,
        metavar="NODE",
        help="Only this layer; repeatable. [default: all of the file]",
    ),
)


selection_options = together(rows_option, columns_options, labels_from_option)
