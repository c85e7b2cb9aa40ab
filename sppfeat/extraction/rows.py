"""Makes the rows of boxes, from a box file or from views of each image."""

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.coordinates import boxes_to_px, clip_boxes
from sppfeat.boxes.table import BoxTable
from sppfeat.boxes.views import Views
from sppfeat.files.paths import PathTable
from sppfeat.store.tables import Annotations, RowBoxes

__all__ = ["BoxRows", "rows_of_table", "rows_of_views"]


class BoxRows(NamedTuple):
    """The rows of some images: a box for each.

    Attributes:
        ranges: ``(N, 2)`` int64, half-open range of each image's rows.
        boxes: the box of each row.
    """

    ranges: npt.NDArray[np.int64]
    boxes: RowBoxes

    @property
    def row_images(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64, index of each row's image."""
        return np.repeat(np.arange(len(self.ranges)), np.diff(self.ranges, axis=1).reshape(-1))


def rows_of_table(
    table: BoxTable, image_of: npt.NDArray[np.int64], image_hw: npt.NDArray[np.int32]
) -> BoxRows:
    """Make one row for each box whose image is an input: image by image, in the order of the box file.

    ``image_of`` is the input of each image that the box file names, or -1. Scales are still to be chosen (-1).
    """
    image = image_of[table.image] if len(table) else np.empty(0, dtype=np.int64)
    kept = np.flatnonzero(image >= 0)
    source = kept[np.argsort(image[kept], kind="stable")]
    row_hw = image_hw[image[source]]
    boxes_px = boxes_to_px(table.boxes[source], table.convention, row_hw)
    box_row = np.full(len(table), -1, dtype=np.int64)
    box_row[source] = np.arange(len(source))
    every = Annotations(table.label, table.classes, table.score, table.ids, table.extra_names, table.extra)
    return BoxRows(
        _make_ranges(np.bincount(image[source], minlength=len(image_hw))),
        RowBoxes(
            boxes_px=boxes_px,
            flag=clip_boxes(boxes_px, row_hw)[1],
            scale=np.full(len(source), -1, dtype=np.int16),
            mirrored=np.zeros(len(source), dtype=bool),
            source=source,
            annotations=every.take(source),
            box_row=box_row,
        ),
    )


def rows_of_views(views_of: Callable[[tuple[int, int]], Views], image_hw: npt.NDArray[np.int32]) -> BoxRows:
    """Make one row for each view of each image; scales are still to be chosen (-1) unless the views fix them.

    An image of unknown size, 0, gets as many rows as one of 1 x 1 pixels, with boxes of NaN.
    """
    sizes, inverse = np.unique(image_hw, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    views = [views_of((max(1, height), max(1, width))) for height, width in sizes.tolist()]
    counts = np.array([len(own.ids) for own in views], dtype=np.int64)[inverse]
    ranges, n_rows = _make_ranges(counts), int(counts.sum())
    boxes_px = np.empty((n_rows, 4))
    scale, mirrored = np.empty(n_rows, dtype=np.int16), np.empty(n_rows, dtype=bool)
    by_size = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    # Without images, one empty group is left.
    for own, size, images in zip(views, sizes, by_size, strict=False):
        rows = ranges[images, :1] + np.arange(len(own.ids))
        boxes_px[rows] = own.boxes_px if size.all() else np.nan
        scale[rows] = own.scale
        mirrored[rows] = own.mirrored
    annotations = Annotations(
        label=np.full(n_rows, -1, dtype=np.int64),
        classes=(),
        score=np.full(n_rows, np.nan),
        ids=PathTable(chain.from_iterable(views[i].ids for i in inverse.tolist())),
        extra_names=(),
        extra=(),
    )
    row_hw = np.repeat(image_hw, counts, axis=0)
    every = np.arange(n_rows, dtype=np.int64)
    return BoxRows(
        ranges,
        RowBoxes(
            boxes_px, clip_boxes(boxes_px, row_hw)[1], scale, mirrored, every, annotations, every.copy()
        ),
    )


def _make_ranges(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return consecutive half-open ranges ``(N, 2)`` of the lengths ``counts``."""
    ends = np.cumsum(counts, dtype=np.int64)
    return np.stack((ends - counts, ends), axis=1)
