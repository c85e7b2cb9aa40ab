"""NumPy's box files: an .npz, an .npy or a folder of .npy files. Nothing is unpickled."""

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.formats.arrays import ARRAY_RULE, build_table, check_array, check_expansion
from sppfeat.boxes.table import BoxTable
from sppfeat.errors import BoxError
from sppfeat.files.tables import TEXT_RULE, encode_text, shorten

__all__ = ["ZIP_MAGIC", "read_numpy"]

ZIP_MAGIC = b"PK"

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile reads no others in bounded memory
_HEADER_BYTES = 10_012  # the longest header that numpy reads
_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_numpy(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of an .npz, of one .npy, or of a folder of .npy files."""
    if source.is_folder:
        names = source.files_of_format(b".npy", "")
        arrays = {
            os.path.splitext(name)[0]: _read_array(source, source.read(name), "", name=name) for name in names
        }
        return build_table(arrays, "numpy")
    content = source.read()
    if content.startswith(ZIP_MAGIC):
        return build_table(_read_archive(source, content), "numpy")
    return build_table({source.stem: _read_array(source, content, "")}, "numpy", names="single")


def _read_archive(source: AnnotationFiles, content: bytes) -> dict[bytes, npt.NDArray[Any]]:
    boxes: dict[bytes, npt.NDArray[Any]] = {}
    n_boxes = 0
    with _damage_reported(source, ""):
        archive = zipfile.ZipFile(io.BytesIO(content))
    with archive:
        for member in archive.infolist():
            name, suffix = os.path.splitext(member.filename)
            key = encode_text(name)
            if suffix != ".npy" or not key:
                raise source.error(
                    "",
                    f"found {shorten(member.filename)} in the archive; allowed: .npy, named by the image, {TEXT_RULE}",
                )
            where = f"key {shorten(os.fsdecode(key))}"
            if key in boxes:
                raise source.error(where, "found twice; allowed: every image once")
            if member.compress_type not in _COMPRESSIONS:
                raise source.error(
                    where,
                    f"found compression {member.compress_type}; allowed: none, or deflate, as numpy writes them",
                )
            with _damage_reported(source, where), archive.open(member) as file:
                array = file.read(_HEADER_BYTES)
                shape, *_ = _read_header(source, array, member.file_size, where)
                n_boxes += shape[0]
                check_expansion(source, where, n_boxes, len(content))
                array += file.read(member.file_size)  # a read without a size would expand without limit
            boxes[key] = _read_array(source, array, where)
    return boxes


@contextlib.contextmanager
def _damage_reported(source: AnnotationFiles, where: str) -> Iterator[None]:
    try:
        yield
    except (BoxError, MemoryError):
        raise
    except Exception as error:  # zipfile raises nearly anything on a damaged file
        reason = shorten(str(error) or type(error).__name__)
        raise source.error(where, f"found a damaged .npz: {reason}; allowed: a whole one") from error


def _read_array(
    source: AnnotationFiles, content: bytes, where: str, *, name: bytes | None = None
) -> npt.NDArray[Any]:
    shape, is_fortran, dtype, start = _read_header(
        source, content[:_HEADER_BYTES], len(content), where, name=name
    )
    flat = np.frombuffer(content, dtype, count=math.prod(shape), offset=start)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _read_header(
    source: AnnotationFiles, head: bytes, n_bytes: int, where: str, *, name: bytes | None = None
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read shape, Fortran order, dtype and offset of the items of an .npy, and check them against the file's size."""

    def error(found: str, allowed: str) -> BoxError:
        return source.error(where, f"found {found}; allowed: {allowed}", name)

    file = io.BytesIO(head)
    try:
        shape, is_fortran, dtype = _READ_HEADER[np.lib.format.read_magic(file)](file)
    except Exception as reason:  # numpy raises nearly anything on a damaged header
        found = f"{shorten(head[:40])}, {shorten(str(reason))}"
        raise error(found, "an array as numpy.save writes it") from reason
    if dtype.hasobject:
        found = f"an array of Python objects, {dtype.str!r}, which would have to be unpickled"
        raise error(found, ARRAY_RULE)
    check_array(source, where, shape, dtype, name=name)
    n_declared = file.tell() + math.prod(shape) * dtype.itemsize
    if n_declared != n_bytes:
        raise error(
            f"{n_bytes} bytes, but {dtype} of shape {shape} has {n_declared}", "as many as it declares"
        )
    return shape, is_fortran, dtype, file.tell()
