"""The rows of an Arrow table of images, whatever file it is in."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sppfeat.errors import ConfigError
from sppfeat.files.cells import shorten
from sppfeat.files.classes import IdBuilder, LabelBuilder
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import PathTableBuilder
from sppfeat.inputs.segments import OwnLabels, Segment
from sppfeat.inputs.storage import Storage
from sppfeat.inputs.tables.arrow_schema import ArrowColumns, ColumnPart
from sppfeat.inputs.tables.rows import Rows
from sppfeat.inputs.tables.table_files import TableFile
from sppfeat.inputs.tables.table_values import ErrorAt, encode_paths, encode_values

__all__ = ["arrow_rows", "image_name", "image_segment"]

_DATA = b"data"  # the folder that datasets are kept in, beside their card
_DIGITS = 8
_AS_BYTES = {"string": "binary", "large_string": "large_binary"}


def arrow_rows(batches: Iterable[Any], columns: ArrowColumns, table: TableFile) -> Iterator[Rows]:
    """Yield what the rows of each ``pyarrow.RecordBatch`` say, numbered from 0.

    Raises:
        ConfigError: values that are no texts or numbers; where there are only paths, a row without one.
    """
    first = 0
    for batch in batches:

        def error_at(position: int, what: str, first: int = first) -> ConfigError:
            return table.error(f"row {first + position}", what)

        paths, labels, ids = (
            _values(batch, part) for part in (columns.paths, columns.label, columns.image_id)
        )
        if columns.classes is not None:
            labels = _class_names(labels, columns.classes, error_at)
        yield Rows(
            numbers=range(first, first + batch.num_rows),
            paths=(encode_paths if columns.contents is None else encode_values)(paths, error_at),
            labels=encode_values(labels, error_at),
            ids=encode_values(ids, error_at),
        )
        first += batch.num_rows


def image_segment(
    rows: Iterable[Rows], table: TableFile, *, classes: tuple[bytes, ...] | None, storage: Storage
) -> Segment:
    """Return the images that a table has in its rows.

    They are called by the number of their row, and by the suffix of what they were called before; that is their id
    where the table has no other.

    Args:
        rows: all of them, from 0.
        table: the file.
        classes: all there are, in their order; None: those that the rows name.
        storage: where they are, by the number of their row.
    """
    names, labels, ids, paths = PathTableBuilder(), LabelBuilder(classes), IdBuilder(), IdBuilder()
    n_rows = 0
    for some in rows:
        names.extend([image_name(row, path) for row, path in zip(some.numbers, some.paths, strict=True)])
        labels.extend(some.labels)
        ids.extend(some.ids)
        paths.extend(some.paths)
        n_rows += len(some.numbers)
    above, name = os.path.split(table.folder)
    # Also where it tells no classes: the name of the table is none.
    unlabelled = OwnLabels(np.full(n_rows, -1, dtype=np.int64), ())
    return Segment(
        table.path,
        names.build(),
        above=above if name == _DATA else table.folder,
        storage=storage,
        own_labels=labels.build() or unlabelled,
        ids=ids.build() or paths.build(),
    )


def image_name(row: int, path: bytes) -> bytes:
    """Return the name of the image in a row, which was called ``path`` before.

    Example:
        >>> image_name(7, b"cat.jpeg"), image_name(8, b"")
        (b'00000007.jpeg', b'00000008')
    """
    suffix = os.path.splitext(path)[1] if has_image_suffix(path) else b""
    return b"%0*d" % (_DIGITS, row) + suffix


def _values(batch: Any, part: ColumnPart | None) -> list[Any]:
    """The values of a column; texts as bytes, which need not be UTF-8."""
    if part is None:
        return [None] * batch.num_rows
    array = part.of(batch)
    if hasattr(array, "dictionary_decode"):
        array = array.dictionary_decode()
    to_bytes = _AS_BYTES.get(str(array.type))
    values = array if to_bytes is None else array.cast(to_bytes)
    values.validate(full=True)  # what is damaged must not end the process
    return list(values.to_pylist())


def _class_names(numbers: list[Any], classes: tuple[bytes, ...], error_at: ErrorAt) -> list[bytes]:
    """The names of classes by their numbers; empty for none, which is null or -1."""
    name_of: dict[Any, bytes] = dict(enumerate(classes))
    name_of |= {None: b"", -1: b""}
    unknown = next((i for i, number in enumerate(numbers) if number not in name_of), None)
    if unknown is not None:
        raise error_at(
            unknown,
            f"the class is {shorten(numbers[unknown])}; allowed: 0 to {len(classes) - 1}, or -1 for none",
        )
    return [name_of[number] for number in numbers]
