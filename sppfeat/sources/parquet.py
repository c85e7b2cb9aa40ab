"""Parquet files as inputs: of images, as data sets of Hugging Face are, or of their paths."""

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sppfeat.errors import ConfigError
from sppfeat.places import Place
from sppfeat.sources.arrow_columns import ColumnPart, find_arrow_columns
from sppfeat.sources.arrow_rows import arrow_rows, image_segment, row_of_image
from sppfeat.sources.manifest_rows import manifest_segment
from sppfeat.sources.parquet_files import arrow_errors, open_parquet
from sppfeat.sources.parquet_storage import ParquetStorage
from sppfeat.sources.segments import Segment
from sppfeat.sources.table_files import TableFile

__all__ = ["place_of_parquet_image", "read_parquet"]

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
        columns = find_arrow_columns(file.schema_arrow, table, partial(_is_empty, file))
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns.beside, use_threads=False)
        rows = arrow_rows(batches, columns, table)
        if columns.contents is None:
            return manifest_segment(
                table, rows, has_boxes=columns.has_boxes, classes=columns.classes, unit="row"
            )
        storage = ParquetStorage(path, columns.contents, file.metadata.num_rows)
        return image_segment(rows, table, classes=columns.classes, storage=storage)


@contextlib.contextmanager
def place_of_parquet_image(path: bytes, name: bytes, scratch: Path) -> Iterator[Place | str]:
    """The place of an image in a Parquet file, or why there is none; it holds until the context ends.

    Args:
        path: of the file, absolute.
        name: that the image has in listings, such as ``00000007.jpg``.
        scratch: an existing folder.

    Raises:
        ConfigError: the file cannot be read, or has no such image.
        StoreError: likewise, later.
    """
    table = TableFile(path)
    row = row_of_image(name)
    with _opened(path) as file:
        contents = find_arrow_columns(file.schema_arrow, table, partial(_is_empty, file)).contents
        n_rows = file.metadata.num_rows
    if contents is None or row is None or row >= n_rows:
        raise table.error("", f"has no image {os.fsdecode(name)!r}; it has {n_rows} rows")
    with ParquetStorage(path, contents, n_rows).fetch(np.array([row]), scratch) as places:
        yield places[0]


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
