"""Box arrays, one per image: checks of their shape and dtype, and the table built from them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.files.tables import shorten

__all__ = ["ARRAY_RULE", "build_table", "check_array", "check_expansion"]

ARRAY_RULE = "integers or floats of up to 64 bits, of shape (K, 4), or (K, 5) with a score"

_MOST_BOXES = 200_000
_MOST_BOXES_PER_BYTE = 50


def check_expansion(source: AnnotationFiles, where: str, n_boxes: int, n_bytes: int) -> None:
    """Check the number of boxes in a compressed file of ``n_bytes``, in which a box may take next to nothing.

    A box takes 150 bytes of memory. Windows on a grid, the most compressible boxes, reach 20 boxes per byte.
    """
    if n_boxes > max(_MOST_BOXES, _MOST_BOXES_PER_BYTE * n_bytes):
        raise source.error(
            where,
            f"found {n_boxes} boxes or more in {n_bytes} bytes; allowed: {_MOST_BOXES}, or "
            f"{_MOST_BOXES_PER_BYTE} a byte",
        )


def check_array(
    source: AnnotationFiles,
    where: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    name: bytes | None = None,
) -> None:
    """Check that an array of this shape and dtype can hold boxes; ``(0,)`` and ``(0, n)`` are allowed and hold none."""
    is_empty = len(shape) in (1, 2) and shape[0] == 0
    holds_boxes = len(shape) == 2 and shape[0] >= 0 and shape[1] in (4, 5)
    is_number = dtype.kind in "iuf" and dtype.itemsize <= 8
    if not (is_empty or holds_boxes) or not (is_number or math.prod(shape) == 0):
        found = f"found an array of shape {shorten(shape)} of {shorten(str(dtype))}"
        raise source.error(where, f"{found}; allowed: {ARRAY_RULE}", name)


def build_table(
    arrays: Mapping[bytes, npt.NDArray[Any]], box_format: str, *, names: str = "path"
) -> BoxTable:
    """Build the table from the array of each image; the id of a box is the name of its image and its row, from 0.

    With the names ``single``, the id of a box is its row alone.
    """
    builder = BoxTableBuilder()
    for name, array in arrays.items():
        image = builder.add_image(name)
        for i, row in enumerate(array.tolist()):
            box_id = b"%d" % i if names == "single" else b"%s:%d" % (name, i)
            builder.add_box(image, row[:4], score=row[4] if len(row) > 4 else math.nan, box_id=box_id)
    return builder.build(DEFAULT_CONVENTIONS[box_format], names=names)
