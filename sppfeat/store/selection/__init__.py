"""Selections of a feature file: some rows and columns, with labels from the file or from elsewhere."""

from sppfeat.store.selection.conditions import CONDITIONS, RowsLike, parse_conditions, select_rows
from sppfeat.store.selection.labels import Labels, LabelSource, read_labels
from sppfeat.store.selection.selection import Selection

__all__ = [
    "CONDITIONS",
    "LabelSource",
    "Labels",
    "RowsLike",
    "Selection",
    "parse_conditions",
    "read_labels",
    "select_rows",
]
