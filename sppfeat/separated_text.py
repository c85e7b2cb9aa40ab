"""Comma- or tab-separated text, row by row."""

import csv
import io
from collections.abc import Callable, Iterator
from typing import BinaryIO

from sppfeat.errors import SppfeatError

__all__ = ["split_rows"]


def split_rows(
    content: bytes | BinaryIO, delimiter: str, *, error: Callable[[int, str], SppfeatError]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the line that it begins on.

    Args:
        content: of the file, or the open file, which is closed then; without a byte order mark.
        delimiter: of fields.
        error: makes an error of a line, and of what is wrong with a row that begins there.

    Raises:
        SppfeatError: a row cannot be split.
    """
    # Paths need not be UTF-8: their bytes survive. No newline is translated: there may be some within quotes.
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    lines = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
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
