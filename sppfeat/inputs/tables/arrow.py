"""Arrow files that hold images, as ``save_to_disk`` of Hugging Face's ``datasets`` writes them, or paths."""

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra
from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, SppfeatError
from sppfeat.files.places import FileVersion
from sppfeat.files.tables import ErrorAt, TableFile, encode_paths, encode_values, shorten
from sppfeat.inputs.members import FIRST_REFUSAL, STORED_MEMBER, Members, MemberStorage
from sppfeat.inputs.segments import Segment
from sppfeat.inputs.tables import Rows, make_segment, row_error
from sppfeat.inputs.tables.arrow_schema import ArrowColumns, ColumnPart, find_arrow_columns

__all__ = ["PURPOSE", "arrow_errors", "read_arrow", "read_arrow_rows"]

PURPOSE = "reading a table of images"
"""The purpose of pyarrow, for the message when it is not installed."""

_NULL = -1
_AS_BYTES = {"string": "binary", "large_string": "large_binary"}

_FILE_MAGIC = b"ARROW1"  # begins a file with a footer; anything else is a stream


def read_arrow(path: bytes) -> Segment:
    """Find the images that the rows of an Arrow file contain or name, with classes and ids if it has them.

    The images themselves are not read, since they are parts of the file; ConfigError if they cannot be.
    """
    table = TableFile(path)
    pa = import_extra("pyarrow", extra="parquet", purpose=PURPOSE)
    with arrow_errors(path, "Arrow", ConfigError), open(path, "rb") as file:
        version = FileVersion.of(file.fileno())
        # The mapping is closed with the last buffer that views it.
        content = pa.py_buffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        schema, batches = _read_batches(content)
        columns = find_arrow_columns(
            schema, table, lambda part: all(part.of(batch).null_count == batch.num_rows for batch in batches)
        )
        rows = read_arrow_rows(batches, columns, table)
        make = partial(
            make_segment, table, rows, has_boxes=columns.has_boxes, classes=columns.classes, unit="row"
        )
        if columns.contents is None:
            return make()
        places = [_places(columns.contents, batch, content, table) for batch in batches]
        nothing = np.empty(0, dtype=np.int64)
        offset, sizes = (np.concatenate([nothing, *(place[i] for place in places)]) for i in (0, 1))
        packing = np.where(sizes > 0, STORED_MEMBER, FIRST_REFUSAL + (sizes == 0))
        reasons = ("null in its table", "empty: no bytes in its table")
        ranges = np.stack((offset, sizes, packing, sizes), axis=1)
        members = Members(ranges, reasons, has_headers=False)
        return make(storage=MemberStorage(path, version, members, is_table=True))


def _read_batches(content: Any) -> tuple[Any, list[Any]]:
    """Return the ``pyarrow.Schema`` of a file or stream, and all its batches, which view the content."""
    ipc = import_extra("pyarrow.ipc", extra="parquet", purpose=PURPOSE)
    if content[: len(_FILE_MAGIC)].to_pybytes() == _FILE_MAGIC:
        reader = ipc.open_file(content)
        return reader.schema, [reader.get_batch(i) for i in range(reader.num_record_batches)]
    reader = ipc.open_stream(content)
    return reader.schema, list(reader)


def _places(
    contents: ColumnPart, batch: Any, content: Any, table: TableFile
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Offset and size in bytes of each image of a batch, each ``(n,)`` int64."""
    values = contents.of(batch)
    values.validate(full=True)  # checks that the bounds ascend and stay within the bytes
    is_null = values.is_null().to_numpy(zero_copy_only=False)
    _, bounds_buffer, image_buffer = values.buffers()
    if is_null.all():  # such a column may lack its buffers
        return np.zeros(len(values), np.int64), np.full(len(values), _NULL, np.int64)
    kind = np.int64 if str(values.type).startswith("large_") else np.int32
    bounds = np.frombuffer(bounds_buffer, kind)[values.offset :][: len(values) + 1].astype(np.int64)
    sizes = np.where(is_null, _NULL, np.diff(bounds))
    if not (sizes > 0).any():  # here the buffer of bytes may be missing
        return np.zeros(len(values), np.int64), sizes
    start = image_buffer.address - content.address
    if not 0 <= start <= start + image_buffer.size <= content.size:
        raise table.error("", "is compressed; allowed: images that are in the file as they are, or Parquet")
    return start + bounds[:-1], sizes


def read_arrow_rows(batches: Iterable[Any], columns: ArrowColumns, table: TableFile) -> Iterator[Rows]:
    """Yield the rows of each ``pyarrow.RecordBatch``, numbered from 0."""
    first = 0
    for batch in batches:
        numbers = range(first, first + batch.num_rows)
        error_at = partial(row_error, table, "row", numbers)
        paths, labels, ids = (
            _values(batch, part) for part in (columns.paths, columns.label, columns.image_id)
        )
        if columns.classes is not None:
            labels = _class_names(labels, columns.classes, error_at)
        yield Rows(
            numbers=numbers,
            paths=(encode_paths if columns.contents is None else encode_values)(paths, error_at),
            labels=encode_values(labels, error_at),
            ids=encode_values(ids, error_at),
        )
        first += batch.num_rows


def _values(batch: Any, part: ColumnPart | None) -> list[Any]:
    """The values of a column, with text as bytes, which need not be UTF-8."""
    if part is None:
        return [None] * batch.num_rows
    array = part.of(batch)
    if hasattr(array, "dictionary_decode"):
        array = array.dictionary_decode()
    to_bytes = _AS_BYTES.get(str(array.type))
    values = array if to_bytes is None else array.cast(to_bytes)
    values.validate(full=True)  # damaged values would crash the process
    return list(values.to_pylist())


def _class_names(numbers: list[Any], classes: tuple[bytes, ...], error_at: ErrorAt) -> list[bytes]:
    """Class names by their numbers; empty for null and -1, which stand for no class."""
    name_of: dict[Any, bytes] = dict(enumerate(classes))
    name_of |= {None: b"", -1: b""}
    unknown = next((i for i, number in enumerate(numbers) if number not in name_of), None)
    if unknown is not None:
        raise error_at(
            unknown,
            f"the class is {shorten(numbers[unknown])}; allowed: 0 to {len(classes) - 1}, or -1 for none",
        )
    return [name_of[number] for number in numbers]


@contextlib.contextmanager
def arrow_errors(path: bytes, kind: str, error_class: type[SppfeatError]) -> Iterator[None]:
    """Convert errors from pyarrow and the system to ``error_class``, naming the file and its kind."""
    pa = import_extra("pyarrow", extra="parquet", purpose=PURPOSE)
    try:
        yield
    except SppfeatError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise error_class(f"{os.fsdecode(path)!r} cannot be read as {kind}: {reason}") from error
