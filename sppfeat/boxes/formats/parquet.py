"""Box files in Parquet, as pandas writes them: one row per box, with the columns of a CSV file."""

import io
import os
from typing import Any

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.formats.records import Record
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.machine import import_extra
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.config.wording import one_line
from sppfeat.errors import BoxError
from sppfeat.files.columns import COLUMN_SETS, LIST_KEYS, find_box_columns

__all__ = ["read_parquet_boxes"]

_ROWS_AT_ONCE = 1 << 14


def read_parquet_boxes(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a Parquet file, with columns named as in a CSV file, or with each box as a list.

    Numbers and texts may be null, which means missing, except for the image name.
    """
    file = source.single
    content = file.read()
    parquet = import_extra("pyarrow.parquet", extra="parquet", purpose="reading boxes from Parquet")
    pa = import_extra("pyarrow", extra="parquet", purpose="reading boxes from Parquet")
    try:
        opened = parquet.ParquetFile(io.BytesIO(content))
        names = opened.schema_arrow.names
        columns = find_box_columns(
            names,
            {**COLUMN_SETS, **LIST_KEYS},
            label=source.label,
            error=lambda what: file.error("columns", what),
        )
        file.check_expansion("", opened.metadata.num_rows, len(content))
        builder = BoxTableBuilder(extra_names=[columns.names[i] for i in columns.extra])
        row = 0
        for batch in opened.iter_batches(_ROWS_AT_ONCE, use_threads=False):
            batch.validate(full=True)  # damaged values would crash the process
            of_columns = [_values(column) for column in batch.columns]
            if columns.label is not None:
                of_columns[columns.label] = [*map(_whole, of_columns[columns.label])]
            for values in zip(*of_columns, strict=True):
                Record(file, True, columns, f"row {row}", values).add_to(builder)
                row += 1
    except (BoxError, MemoryError):
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise file.error(
            "", f"cannot be read as Parquet: {one_line(str(error))}; allowed: an intact file"
        ) from error
    return builder.build(DEFAULT_CONVENTIONS["parquet"].replace(coords=columns.coords), notes=[columns.text])


def _values(column: Any) -> list[Any]:
    """Return the values of a column as Python objects, bytes as text."""
    if hasattr(column, "dictionary_decode"):
        column = column.dictionary_decode()
    values = column.to_pylist()
    return [os.fsdecode(value) if isinstance(value, bytes) else value for value in values]


def _whole(value: Any) -> Any:
    """Return a whole float as int: pandas makes floats of class numbers where some are missing."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
