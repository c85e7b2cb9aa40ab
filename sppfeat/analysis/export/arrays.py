"""Array formats: NumPy's .npy and .npz, Zarr, and MATLAB 5."""

import json
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.export.contents import BLOCK_NBYTES, VECTORS, Contents
from sppfeat.analysis.export.text import write_table
from sppfeat.config.machine import import_extra
from sppfeat.errors import ConfigError
from sppfeat.store.row_table import RowColumn, TextColumn

__all__ = ["write_mat", "write_npy", "write_npz", "write_zarr"]

_CHUNK_ROWS = 1 << 16  # of the arrays other than the vectors, in Zarr
_MAT_LIMIT = 1 << 31  # bytes of a variable


def write_npy(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes the vectors ``(n, d)``, and the table into the second file."""
    _write_vectors(contents, files[0])
    for table in files[1:]:
        write_table(contents, table)


def write_npz(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes all arrays, none of them pickled; the vectors are not compressed."""
    with zipfile.ZipFile(files[0], "w", allowZip64=True) as archive:
        with _member(archive, VECTORS, zipfile.ZIP_STORED) as member:
            _write_vectors(contents, member)
        for name, array in contents.arrays().items():
            # Texts are mostly padding, which compresses well.
            with _member(archive, name, zipfile.ZIP_DEFLATED) as member:
                if isinstance(array, TextColumn):
                    dtype = _text_dtype(array)
                    _write_blocks(
                        member, (len(array),), dtype, (np.array(part, dtype) for part in array.parts())
                    )
                else:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def _member(archive: zipfile.ZipFile, name: str, compression: int) -> BinaryIO:
    entry = zipfile.ZipInfo(f"{name}.npy")  # no time stamp, so that the same export gives the same bytes
    entry.compress_type = compression
    return cast(BinaryIO, archive.open(entry, "w", force_zip64=True))


def _write_vectors(contents: Contents, file: BinaryIO) -> None:
    _write_blocks(file, contents.shape, contents.dtype, (vectors for _, vectors in contents.blocks()))


def _write_blocks(
    file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[npt.NDArray[Any]]
) -> None:
    """Writes an array in blocks of rows, one of them in memory at a time."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks:
        file.write(block.tobytes())


def _text_dtype(column: TextColumn) -> np.dtype[np.str_]:
    return np.dtype(f"<U{max(1, column.longest)}")


def write_zarr(contents: Contents, folder: Path) -> None:
    """Writes all arrays as a Zarr group of format 2, which versions 2 and 3 of zarr read.

    The attributes of the group hold the origin of the vectors. Texts are arrays of fixed length, because they keep
    names that are not UTF-8.
    """
    zarr = import_extra("zarr", extra="zarr", purpose="writing Zarr")
    is_version_3 = hasattr(zarr.Group, "create_array")
    group = zarr.open_group(str(folder), mode="w", **({"zarr_format": 2} if is_version_3 else {}))
    create = group.create_array if is_version_3 else group.create_dataset

    def add(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int) -> Any:
        chunks = tuple(max(1, side) for side in (min(chunk_rows, shape[0]), *shape[1:]))
        return create(name=name, shape=shape, chunks=chunks, dtype=dtype)

    n_rows, dimension = contents.shape
    row_nbytes = dimension * contents.dtype.itemsize
    vectors = add(VECTORS, (n_rows, dimension), contents.dtype, BLOCK_NBYTES // row_nbytes)
    for rows, block in contents.blocks():
        vectors[rows] = block
    for name, array in contents.arrays().items():
        if name == "about":
            group.attrs.update(json.loads(contents.about_json()))
        elif isinstance(array, TextColumn):
            texts = add(name, (len(array),), _text_dtype(array), _CHUNK_ROWS)
            start = 0
            for part in array.parts():
                texts[start : start + len(part)] = np.array(part, texts.dtype)
                start += len(part)
        else:
            add(name, array.shape, array.dtype, _CHUNK_ROWS)[...] = array


def write_mat(contents: Contents, files: list[BinaryIO]) -> None:
    r"""Writes all arrays with scipy, which needs the vectors in memory.

    Texts become cell arrays; bytes in them that are not UTF-8 are escaped as in ``\xff``.
    """
    n_rows, dimension = contents.shape
    nbytes = n_rows * dimension * contents.dtype.itemsize
    if nbytes >= _MAT_LIMIT - 4096:
        raise _too_large(f"{n_rows} x {dimension} {contents.dtype}: {nbytes} bytes")
    matlab = import_extra("scipy.io.matlab", extra="mat", purpose="writing MATLAB files")
    variables = {name: _mat_variable(array) for name, array in contents.arrays().items()}
    variables[VECTORS] = np.empty(contents.shape, dtype=contents.dtype)
    for rows, vectors in contents.blocks():
        variables[VECTORS][rows] = vectors
    try:
        matlab.savemat(files[0], variables, oned_as="column")
    except matlab.MatWriteError as error:
        raise _too_large(str(error)) from error


def _mat_variable(array: RowColumn) -> npt.NDArray[Any]:
    """An array for scipy: numbers unchanged, texts as a cell array of one column, columns of texts as nested cells."""
    if isinstance(array, TextColumn):
        return _cells(text for part in array.parts() for text in part)
    if array.dtype.kind != "U":
        return array
    return _cells(array.tolist()) if array.ndim == 1 else _cells(map(_cells, array.T.tolist()))


def _cells(contents: Iterable[Any]) -> npt.NDArray[np.object_]:
    listed = [
        os.fsencode(c).decode("utf-8", "backslashreplace") if isinstance(c, str) else c for c in contents
    ]
    cells = np.empty((len(listed), 1), dtype=object)
    cells[:, 0] = listed
    return cells


def _too_large(what: str) -> ConfigError:
    return ConfigError(
        f"a variable of a MATLAB 5 file holds less than 2 GiB; found: {what}. Select fewer --rows or --levels, or open "
        "the feature file itself in MATLAB with h5read(FILE, '/features')"
    )
