"""Box files of one record per box: comma- or tab-separated rows with a header, or JSON objects."""

import io
import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.config.wording import counted
from sppfeat.errors import BoxError
from sppfeat.files.columns import COLUMN_SETS, LIST_KEYS, BoxColumns, find_box_columns
from sppfeat.files.json_text import json_objects
from sppfeat.files.tables import parse_number, shorten, split_rows

__all__ = ["Record", "read_jsonl", "read_separated"]

_MAX_EXTRA = 1000  # each becomes a column of all boxes
_MOST_CELLS = 10**7  # cells of all extra columns (20 bytes each), unless the file has more bytes


def read_separated(source: AnnotationFiles, box_format: str) -> BoxTable:
    """Read the boxes of a file in the format ``csv`` or ``tsv``."""
    file = source.single
    rows = split_rows(file, io.BytesIO(file.read_text()), "," if box_format == "csv" else "\t")
    line, header = next(rows, (1, []))
    if sum(parse_number(name) is not None for name in header) >= 4:
        raise file.unexpected(f"line {line}", header, "a header, the names of the columns")
    columns = find_box_columns(
        header,
        COLUMN_SETS,
        label=source.label,
        error=lambda what: file.error(f"line {line}", f"the header: {what}"),
    )
    builder = BoxTableBuilder(extra_names=[columns.names[i] for i in columns.extra])
    for line, row in rows:
        Record(file, False, columns, f"line {line}", row).add_to(builder)
    odd = [] if file.encoding else [name for name in builder.image_names if not _is_utf8(name)]
    notes = [columns.text]
    if odd:
        notes.append(
            f"{counted(len(odd), 'name of an image is', 'names of images are')} not UTF-8, such as {shorten(odd[0])}; "
            "for text from Windows add --encoding cp1252"
        )
    return builder.build(DEFAULT_CONVENTIONS[box_format].replace(coords=columns.coords), notes=notes)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def read_jsonl(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a JSON Lines file, whose lines all use the same keys for a box."""
    file = source.single
    content = file.read_text()
    builder = BoxTableBuilder()
    most_cells = max(_MOST_CELLS, len(content))
    known: dict[tuple[str, ...], BoxColumns] = {}
    convention, first_line, first = DEFAULT_CONVENTIONS["jsonl"], 0, None
    for line, entry in json_objects(file, io.BytesIO(content)):
        where, keys = f"line {line}", tuple(entry)
        if keys not in known:
            for key in keys:
                file.encode(key, where)
            known[keys] = find_box_columns(
                keys, {**COLUMN_SETS, **LIST_KEYS}, label=source.label, error=partial(file.error, where)
            )
        columns = known[keys]
        if first is None:
            first_line, first = line, columns.coordinate_names
            convention = convention.replace(coords=columns.coords)
        if columns.coordinate_names != first:
            found = ",".join(columns.coordinate_names)
            found = f"the box is {found}, but {','.join(first)} on line {first_line}"
            raise file.error(where, f"{found}; allowed: the same keys on all lines")
        Record(file, True, columns, where, list(entry.values())).add_to(builder)
        n_boxes, n_keys = len(builder), len(builder.extra_names)
        if n_keys > _MAX_EXTRA:
            found = f"found {shorten(list(builder.extra_names)[_MAX_EXTRA])}"
            raise file.error(where, f"{found}, the {_MAX_EXTRA + 1}th other key; allowed: {_MAX_EXTRA}")
        if n_boxes * n_keys > most_cells:
            found = f"found {n_boxes} boxes and {n_keys} other keys"
            raise file.error(where, f"{found}; allowed: {most_cells} boxes times keys")
    return builder.build(convention, notes=[next(iter(known.values())).text] if known else [])


class Record(NamedTuple):
    """A record of one box, whose values are checked as they are read; ``is_json`` is True for JSON values."""

    file: AnnotationFile
    is_json: bool
    columns: BoxColumns
    where: str
    values: Sequence[Any]

    def add_to(self, builder: BoxTableBuilder) -> None:
        """Append the box to a table."""
        columns, image = self.columns, self.values[self.columns.image]
        if not isinstance(image, str) or not image:
            raise self._error(columns.image, f"the name of an image{', as text' if self.is_json else ''}")
        is_list = len(columns.coordinates) == 1
        builder.add_box(
            builder.add_image(self.file.encode(image, self.where)),
            self._listed_box() if is_list else [self._number(i) for i in columns.coordinates],
            label=self._text(columns.label),
            score=math.nan if columns.score is None else self._number(columns.score),
            box_id=self.file.encode(self._text(columns.box_id), self.where),
            extra={columns.names[i]: self._extra(self.values[i]) for i in columns.extra},
        )

    def _listed_box(self) -> list[float]:
        (column,) = self.columns.coordinates
        box, name = self.values[column], self.columns.names[column]
        if not isinstance(box, list) or len(box) != 4:
            raise self._error(column, "a list of four numbers")
        return [
            self.file.number(value, self.where, title=f"{name}[{i}] is", or_blank=", or null")
            for i, value in enumerate(box)
        ]

    def _number(self, column: int) -> float:
        """Return a number; NaN for null and for an empty field, which pandas writes for NaN."""
        value, or_blank = self.values[column], ", or null" if self.is_json else ", or nothing"
        is_blank = not self.is_json and not value.strip()
        title = f"{self._title(column)} is"
        return self.file.number(None if is_blank else value, self.where, title=title, or_blank=or_blank)

    def _text(self, column: int | None) -> str:
        """Return a text, or a number as text; empty for null and for a missing column."""
        value = None if column is None else self.values[column]
        if value is None or column is None or value != value:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._error(column, "text, a number, or null")
        text = value if isinstance(value, str) else json.dumps(value)
        self.file.encode(text, self.where)
        return text

    def _extra(self, value: Any) -> bytes:
        if not isinstance(value, str):
            try:
                value = json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)
            except RecursionError as error:
                found = f"found {shorten(value)}, nested too deeply"
                raise self.file.error(self.where, f"{found}; allowed: a few levels") from error
        return self.file.encode(value, self.where)

    def _title(self, column: int) -> str:
        return f"{'' if self.is_json else 'column '}{self.columns.names[column]!r}"

    def _error(self, column: int, allowed: str) -> BoxError:
        found = f"{self._title(column)} is {shorten(self.values[column])}"
        return self.file.error(self.where, f"{found}; allowed: {allowed}")
