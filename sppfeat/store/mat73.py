"""MATLAB 7.3 files of any size: HDF5 with the attributes that MATLAB expects of each dataset."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt

from sppfeat.store.hdf5 import new_hdf5
from sppfeat.store.selection.row_table import TextColumn

__all__ = ["NamedArray", "Vectors", "to_matlab_text", "write_mat73_file"]

# Numbers with one entry per row; one text per row; several such columns; or a few texts.
NamedArray: TypeAlias = "npt.NDArray[Any] | TextColumn | tuple[TextColumn, ...] | list[str]"

_USERBLOCK = 512
_CLASSES = {"float32": "single", "float64": "double", "bool": "logical", "uint16": "char"}
_DECODED = {"bool": 1, "uint16": 2}  # MATLAB's code for the meaning of the integers
_CHUNK_NBYTES = 4 << 20
_HEAD = b"MATLAB 7.3 MAT-file, Platform: unknown, Created by: sppfeat HDF5 schema 1.00 ."
_CELLS = "#refs#"


class Vectors(NamedTuple):
    """A matrix ``(n, d)`` to write in blocks of rows.

    Attributes:
        name: name of the array.
        shape: ``(n, d)``.
        dtype: float32 or float64.
        blocks: function of a number of bytes; yields ranges of rows with their values ``(k, d)``, about that many
            bytes at a time.
    """

    name: str
    shape: tuple[int, int]
    dtype: np.dtype[np.floating[Any]]
    blocks: Callable[[int], Iterable[tuple[slice, npt.NDArray[np.floating[Any]]]]]


def write_mat73_file(file: BinaryIO, arrays: Mapping[str, NamedArray], vectors: Vectors) -> None:
    r"""Write named arrays, and one matrix in blocks of rows.

    A column of texts becomes a matrix of characters, one row each, padded with zeros; a few texts become a cell array.
    Bytes that are not UTF-8 are escaped as in ``\xff``. MATLAB stores arrays column by column, so HDF5 holds their
    transposes.

    Args:
        file: a named file, open for writing; its content is replaced.
        arrays: the arrays by name; see ``NamedArray``.
        vectors: the matrix.

    Raises:
        OSError: it cannot be written.
    """
    # Without HDF5's own lock: the caller already holds one.
    settings = {"userblock_size": _USERBLOCK, "libver": "earliest", "locking": False}
    with new_hdf5(file.name, **settings) as hdf5:
        for name, array in arrays.items():
            _write(hdf5, name, array)
        _write_vectors(hdf5, vectors)
    file.seek(0)
    # Header of a MAT-file: description, offset of subsystem data (none), version, byte order.
    file.write(_HEAD.ljust(116) + bytes(8) + b"\x00\x02IM")


def to_matlab_text(text: bytes | str) -> str:
    r"""Return a text for MATLAB, whose characters are UTF-16: bytes that are not UTF-8 are escaped.

    Example:
        >>> print(to_matlab_text(b"a\xff.jpg"))
        a\xff.jpg
    """
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _write_vectors(hdf5: h5py.File, vectors: Vectors) -> None:
    n_rows, dimension = vectors.shape
    if 0 in vectors.shape:
        _write_empty(hdf5, vectors.name, vectors.shape, vectors.dtype)
        return
    row_nbytes = dimension * vectors.dtype.itemsize
    chunk_rows = max(1, min(n_rows, _CHUNK_NBYTES // row_nbytes))
    # A chunk holds whole rows, so that a block of rows is written and read in one piece.
    chunks = (dimension, chunk_rows)
    dataset = _create(hdf5, vectors.name, vectors.shape[::-1], vectors.dtype, chunks=chunks)
    _set_matlab_class(dataset, vectors.dtype)
    for rows, block in vectors.blocks(4 * chunk_rows * row_nbytes):  # whole chunks
        dataset[:, rows] = block.T


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
    _set_matlab_class(_create(group, name, data=stored), array.dtype)


def _write_texts(group: h5py.Group, name: str, column: TextColumn) -> None:
    """Write a column of texts as a matrix ``(n, longest)`` of characters."""
    used = np.unique(column.index[column.index >= 0]).tolist()
    width = max((len(_utf16(column.texts[i])) for i in used), default=0)
    if not width or not len(column):
        _write_empty(group, name, (len(column), width), np.dtype(np.uint16))
        return
    shape = (width, len(column))
    chunks = (width, max(1, min(len(column), _CHUNK_NBYTES // (2 * width))))
    dataset = _create(group, name, shape, np.uint16, chunks=chunks, compression="gzip", compression_opts=1)
    _set_matlab_class(dataset, dataset.dtype)
    for start in range(0, len(column), chunks[1]):
        texts = column[start : start + chunks[1]]
        characters = np.zeros((len(texts), width), dtype=np.uint16)
        for row, text in zip(characters, texts, strict=True):
            units = _utf16(text or "")
            row[: len(units)] = units
        dataset[:, start : start + len(texts)] = characters.T


def _write_text(group: h5py.Group, name: str, text: str) -> None:
    """Write ``(1, length)`` characters, unchunked: a chunk adds 3 kB, and there may be 100,000 texts."""
    units = _utf16(text)
    if not len(units):
        _write_empty(group, name, (1, 0), units.dtype)
        return
    dataset = _create(group, name, data=units[:, None])
    _set_matlab_class(dataset, dataset.dtype)


def _write_cells(group: h5py.Group, name: str, cells: Sequence[str | TextColumn]) -> None:
    """Write a cell array ``(k, 1)``: references to datasets in a group that MATLAB hides."""
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
    """Write an array without elements: the dataset holds its shape."""
    sides = shape if len(shape) > 1 else (*shape, 1)
    dataset = _create(group, name, data=np.array(sides, dtype=np.uint64))
    _set_matlab_class(dataset, dtype)
    if matlab_class:
        dataset.attrs["MATLAB_class"] = np.bytes_(matlab_class)
    dataset.attrs["MATLAB_empty"] = np.uint8(1)


def _create(group: h5py.Group, name: str, *arguments: Any, **settings: Any) -> h5py.Dataset:
    """Create a dataset.

    Raises:
        OSError: it cannot be written, for example on a full disk, which h5py reports as a ValueError.
    """
    try:
        return group.create_dataset(name, *arguments, **settings)
    except ValueError as error:
        raise OSError(str(error)) from error


def _set_matlab_class(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> None:
    dataset.attrs["MATLAB_class"] = np.bytes_(_CLASSES.get(dtype.name, dtype.name))
    if dtype.name in _DECODED:
        dataset.attrs["MATLAB_int_decode"] = np.int32(_DECODED[dtype.name])


def _utf16(text: bytes | str) -> npt.NDArray[np.uint16]:
    return np.frombuffer(to_matlab_text(text).encode("utf-16-le"), dtype="<u2")
