"""Files of named arrays: NumPy's ``.npy`` and ``.npz``, Parquet, and MATLAB's version 5, which all its readers know."""

import os
import zipfile
from collections.abc import Iterable
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.export.contents import VECTORS, Contents
from sppfeat.analysis.export.text_files import write_table
from sppfeat.config.machine import import_extra
from sppfeat.errors import ConfigError
from sppfeat.store.selection.row_table import RowColumn, TextColumn

__all__ = ["write_mat", "write_npy", "write_npz", "write_parquet"]

_MAT_LIMIT = 1 << 31  # bytes of a variable
_GROUP_NBYTES = 32 << 20  # size of the vectors of a row group of Parquet


def write_npy(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes the vectors ``(n, d)``, and the table into the second file."""
    _write_vectors(contents, files[0])
    write_table(contents, files[1])


def write_npz(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes all arrays, none of them pickled; the vectors are not compressed."""
    with zipfile.ZipFile(files[0], "w", allowZip64=True) as archive:
        with _member(archive, VECTORS, zipfile.ZIP_STORED) as member:
            _write_vectors(contents, member)
        for name, array in contents.arrays().items():
            # Texts are mostly padding, which compresses well.
            with _member(archive, name, zipfile.ZIP_DEFLATED) as member:
                if isinstance(array, TextColumn):
                    dtype = np.dtype(f"<U{max(1, array.longest)}")
                    _write_blocks(
                        member, (len(array),), dtype, (np.array(part, dtype) for part in array.parts())
                    )
                else:
                    np.lib.format.write_array(member, array, allow_pickle=False)


def write_mat(contents: Contents, files: list[BinaryIO]) -> None:
    r"""Writes all arrays with scipy, which needs the vectors in memory.

    Texts become cell arrays; bytes in them that are not UTF-8 are escaped as in ``\xff``.

    Raises:
        ConfigError: the content is too large for such a file, or scipy is not installed.
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


def write_parquet(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes a row group for each block of rows.

    Texts become strings; if any text of a column is not UTF-8, the whole column becomes binary. The schema's metadata
    holds the origin of the vectors as JSON under ``sppfeat``.

    Raises:
        ConfigError: the package pyarrow is not installed.
    """
    pa = import_extra("pyarrow", extra="parquet", purpose="writing Parquet")
    pq = import_extra("pyarrow.parquet", extra="parquet", purpose="writing Parquet")
    types = {name: _parquet_type(pa, column) for name, column in contents.table.items()}
    number = pa.from_numpy_dtype(contents.dtype)
    fields = [pa.field(name, kind) for name, kind in types.items()]
    # Values are not nullable: a missing vector is all NaN.
    vector = pa.list_(pa.field("element", number, nullable=False), contents.shape[1])
    schema = pa.schema(
        [*fields, pa.field("features", vector, nullable=False)], metadata={"sppfeat": contents.about_json()}
    )
    repeated = [name for name, column in contents.table.items() if isinstance(column, TextColumn)]
    with pq.ParquetWriter(files[0], schema, use_dictionary=repeated) as writer:
        for rows, vectors in contents.blocks(_GROUP_NBYTES):
            columns = [
                _parquet_column(pa, column, types[name], rows) for name, column in contents.table.items()
            ]
            flat = pa.array(vectors.reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=vector))
            writer.write_table(pa.table(columns, schema=schema), row_group_size=len(vectors))


def _member(archive: zipfile.ZipFile, name: str, compression: int) -> BinaryIO:
    entry = zipfile.ZipInfo(f"{name}.npy")  # no time stamp, so that the same export gives the same bytes
    entry.compress_type = compression
    return cast(BinaryIO, archive.open(entry, "w", force_zip64=True))


def _write_vectors(contents: Contents, file: BinaryIO) -> None:
    blocks = (vectors for _, vectors in contents.blocks())
    _write_blocks(file, contents.shape, contents.dtype, blocks)


def _write_blocks(
    file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[npt.NDArray[Any]]
) -> None:
    """Writes an array whose rows come in blocks, and of which no more than one block is in memory."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks:
        file.write(block.tobytes())


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
        f"a variable of a MATLAB 5 file has less than 2 GiB; found: {what}; allowed: fewer --rows or --levels; or the "
        "feature file itself, which MATLAB opens with h5read(FILE, '/features')"
    )


def _parquet_type(pa: Any, column: RowColumn) -> Any:
    if isinstance(column, TextColumn):
        return pa.string() if column.is_utf8 else pa.binary()
    return pa.from_numpy_dtype(column.dtype)


def _parquet_column(pa: Any, column: RowColumn, kind: Any, rows: slice) -> Any:
    values: Any = column[rows]
    if kind == pa.binary():
        values = [None if text is None else text.encode("utf-8", "surrogateescape") for text in values]
    return pa.array(values, type=kind)
