"""Box arrays, one per image: checks of their shape and dtype, and the table built from them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable
from sppfeat.config.regions import BoxConvention
from sppfeat.files.paths import PathTable

__all__ = [
    "ARRAY_RULE",
    "ImageBoxes",
    "boxes_of_array",
    "build_table",
    "check_expansion",
    "is_box_dtype",
    "is_box_shape",
]

ARRAY_RULE = "integers or floats of up to 64 bits, of shape (K, 4), or (K, 5) with a score"


_MOST_BOXES = 200_000
_MOST_BOXES_PER_BYTE = 50


class ImageBoxes(NamedTuple):
    """The boxes of one image.

    Attributes:
        name: name of the image.
        values: ``(K, 5)`` float64: the four numbers in the file's convention, and the score, NaN for none.
    """

    name: bytes
    values: npt.NDArray[np.float64]


def check_expansion(source: AnnotationFiles, where: str, n_boxes: int, n_bytes: int) -> None:
    """Check the number of boxes in a compressed file, in which a box may take next to nothing.

    A box takes 150 bytes of memory. Windows on a grid, the most compressible boxes, reach 20 boxes per byte.

    Raises:
        BoxError: there are too many boxes for a file of ``n_bytes``.
    """
    if n_boxes > max(_MOST_BOXES, _MOST_BOXES_PER_BYTE * n_bytes):
        raise source.error(
            where,
            f"found {n_boxes} boxes or more in {n_bytes} bytes; allowed: {_MOST_BOXES}, or "
            f"{_MOST_BOXES_PER_BYTE} a byte",
        )


def is_box_shape(shape: Sequence[int]) -> bool:
    """Return True if an array of this shape can hold boxes; ``(0,)`` and ``(0, n)`` are allowed and hold none."""
    return (len(shape) == 2 and shape[1] in (4, 5)) or (len(shape) in (1, 2) and shape[0] == 0)


def is_box_dtype(dtype: np.dtype[Any]) -> bool:
    """Return True if an array of this dtype can hold boxes."""
    return dtype.kind in "iuf" and dtype.itemsize <= 8


def boxes_of_array(name: bytes, array: npt.NDArray[Any]) -> ImageBoxes:
    """Convert an array to the boxes of an image.

    Args:
        name: name of the image.
        array: boxes, with a shape and dtype that :func:`is_box_shape` and :func:`is_box_dtype` accept.
    """
    values = np.full((len(array), 5), np.nan)
    if len(array):
        values[:, : array.shape[1]] = array  # uint8 included, where differences would wrap around
    return ImageBoxes(name, values)


def build_table(images: Sequence[ImageBoxes], convention: BoxConvention, *, names: str = "path") -> BoxTable:
    """Build the table of all images; the id of a box is the name of its image and its row, from 0.

    Args:
        images: boxes of each image, each image once.
        convention: meaning of the numbers.
        names: see :class:`sppfeat.boxes.table.BoxTable`; with ``single``, the id of a box is its row alone.
    """
    values = np.concatenate([image.values for image in images]) if images else np.empty((0, 5))
    counts = [len(image.values) for image in images]
    return BoxTable(
        images=PathTable(image.name for image in images),
        image=np.repeat(np.arange(len(images), dtype=np.int64), counts),
        boxes=values[:, :4].copy(),
        convention=convention,
        label=np.full(len(values), -1, dtype=np.int64),
        classes=(),
        score=values[:, 4].copy(),
        ids=PathTable(_ids(images, with_name=names != "single")),
        extra_names=(),
        extra=(),
        image_hw=np.zeros((len(images), 2), dtype=np.int32),
        names=names,
    )


def _ids(images: Sequence[ImageBoxes], *, with_name: bool) -> Iterator[bytes]:
    for image in images:
        prefix = image.name + b":" if with_name else b""
        for row in range(len(image.values)):
            yield prefix + b"%d" % row
