"""Reads Parquet files that hold images, such as Hugging Face datasets, or paths."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import reason_of
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.places import FileVersion, Place
from sppfeat.files.tables import TableFile
from sppfeat.inputs.segments import Segment, Storage
from sppfeat.inputs.tables.arrow import (
    ColumnPart,
    arrow_errors,
    find_arrow_columns,
    import_pyarrow,
    make_arrow_segment,
)

__all__ = ["read_parquet"]

# Without a buffer size, pyarrow reads a whole column of a row group at once.
_BUFFER_NBYTES = 1 << 20

_BATCH_NBYTES = 16 << 20
_MOST_ROWS = 1024
_FEW_ROWS = 16  # of images, of which the first ones usually tell that the column is not empty
_WRITTEN_AT_ONCE = 1 << 20
_ROWS_AT_ONCE = 1 << 16


def read_parquet(path: bytes) -> Segment:
    """Find the images that the rows of a Parquet file contain or name, with classes and ids if it has them.

    Reads the columns in batches, and no images. Raises ConfigError if the file cannot be read.
    """
    table = TableFile(path)
    with arrow_errors(path, "Parquet", ConfigError), open(path, "rb") as opened:
        version, file = FileVersion.of(opened.fileno()), _parquet_file(opened)
        columns = find_arrow_columns(file.schema_arrow, table, partial(_is_empty, file))
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns.beside, use_threads=False)
        contents = columns.contents
        storage = None if contents is None else _ParquetStorage(path, contents, version)
        return make_arrow_segment(table, columns, batches, storage)


def _is_empty(file: Any, part: ColumnPart) -> bool:
    """Return True if a column is null in all rows, by its statistics if the file has them."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        statistics = _chunk(group, part).statistics
        if statistics is not None and statistics.has_null_count:
            is_empty = statistics.null_count == group.num_rows
        else:
            batches = file.iter_batches(_FEW_ROWS, row_groups=[number], columns=[part.dotted])
            is_empty = all(part.of(batch).null_count == batch.num_rows for batch in batches)
        if not is_empty:
            return False
    return True


def _chunk(group: Any, part: ColumnPart) -> Any:
    """The metadata of a column in a row group."""
    chunks = (group.column(i) for i in range(group.num_columns))
    return next(chunk for chunk in chunks if chunk.path_in_schema == part.dotted)


def _parquet_file(opened: BinaryIO) -> Any:
    """Make a ``pyarrow.parquet.ParquetFile``; pyarrow itself cannot open a file whose name is not UTF-8."""
    return import_pyarrow(".parquet").ParquetFile(opened, buffer_size=_BUFFER_NBYTES)


@dataclass(frozen=True, eq=False)
class _ParquetStorage(Storage):
    """Images in the rows of a Parquet file, copied because they have no byte ranges of their own in it.

    Each call continues where the last one ended, so ascending rows read the file once. One page of the file and about
    16 MB of images are unpacked at a time. The file is read only while it is unchanged.
    """

    path: bytes
    contents: ColumnPart
    version: FileVersion

    is_local = False

    @contextlib.contextmanager
    def fetch(self, images: npt.NDArray[np.int64], scratch: Path) -> Iterator[Sequence[Place | str]]:
        """Copy images into a file in ``scratch``; each part of the input is read once, whatever their order.

        Raises:
            StoreError: the input cannot be read or has changed, or ``scratch`` cannot be written to.
        """
        rows, position = np.unique(images, return_inverse=True)
        with contextlib.ExitStack() as stack:
            try:
                spool = tempfile.NamedTemporaryFile(  # noqa: SIM115
                    dir=scratch, prefix="images-", buffering=_WRITTEN_AT_ONCE, delete=False
                )
                stack.callback(Path(spool.name).unlink, missing_ok=True)
                with spool:  # closed at once: each of many input files has a copy
                    places = self._copy(rows.tolist(), spool)
            except OSError as error:
                reason = reason_of(error)
                raise StoreError(f"cannot copy images to {str(scratch)!r}: {reason}") from error
            yield [places[i] for i in position.tolist()]

    def _copy(self, rows: list[int], spool: Any) -> list[Place | str]:
        """Copy the images of rows into a file, one after the other, and return their places."""
        name, end = os.fsencode(spool.name), 0
        places: list[Place | str] = []
        reader = self._reader()
        for row in rows:
            with arrow_errors(self.path, "Parquet", StoreError):
                image = reader.read(row)
            if isinstance(image, str):
                places.append(image)
                continue
            spool.write(image)
            places.append(Place(name, end, len(image)))
            end += len(image)
        # After an error its position is unknown. Only one is kept: a dataset may have more files than a process can
        # open.
        _readers.clear()
        _readers[self] = reader
        return places

    def _reader(self) -> "_Reader":
        """Return a reader of the file, positioned where the last call left it if no other file was read since."""
        with arrow_errors(self.path, "Parquet", StoreError):
            if not FileVersion.of(self.path).has_content_of(self.version):
                raise StoreError(f"{os.fsdecode(self.path)!r} has changed since it was listed")
            return _readers.pop(self, None) or _Reader(open(self.path, "rb"), self.contents)


class _Reader:
    """Reads a column of bytes forward; to go back, it restarts the row group."""

    def __init__(self, opened: BinaryIO, contents: ColumnPart) -> None:
        self._opened, self._contents = opened, contents
        self._file = _parquet_file(opened)
        groups = [self._file.metadata.row_group(i) for i in range(self._file.num_row_groups)]
        self._bounds = np.cumsum([0, *(group.num_rows for group in groups)])
        self._batches: Iterator[Any] = iter(())
        self._values: Any = None
        # The current batch has the rows from start to stop, in a row group that ends before group_stop.
        self._start = self._stop = self._group_stop = 0

    def __del__(self) -> None:
        self._opened.close()

    def read(self, row: int) -> memoryview | str:
        """Return the bytes of a row, valid until the next call, or the reason why the row has none."""
        if not self._start <= row < self._group_stop:
            self._begin_group(int(np.searchsorted(self._bounds, row, side="right")) - 1)
        while row >= self._stop:
            self._values = self._contents.of(next(self._batches))
            self._start, self._stop = self._stop, self._stop + len(self._values)
        value = self._values[row - self._start]
        if not value.is_valid:
            return f"null in the column {self._contents.dotted!r} of its table"
        return memoryview(value.as_buffer()) if len(value.as_buffer()) else "empty: no bytes in its table"

    def _begin_group(self, number: int) -> None:
        group = self._file.metadata.row_group(number)
        nbytes = max(1, _chunk(group, self._contents).total_uncompressed_size)
        self._batches = self._file.iter_batches(
            batch_size=max(1, min(_MOST_ROWS, group.num_rows * _BATCH_NBYTES // nbytes)),
            row_groups=[number],
            columns=[self._contents.dotted],
            use_threads=False,
        )
        self._start = self._stop = int(self._bounds[number])
        self._group_stop = int(self._bounds[number + 1])


# The reader of the storage that was read last.
_readers: WeakKeyDictionary[_ParquetStorage, _Reader] = WeakKeyDictionary()
