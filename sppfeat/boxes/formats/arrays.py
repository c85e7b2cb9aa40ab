"""Box files of one array per image: NumPy's .npz and .npy, and MATLAB's .mat, the usual form of Selective Search.

Scipy reads .mat files. Nothing is unpickled.
"""

import contextlib
import io
import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.errors import BoxError
from sppfeat.files.tables import TEXT_RULE, encode_text, shorten

__all__ = ["MAT_V73_MAGIC", "ZIP_MAGIC", "read_mat", "read_numpy"]

ZIP_MAGIC = b"PK"
MAT_V73_MAGIC = b"MATLAB 7.3"

_ARRAY_RULE = "integers or floats of up to 64 bits, of shape (K, 4), or (K, 5) with a score"
_INSTALL = "install it with: pip install 'sppfeat[mat]'"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile reads only these in bounded memory
_HEADER_BYTES = 10_012  # the longest header that numpy reads
_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_numpy(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of an .npz, of one .npy, or of a folder of .npy files."""
    if source.is_folder:
        files = source.files_of_format(b".npy")
        return _build_table({file.stem: _read_array(file, file.read(), "") for file in files}, "numpy")
    file = source.single
    content = file.read()
    if content.startswith(ZIP_MAGIC):
        return _build_table(_read_archive(file, content), "numpy")
    return _build_table({file.stem: _read_array(file, content, "")}, "numpy", names="single")


def _read_archive(file: AnnotationFile, content: bytes) -> dict[bytes, npt.NDArray[Any]]:
    boxes: dict[bytes, npt.NDArray[Any]] = {}
    n_boxes = 0
    with _damage_reported(file, ""):
        archive = zipfile.ZipFile(io.BytesIO(content))
    with archive:
        for member in archive.infolist():
            name, suffix = os.path.splitext(member.filename)
            key = encode_text(name)
            if suffix != ".npy" or not key:
                found = f"found {shorten(member.filename)} in the archive"
                raise file.error("", f"{found}; allowed: .npy files named by their images, {TEXT_RULE}")
            where = f"key {shorten(os.fsdecode(key))}"
            if key in boxes:
                raise file.error(where, "found twice; allowed: every image once")
            if member.compress_type not in _COMPRESSIONS:
                found = f"found compression {member.compress_type}"
                raise file.error(where, f"{found}; allowed: none, or deflate, as numpy writes them")
            with _damage_reported(file, where), archive.open(member) as opened:
                array = opened.read(_HEADER_BYTES)
                shape, *_ = _read_header(file, array, member.file_size, where)
                n_boxes += shape[0]
                file.check_expansion(where, n_boxes, len(content))
                array += opened.read(member.file_size)  # a read without a size would expand without limit
            boxes[key] = _read_array(file, array, where)
    return boxes


@contextlib.contextmanager
def _damage_reported(file: AnnotationFile, where: str) -> Iterator[None]:
    try:
        yield
    except (BoxError, MemoryError):
        raise
    except Exception as error:  # zipfile raises nearly anything on a damaged file
        reason = shorten(str(error) or type(error).__name__)
        raise file.error(where, f"found a damaged .npz: {reason}; allowed: an intact one") from error


def _read_array(file: AnnotationFile, content: bytes, where: str) -> npt.NDArray[Any]:
    shape, is_fortran, dtype, start = _read_header(file, content[:_HEADER_BYTES], len(content), where)
    flat = np.frombuffer(content, dtype, count=math.prod(shape), offset=start)
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _read_header(
    file: AnnotationFile, head: bytes, n_bytes: int, where: str
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read shape, Fortran order, dtype and offset of the items of an .npy, and check them against the file's size."""
    opened = io.BytesIO(head)
    try:
        shape, is_fortran, dtype = _READ_HEADER[np.lib.format.read_magic(opened)](opened)
    except Exception as reason:  # numpy raises nearly anything on a damaged header
        found = f"found {shorten(head[:40])}, {shorten(str(reason))}"
        raise file.error(where, f"{found}; allowed: an array that numpy.save wrote") from reason
    if dtype.hasobject:
        found = f"found an array of Python objects, {dtype.str!r}, which would have to be unpickled"
        raise file.error(where, f"{found}; allowed: {_ARRAY_RULE}")
    _check_array(file, where, shape, dtype)
    n_declared = opened.tell() + math.prod(shape) * dtype.itemsize
    if n_declared != n_bytes:
        found = f"found {n_bytes} bytes, but {dtype} of shape {shape} has {n_declared}"
        raise file.error(where, f"{found}; allowed: exactly as many as declared")
    return shape, is_fortran, dtype, opened.tell()


def read_mat(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a .mat file.

    The variable ``boxes`` is an array with the boxes of one image, or a cell array of such arrays; a cell array
    ``images`` then names the images.
    """
    file = source.single
    variables = _load(file)
    boxes = variables.get("boxes")
    if not isinstance(boxes, np.ndarray):
        found = "no such variable" if boxes is None else shorten(boxes)
        raise file.error("boxes", f"found {found}; allowed: {_ARRAY_RULE}, or cells")
    if boxes.dtype != object:
        _check_array(file, "boxes", boxes.shape, boxes.dtype)
        return _build_table({file.stem: boxes}, "mat", names="single")
    cells = boxes.ravel(order="F")
    names = _image_names(file, variables.get("images"))
    if len(names) != len(cells):
        found = f"found {len(names)} names for {len(cells)} cells of boxes"
        raise file.error("images", f"{found}; allowed: equal numbers")
    for i, array in enumerate(cells, start=1):
        if not isinstance(array, np.ndarray):
            raise file.error(f"boxes{{{i}}}", f"found {type(array).__name__}; allowed: {_ARRAY_RULE}")
        _check_array(file, f"boxes{{{i}}}", array.shape, array.dtype)
    return _build_table(dict(zip(names, cells, strict=True)), "mat")


def _load(file: AnnotationFile) -> dict[str, Any]:
    """Read the variables ``boxes`` and ``images``."""
    content = file.read()
    if content.startswith(MAT_V73_MAGIC):
        version = MAT_V73_MAGIC.decode()
        raise file.error("", f"found {version!r}, which is HDF5; allowed: saved with save(..., '-v7')")
    try:
        import scipy.io  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise file.error("", f"is read with scipy, which is not installed; {_INSTALL}") from error
    opened = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about repeated variables, and those that are not read
            found = []
            with contextlib.suppress(Exception):  # a MATLAB object among the variables has no shape
                found = scipy.io.whosmat(opened, appendmat=False)
            sizes = [math.prod(shape) for name, shape, _ in found if name == "boxes"]
            # A text of no bytes would become as many blanks as its shape declares.
            file.check_expansion("boxes", sum(sizes) // 4, len(content))
            variables: dict[str, Any] = scipy.io.loadmat(
                opened, variable_names=("boxes", "images"), appendmat=False
            )
    except (BoxError, MemoryError):
        raise
    except Exception as error:  # scipy raises nearly anything on a damaged file
        reason = shorten(str(error))
        raise file.error(
            "", f"found a file that scipy cannot read: {reason}; allowed: .mat of version 4 to 7"
        ) from error
    return variables


def _image_names(file: AnnotationFile, images: object) -> list[bytes]:
    if not isinstance(images, np.ndarray) or images.dtype != object:
        found = "no such variable" if images is None else shorten(images)
        raise file.error("images", f"found {found}; allowed: a cell array of names, one per cell of boxes")
    names: dict[bytes, int] = {}
    for i, cell in enumerate(images.ravel(order="F"), start=1):
        is_text = isinstance(cell, np.ndarray) and cell.dtype.kind == "U" and cell.size == 1
        name = encode_text(str(cell.item())) if is_text else None
        if not name or names.setdefault(name, i) != i:
            rule = f"a name, {TEXT_RULE}"
            if name:
                rule = f"each image once; this one is also images{{{names[name]}}}"
            found = cell.tolist() if isinstance(cell, np.ndarray) and cell.size < 100 else type(cell).__name__
            raise file.unexpected(f"images{{{i}}}", found, rule)
    return list(names)


def _check_array(file: AnnotationFile, where: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Check that an array of this shape and dtype can hold boxes; ``(0,)`` and ``(0, n)`` are allowed and hold none."""
    is_empty = len(shape) in (1, 2) and shape[0] == 0
    holds_boxes = len(shape) == 2 and shape[0] >= 0 and shape[1] in (4, 5)
    is_number = dtype.kind in "iuf" and dtype.itemsize <= 8
    if not (is_empty or holds_boxes) or not (is_number or math.prod(shape) == 0):
        found = f"found an array of shape {shorten(shape)} of {shorten(str(dtype))}"
        raise file.error(where, f"{found}; allowed: {_ARRAY_RULE}")


def _build_table(
    arrays: Mapping[bytes, npt.NDArray[Any]], box_format: str, *, names: str = "path"
) -> BoxTable:
    """Build the table from the array of each image; the id of a box is the name of its image and its row, from 0.

    If the name kind is ``single``, the id of a box is only its row.
    """
    builder = BoxTableBuilder()
    for name, array in arrays.items():
        image = builder.add_image(name)
        for i, row in enumerate(array.tolist()):
            box_id = b"%d" % i if names == "single" else b"%s:%d" % (name, i)
            builder.add_box(image, row[:4], score=row[4] if len(row) > 4 else math.nan, box_id=box_id)
    return builder.build(DEFAULT_CONVENTIONS[box_format], names=names)
