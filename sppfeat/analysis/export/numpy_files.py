"""NumPy files: ``.npy`` with the vectors alone, ``.npz`` with all arrays."""

import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.export.contents import VECTORS, Contents, arrays_beside
from sppfeat.analysis.export.text_files import write_table
from sppfeat.store.mat73 import NamedArray
from sppfeat.store.selection.row_table import TextColumn

__all__ = ["write_npy", "write_npz"]


def write_npy(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes the vectors ``(n, d)``, and the table into the second file."""
    _write_array(files[0], (contents.n_rows, contents.dimension), contents.dtype, _vectors(contents))
    write_table(contents, files[1])


def write_npz(contents: Contents, files: list[BinaryIO]) -> None:
    """Writes all arrays, none of them pickled; the vectors are not compressed."""
    with zipfile.ZipFile(files[0], "w", allowZip64=True) as archive:
        with _member(archive, VECTORS, zipfile.ZIP_STORED) as member:
            _write_array(member, (contents.n_rows, contents.dimension), contents.dtype, _vectors(contents))
        for name, array in arrays_beside(contents).items():
            with _member(
                archive, name, zipfile.ZIP_DEFLATED
            ) as member:  # texts are mostly padding, which compresses well
                _write_named(member, array)


def _member(archive: zipfile.ZipFile, name: str, compression: int) -> BinaryIO:
    entry = zipfile.ZipInfo(f"{name}.npy")  # no time stamp, so that the same export gives the same bytes
    entry.compress_type = compression
    return cast(BinaryIO, archive.open(entry, "w", force_zip64=True))


def _write_named(file: BinaryIO, array: NamedArray) -> None:
    if isinstance(array, TextColumn):
        dtype = _text_dtype(array.longest)
        _write_array(file, (len(array),), dtype, (np.array(part, dtype=dtype) for part in array.parts()))
    elif isinstance(array, tuple):
        dtype = _text_dtype(max((column.longest for column in array), default=0))
        parts = zip(*(column.parts() for column in array), strict=True)
        blocks = (np.array(part, dtype=dtype).T for part in parts)
        _write_array(file, (len(array[0]) if array else 0, len(array)), dtype, blocks)
    elif isinstance(array, list):
        texts = np.array(array, dtype=_text_dtype(max(map(len, array), default=0)))
        _write_array(file, texts.shape, texts.dtype, [texts])
    else:
        _write_array(file, array.shape, array.dtype, [array])


def _text_dtype(n_characters: int) -> np.dtype[np.str_]:
    return np.dtype(f"<U{max(1, n_characters)}")


def _vectors(contents: Contents) -> Iterator[npt.NDArray[Any]]:
    return (vectors for _, vectors in contents.blocks())


def _write_array(
    file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterable[npt.NDArray[Any]]
) -> None:
    """Writes an array whose rows come in blocks."""
    stored = dtype.newbyteorder("<")
    header = {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in blocks:
        file.write(np.ascontiguousarray(block, dtype=stored).tobytes())
