"""Parquet files that hold images, such as data sets of Hugging Face, or paths."""

import contextlib
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra
from sppfeat.config.wording import reason_of
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.byte_ranges import Place
from sppfeat.files.tables import TableFile
from sppfeat.files.versions import FileVersion
from sppfeat.inputs.segments import Segment
from sppfeat.inputs.tables import make_image_segment, make_path_segment
from sppfeat.inputs.tables.arrow import PURPOSE, arrow_errors, read_arrow_rows
from sppfeat.inputs.tables.arrow_schema import ColumnPart, find_arrow_columns

__all__ = ["ParquetStorage", "read_parquet"]

# Without a buffer size, pyarrow reads a whole column of a row group at once.
_BUFFER_NBYTES = 1 << 20

_BATCH_NBYTES = 16 << 20
_MOST_ROWS = 1024
_WRITTEN_AT_ONCE = 1 << 20
_MOST_OPEN = 16  # a data set may have more files than a process may open
_ROWS_AT_ONCE = 1 << 16
# Most bytes of a column chunk that is null in all rows, besides one byte per row; images take more.
_MOST_NBYTES_OF_NULLS = 1 << 12


def read_parquet(path: bytes) -> Segment:
    """Find the images that the rows of a Parquet file contain or name, with classes and ids if it has them.

    The columns are read in batches; the images themselves are not read.

    Args:
        path: absolute path of the file.

    Raises:
        ConfigError: the file cannot be read, or has neither images nor paths.
    """
    table = TableFile(path)
    with _opened(path) as file:
        version = FileVersion.of(path)
        columns = find_arrow_columns(file.schema_arrow, table, partial(_is_empty, file))
        batches = file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns.beside, use_threads=False)
        rows = read_arrow_rows(batches, columns, table)
        if columns.contents is None:
            return make_path_segment(
                table, rows, has_boxes=columns.has_boxes, classes=columns.classes, unit="row"
            )
        storage = ParquetStorage(path, columns.contents, version)
        return make_image_segment(rows, table, classes=columns.classes, storage=storage)


@contextlib.contextmanager
def _opened(path: bytes) -> Iterator[Any]:
    with arrow_errors(path, "Parquet", ConfigError):
        file = _open_parquet(path)
        try:
            yield file
        finally:
            file.close(force=True)


def _is_empty(file: Any, part: ColumnPart) -> bool:
    """Return True if a column is null in all rows, from the statistics of its parts if the file has them."""
    return all(
        _is_empty_part(file, part, group)
        for group in range(file.num_row_groups)
        if file.metadata.row_group(group).num_rows
    )


def _is_empty_part(file: Any, part: ColumnPart, group: int) -> bool:
    of_group = file.metadata.row_group(group)
    chunks = [of_group.column(i) for i in range(of_group.num_columns)]
    chunk = next(chunk for chunk in chunks if chunk.path_in_schema == part.dotted)
    if chunk.statistics is not None and chunk.statistics.has_null_count:
        return bool(chunk.statistics.null_count == of_group.num_rows)
    if chunk.total_uncompressed_size > _MOST_NBYTES_OF_NULLS + of_group.num_rows:
        return False
    batches = file.iter_batches(row_groups=[group], columns=[part.dotted])
    return all(part.of(batch).null_count == batch.num_rows for batch in batches)


def _open_parquet(path: bytes) -> Any:
    """Open a ``pyarrow.parquet.ParquetFile``, which the caller closes with ``force=True``.

    Raises:
        ConfigError: pyarrow is not installed.
        OSError, ValueError: the file cannot be read, or is not a Parquet file.
    """
    parquet = import_extra("pyarrow.parquet", extra="parquet", purpose=PURPOSE)
    # Opened by Python: pyarrow refuses names that are not UTF-8.
    file = open(path, "rb")  # noqa: SIM115
    try:
        return parquet.ParquetFile(file, buffer_size=_BUFFER_NBYTES)
    except BaseException:
        file.close()
        raise


class ParquetStorage:
    """Images in the rows of a Parquet file; they have no byte ranges of their own in it, so they are copied.

    Each call continues where the last one ended, so that ascending rows read the file once. One page of the file and
    about 16 MB of images are unpacked at a time.

    Args:
        path: absolute path of the file.
        contents: the column of images.
        version: version of the file when it was listed; no image of another version is read.
    """

    is_local = False

    def __init__(self, path: bytes, contents: ColumnPart, version: FileVersion) -> None:
        self._path, self._contents, self._version = path, contents, version
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[bytes, ColumnPart, FileVersion]:
        return self._path, self._contents, self._version

    def __setstate__(self, state: tuple[bytes, ColumnPart, FileVersion]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    @property
    def nbytes(self) -> int:
        """Memory of the storage, in bytes: hardly any."""
        return len(self._path)

    @contextlib.contextmanager
    def fetch(self, images: npt.NDArray[np.int64], scratch: Path) -> Iterator[Sequence[Place | str]]:
        """Copy images into a file in ``scratch``.

        Args:
            images: ``(n,)`` int64, numbers of rows, in any order; each part of the file is read once.
            scratch: an existing folder.

        Yields:
            The place of each image, or the reason why it has none: it is null, or has no bytes.

        Raises:
            StoreError: the file cannot be read or has changed, or ``scratch`` cannot be written to.
        """
        rows, position = np.unique(images, return_inverse=True)
        with contextlib.ExitStack() as stack:
            with _write_errors(scratch):
                spool = tempfile.NamedTemporaryFile(  # noqa: SIM115
                    dir=scratch, prefix="images-", buffering=_WRITTEN_AT_ONCE, delete=False
                )
            stack.callback(Path(spool.name).unlink, missing_ok=True)
            with spool, self._lock:  # closed once written, since each of many input files has a copy
                places = self._copy(rows.tolist(), cast(BinaryIO, spool), scratch)
            yield [places[i] for i in position.tolist()]

    def _copy(self, rows: list[int], spool: BinaryIO, scratch: Path) -> list[Place | str]:
        """Copy the images of rows into a file, one after the other, and return their places."""
        name, end = os.fsencode(spool.name), 0
        places: list[Place | str] = []
        if not rows:
            return places
        reader = self._reader()
        for row in rows:
            with arrow_errors(self._path, "Parquet", StoreError):
                image = reader.read(row)
            if isinstance(image, str):
                places.append(image)
                continue
            with _write_errors(scratch):
                spool.write(image)
            places.append(Place(name, end, len(image)))
            end += len(image)
        with _write_errors(scratch):
            spool.flush()
        _open_files.keep(self, reader)  # not after an error, when its position is unknown
        return places

    def _reader(self) -> "_Reader":
        """Return a reader of the file, positioned where the last call left it if it is still open."""
        with arrow_errors(self._path, "Parquet", StoreError):
            if not FileVersion.of(self._path).has_content_of(self._version):
                raise StoreError(f"{os.fsdecode(self._path)!r} has changed since it was listed")
            return _open_files.take(self) or _Reader(self._path, self._contents)


class _Reader:
    """Reads a column of bytes forward; to go back, it restarts the row group.

    Args:
        path: path of the file.
        contents: the column.
    """

    def __init__(self, path: bytes, contents: ColumnPart) -> None:
        self._file, self._contents = _open_parquet(path), contents
        groups = [self._file.metadata.row_group(i) for i in range(self._file.num_row_groups)]
        self._bounds = np.cumsum([0, *(group.num_rows for group in groups)])
        self._batches: Iterator[Any] = iter(())
        self._values: Any = None
        # The current batch has the rows from start to stop, in a row group that ends before group_stop.
        self._start = self._stop = self._group_stop = 0

    def __del__(self) -> None:
        file = getattr(self, "_file", None)  # missing if the file could not be opened
        if file is not None:
            file.close(force=True)

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

    def _begin_group(self, group: int) -> None:
        rows, nbytes = _size_of(self._file.metadata.row_group(group), self._contents)
        self._batches = self._file.iter_batches(
            batch_size=max(1, min(_MOST_ROWS, rows * _BATCH_NBYTES // max(1, nbytes))),
            row_groups=[group],
            columns=[self._contents.dotted],
            use_threads=False,
        )
        self._start = self._stop = int(self._bounds[group])
        self._group_stop = int(self._bounds[group + 1])


class _OpenFiles:
    """Readers of the most recently read files, each at its last position."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: weakref.WeakKeyDictionary[ParquetStorage, _Reader] = weakref.WeakKeyDictionary()

    def take(self, storage: ParquetStorage) -> _Reader | None:
        """Remove and return the reader of a storage; None if it has none."""
        with self._lock:
            return self._readers.pop(storage, None)

    def keep(self, storage: ParquetStorage, reader: _Reader) -> None:
        """Store a reader; if there are too many, close the least recently used one."""
        with self._lock:
            self._readers[storage] = reader
            while len(self._readers) > _MOST_OPEN:
                del self._readers[next(iter(self._readers))]


_open_files = _OpenFiles()


def _size_of(group: Any, contents: ColumnPart) -> tuple[int, int]:
    """Number of rows in a row group, and size of one of its columns in bytes."""
    chunks = (group.column(i) for i in range(group.num_columns))
    nbytes = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == contents.dotted)
    return group.num_rows, nbytes


@contextlib.contextmanager
def _write_errors(scratch: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        raise StoreError(f"cannot copy images to {str(scratch)!r}: {reason}") from error
