"""MATLAB files: version 5, which all readers support, up to 2 GiB per variable; version 7.3 for larger ones."""

import os
import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.export.contents import VECTORS, Contents, arrays_beside
from sppfeat.config.machine import import_extra
from sppfeat.errors import ConfigError
from sppfeat.store.mat73 import NamedArray, Vectors, to_matlab_text, write_mat73_file
from sppfeat.store.selection.row_table import TextColumn

__all__ = ["write_mat", "write_mat73"]

_LIMIT = 1 << 31
_BLOCK_NBYTES = 32 << 20  # size of a block of rows
# Codes of data types and array types: MAT-File Format, tables 1-1 and 1-3.
_MATRIX = 14
_INT8, _INT32, _UINT32 = 1, 5, 6
_ELEMENTS = {"float32": (7, 7), "float64": (9, 6)}  # data type, array type


def write_mat73(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes all arrays into a file of version 7.3, which is HDF5; see :func:`sppfeat.store.mat73.write_mat73_file`."""
    vectors = Vectors(VECTORS, (contents.n_rows, contents.dimension), contents.dtype, contents.blocks)
    write_mat73_file(files[0], arrays_beside(contents), vectors)


def write_mat(contents: Contents, files: list[BinaryIO]) -> None:
    r"""Writes all arrays: ``X`` in blocks of rows, the others with scipy.

    Texts become cell arrays; bytes in them that are not UTF-8 are escaped as in ``\xff``.

    Raises:
        ConfigError: the content is too large for such a file, or scipy is not installed.
    """
    if contents.nbytes >= _LIMIT - 4096:
        raise _too_large(
            f"{contents.n_rows} x {contents.dimension} {contents.dtype}: {contents.nbytes} bytes"
        )
    variables = {name: _variable(array) for name, array in arrays_beside(contents).items()}
    scipy_io = import_extra("scipy.io.matlab", extra="mat", purpose="writing MATLAB files")
    try:
        scipy_io.savemat(files[0], variables, oned_as="column")
    except scipy_io.MatWriteError as error:
        raise _too_large(str(error)) from error
    _write_vectors(contents, files[0])


def _variable(array: NamedArray) -> npt.NDArray[Any]:
    """An array for scipy: numbers unchanged, texts as a cell array of one column, several texts as nested cells."""
    if isinstance(array, TextColumn):
        return _cells([text for part in array.parts() for text in part])
    if isinstance(array, tuple):
        return _cells([_variable(column) for column in array])
    return _cells(array) if isinstance(array, list) else array


def _cells(contents: Sequence[Any]) -> npt.NDArray[np.object_]:
    cells = np.empty((len(contents), 1), dtype=object)
    cells[:, 0] = [to_matlab_text(c) if isinstance(c, str) else c for c in contents]
    return cells


def _write_vectors(contents: Contents, file: BinaryIO) -> None:
    """Appends the vectors ``(n, d)``, column by column as MATLAB stores them."""
    numbers, array = _ELEMENTS[contents.dtype.name]
    start = _write_head(
        file, array, numbers, shape=(contents.n_rows, contents.dimension), nbytes=contents.nbytes
    )
    itemsize = contents.dtype.itemsize
    for rows, vectors in contents.blocks(_BLOCK_NBYTES):
        for column, values in enumerate(np.ascontiguousarray(vectors.T)):
            at = start + (column * contents.n_rows + rows.start) * itemsize
            _write_at(file.fileno(), values, at)
    file.seek(0, os.SEEK_END)


def _write_head(file: BinaryIO, array: int, numbers: int, *, shape: tuple[int, int], nbytes: int) -> int:
    """Writes the variable up to its numbers and reserves their space; returns the offset of the numbers."""
    padding = -nbytes % 8
    name = VECTORS.encode()
    inner = struct.pack("<IIII", _UINT32, 8, array, 0)
    inner += struct.pack("<IIii", _INT32, 8, *shape)
    inner += struct.pack("<II8s", _INT8, len(name), name)
    inner += struct.pack("<II", numbers, nbytes)
    file.write(struct.pack("<II", _MATRIX, len(inner) + nbytes + padding) + inner)
    file.flush()
    start = file.tell()
    os.ftruncate(file.fileno(), start + nbytes + padding)
    return start


def _write_at(fd: int, values: npt.NDArray[Any], at: int) -> None:
    """Writes all values at an offset of a file, even if the system writes only some at a time."""
    left = memoryview(values.data).cast("B")
    while left:
        n = os.pwrite(fd, left, at)
        left, at = left[n:], at + n


def _too_large(what: str) -> ConfigError:
    return ConfigError(
        f"a variable of a MATLAB 5 file has less than 2 GiB; found: {what}; allowed: --format mat73 (MATLAB 7.3), "
        "fewer --rows or --levels; or the feature file itself, which MATLAB opens with h5read(FILE, '/features')"
    )
