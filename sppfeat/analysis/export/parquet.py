"""Parquet files: a row group for each block of rows."""

from typing import Any, BinaryIO

from sppfeat.analysis.export.contents import Contents
from sppfeat.config.machine import import_extra
from sppfeat.store.row_table import RowColumn, TextColumn

__all__ = ["write_parquet"]

_GROUP_NBYTES = 32 << 20  # vectors in a row group


def write_parquet(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes the table and the vectors as columns.

    Texts become strings. If any text of a column is not UTF-8, the whole column becomes binary. The metadata of the
    schema hold the origin of the vectors as JSON under ``sppfeat``.
    """
    pa = import_extra("pyarrow", extra="parquet", purpose="writing Parquet")
    pq = import_extra("pyarrow.parquet", extra="parquet", purpose="writing Parquet")
    table = contents.table
    fields = [pa.field(name, _parquet_type(pa, column)) for name, column in table.items()]
    # Not nullable: a missing vector is all NaN.
    number = pa.field("element", pa.from_numpy_dtype(contents.dtype), nullable=False)
    vector = pa.list_(number, contents.shape[1])
    schema = pa.schema(
        [*fields, pa.field("features", vector, nullable=False)], metadata={"sppfeat": contents.about_json()}
    )
    repeated = [name for name, column in table.items() if isinstance(column, TextColumn)]
    with pq.ParquetWriter(files[0], schema, use_dictionary=repeated) as writer:
        for rows, vectors in contents.blocks(_GROUP_NBYTES):
            columns = [
                _parquet_column(pa, column, field.type, rows)
                for column, field in zip(table.values(), fields, strict=True)
            ]
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=vector))
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(vectors))


def _parquet_type(pa: Any, column: RowColumn) -> Any:
    if isinstance(column, TextColumn):
        return pa.string() if column.is_utf8 else pa.binary()
    return pa.from_numpy_dtype(column.dtype)


def _parquet_column(pa: Any, column: RowColumn, kind: Any, rows: slice) -> Any:
    values: Any = column[rows]
    if kind == pa.binary():
        values = [None if text is None else text.encode("utf-8", "surrogateescape") for text in values]
    return pa.array(values, type=kind)
