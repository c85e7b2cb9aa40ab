"""MATLAB 7.3 files: HDF5 with what MATLAB wants to be told of each dataset; of any size."""

import contextlib
import io
import traceback
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.analysis.export.arrays import VECTORS, NamedArray, arrays_beside
from sppfeat.analysis.export.contents import Contents
from sppfeat.analysis.export.matlab_texts import matlab_text
from sppfeat.store.selection.row_table import TextColumn

__all__ = ["write_mat73"]

_USERBLOCK = 512
_CLASSES = {"float32": "single", "float64": "double", "bool": "logical", "uint16": "char"}
_DECODED = {"bool": 1, "uint16": 2}  # what the integers stand for
_CHUNK_NBYTES = 4 << 20
_HEAD = b"MATLAB 7.3 MAT-file, Platform: unknown, Created by: sppfeat HDF5 schema 1.00 ."
_CELLS = "#refs#"


def write_mat73(contents: Contents, files: list[BinaryIO]) -> None:
    r"""Write all arrays, the vectors in blocks of rows.

    A text for each row is a row of a matrix of characters, filled up with zeros; few texts are a cell array. What in
    them is no UTF-8 is escaped as in ``\xff``. MATLAB keeps arrays column by column: HDF5 sees their transposes.
    """
    file = files[0]
    with _new_hdf5(file.name) as hdf5:
        for name, array in arrays_beside(contents).items():
            _write(hdf5, name, array)
        _write_vectors(hdf5, contents)
    file.seek(0)
    # Text, where subsystem data would begin (nowhere), version, byte order.
    file.write(_HEAD.ljust(116) + bytes(8) + b"\x00\x02IM")


def _write_vectors(hdf5: h5py.File, contents: Contents) -> None:
    shape = (contents.n_rows, contents.dimension)
    if 0 in shape:
        _write_empty(hdf5, VECTORS, shape, contents.dtype)
        return
    n_rows = max(1, min(contents.n_rows, _CHUNK_NBYTES // (contents.dimension * contents.dtype.itemsize)))
    # Rows of one chunk are side by side: a block of rows is written in one piece, and read so.
    dataset = _create(hdf5, VECTORS, shape[::-1], contents.dtype, chunks=(contents.dimension, n_rows))
    _tell_class(dataset, contents.dtype)
    block_nbytes = 4 * n_rows * contents.dimension * contents.dtype.itemsize  # whole chunks
    for rows, vectors in contents.blocks(block_nbytes):
        dataset[:, rows] = vectors.T


def _write(group: h5py.Group, name: str, array: NamedArray) -> None:
    if isinstance(array, TextColumn):
        _write_texts(group, name, array)
    elif isinstance(array, tuple | list):
        _write_cells(group, name, array)
    else:
        _write_numbers(group, name, array)


def _write_numbers(group: h5py.Group, name: str, array: npt.NDArray[Any]) -> None:
    if array.size == 0:
        _write_empty(group, name, array.shape, array.dtype)
        return
    columns = array.reshape(len(array), -1).T
    stored = columns.astype(np.uint8) if array.dtype == bool else columns
    _tell_class(_create(group, name, data=stored), array.dtype)


def _write_texts(group: h5py.Group, name: str, column: TextColumn) -> None:
    """Write ``(n, longest)`` characters."""
    used = np.unique(column.index[column.index >= 0]).tolist()
    width = max((len(_utf16(column.texts[i])) for i in used), default=0)
    if not width or not len(column):
        _write_empty(group, name, (len(column), width), np.dtype(np.uint16))
        return
    shape = (width, len(column))
    chunks = (width, max(1, min(len(column), _CHUNK_NBYTES // (2 * width))))
    dataset = _create(group, name, shape, np.uint16, chunks=chunks, compression="gzip", compression_opts=1)
    _tell_class(dataset, dataset.dtype)
    for start in range(0, len(column), chunks[1]):
        texts = column[start : start + chunks[1]]
        characters = np.zeros((len(texts), width), dtype=np.uint16)
        for row, text in zip(characters, texts, strict=True):
            units = _utf16(text or "")
            row[: len(units)] = units
        dataset[:, start : start + len(texts)] = characters.T


def _write_text(group: h5py.Group, name: str, text: str) -> None:
    """Write ``(1, length)`` characters, without chunks: these take 3 kB for a text, and there may be 100,000."""
    units = _utf16(text)
    if not len(units):
        _write_empty(group, name, (1, 0), units.dtype)
        return
    dataset = _create(group, name, data=units[:, None])
    _tell_class(dataset, dataset.dtype)


def _write_cells(group: h5py.Group, name: str, cells: Sequence[str | TextColumn]) -> None:
    """Write a cell array ``(k, 1)``: references to datasets of a group that MATLAB does not show."""
    if not cells:
        _write_empty(group, name, (0, 1), np.dtype(np.float64), matlab_class="cell")
        return
    hidden = group.file.require_group(_CELLS)
    references = []
    for i, cell in enumerate(cells):
        if isinstance(cell, str):
            _write_text(hidden, f"{name}.{i}", cell)
        else:
            _write_texts(hidden, f"{name}.{i}", cell)
        references.append(hidden[f"{name}.{i}"].ref)
    dataset = _create(group, name, data=np.array([references], dtype=h5py.ref_dtype))
    dataset.attrs["MATLAB_class"] = np.bytes_("cell")


def _write_empty(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], *, matlab_class: str = ""
) -> None:
    """Write an array without elements: what the dataset holds is its shape."""
    sides = shape if len(shape) > 1 else (*shape, 1)
    dataset = _create(group, name, data=np.array(sides, dtype=np.uint64))
    _tell_class(dataset, dtype)
    if matlab_class:
        dataset.attrs["MATLAB_class"] = np.bytes_(matlab_class)
    dataset.attrs["MATLAB_empty"] = np.uint8(1)


def _create(group: h5py.Group, name: str, *arguments: Any, **settings: Any) -> h5py.Dataset:
    """Create a dataset.

    Raises:
        OSError: it cannot be written, such as on a full disk; h5py makes a ValueError of that.
    """
    try:
        return group.create_dataset(name, *arguments, **settings)
    except ValueError as error:
        raise OSError(str(error)) from error


def _tell_class(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> None:
    dataset.attrs["MATLAB_class"] = np.bytes_(_CLASSES.get(dtype.name, dtype.name))
    if dtype.name in _DECODED:
        dataset.attrs["MATLAB_int_decode"] = np.int32(_DECODED[dtype.name])


def _utf16(text: bytes | str) -> npt.NDArray[np.uint16]:
    return np.frombuffer(matlab_text(text).encode("utf-16-le"), dtype="<u2")


@contextlib.contextmanager
def _new_hdf5(name: str) -> Iterator[h5py.File]:
    """A new file, closed at the end; what h5py raises where the disk is full becomes an OSError.

    Then it also prints a traceback of its own for everything of the file that cannot be closed, as soon as nothing
    refers to it any more: here, where nobody sees it.
    """
    try:
        # Without HDF5's own lock: it is locked already, by whoever opened the file that has this name.
        hdf5 = h5py.File(name, "w", userblock_size=_USERBLOCK, libver="earliest", locking=False)
        try:
            yield hdf5
        except BaseException as error:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(OSError, RuntimeError):
                traceback.clear_frames(error.__traceback__)
                hdf5.close()
            raise
        with contextlib.redirect_stderr(io.StringIO()):
            hdf5.close()
    except RuntimeError as error:
        raise OSError(str(error)) from error
