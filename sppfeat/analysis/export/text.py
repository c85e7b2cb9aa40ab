"""Text formats: CSV and TSV, the sparse lines of LIBSVM and SVM-light, and the table of rows next to other formats.

Numbers have the fewest digits that still read back as the same number, in their own type or in float64 and then cast.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.export.contents import Contents
from sppfeat.config.machine import row_ranges
from sppfeat.config.wording import counted
from sppfeat.errors import LabelError
from sppfeat.files.tables import join_fields
from sppfeat.store.row_table import TextColumn

__all__ = ["number_texts", "write_csv", "write_svmlight", "write_table", "write_tsv"]

_BLOCK_NBYTES = 2 << 20  # vectors to write at once; as Python objects they take 20 times as much
_ROWS_AT_ONCE = 1 << 14  # of the table


def write_table(contents: Contents, file: BinaryIO) -> None:
    """Writes the table without the vectors, as comma-separated values."""
    file.write(_encoded([join_fields(contents.table, ",")]))
    for rows in row_ranges(contents.shape[0], row_nbytes=1, nbytes=_ROWS_AT_ONCE):
        file.write(_encoded(_table_lines(contents, rows, ",")))


def _write_values(contents: Contents, files: list[BinaryIO], *, separator: str) -> None:
    file = files[0]
    file.write(_encoded([join_fields([*contents.table, *contents.selection.columns.names()], separator)]))
    for rows, vectors in contents.blocks(_BLOCK_NBYTES):
        lines = zip(_table_lines(contents, rows, separator), vectors, strict=True)
        file.write(_encoded(separator.join([line, *number_texts(vector)]) for line, vector in lines))


write_csv = partial(_write_values, separator=",")
write_tsv = partial(_write_values, separator="\t")


def write_svmlight(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes a line for each row, and the table into the second file, because LIBSVM cannot read comments.

    Without labels every row gets label 0, because LIBSVM requires a number. Labels of only some rows are an error.
    """
    labels = _labels(contents)
    for rows, vectors in contents.blocks(_BLOCK_NBYTES):
        for label, vector in zip(labels[rows].tolist(), vectors, strict=True):
            nonzero = np.flatnonzero(vector)
            values = zip((nonzero + 1).tolist(), number_texts(vector[nonzero]), strict=True)
            files[0].write(_encoded([repr(label) + "".join(f" {i}:{value}" for i, value in values)]))
    for table in files[1:]:
        write_table(contents, table)


def _labels(contents: Contents) -> npt.NDArray[Any]:
    numbers = np.asarray(contents.table["label_number"])
    if contents.selection.y is None:
        return np.zeros_like(numbers)
    if len(contents.unlabeled):
        at = int(contents.unlabeled[0])
        (path,) = contents.table["path"][at : at + 1]
        raise LabelError(
            f"{counted(len(contents.unlabeled), 'row has', 'rows have')} no label; the first is row "
            f"{contents.selection.rows[at]} ({path!r}). LIBSVM needs a label for each row: select rows that have one "
            "with --rows 'label=*', or use a file without labels"
        )
    return numbers


def number_texts(vector: npt.NDArray[np.floating[Any]]) -> list[str]:
    """Texts of numbers ``(d,)``, such as ``0.1``, ``0``, ``nan`` and ``1e-30``."""
    return [str(value).removesuffix(".0") for value in vector]


def _table_lines(contents: Contents, rows: slice, separator: str) -> Iterator[str]:
    """Lines of the table for some rows, without the vectors and the newline."""
    columns = [
        column[rows] if isinstance(column, TextColumn) else _numbers(column[rows])
        for column in contents.table.values()
    ]
    return (join_fields(fields, separator) for fields in zip(*columns, strict=True))


def _numbers(values: npt.NDArray[Any]) -> list[str]:
    """Numbers as texts; empty for NaN, which stands for a missing score."""
    if values.dtype.kind == "b":
        return [str(int(value)) for value in values]
    return ["" if value != value else repr(value) for value in values.tolist()]


def _encoded(lines: Iterable[str]) -> bytes:
    """Lines as bytes, each with a newline; names that are not UTF-8 keep their bytes."""
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
