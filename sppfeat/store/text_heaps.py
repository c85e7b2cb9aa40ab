"""Reads texts safely from HDF5 files of unknown origin.

HDF5 stores texts of variable length in heaps, and a dataset holds references to them. A crafted file may refer to one
text many times, and HDF5 itself never stops searching some damaged heaps.
"""

import math
import os
import re
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError

__all__ = ["check_first_heaps", "check_texts", "read_texts"]

_TEXTS_NBYTES = 64 << 20  # of memory for texts read at a time, unless a single text is longer
_HEAP = re.compile(rb"GCOL\x01\x00\x00\x00")
_FIRST_NBYTES = 64 << 10
_OBJECT = struct.Struct("<H6xQ")  # an object of a heap: number, length


def check_first_heaps(file: h5py.File, path: Path) -> None:
    """Check the heaps at the beginning of the file, which hold the texts of attributes.

    Raises:
        StoreError: a heap is damaged.
    """
    content = os.pread(file.id.get_vfd_handle(), _FIRST_NBYTES, file.userblock_size)
    places = (match.start() for match in _HEAP.finditer(content))
    # A heap without references may be left over from earlier writes.
    found = [at for at in places if at.to_bytes(8, "little") in content]
    _check_heaps(file, np.array(found, dtype=np.uint64), path)


def read_texts(file: h5py.File, dataset: h5py.Dataset, path: Path) -> npt.NDArray[Any]:
    """Return the texts of a dataset, as bytes, in memory bounded by the size of the file.

    Programs that write texts store each one separately, so that the texts of a dataset are together no longer than the
    file. References that repeat one text could fill any memory.

    Raises:
        StoreError: the texts claim more bytes than the file has, or their heaps are damaged.
    """
    if check_texts(file, dataset, path):
        return np.asarray(dataset[()])
    file_nbytes = os.fstat(file.id.get_vfd_handle()).st_size
    texts = _read_in_parts(dataset, file_nbytes)
    if texts is None:
        raise _too_long(dataset, path, file_nbytes)
    return np.asarray(texts)


def check_texts(file: h5py.File, dataset: h5py.Dataset, path: Path) -> bool:
    """Check the texts of a dataset without reading them; return False for chunked texts, which need reading.

    Raises:
        StoreError: the texts claim more bytes than the file has, or their heaps are damaged.
    """
    offset = dataset.id.get_offset() if dataset.chunks is None else None
    if offset is None:
        return False
    fd = file.id.get_vfd_handle()
    total, heaps = _referenced(fd, offset, dataset.size, file.id.get_create_plist().get_sizes()[0])
    _check_heaps(file, heaps, path)
    file_nbytes = os.fstat(fd).st_size
    if total > file_nbytes:
        raise _too_long(dataset, path, file_nbytes)
    return True


def _too_long(dataset: h5py.Dataset, path: Path, file_nbytes: int) -> StoreError:
    return StoreError(
        f"{str(path)!r}: the texts of {one_line(dataset.name)} claim more bytes than the file has ({file_nbytes})"
    )


def _referenced(
    fd: int, offset: int, n_texts: int, address_nbytes: int
) -> tuple[int, npt.NDArray[np.uint64]]:
    """Return the total length of ``n_texts`` texts, and the addresses of their heaps, from their references."""
    total, step = 0, 1 << 20
    formats = ["<u4", f"<u{address_nbytes}"]
    entry = np.dtype(
        {"names": ["length", "heap"], "formats": formats, "offsets": [0, 4], "itemsize": 8 + address_nbytes}
    )
    heaps = [np.empty(0, dtype=np.uint64)]
    for first in range(0, n_texts, step):
        nbytes = min(step, n_texts - first) * entry.itemsize
        content = os.pread(fd, nbytes, offset + first * entry.itemsize)
        if len(content) != nbytes:
            raise OSError("the file was cut short while it was read")
        entries = np.frombuffer(content, dtype=entry)
        total += int(entries["length"].sum(dtype=np.int64))
        heaps.append(np.unique(entries["heap"][entries["length"] > 0]).astype(np.uint64))
    return total, np.unique(np.concatenate(heaps))


def _check_heaps(file: h5py.File, heaps: npt.NDArray[np.uint64], path: Path) -> None:
    """Refuse heaps with free space of 0 bytes, in which HDF5 (2.0, at least) would search forever.

    A heap is a header of 16 bytes followed by objects: a number (0 for free space), 6 bytes, a length, and that many
    bytes, padded to a multiple of 8. Bytes that were never written look like free space of 0 bytes.

    Args:
        file: the open file.
        heaps: ``(n,)`` addresses.
        path: the file, for messages.
    """
    if file.id.get_create_plist().get_sizes() != (8, 8):
        return
    fd = file.id.get_vfd_handle()
    file_nbytes = left = os.fstat(fd).st_size
    for address in heaps.tolist():
        place = address + file.userblock_size
        if place > file_nbytes:
            continue
        nbytes = int.from_bytes(os.pread(fd, 16, place)[8:], "little")
        left -= nbytes
        if left < 0:
            raise StoreError(f"{str(path)!r} is damaged: its heaps of texts are longer than the file")
        content, at, number, length = os.pread(fd, nbytes, place), 16, 1, 0
        while number and at <= len(content) - _OBJECT.size:
            number, length = _OBJECT.unpack_from(content, at)
            if not number and not length:
                raise StoreError(f"{str(path)!r} is damaged: a heap of texts has free space of 0 bytes")
            at += _OBJECT.size + (length + 7) // 8 * 8


def _read_in_parts(dataset: h5py.Dataset, file_nbytes: int) -> npt.NDArray[Any] | None:
    """Return texts, read a few at a time so that each could be as long as the file.

    Returns None if all of them together are longer than the file.
    """
    texts = np.empty(dataset.shape, dtype=object)
    width = math.prod(dataset.shape[1:])
    step = max(1, _TEXTS_NBYTES // file_nbytes)
    n_rows, n_columns, total = max(1, step // width), min(width, step), 0
    for row in range(0, len(texts), n_rows):
        for column in range(0, width, n_columns):
            part: Any = slice(row, row + n_rows)
            if texts.ndim > 1:
                part = (part, slice(column, column + n_columns))
            texts[part] = dataset[part]
            total += sum(map(len, texts[part].flat))
            if total > file_nbytes:
                return None
    return texts
