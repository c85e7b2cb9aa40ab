"""Parquet files as inputs: of images, as data sets of Hugging Face are, or of their paths."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from sppfeat.errors import ConfigError
from sppfeat.files.versions import FileVersion
from sppfeat.inputs.segments import Segment
from sppfeat.inputs.tables.arrow_rows import arrow_rows, image_segment
from sppfeat.inputs.tables.arrow_schema import ColumnPart, find_arrow_columns
from sppfeat.inputs.tables.parquet_files import arrow_errors, open_parquet
from sppfeat.inputs.tables.parquet_storage import ParquetStorage
from sppfeat.inputs.tables.rows import manifest_segment
from sppfeat.inputs.tables.table_files import TableFile

__all__ = ["read_parquet"]

_ROWS_AT_ONCE = 1 << 16
# Of a part of a column that is null on all rows, and a byte for each row: no images are as small.
_MOST_NBYTES_OF_NULLS = 1 << 12


def read_parquet(path: bytes) -> Segment:
    """The images in the rows of a Parquet file, or those whose paths it has; with classes and ids where it has them.

    Of images everything but themselves is read, in parts.

    Args:
        path: absolute.

    Raises:
        ConfigError: it cannot be read, or has neither images nor paths.
    """
    table = TableFile(path)
    with _opened(path) as file:
        version = FileVersion.of(path)
        columns = find_arrow_columns(file.schema_arrow, table, partial(_is_empty, file))
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns.beside, use_threads=False)
        rows = arrow_rows(batches, columns, table)
        if columns.contents is None:
            return manifest_segment(
                table, rows, has_boxes=columns.has_boxes, classes=columns.classes, unit="row"
            )
        storage = ParquetStorage(path, columns.contents, version)
        return image_segment(rows, table, classes=columns.classes, storage=storage)


@contextlib.contextmanager
def _opened(path: bytes) -> Iterator[Any]:
    with arrow_errors(path, "Parquet", ConfigError):
        file = open_parquet(path)
        try:
            yield file
        finally:
            file.close(force=True)


def _is_empty(file: Any, part: ColumnPart) -> bool:
    """Whether a column is null on all rows, by what the file says of its parts."""
    return all(
        _is_empty_part(file, part, group)
        for group in range(file.num_row_groups)
        if file.metadata.row_group(group).num_rows
    )


def _is_empty_part(file: Any, part: ColumnPart, group: int) -> bool:
    of_group = file.metadata.row_group(group)
    chunks = [of_group.column(i) for i in range(of_group.num_columns)]
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == part.dotted)
    if chunk.statistics is not None and chunk.statistics.has_null_count:
        return bool(chunk.statistics.null_count == of_group.num_rows)
    if chunk.total_uncompressed_size > _MOST_NBYTES_OF_NULLS + of_group.num_rows:
        return False
    batches = file.iter_batches(row_groups=[group], columns=[part.dotted])
    return all(part.of(batch).null_count == batch.num_rows for batch in batches)
