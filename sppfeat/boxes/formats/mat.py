"""MATLAB's box files, the usual form of Selective Search proposals, read with scipy."""

import contextlib
import io
import math
import warnings
from typing import Any

import numpy as np

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.formats.arrays import ARRAY_RULE, build_table, check_array, check_expansion
from sppfeat.boxes.table import BoxTable
from sppfeat.errors import BoxError
from sppfeat.files.tables import TEXT_RULE, encode_text, shorten

__all__ = ["MAT_V73_MAGIC", "read_mat"]

MAT_V73_MAGIC = b"MATLAB 7.3"

_VARIABLES = ("boxes", "images")

_INSTALL = "install it with: pip install 'sppfeat[mat]'"


def read_mat(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a .mat file.

    The variable ``boxes`` is an array with the boxes of one image, or a cell array of such arrays; a cell array
    ``images`` then names the images.
    """
    variables = _load(source)
    boxes = variables.get("boxes")
    if not isinstance(boxes, np.ndarray):
        found = "no such variable" if boxes is None else shorten(boxes)
        raise source.error("boxes", f"found {found}; allowed: {ARRAY_RULE}, or cells")
    if boxes.dtype != object:
        check_array(source, "boxes", boxes.shape, boxes.dtype)
        return build_table({source.stem: boxes}, "mat", names="single")
    cells = boxes.ravel(order="F")
    names = _image_names(source, variables.get("images"))
    if len(names) != len(cells):
        raise source.error(
            "images", f"found {len(names)} names for {len(cells)} cells of boxes; allowed: as many"
        )
    for i, array in enumerate(cells, start=1):
        if not isinstance(array, np.ndarray):
            raise source.error(f"boxes{{{i}}}", f"found {type(array).__name__}; allowed: {ARRAY_RULE}")
        check_array(source, f"boxes{{{i}}}", array.shape, array.dtype)
    return build_table(dict(zip(names, cells, strict=True)), "mat")


def _load(source: AnnotationFiles) -> dict[str, Any]:
    content = source.read()
    if content.startswith(MAT_V73_MAGIC):
        raise source.error(
            "", f"found {MAT_V73_MAGIC.decode()!r}, which is HDF5; allowed: saved with save(..., '-v7')"
        )
    try:
        import scipy.io  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise source.error("", f"is read with scipy, which is not there; {_INSTALL}") from error
    file = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about repeated variables, and variables that are not read here
            found = []
            with contextlib.suppress(Exception):  # a MATLAB object beside the boxes has no shape
                found = scipy.io.whosmat(file, appendmat=False)
            sizes = [math.prod(shape) for name, shape, _ in found if name == "boxes"]
            # A text of no bytes would become as many blanks as its shape declares.
            check_expansion(source, "boxes", sum(sizes) // 4, len(content))
            variables: dict[str, Any] = scipy.io.loadmat(file, variable_names=_VARIABLES, appendmat=False)
    except (BoxError, MemoryError):
        raise
    except Exception as error:  # scipy has no error of its own, and raises nearly anything on a damaged file
        raise source.error(
            "", f"found a file that scipy cannot read: {shorten(str(error))}; allowed: .mat of version 4 to 7"
        ) from error
    return variables


def _image_names(source: AnnotationFiles, images: object) -> list[bytes]:
    if not isinstance(images, np.ndarray) or images.dtype != object:
        found = "no such variable" if images is None else shorten(images)
        raise source.error("images", f"found {found}; allowed: a cell array of names, one a cell of boxes")
    names: dict[bytes, int] = {}
    for i, cell in enumerate(images.ravel(order="F"), start=1):
        is_text = isinstance(cell, np.ndarray) and cell.dtype.kind == "U" and cell.size == 1
        name = encode_text(str(cell.item())) if is_text else None
        if not name or names.setdefault(name, i) != i:
            rule = (
                f"every image once, this one is images{{{names[name]}}} too"
                if name
                else f"a name, {TEXT_RULE}"
            )
            found = cell.tolist() if isinstance(cell, np.ndarray) and cell.size < 100 else type(cell).__name__
            raise source.unexpected(f"images{{{i}}}", found, rule)
    return list(names)
