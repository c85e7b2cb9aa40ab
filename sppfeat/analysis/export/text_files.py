"""Text files: CSV and TSV with a line for each row, and the sparse lines of LIBSVM and SVM-light.

Numbers are written fast, with few digits that still read back as the same number. A line of CSV or TSV has the columns
of the table, then the vector. A line of LIBSVM has a label, then ``column:value`` for each value that is not zero;
columns count from 1.
"""

from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.export.contents import Contents
from sppfeat.config.wording import counted
from sppfeat.errors import LabelError
from sppfeat.files.tables import join_fields
from sppfeat.store.selection.row_table import TextColumn

__all__ = [
    "TEXT_BLOCK_NBYTES",
    "number_text_rows",
    "printable",
    "printf_format",
    "write_csv",
    "write_svmlight",
    "write_table",
    "write_tsv",
]

_ROWS_AT_ONCE = 1 << 14
TEXT_BLOCK_NBYTES = (
    2 << 20
)  # size of the vectors to write at once; as Python objects they take 20 times as much

_POWERS = 10.0 ** np.arange(23)  # the powers that are exact in float64
_FORMATS = {"float16": "%s", "float32": "%.9g", "float64": "%r"}


def write_table(contents: Contents, file: BinaryIO) -> None:
    """Writes the table as comma-separated values, without the vectors."""
    file.write(_encoded([join_fields(contents.table, ",")]))
    for start in range(0, contents.n_rows, _ROWS_AT_ONCE):
        file.write(_encoded(_table_lines(contents, slice(start, start + _ROWS_AT_ONCE), ",")))


def _write_values(contents: Contents, files: list[BinaryIO], *, separator: str) -> None:
    file = files[0]
    file.write(_encoded([join_fields([*contents.table, *contents.selection.columns.names()], separator)]))
    for rows, vectors in contents.blocks(TEXT_BLOCK_NBYTES):
        values = number_text_rows(vectors, separator)
        beside = _table_lines(contents, rows, separator)
        file.write(_encoded(f"{a}{separator}{b}" for a, b in zip(beside, values, strict=True)))


write_csv = partial(_write_values, separator=",")
write_tsv = partial(_write_values, separator="\t")


def _table_lines(contents: Contents, rows: slice, separator: str) -> Iterator[str]:
    """Yields lines of the table for some rows, without the vectors."""
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


def number_text_rows(block: npt.NDArray[np.floating[Any]], separator: str) -> Iterator[str]:
    """Yields each row of ``(k, d)`` numbers as text.

    Every text reads back as the same number, whether parsed in its own type or in float64 and then cast. A float32
    takes 0.5 microseconds; numpy's own formatting takes 1.6, and Python's (via float64) 1.0 with twice the digits.

    Example:
        >>> list(number_text_rows(np.array([[0.1, 0, np.nan, 1e-30]], dtype=np.float32), ","))
        ['0.1,0,nan,1e-30']
    """
    line = separator.join([printf_format(block.dtype)] * block.shape[1])
    for row in printable(block).tolist():
        yield line % tuple(row)


def printf_format(dtype: np.dtype[Any]) -> str:
    """Printf format for the numbers that :func:`printable` returns for this type."""
    return _FORMATS[dtype.name]


def printable(block: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
    """Converts an array of numbers so that :func:`printf_format` prints texts that read back as the same numbers.

    A float32 becomes the float64 nearest to its shortest decimal (6 to 9 digits) that rounds to the same float32;
    '%.9g' prints exactly these digits. Nine always suffice; numbers too small for exact powers of ten get nine.
    """
    if block.dtype == np.float16:
        return _float16_texts()[block.view(np.uint16)]
    if block.dtype == np.float64:
        return block
    result = block.astype(np.float64)
    flat = result.reshape(-1)
    left = np.flatnonzero((flat != 0) & np.isfinite(flat))
    exact, wanted = flat[left], block.reshape(-1)[left]
    magnitude = np.floor(np.log10(np.abs(exact))).astype(np.int64)
    for n_digits in (6, 7, 8, 9):
        power = _POWERS[np.clip(n_digits - 1 - magnitude, 0, len(_POWERS) - 1)]
        shorter = np.rint(exact * power) / power
        same = shorter.astype(np.float32) == wanted
        flat[left[same]] = shorter[same]
        left, exact, wanted, magnitude = (part[~same] for part in (left, exact, wanted, magnitude))
    return result


@cache
def _float16_texts() -> npt.NDArray[np.object_]:
    """Texts ``(65536,)`` of all float16 numbers, indexed by their bits."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return np.array([str(value) for value in every], dtype=object)


def write_svmlight(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes a line for each row, and the table into the second file, because LIBSVM cannot read comments.

    If no classes are known, all labels are 0, because LIBSVM requires a number.

    Raises:
        LabelError: some rows have a class and some have none, which numbers cannot express.
    """
    labels = _labels(contents)
    for rows, vectors in contents.blocks(TEXT_BLOCK_NBYTES):
        lines = zip(labels[rows].tolist(), _sparse_text_rows(vectors), strict=True)
        files[0].write("".join(f"{label!r}{text}\n" for label, text in lines).encode())
    for table in files[1:]:
        write_table(contents, table)


def _labels(contents: Contents) -> npt.NDArray[Any]:
    numbers = np.asarray(contents.table["label_number"])
    if contents.selection.y is None:
        return np.zeros_like(numbers)
    unknown = np.flatnonzero(numbers < 0) if contents.selection.target_names else numbers[:0]
    if len(unknown):
        at = int(unknown[0])
        (path,) = contents.table["path"][at : at + 1]
        raise LabelError(
            f"{counted(len(unknown), 'row has', 'rows have')} no label, the first is row "
            f"{contents.selection.rows[at]} ({path!r}); allowed in this format: rows with labels, such as --rows "
            "'label=*', or a file without any"
        )
    return numbers


def _sparse_text_rows(vectors: npt.NDArray[np.floating[Any]]) -> Iterator[str]:
    """Yields the nonzero values of each row as ``column:value`` texts, each after a space."""
    value = printf_format(vectors.dtype)
    fields = np.array([f" {i}:{value}" for i in range(1, vectors.shape[1] + 1)], dtype=object)
    is_there = vectors != 0
    for row, there in zip(printable(vectors), is_there, strict=True):
        yield "".join(fields[there].tolist()) % tuple(row[there].tolist())
