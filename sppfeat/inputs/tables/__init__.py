"""Reads tables whose rows name or contain images: text, Parquet, Arrow and Hugging Face datasets.

The path of a table goes in; a :class:`sppfeat.inputs.segments.Segment` of the images that its rows name or contain
comes out. This module makes the segment from the rows of any of them, and reads text tables itself. The package must
not know the other inputs of a run, and decodes no images.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain, islice
from typing import Any, BinaryIO, NamedTuple

from sppfeat.config.wording import one_line
from sppfeat.errors import SppfeatError
from sppfeat.files.columns import NO_CLASS, ImageColumns, find_image_columns
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.json_text import json_objects
from sppfeat.files.paths import PathTable, PathTableBuilder, possibly_repeated
from sppfeat.files.tables import (
    OTHER_ENCODING,
    ErrorAt,
    TableFile,
    encode_paths,
    encode_values,
    shorten,
    strip_blanks,
)
from sppfeat.inputs.names import is_url, make_absolute
from sppfeat.inputs.remote import find_objects
from sppfeat.inputs.segments import OwnLabels, Segment, Storage, if_any, own_classes
from sppfeat.inputs.tables.located import locate_files

__all__ = ["Rows", "make_segment", "read_manifest", "row_error"]

_LINES_AT_ONCE = 512  # larger batches keep the garbage collector busy
_FOLDERS_REMEMBERED = 1 << 12
_DATA_FOLDER = b"data"  # the folder with a data set's files, next to its card
_DIGITS = 8


class Rows(NamedTuple):
    """Consecutive rows of a table: numbers, paths, class names and ids; an empty text means no class or id."""

    numbers: Sequence[int]
    paths: Sequence[bytes]
    labels: Sequence[bytes]
    ids: Sequence[bytes]


def read_manifest(path: bytes, encoding: str | None = None) -> Segment:
    """Find the images that a text table names: separated text, or one JSON object per line.

    ``encoding`` applies to text without a byte order mark; None for UTF-8. Raises ConfigError with the line if the
    table is malformed or cannot be read.
    """
    table = TableFile(path, encoding=encoding)
    is_separated = os.path.splitext(path)[1].lower() in (b".csv", b".tsv")
    with table.open_text() as file:
        lines = (_separated_lines if is_separated else _json_lines)(table, file)
        first = next(lines)
        rows = _rows(table, lines if is_separated else chain([first], lines))
        return make_segment(table, rows, has_boxes=first[1].has_boxes, columns=first[1].text)


_Line = tuple[int, ImageColumns, Sequence[Any]]
"""Number, columns and values of a line; the first one of separated text is its header, without values."""


def _separated_lines(table: TableFile, file: BinaryIO) -> Iterator[_Line]:
    lines = table.rows(file)
    number, header = next(lines, (1, []))

    def header_error(what: str) -> SppfeatError:
        hint = "(for a list of names without a header use @LIST)"
        return table.error(f"line {number}", f"the header: {what} {hint}")

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
        raise table.error("", "is empty; allowed: one JSON object per line")


def _rows(table: TableFile, lines: Iterator[_Line]) -> Iterator[Rows]:
    while some := list(islice(lines, _LINES_AT_ONCE)):
        numbers = [number for number, _, _ in some]
        error_at = partial(row_error, table, "line", numbers)
        paths = encode_paths([values[columns.path] for _, columns, values in some], error_at)
        _check_encoding(table, paths, error_at)
        yield Rows(
            numbers,
            paths,
            encode_values([_value(values, columns.label) for _, columns, values in some], error_at),
            encode_values([_value(values, columns.image_id) for _, columns, values in some], error_at),
        )


def _check_encoding(table: TableFile, paths: Sequence[bytes], error_at: ErrorAt) -> None:
    """Refuse paths that are not UTF-8 and have no file: the table probably has another encoding."""
    for i, path in enumerate(paths):
        if path.isascii() or table.encoding is not None:
            continue
        try:
            path.decode()
        except UnicodeDecodeError as error:
            if not os.path.lexists(_absolute(table.folder, path)):
                found = f"the byte 0x{path[error.start]:02x} in {shorten(path)} is not UTF-8, and no such file exists"
                raise error_at(i, f"{found}; {OTHER_ENCODING}") from error


def _value(values: Sequence[Any], column: int | None) -> Any:
    return None if column is None else values[column]


def make_segment(
    table: TableFile,
    rows: Iterable[Rows],
    *,
    has_boxes: bool,
    columns: str,
    classes: tuple[bytes, ...] | None = None,
    unit: str = "line",
    storage: Storage | None = None,
) -> Segment:
    """Make a segment from the rows of a table, in their order.

    Paths are relative to the folder of the table, and none is empty. Blanks around a class, an id or a path are
    dropped, except in the path of an existing file. An image inside the table is named by its row number
    with the suffix of its original path; that path is its id if the table has no ids.

    Args:
        table: the file.
        rows: all rows; those of a table that contains the images are numbered from 0.
        has_boxes: True if some columns look like boxes, so that no image may be repeated.
        columns: the columns that are read and those that are ignored, in words.
        classes: all classes in their order; None for the classes that the rows name, in natural order.
        unit: ``line`` or ``row``, which the numbers of rows count, for messages.
        storage: fetches the images by the numbers of their rows; None for a table of paths.
    """
    paths, labels, ids, numbers = PathTableBuilder(), PathTableBuilder(), PathTableBuilder(), array("q")
    absolute = partial(_absolute, table.folder)
    for some in rows:
        paths.extend([*map(absolute, some.paths)] if storage is None else some.paths)
        labels.extend(some.labels if classes is not None else [*map(strip_blanks, some.labels)])
        ids.extend([*map(strip_blanks, some.ids)])
        numbers.extend(some.numbers)
    found, own_labels, own_ids = paths.build(), own_classes(labels.build(), classes), if_any(ids.build())
    if storage is not None:
        above, folder = os.path.split(table.folder)
        return Segment(
            table.path,
            PathTable(map(_name_image, numbers, found)),
            above=above if folder == _DATA_FOLDER else table.folder,
            storage=storage,
            # Kept even if it gives no classes, because the name of the table's folder is not a class.
            own_labels=own_labels or OwnLabels.none(len(found)),
            ids=own_ids or if_any(found),
            columns=(table.path, columns),
        )

    found, objects = find_objects(found, partial(row_error, table, unit, numbers)) or (found, None)
    notes: list[str] = []
    if objects is None:
        found, notes = locate_files(table, found)
    segment = Segment(
        None,
        found,
        storage=objects,
        own_labels=own_labels,
        ids=own_ids,
        columns=(table.path, columns),
        notes=tuple(notes),
    )
    _check_repeated(table, segment, numbers, has_boxes=has_boxes, unit=unit)
    return segment


def row_error(table: TableFile, unit: str, numbers: Sequence[int], position: int, what: str) -> SppfeatError:
    """Make an error about the row at a position, from its number."""
    return table.error(f"{unit} {numbers[position]}", what)


def _absolute(folder: bytes, path: bytes) -> bytes:
    """Make a path in a table absolute, without blanks around it unless such a file exists; keep URLs."""
    stripped = strip_blanks(path)
    if stripped != path and (is_url(stripped) or not os.path.lexists(os.path.join(folder, path))):
        path = stripped
    if is_url(path):
        return path
    above, slash, name = path.rpartition(b"/")
    if name in (b"", b".", b".."):
        return make_absolute(os.path.join(folder, path))
    return os.path.join(_absolute_folder(folder, above + slash), name)


@lru_cache(_FOLDERS_REMEMBERED)  # a .. in each of a million paths would cost a million file system calls
def _absolute_folder(folder: bytes, above: bytes) -> bytes:
    return make_absolute(os.path.join(folder, above))


def _check_repeated(
    table: TableFile, segment: Segment, numbers: Sequence[int], *, has_boxes: bool, unit: str
) -> None:
    """Refuse rows that repeat an image if they have boxes or differ in its class or id."""
    own, ids = segment.own_labels, segment.ids

    def facts_of(image: int) -> tuple[bytes, bytes]:
        label = NO_CLASS if own is None else int(own.labels[image])
        return own.classes[label] if own and label != NO_CLASS else b"", ids[image] if ids else b""

    seen: dict[bytes, int] = {}
    for image in possibly_repeated(segment.names).tolist():
        path = segment.names[image]
        first = seen.setdefault(path, image)
        if first == image:
            continue
        where = f"{unit}s {numbers[first]} and {numbers[image]}"
        shown = one_line(repr(os.fsdecode(path)))
        if has_boxes:
            hint = "Give a box file to --boxes, and the folder of its images as input"
            raise table.error(where, f"both name {shown}, and have boxes; allowed: each image once. {hint}")
        for one, other in zip(facts_of(first), facts_of(image), strict=True):
            if one and other and one != other:
                found = f"{one_line(repr(os.fsdecode(one)))} and {one_line(repr(os.fsdecode(other)))}"
                raise table.error(where, f"{shown} is {found}; allowed: one class and one id per image")


def _name_image(row: int, path: bytes) -> bytes:
    """Name an image by the number of its row and the suffix of its original path.

    Example:
        >>> _name_image(7, b"cat.jpeg"), _name_image(8, b"")
        (b'00000007.jpeg', b'00000008')
    """
    suffix = os.path.splitext(path)[1] if has_image_suffix(path) else b""
    return b"%0*d" % (_DIGITS, row) + suffix
