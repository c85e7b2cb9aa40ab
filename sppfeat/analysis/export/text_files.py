"""CSV and TSV: a line for each row, what stands beside the vector first, then its numbers."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO

import numpy.typing as npt

from sppfeat.analysis.export.contents import Contents
from sppfeat.analysis.export.number_texts import TEXT_BLOCK_NBYTES, number_text_rows
from sppfeat.files.separated_text import joined_fields
from sppfeat.store.selection.row_table import TextColumn

__all__ = ["write_csv", "write_table", "write_tsv"]

_ROWS_AT_ONCE = 1 << 14


def write_table(contents: Contents, file: BinaryIO) -> None:
    """Write what stands beside the vectors as comma-separated values, without these."""
    file.write(_encoded([joined_fields(contents.table, ",")]))
    for start in range(0, contents.n_rows, _ROWS_AT_ONCE):
        file.write(_encoded(_beside(contents, slice(start, start + _ROWS_AT_ONCE), ",")))


def _write_values(contents: Contents, files: list[BinaryIO], *, separator: str) -> None:
    file = files[0]
    file.write(_encoded([joined_fields([*contents.table, *contents.selection.columns.names()], separator)]))
    for rows, vectors in contents.blocks(TEXT_BLOCK_NBYTES):
        values = number_text_rows(vectors, separator)
        beside = _beside(contents, rows, separator)
        file.write(_encoded(f"{a}{separator}{b}" for a, b in zip(beside, values, strict=True)))


write_csv = partial(_write_values, separator=",")
write_tsv = partial(_write_values, separator="\t")


def _beside(contents: Contents, rows: slice, separator: str) -> Iterator[str]:
    """Yield the first part of the lines of some rows."""
    columns = [
        column[rows] if isinstance(column, TextColumn) else _numbers(column[rows])
        for column in contents.table.values()
    ]
    return (joined_fields(fields, separator) for fields in zip(*columns, strict=True))


def _numbers(values: npt.NDArray[Any]) -> list[str]:
    """Numbers as text, and nothing for NaN: no score."""
    if values.dtype.kind == "b":
        return [str(int(value)) for value in values]
    return ["" if value != value else repr(value) for value in values.tolist()]


def _encoded(lines: Iterable[str]) -> bytes:
    """Lines as bytes, with their ends; names that are not UTF-8 have the bytes that they had."""
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
