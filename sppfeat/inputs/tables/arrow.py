"""Arrow files as inputs: of images, as ``save_to_disk`` of Hugging Face's data sets writes them, or of their paths."""

import contextlib
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra
from sppfeat.errors import ConfigError
from sppfeat.files.versions import FileVersion
from sppfeat.inputs.segments import Segment
from sppfeat.inputs.tables.arrow_rows import arrow_rows, image_segment
from sppfeat.inputs.tables.arrow_schema import ColumnPart, find_arrow_columns
from sppfeat.inputs.tables.arrow_storage import NULL, ArrowStorage
from sppfeat.inputs.tables.parquet_files import PURPOSE, arrow_errors
from sppfeat.inputs.tables.rows import manifest_segment
from sppfeat.inputs.tables.table_files import TableFile

__all__ = ["read_arrow"]

_FILE_MAGIC = b"ARROW1"  # of the format with a footer; without, it is a stream


def read_arrow(path: bytes) -> Segment:
    """The images in the rows of an Arrow file, or those whose paths it has; with classes and ids where it has them.

    Images are not read, but found: they are parts of the file.

    Args:
        path: absolute.

    Raises:
        ConfigError: it cannot be read, is compressed, or has neither images nor paths.
    """
    table = TableFile(path)
    with arrow_errors(path, "Arrow", ConfigError), _mapped(path) as (content, version):
        reader = _reader(content)
        batches = list(_batches(reader))
        columns = find_arrow_columns(
            reader.schema,
            table,
            lambda part: all(part.of(batch).null_count == batch.num_rows for batch in batches),
        )
        rows = arrow_rows(batches, columns, table)
        if columns.contents is None:
            return manifest_segment(
                table, rows, has_boxes=columns.has_boxes, classes=columns.classes, unit="row"
            )
        places = [_places(columns.contents, batch, content, table) for batch in batches]
        nothing = np.empty(0, dtype=np.int64)
        storage = ArrowStorage(
            path,
            version,
            offset=np.concatenate([nothing, *(offset for offset, _ in places)]),
            sizes=np.concatenate([nothing, *(sizes for _, sizes in places)]),
        )
        return image_segment(rows, table, classes=columns.classes, storage=storage)


@contextlib.contextmanager
def _mapped(path: bytes) -> Iterator[tuple[Any, FileVersion]]:
    """A file as one ``pyarrow.Buffer``, and its version."""
    pa = import_extra("pyarrow", extra="parquet", purpose=PURPOSE)
    with open(path, "rb") as file:
        version = FileVersion.of(file.fileno())
        # Not closed before the last buffer of it is gone.
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    yield pa.py_buffer(mapped), version


def _reader(content: Any) -> Any:
    ipc = import_extra("pyarrow.ipc", extra="parquet", purpose=PURPOSE)
    is_file = content[: len(_FILE_MAGIC)].to_pybytes() == _FILE_MAGIC
    return ipc.open_file(content) if is_file else ipc.open_stream(content)


def _batches(reader: Any) -> Iterator[Any]:
    """Yield all ``pyarrow.RecordBatch``, which are views of the file."""
    if hasattr(reader, "num_record_batches"):
        yield from map(reader.get_batch, range(reader.num_record_batches))
    else:
        yield from reader


def _places(
    contents: ColumnPart, batch: Any, content: Any, table: TableFile
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Offset and size of each image of a batch.

    Raises:
        ConfigError: the images are not in the file as they are.
    """
    values = contents.of(batch)
    values.validate(full=True)  # that the bounds ascend, and lie within the bytes
    is_null = values.is_null().to_numpy(zero_copy_only=False)
    _, bounds_buffer, image_buffer = values.buffers()
    if is_null.all():  # then there need not be any buffers
        return np.zeros(len(values), np.int64), np.full(len(values), NULL, np.int64)
    kind = np.int64 if str(values.type).startswith("large_") else np.int32
    bounds = np.frombuffer(bounds_buffer, kind)[values.offset :][: len(values) + 1].astype(np.int64)
    sizes = np.where(is_null, NULL, np.diff(bounds))
    if not (sizes > 0).any():  # nor one of the bytes
        return np.zeros(len(values), np.int64), sizes
    start = image_buffer.address - content.address
    if not 0 <= start <= start + image_buffer.size <= content.size:
        raise table.error("", "is compressed; allowed: images that are in the file as they are, or Parquet")
    return start + bounds[:-1], sizes
