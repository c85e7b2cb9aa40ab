"""NumPy's box files: an .npz, an .npy or a folder of .npy files. Nothing is unpickled."""

import contextlib
import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.formats.arrays import (
    ARRAY_RULE,
    ImageBoxes,
    boxes_of_array,
    build_table,
    check_expansion,
    is_box_shape,
)
from sppfeat.boxes.table import BoxTable
from sppfeat.config.regions import default_convention
from sppfeat.errors import BoxError
from sppfeat.files.cells import TEXT_RULE, encode_text, shorten

__all__ = ["NPY_MAGIC", "ZIP_MAGIC", "read_numpy"]

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"

_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile reads no others in bounded memory

# numpy's own reader evaluates the header as Python source; three regular expressions suffice for plain arrays.
_DESCR = re.compile(rb"""['"]descr['"]\s*:\s*['"]([^'"]*)['"]""")
_ORDER = re.compile(rb"""['"]fortran_order['"]\s*:\s*(True|False)""")
_SHAPE = re.compile(rb"""['"]shape['"]\s*:\s*\(([^()]*)\)""")
_SIDE = re.compile(rb"\s*([0-9]{1,18})L?\s*")
_BOX_DTYPE = re.compile(rb"[<>|=]?(?:[iu][1248]|f[248])")
_HEADER_BYTES = 10_012  # numpy reads no header longer than 10,000 bytes, either

_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,  # a compression method, a version
    RuntimeError,  # a password
    EOFError,
    OSError,
    ValueError,  # offsets beyond the file, names that are not text
    OverflowError,
    IndexError,
)


def read_numpy(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of an .npz, of one .npy, or of a folder of .npy files.

    Raises:
        BoxError: an array cannot hold boxes, or a file is damaged.
    """
    convention = default_convention("numpy")
    if source.is_folder:
        names = source.files(b".npy")
        if not names:
            raise source.error("", "found no .npy file in the folder; allowed: one or more")
        boxes = [
            boxes_of_array(os.path.splitext(name)[0], _read_array(source, source.read(name), "", name=name))
            for name in names
        ]
        return build_table(boxes, convention)
    content = source.read()
    if content.startswith(ZIP_MAGIC):
        return build_table(_read_archive(source, content), convention)
    return build_table(
        [boxes_of_array(source.stem, _read_array(source, content, ""))], convention, names="single"
    )


def _read_archive(source: AnnotationFiles, content: bytes) -> list[ImageBoxes]:
    boxes: dict[bytes, ImageBoxes] = {}
    with _damage_reported(source, ""):
        archive = zipfile.ZipFile(io.BytesIO(content))
    n_boxes = 0
    with archive:
        for member in archive.infolist():
            key = _key(source, member)
            if key in boxes:
                raise source.error(f"key {_show(key)}", "found twice; allowed: every image once")
            where = f"key {_show(key)}"
            header = _member_header(source, archive, member, where)
            n_boxes += header.shape[0]
            check_expansion(source, where, n_boxes, len(content))
            with _damage_reported(source, where), archive.open(member) as file:
                array = file.read(member.file_size)  # a read without a size would expand without limit
            boxes[key] = boxes_of_array(key, _read_array(source, array, where))
    return list(boxes.values())


@contextlib.contextmanager
def _damage_reported(source: AnnotationFiles, where: str) -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise source.error(
            where,
            f"found a damaged .npz: {shorten(str(error) or type(error).__name__)}; allowed: a whole one",
        ) from error


def _key(source: AnnotationFiles, member: zipfile.ZipInfo) -> bytes:
    name, suffix = os.path.splitext(member.filename)
    key = encode_text(name)
    if suffix != ".npy" or not key:
        raise source.error(
            "",
            f"found {shorten(member.filename)} in the archive; allowed: .npy, named by the image, {TEXT_RULE}",
        )
    return key


def _member_header(
    source: AnnotationFiles, archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str
) -> "_Header":
    if member.compress_type not in _COMPRESSIONS:
        raise source.error(
            where,
            f"found compression {member.compress_type}; allowed: none, or deflate, as numpy writes them",
        )
    with _damage_reported(source, where), archive.open(member) as file:
        head = file.read(_HEADER_BYTES)
    return _parse_header(source, head, member.file_size, where)


class _Header(NamedTuple):
    """The header of an .npy file: dtype, shape and order of the array, and the offset of its first byte."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    start: int


def _read_array(
    source: AnnotationFiles, content: bytes, where: str, *, name: bytes | None = None
) -> npt.NDArray[Any]:
    header = _parse_header(source, content[:_HEADER_BYTES], len(content), where, name=name)
    flat = np.frombuffer(content, header.dtype, count=math.prod(header.shape), offset=header.start)
    return flat.reshape(header.shape, order=header.order)


def _parse_header(
    source: AnnotationFiles, head: bytes, n_bytes: int, where: str, *, name: bytes | None = None
) -> _Header:
    """Parse the header of an .npy, and check that it declares boxes and fits the size of the file."""

    def error(found: str, allowed: str = ARRAY_RULE) -> BoxError:
        return source.error(where, f"found {found}; allowed: {allowed}", name)

    text, start = _header_text(head)
    descr, order, shape = (pattern.search(text) for pattern in (_DESCR, _ORDER, _SHAPE))
    if order is None or shape is None:
        raise error(shorten(head[:40]), "an array as numpy.save writes it")
    if descr is None:
        raise error(f"an array of records, {_show(text)}")
    if descr[1].lstrip(b"|<>=").startswith(b"O"):
        raise error(f"an array of Python objects, {_show(descr[1])}, which would have to be unpickled")
    dtype = np.dtype(descr[1].decode()) if _BOX_DTYPE.fullmatch(descr[1]) else None
    sides = _parse_shape(shape[1])
    if dtype is None:
        raise error(f"an array of {_show(descr[1])}")
    if sides is None or not is_box_shape(sides):
        raise error(f"an array of shape ({shape[1].decode('latin-1')[:60]})")
    n_declared = start + math.prod(sides) * dtype.itemsize
    if n_declared != n_bytes:
        raise error(
            f"{n_bytes} bytes, but {dtype} of shape {sides} has {n_declared}", "as many as it declares"
        )
    return _Header(dtype, sides, "F" if order[1] == b"True" else "C", start)


def _header_text(head: bytes) -> tuple[bytes, int]:
    """Return the text of the header and the offset of its end; the text is empty if there is no header."""
    width = {1: 2, 2: 4, 3: 4}.get(head[6] if len(head) >= 12 and head.startswith(NPY_MAGIC) else 0)
    if width is None:
        return b"", 0
    end = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    return (head[8 + width : end], end) if end <= len(head) else (b"", 0)


def _parse_shape(text: bytes) -> tuple[int, ...] | None:
    sides = [_SIDE.fullmatch(side) for side in text.split(b",") if side.strip()]
    return None if None in sides else tuple(int(side[1]) for side in sides if side is not None)


def _show(text: bytes) -> str:
    return shorten(os.fsdecode(text))
