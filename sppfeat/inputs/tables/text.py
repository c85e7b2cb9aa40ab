"""Text tables of images: comma- or tab-separated, or one JSON object per line."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from sppfeat.config.wording import one_line
from sppfeat.errors import SppfeatError
from sppfeat.files.cells import encode_paths, encode_values
from sppfeat.files.columns import ImageColumns, find_image_columns, show_names
from sppfeat.files.tables import TableFile, json_objects
from sppfeat.inputs.segments import Segment
from sppfeat.inputs.tables import Rows, make_path_segment

__all__ = ["read_manifest"]

_LINES_AT_ONCE = 512  # larger batches keep the garbage collector busy


def read_manifest(path: bytes) -> Segment:
    """Find the images that a table names, in the order of its rows, with their classes and ids if it has them.

    Args:
        path: absolute path of the table, which ends in ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson``. Column names
            are compared without case, see :mod:`sppfeat.files.columns`. Paths in the table are relative to its
            folder.

    Raises:
        ConfigError: the file cannot be read, or is malformed; the message gives the line.
    """
    table = TableFile(path)
    is_separated = os.path.splitext(path)[1].lower() in (b".csv", b".tsv")
    return _read_separated(table) if is_separated else _read_json_lines(table)


def _read_separated(table: TableFile) -> Segment:
    with table.open_text() as file:
        lines = table.rows(file)
        number, header = next(lines, (1, []))
        if len(header) == 1 and ";" in header[0]:
            raise table.error(
                f"line {number}",
                f"found {one_line(repr(header[0]))}, separated by ';'; allowed: commas, or tabs (.tsv)",
            )
        columns = find_image_columns(header, error=_header_error(table, number))
        rows = _separated_rows(table, columns, lines, len(header))
        return make_path_segment(table, rows, has_boxes=columns.has_boxes)


def _header_error(table: TableFile, line: int) -> Callable[[str], SppfeatError]:
    def error(what: str) -> SppfeatError:
        return table.error(
            f"line {line}", f"the header: {what} (a list of names without a header is given as @LIST)"
        )

    return error


def _separated_rows(
    table: TableFile, columns: ImageColumns, lines: Iterator[tuple[int, list[str]]], n_fields: int
) -> Iterator[Rows]:
    while some := list(islice(lines, _LINES_AT_ONCE)):
        for line, fields in some:
            if len(fields) != n_fields:
                raise table.error(
                    f"line {line}",
                    f"found {len(fields)} fields, {show_names(fields)}; allowed: {n_fields}, as in the header",
                )
        yield _rows(table, [line for line, _ in some], [_cells(columns, fields) for _, fields in some])


def _cells(columns: ImageColumns, fields: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Pick the path, class and id of a row."""
    return (
        fields[columns.path],
        None if columns.label is None else fields[columns.label],
        None if columns.image_id is None else fields[columns.image_id],
    )


def _rows(table: TableFile, lines: Sequence[int], cells: Sequence[tuple[Any, Any, Any]]) -> Rows:
    def error_at(position: int, what: str) -> SppfeatError:
        return table.error(f"line {lines[position]}", what)

    paths, labels, ids = zip(*cells, strict=True)
    return Rows(
        lines, encode_paths(paths, error_at), encode_values(labels, error_at), encode_values(ids, error_at)
    )


def _read_json_lines(table: TableFile) -> Segment:
    with table.open_text() as file:
        entries = json_objects(table, file)
        first = next(entries, None)
        if first is None:
            raise table.error("", "is empty; allowed: a JSON object a line")
        has_boxes = _columns_of(table, *first).has_boxes
        return make_path_segment(table, _json_rows(table, chain([first], entries)), has_boxes=has_boxes)


def _columns_of(table: TableFile, line: int, entry: dict[str, Any]) -> ImageColumns:
    return find_image_columns(list(entry), error=lambda what: table.error(f"line {line}", what))


def _json_rows(table: TableFile, entries: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[Rows]:
    names: tuple[str, ...] = ()
    while some := list(islice(entries, _LINES_AT_ONCE)):
        cells = []
        for line, entry in some:
            if tuple(entry) != names:
                names, columns = tuple(entry), _columns_of(table, line, entry)
            cells.append(_cells(columns, list(entry.values())))
        yield _rows(table, [line for line, _ in some], cells)
