"""Tables whose rows name or contain images: text, Parquet, Arrow and Hugging Face data sets.

The path of a table goes in; a :class:`sppfeat.inputs.segments.Segment` of the images that its rows name or contain
comes out. Each submodule reads one format, and this module makes the segment from the rows of any of them. The
package must not know the other inputs of a run, and decodes no images.
"""

import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from sppfeat.config.wording import one_line
from sppfeat.errors import SppfeatError
from sppfeat.files.classes import NO_CLASS
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import PathTable, PathTableBuilder, possibly_repeated
from sppfeat.files.tables import TableFile
from sppfeat.inputs.names import is_url, make_absolute
from sppfeat.inputs.remote import find_objects
from sppfeat.inputs.segments import LabelBuilder, OwnLabels, Segment
from sppfeat.inputs.storage import Storage

__all__ = ["Rows", "make_image_segment", "make_path_segment", "name_image"]

_FOLDERS_REMEMBERED = 1 << 12
_DATA_FOLDER = b"data"  # the folder with a data set's files, next to its card
_DIGITS = 8


class Rows(NamedTuple):
    """Consecutive rows of a table of images.

    Attributes:
        numbers: numbers of the lines or rows.
        paths: paths in the table.
        labels: class name of each row; empty for no class.
        ids: id of each image; empty for no id.
    """

    numbers: Sequence[int]
    paths: Sequence[bytes]
    labels: Sequence[bytes]
    ids: Sequence[bytes]


def make_path_segment(
    table: TableFile,
    rows: Iterable[Rows],
    *,
    has_boxes: bool,
    classes: tuple[bytes, ...] | None = None,
    unit: str = "line",
) -> Segment:
    """Make a segment from the paths in the rows, in their order; paths are relative to the folder of the table.

    Args:
        table: the file.
        rows: all rows, in the order of the table; no path is empty.
        has_boxes: True if some columns look like boxes.
        classes: all classes in their order; None for the classes that the rows name, in natural order.
        unit: ``line`` or ``row``, which the numbers of rows count, for messages.

    Raises:
        ConfigError: rows give the same image different classes or ids, or have boxes and repeat an image.
    """
    names, labels, ids, numbers = PathTableBuilder(), LabelBuilder(classes), PathTableBuilder(), array("q")
    absolute = _absolute_from(table.folder)
    for some in rows:
        names.extend([absolute(path) for path in some.paths])
        labels.extend(some.labels)
        ids.extend(some.ids)
        numbers.extend(some.numbers)

    def error_at(position: int, what: str) -> SppfeatError:
        return table.error(f"{unit} {numbers[position]}", what)

    paths = names.build()
    paths, storage = find_objects(paths, error_at) or (paths, None)
    segment = Segment(None, paths, storage=storage, own_labels=labels.build(), ids=_if_any(ids))
    _check_repeated(table, segment, numbers, has_boxes=has_boxes, unit=unit)
    return segment


def _absolute_from(folder: bytes) -> Callable[[bytes], bytes]:
    """Make a function that makes paths absolute and remembers folders, so that it takes 5 microseconds per path."""

    @lru_cache(_FOLDERS_REMEMBERED)
    def prefix_of(above: bytes) -> bytes:
        return os.path.join(make_absolute(os.path.join(folder, above)), b"")

    def absolute(path: bytes) -> bytes:
        if b"://" in path and is_url(path):
            return path
        above, slash, name = path.rpartition(b"/")
        if name in (b"", b".", b".."):
            return make_absolute(os.path.join(folder, path))
        return prefix_of(above + slash) + name

    return absolute


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
            raise table.error(
                where,
                f"both are of {shown}, and have boxes; allowed: an image once. "
                "A file of boxes goes to --boxes, and the folder of its images is the input",
            )
        for one, other in zip(facts_of(first), facts_of(image), strict=True):
            if one and other and one != other:
                found = f"{one_line(repr(os.fsdecode(one)))} and {one_line(repr(os.fsdecode(other)))}"
                raise table.error(where, f"{shown} is {found}; allowed: one class and one id for an image")


def make_image_segment(
    rows: Iterable[Rows], table: TableFile, *, classes: tuple[bytes, ...] | None, storage: Storage
) -> Segment:
    """Make a segment from the images that a table contains.

    The name of an image is the number of its row with the suffix of its original path. That path is its id if the
    table has no ids.

    Args:
        rows: all rows, numbered from 0.
        table: the file.
        classes: all classes in their order; None for the classes that the rows name, in natural order.
        storage: fetches the images by the numbers of their rows.
    """
    names, labels, ids, paths = (
        PathTableBuilder(),
        LabelBuilder(classes),
        PathTableBuilder(),
        PathTableBuilder(),
    )
    for some in rows:
        names.extend([name_image(row, path) for row, path in zip(some.numbers, some.paths, strict=True)])
        labels.extend(some.labels)
        ids.extend(some.ids)
        paths.extend(some.paths)
    above, name = os.path.split(table.folder)
    images = names.build()
    # Kept even if it gives no classes, because the name of the table's folder is not a class.
    unlabelled = OwnLabels(np.full(len(images), NO_CLASS, dtype=np.int64), ())
    return Segment(
        table.path,
        images,
        above=above if name == _DATA_FOLDER else table.folder,
        storage=storage,
        own_labels=labels.build() or unlabelled,
        ids=_if_any(ids) or _if_any(paths),
    )


def _if_any(ids: PathTableBuilder) -> PathTable | None:
    """Return the ids of all images; None if none has one."""
    table = ids.build()
    return table if any(table) else None


def name_image(row: int, path: bytes) -> bytes:
    """Name an image by the number of its row and the suffix of its original path.

    Example:
        >>> name_image(7, b"cat.jpeg"), name_image(8, b"")
        (b'00000007.jpeg', b'00000008')
    """
    suffix = os.path.splitext(path)[1] if has_image_suffix(path) else b""
    return b"%0*d" % (_DIGITS, row) + suffix
