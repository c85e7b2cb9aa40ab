"""Comma- or tab-separated text, read and written row by row."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from sppfeat.errors import SppfeatError

__all__ = ["decoded_lines", "joined_fields", "split_lines", "split_rows"]


def split_rows(
    content: bytes, delimiter: str, *, error: Callable[[int, str], SppfeatError]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the line that it begins on.

    Args:
        content: of the file, without a byte order mark.
        delimiter: of fields.
        error: makes an error of a line, and of what is wrong with a row that begins there.

    Raises:
        SppfeatError: a row cannot be split.
    """
    return split_lines(decoded_lines(io.BytesIO(content)), delimiter, error=error)


def decoded_lines(file: BinaryIO) -> io.TextIOWrapper:
    """The lines of an open file, which is closed with them.

    Paths need not be UTF-8: their bytes survive. No newline is translated: there may be some within quotes.
    """
    return io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")


def split_lines(
    lines: Iterable[str], delimiter: str, *, error: Callable[[int, str], SppfeatError]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of decoded lines; see :func:`split_rows`."""
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = rows.line_num + 1
        try:
            row = next(rows, None)
        except csv.Error as reason:
            raise error(line, str(reason)) from reason
        if row is None:
            return
        if len(row) > 1 or (row and row[0].strip()):
            yield line, row


def joined_fields(fields: Iterable[str | None], delimiter: str = ",") -> str:
    """Fields as one line without its end; names may hold delimiters, quotes and line breaks."""
    text = io.StringIO()
    # With this line end also a lone carriage return is quoted, in all versions of Python.
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(fields)
    return text.getvalue()[:-2]
