"""Text tables of images: comma- or tab-separated, or one JSON object per line."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, BinaryIO

from sppfeat.errors import SppfeatError
from sppfeat.files.columns import ImageColumns, find_image_columns
from sppfeat.files.tables import TableFile, encode_paths, encode_values, json_objects
from sppfeat.inputs.segments import Segment
from sppfeat.inputs.tables import Rows, make_segment, row_error

__all__ = ["read_manifest"]

_LINES_AT_ONCE = 512  # larger batches keep the garbage collector busy


def read_manifest(path: bytes) -> Segment:
    """Find the images that a table names, in the order of its rows, with their classes and ids if it has them.

    Columns are found by :mod:`sppfeat.files.columns`, and paths are relative to the folder of the table.

    Raises:
        ConfigError: the file cannot be read, or is malformed; the message gives the line.
    """
    table = TableFile(path)
    is_separated = os.path.splitext(path)[1].lower() in (b".csv", b".tsv")
    with table.open_text() as file:
        lines = (_separated_lines if is_separated else _json_lines)(table, file)
        first = next(lines)
        rows = _rows(table, lines if is_separated else chain([first], lines))
        return make_segment(table, rows, has_boxes=first[1].has_boxes)


_Line = tuple[int, ImageColumns, Sequence[Any]]
"""Number, columns and values of a line; the first one of separated text is its header, without values."""


def _separated_lines(table: TableFile, file: BinaryIO) -> Iterator[_Line]:
    lines = table.rows(file)
    number, header = next(lines, (1, []))

    def header_error(what: str) -> SppfeatError:
        return table.error(
            f"line {number}", f"the header: {what} (a list of names without a header is given as @LIST)"
        )

    columns = find_image_columns(header, error=header_error)
    yield number, columns, []
    yield from ((line, columns, fields) for line, fields in lines)


def _json_lines(table: TableFile, file: BinaryIO) -> Iterator[_Line]:
    names: tuple[str, ...] | None = None
    for line, entry in json_objects(table, file):
        if tuple(entry) != names:
            names = tuple(entry)
            columns = find_image_columns(names, error=partial(table.error, f"line {line}"))
        yield line, columns, list(entry.values())
    if names is None:
        raise table.error("", "is empty; allowed: a JSON object a line")


def _rows(table: TableFile, lines: Iterator[_Line]) -> Iterator[Rows]:
    while some := list(islice(lines, _LINES_AT_ONCE)):
        numbers = [number for number, _, _ in some]
        error_at = partial(row_error, table, "line", numbers)
        yield Rows(
            numbers,
            encode_paths([values[columns.path] for _, columns, values in some], error_at),
            encode_values([_value(values, columns.label) for _, columns, values in some], error_at),
            encode_values([_value(values, columns.image_id) for _, columns, values in some], error_at),
        )


def _value(values: Sequence[Any], column: int | None) -> Any:
    return None if column is None else values[column]
