"""Parts of a feature file: some rows, some columns, labels from the file or from elsewhere."""

from sppfeat.store.descriptor_columns import (
    ColumnSelection,
    is_scaled_again,
    scale_again,
    select_columns,
    take_scaled,
)
from sppfeat.store.selection.conditions import CONDITIONS, RowsLike, parse_conditions
from sppfeat.store.selection.labels import Labels, LabelSource
from sppfeat.store.selection.pandas_table import to_pandas
from sppfeat.store.selection.selection import Selection, select

__all__ = [
    "CONDITIONS",
    "ColumnSelection",
    "LabelSource",
    "Labels",
    "RowsLike",
    "Selection",
    "is_scaled_again",
    "parse_conditions",
    "scale_again",
    "select",
    "select_columns",
    "take_scaled",
    "to_pandas",
]
