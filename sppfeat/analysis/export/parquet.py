"""Parquet files: one column of vectors of fixed length, and one for each column of the table."""

from typing import Any, BinaryIO

import numpy.typing as npt

from sppfeat.analysis.export.contents import Contents
from sppfeat.config.machine import import_extra
from sppfeat.store.selection.row_table import RowColumn, TextColumn

__all__ = ["write_parquet"]

_FEATURES = "features"
_BLOCK_NBYTES = 32 << 20  # size of the vectors of a row group


def write_parquet(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes a row group for each block of rows.

    Texts become strings; if any text of a column is not UTF-8, the whole column becomes binary. The schema's metadata
    holds the origin of the vectors as JSON under ``sppfeat``.

    Raises:
        ConfigError: the package pyarrow is not installed.
    """
    pa = import_extra("pyarrow", extra="parquet", purpose="writing Parquet")
    pq = import_extra("pyarrow.parquet", extra="parquet", purpose="writing Parquet")
    types = {name: _type(pa, column) for name, column in contents.table.items()}
    number = pa.from_numpy_dtype(contents.dtype)
    fields = [pa.field(name, kind) for name, kind in types.items()]
    # Values are not nullable: a missing vector is all NaN.
    vector = pa.list_(pa.field("element", number, nullable=False), contents.shape[1])
    schema = pa.schema(
        [*fields, pa.field(_FEATURES, vector, nullable=False)], metadata={"sppfeat": contents.about_json()}
    )
    repeated = [name for name, column in contents.table.items() if isinstance(column, TextColumn)]
    with pq.ParquetWriter(files[0], schema, use_dictionary=repeated) as writer:
        for rows, vectors in contents.blocks(_BLOCK_NBYTES):
            columns = [_column(pa, column, types[name], rows) for name, column in contents.table.items()]
            flat = pa.array(vectors.reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=vector))
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(vectors))


def _type(pa: Any, column: RowColumn) -> Any:
    if isinstance(column, TextColumn):
        return pa.string() if column.is_utf8 else pa.binary()
    return pa.from_numpy_dtype(column.dtype)


def _column(pa: Any, column: RowColumn, kind: Any, rows: slice) -> Any:
    if not isinstance(column, TextColumn):
        values: npt.NDArray[Any] = column[rows]
        return pa.array(values, type=kind)
    texts = column[rows]
    if kind == pa.binary():
        return pa.array(
            [None if t is None else t.encode("utf-8", "surrogateescape") for t in texts], type=kind
        )
    return pa.array(texts, type=kind)
