"""Options that select rows, columns and labels of a feature file.

Their parameters are called ``rows``, ``layers``, ``levels`` and ``labels``, like the arguments of
:meth:`sppfeat.store.reader.FeatureFile.select`; an option that is not given is None.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from sppfeat.cli.options import option, settings_from, together
from sppfeat.cli.values import LEVELS, complete_files

if TYPE_CHECKING:
    from sppfeat.store.reader import FeatureFile
    from sppfeat.store.selection import Selection

__all__ = [
    "SelectionChoice",
    "columns_options",
    "labels_from_option",
    "rows_option",
    "selection_choice",
    "selection_options",
]


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


@dataclass(frozen=True, kw_only=True)
class SelectionChoice:
    """The rows, columns and labels of a feature file that the options choose.

    Attributes:
        rows: conditions on rows; None for all rows with a descriptor.
        layers: names of layers to select; None for all.
        levels: levels to select; None for all.
        labels: source of other labels: a file, ``box`` or ``image``; None for the labels of the feature file.
    """

    rows: tuple[str, ...] | None = None
    layers: tuple[str, ...] | None = None
    levels: tuple[int, ...] | None = None
    labels: str | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Files that the selection reads, which no output may replace."""
        return () if self.labels is None else (self.labels,)

    def of(self, file: "FeatureFile") -> "Selection":
        """Makes the selection of an open file.

        Raises:
            ConfigError: the file lacks the chosen rows, layers, levels or classes.
            LabelError: the labels are malformed, or belong to other images.
        """
        return file.select(rows=self.rows, layers=self.layers, levels=self.levels, labels=self.labels)


def selection_choice(options: dict[str, Any]) -> SelectionChoice:
    """Makes the choice from the options of a command, which may lack some of them."""
    return settings_from(SelectionChoice, options)
