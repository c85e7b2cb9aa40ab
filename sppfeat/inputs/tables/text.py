"""Tables of images as text: comma- or tab-separated, or a JSON object a line."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO

from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError
from sppfeat.files.cells import shorten
from sppfeat.files.separated_text import decoded_lines, split_lines
from sppfeat.files.tables import json_decoder, parse_json, unique_keys
from sppfeat.inputs.segments import Segment
from sppfeat.inputs.tables.rows import Rows, manifest_segment
from sppfeat.inputs.tables.table_columns import TableColumns, find_columns, show_names
from sppfeat.inputs.tables.table_files import TableFile
from sppfeat.inputs.tables.table_values import encode_paths, encode_values

__all__ = ["read_manifest"]

_LINES_AT_ONCE = 512  # more keep the garbage collector busy


def read_manifest(path: bytes) -> Segment:
    """The images that a table names, in the order of its rows, with their classes and ids where it has them.

    Args:
        path: absolute, of a file that ends in ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson``. Columns count without
            case: see :mod:`sppfeat.inputs.tables.table_columns`. Paths are relative to the folder of the table.

    Raises:
        ConfigError: it cannot be read, or is malformed; with the line.
    """
    table = TableFile(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (b".csv", b".tsv"):
        return _read_separated(table, "\t" if suffix == b".tsv" else ",")
    return _read_json_lines(table)


def _read_separated(table: TableFile, delimiter: str) -> Segment:
    def not_split(line: int, reason: str) -> ConfigError:
        return table.error(f"line {line}", f"cannot be split into fields: {reason}")

    with table.open_text() as file, decoded_lines(file) as text:
        lines = split_lines(text, delimiter, error=not_split)
        number, header = next(lines, (1, []))
        if len(header) == 1 and ";" in header[0]:
            raise table.error(
                f"line {number}",
                f"found {one_line(repr(header[0]))}, separated by ';'; allowed: commas, or tabs (.tsv)",
            )
        columns = find_columns(header, error=_header_error(table, number))
        rows = _separated_rows(table, columns, lines, len(header))
        return manifest_segment(table, rows, has_boxes=columns.has_boxes)


def _header_error(table: TableFile, line: int) -> Callable[[str], ConfigError]:
    def error(what: str) -> ConfigError:
        return table.error(
            f"line {line}", f"the header: {what} (a list of names without a header is given as @LIST)"
        )

    return error


def _separated_rows(
    table: TableFile, columns: TableColumns, lines: Iterator[tuple[int, list[str]]], n_fields: int
) -> Iterator[Rows]:
    while some := list(islice(lines, _LINES_AT_ONCE)):
        for line, fields in some:
            if len(fields) != n_fields:
                raise table.error(
                    f"line {line}",
                    f"found {len(fields)} fields, {show_names(fields)}; allowed: {n_fields}, as in the header",
                )
        yield _rows(table, [line for line, _ in some], [_cells(columns, fields) for _, fields in some])


def _cells(columns: TableColumns, fields: Sequence[Any]) -> tuple[Any, Any, Any]:
    """The path, class and id of a row."""
    return (
        fields[columns.path],
        None if columns.label is None else fields[columns.label],
        None if columns.image_id is None else fields[columns.image_id],
    )


def _rows(table: TableFile, lines: Sequence[int], cells: Sequence[tuple[Any, Any, Any]]) -> Rows:
    def error_at(position: int, what: str) -> ConfigError:
        return table.error(f"line {lines[position]}", what)

    paths, labels, ids = zip(*cells, strict=True)
    return Rows(
        lines, encode_paths(paths, error_at), encode_values(labels, error_at), encode_values(ids, error_at)
    )


def _read_json_lines(table: TableFile) -> Segment:
    with table.open_text() as file:
        entries = _entries(table, file)
        first = next(entries, None)
        if first is None:
            raise table.error("", "is empty; allowed: a JSON object a line")
        has_boxes = _columns_of(table, *first).has_boxes
        return manifest_segment(table, _json_rows(table, chain([first], entries)), has_boxes=has_boxes)


def _entries(table: TableFile, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of the lines that are not blank."""
    decoder = json_decoder(unique_keys)
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        entry = parse_json(table, text, decoder=decoder, first_line=line)
        if not isinstance(entry, dict):
            raise table.error(f"line {line}", f"found {shorten(entry)}; allowed: a JSON object on each line")
        yield line, entry


def _columns_of(table: TableFile, line: int, entry: dict[str, Any]) -> TableColumns:
    return find_columns(list(entry), error=lambda what: table.error(f"line {line}", what))


def _json_rows(table: TableFile, entries: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[Rows]:
    names: tuple[str, ...] = ()
    while some := list(islice(entries, _LINES_AT_ONCE)):
        cells = []
        for line, entry in some:
            if tuple(entry) != names:
                names, columns = tuple(entry), _columns_of(table, line, entry)
            cells.append(_cells(columns, list(entry.values())))
        yield _rows(table, [line for line, _ in some], cells)
