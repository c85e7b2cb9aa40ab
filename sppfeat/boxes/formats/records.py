"""Box files of one record per box: comma- or tab-separated rows with a header, or JSON objects."""

import io
import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.errors import BoxError
from sppfeat.files.cells import NUMBER_RULE, parse_number, shorten
from sppfeat.files.columns import COLUMN_SETS, LIST_KEYS, BoxColumns, find_box_columns
from sppfeat.files.tables import encode_json_text, json_objects, split_rows

__all__ = ["read_jsonl", "read_separated"]

_MAX_EXTRA = 1000  # each becomes a column, also for boxes without it
_MOST_CELLS = 10**7  # cells of all extra columns (20 bytes each), unless the file has more bytes


def read_separated(source: AnnotationFiles, box_format: str) -> BoxTable:
    """Read the boxes of a file in the format ``csv`` or ``tsv``."""
    rows = split_rows(source, io.BytesIO(source.read_text()), "," if box_format == "csv" else "\t")
    line, header = next(rows, (1, []))
    if header and all(parse_number(name) is not None for name in header[-4:]):
        raise source.unexpected(f"line {line}", header, "a header, the names of the columns")
    if len(header) == 1 and ";" in header[0]:
        found = f"found {shorten(header[0])}, separated by ';'"
        raise source.error(f"line {line}", f"{found}; allowed: commas, or tabs (tsv)")
    columns = find_box_columns(
        header, COLUMN_SETS, error=lambda what: source.error(f"line {line}", f"the header: {what}")
    )
    records = _Records(source, is_json=False, extra_names=[columns.names[i] for i in columns.extra])
    for line, row in rows:
        if len(row) != len(header):
            raise source.error(
                f"line {line}",
                f"found {len(row)} fields, {shorten(row)}; allowed: {len(header)}, as in the header",
            )
        records.add(columns, line, row)
    return records.builder.build(DEFAULT_CONVENTIONS[box_format].replace(coords=columns.coords))


def read_jsonl(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a JSON Lines file, whose lines name the keys of a box alike."""
    content = source.read_text()
    records = _Records(source, is_json=True)
    most_cells = max(_MOST_CELLS, len(content))
    known: dict[tuple[str, ...], BoxColumns] = {}
    convention, first_line, first = DEFAULT_CONVENTIONS["jsonl"], 0, None
    for line, entry in json_objects(source, io.BytesIO(content)):
        where, keys = f"line {line}", tuple(entry)
        if keys not in known:
            for key in keys:
                encode_json_text(source, key, where)
            known[keys] = find_box_columns(
                keys, {**COLUMN_SETS, **LIST_KEYS}, error=partial(source.error, where)
            )
        columns = known[keys]
        if first is None:
            first_line, first = line, columns.coordinate_names
            convention = convention.replace(coords=columns.coords)
        if columns.coordinate_names != first:
            raise source.error(
                where,
                f"the box is {','.join(columns.coordinate_names)}, but {','.join(first)} on line {first_line}; "
                "allowed: the same on all lines",
            )
        records.add(columns, line, list(entry.values()))
        n_boxes, n_keys = len(records.builder), len(records.builder.extra_names)
        if n_keys > _MAX_EXTRA:
            found = f"found {shorten(list(records.builder.extra_names)[_MAX_EXTRA])}"
            raise source.error(where, f"{found}, the {_MAX_EXTRA + 1}th further key; allowed: {_MAX_EXTRA}")
        if n_boxes * n_keys > most_cells:
            raise source.error(
                where,
                f"found {n_boxes} boxes and {n_keys} further keys; allowed: {most_cells} boxes times keys",
            )
    return records.builder.build(convention)


class _Records:
    """Adds the box of each record to a table; ``is_json`` tells values of JSON objects from texts."""

    def __init__(self, source: AnnotationFiles, *, is_json: bool, extra_names: Sequence[str] = ()) -> None:
        self.builder = BoxTableBuilder(extra_names=extra_names)
        self._source = source
        self._is_json = is_json

    def add(self, columns: BoxColumns, line: int, values: Sequence[Any]) -> None:
        """Add the box of a record, with the value of each column."""
        image = values[columns.image]
        if not isinstance(image, str) or not image:
            allowed = "the name of an image, as text" if self._is_json else "the name of an image"
            raise self._error(columns, columns.image, line, image, allowed)
        if len(columns.coordinates) == 1:
            box = self._listed_box(columns, line, values)
        else:
            box = [self._number(columns, i, line, values) for i in columns.coordinates]
        self.builder.add_box(
            self.builder.add_image(self._encode(image, line)),
            box,
            label=self._text(columns, columns.label, line, values),
            score=math.nan if columns.score is None else self._number(columns, columns.score, line, values),
            box_id=self._encode(self._text(columns, columns.box_id, line, values), line),
            extra={
                columns.names[i]: self._encode(self._as_text(values[i], line), line) for i in columns.extra
            },
        )

    def _listed_box(self, columns: BoxColumns, line: int, values: Sequence[Any]) -> list[float]:
        (column,) = columns.coordinates
        box = values[column]
        if not isinstance(box, list) or len(box) != 4:
            raise self._error(columns, column, line, box, "a list of four numbers")
        name = columns.names[column]
        return [
            self._source.number(value, f"line {line}", title=f"{name}[{i}] is", or_blank=", or null")
            for i, value in enumerate(box)
        ]

    def _number(self, columns: BoxColumns, column: int, line: int, values: Sequence[Any]) -> float:
        """Return a number; NaN for null, and for an empty field, as pandas writes NaN."""
        value = values[column]
        number = math.nan if value is None else parse_number(value)
        if number is None and not self._is_json and not value.strip():
            return math.nan
        if number is None:
            blank = "null" if self._is_json else "nothing"
            raise self._error(columns, column, line, value, f"{NUMBER_RULE}, or {blank}")
        return number

    def _text(self, columns: BoxColumns, column: int | None, line: int, values: Sequence[Any]) -> str:
        """Return a text, or a number as text; empty for null and for a missing column."""
        value = None if column is None else values[column]
        if value is None or column is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._error(columns, column, line, value, "text, a number, or null")
        text = value if isinstance(value, str) else json.dumps(value)
        self._encode(text, line)
        return text

    def _as_text(self, value: Any, line: int) -> str:
        if isinstance(value, str):
            return value
        try:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        except RecursionError as error:
            where = f"line {line}"
            found = f"found {shorten(value)}, nested too deeply"
            raise self._source.error(where, f"{found}; allowed: a few levels") from error

    def _encode(self, text: str, line: int) -> bytes:
        return encode_json_text(self._source, text, f"line {line}")

    def _error(self, columns: BoxColumns, column: int, line: int, value: Any, allowed: str) -> BoxError:
        title = f"{'' if self._is_json else 'column '}{columns.names[column]!r}"
        return self._source.error(f"line {line}", f"{title} is {shorten(value)}; allowed: {allowed}")
