"""Parts of a feature file: some rows, some columns, labels from the file or from elsewhere."""

from sppfeat.selection.columns import ColumnSelection, select_columns
from sppfeat.selection.conditions import CONDITIONS, RowsLike, parse_conditions
from sppfeat.selection.labels import Labels, LabelSource
from sppfeat.selection.selection import Selection, select

__all__ = [
    "CONDITIONS",
    "ColumnSelection",
    "LabelSource",
    "Labels",
    "RowsLike",
    "Selection",
    "parse_conditions",
    "select",
    "select_columns",
]
