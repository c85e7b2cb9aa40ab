"""Box files of JSON Lines: one object per line, one box per object."""

import dataclasses
import io
import json
import math
from typing import Any

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import default_convention
from sppfeat.errors import BoxError
from sppfeat.files.cells import NUMBER_RULE, parse_number, shorten
from sppfeat.files.columns import COLUMN_SETS, LIST_KEYS, BoxColumns, find_box_columns
from sppfeat.files.paths import PathTable
from sppfeat.files.tables import encode_json_text, json_objects

__all__ = ["read_jsonl"]

_SETS = {**COLUMN_SETS, **LIST_KEYS}
_MAX_EXTRA = 1000  # each becomes a column, also for boxes without it
_MOST_CELLS = 10**7  # cells of all extra columns (20 bytes each), unless the file has more bytes


def read_jsonl(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a JSON Lines file.

    Raises:
        BoxError: the file is malformed, or its lines name the keys of a box differently.
    """
    content = source.read_text()
    lines = _LineReader(source, len(content))
    for line, entry in json_objects(source, io.BytesIO(content)):
        lines.add(line, entry)
    return lines.build()


class _LineReader:
    """Collects the boxes of all lines, which must use the keys of the first one."""

    def __init__(self, source: AnnotationFiles, n_bytes: int) -> None:
        self._source = source
        self._builder = BoxTableBuilder()
        self._columns: dict[tuple[str, ...], BoxColumns] = {}
        self._first: tuple[int, BoxColumns] | None = None
        self._n_boxes = 0
        self._extra: dict[str, list[bytes]] = {}
        self._most_cells = max(_MOST_CELLS, n_bytes)

    def add(self, line: int, entry: dict[str, Any]) -> None:
        """Append the box of a line."""
        columns = self._columns_of(line, entry)
        values = list(entry.values())
        label = self._text(columns, values, columns.label, line)
        self._builder.add_box(
            self._builder.add_image(self._image(columns, values, line)),
            self._box(columns, values, line),
            label=self._builder.add_class(label) if label else -1,
            score=math.nan if columns.score is None else self._number(columns, values, columns.score, line),
            box_id=self._encode(self._text(columns, values, columns.box_id, line), line),
        )
        for i in columns.extra:
            self._add_extra(columns.names[i], values[i], line)
        self._n_boxes += 1
        if self._n_boxes * len(self._extra) > self._most_cells:
            raise self._source.error(
                f"line {line}",
                f"found {self._n_boxes} boxes and {len(self._extra)} further keys; allowed: {self._most_cells} boxes "
                "times keys",
            )

    def build(self) -> BoxTable:
        """Build the table of all lines."""
        convention = default_convention("jsonl")
        if self._first is not None:
            convention = convention.replace(coords=self._first[1].coords)
        for texts in self._extra.values():
            texts += [b""] * (self._n_boxes - len(texts))
        return dataclasses.replace(
            self._builder.build(convention),
            extra_names=tuple(self._extra),
            extra=tuple(PathTable(texts) for texts in self._extra.values()),
        )

    def _columns_of(self, line: int, entry: dict[str, Any]) -> BoxColumns:
        names = tuple(entry)
        columns = self._columns.get(names)
        if columns is None:
            columns = find_box_columns(
                names, _SETS, error=lambda what: self._source.error(f"line {line}", what)
            )
            self._columns[names] = columns
        if self._first is None:
            self._first = (line, columns)
        first_line, first = self._first
        if columns.coordinate_names != first.coordinate_names:
            raise self._source.error(
                f"line {line}",
                f"the box is {','.join(columns.coordinate_names)}, but {','.join(first.coordinate_names)} on line "
                f"{first_line}; allowed: the same on all lines",
            )
        return columns

    def _image(self, columns: BoxColumns, values: list[Any], line: int) -> bytes:
        image = values[columns.image]
        if not isinstance(image, str) or not image:
            raise self._error(columns, columns.image, line, image, "the name of an image, as text")
        return self._encode(image, line)

    def _box(self, columns: BoxColumns, values: list[Any], line: int) -> list[float]:
        if len(columns.coordinates) == 4:
            return [self._number(columns, values, i, line) for i in columns.coordinates]
        column = columns.coordinates[0]
        box = values[column]
        if not isinstance(box, list) or len(box) != 4:
            raise self._error(columns, column, line, box, "a list of four numbers")
        numbers = []
        for i, value in enumerate(box):
            number = math.nan if value is None else parse_number(value)
            if number is None:
                raise self._source.error(
                    f"line {line}",
                    f"{columns.names[column]}[{i}] is {shorten(value)}; allowed: {NUMBER_RULE}, or null",
                )
            numbers.append(number)
        return numbers

    def _number(self, columns: BoxColumns, values: list[Any], column: int, line: int) -> float:
        value = values[column]
        number = math.nan if value is None else parse_number(value)
        if number is None:
            raise self._error(columns, column, line, value, f"{NUMBER_RULE}, or null")
        return number

    def _text(self, columns: BoxColumns, values: list[Any], column: int | None, line: int) -> str:
        """Return a text, or a number as text; empty for null and for a missing key."""
        value = None if column is None else values[column]
        if value is None or column is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._error(columns, column, line, value, "text, a number, or null")
        text = value if isinstance(value, str) else json.dumps(value)
        self._encode(text, line)
        return text

    def _add_extra(self, name: str, value: Any, line: int) -> None:
        texts = self._extra.get(name)
        if texts is None:
            if len(self._extra) == _MAX_EXTRA:
                raise self._source.error(
                    f"line {line}",
                    f"found {shorten(name)}, the {_MAX_EXTRA + 1}th further key; allowed: {_MAX_EXTRA}",
                )
            self._encode(name, line)
            texts = self._extra[name] = []
        texts += [b""] * (self._n_boxes - len(texts))
        texts.append(self._encode(value if isinstance(value, str) else self._compact(value, line), line))

    def _compact(self, value: Any, line: int) -> str:
        try:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        except RecursionError as error:
            raise self._source.error(
                f"line {line}", f"found {shorten(value)}, nested too deeply; allowed: a few levels"
            ) from error

    def _encode(self, text: str, line: int) -> bytes:
        return encode_json_text(self._source, text, f"line {line}")

    def _error(self, columns: BoxColumns, column: int, line: int, value: Any, allowed: str) -> BoxError:
        return self._source.error(
            f"line {line}", f"{columns.names[column]!r} is {shorten(value)}; allowed: {allowed}"
        )
