"""The rows of boxes: which part of which image each row of the output is, and what the box file said of it."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.coordinates import boxes_to_px, clip_boxes
from sppfeat.boxes.table import BoxTable
from sppfeat.boxes.views import Views
from sppfeat.files.paths import PathTable
from sppfeat.store.tables import Annotations, RowBoxes

__all__ = ["Rows", "rows_of_table", "rows_of_views"]


class Rows(NamedTuple):
    """Rows, and whose they are.

    Attributes:
        ranges: ``(N, 2)`` int64, half-open range of each image's rows.
        boxes: the rows.
    """

    ranges: npt.NDArray[np.int64]
    boxes: RowBoxes


def rows_of_table(table: BoxTable, image_of: npt.NDArray[np.int64], image_hw: npt.NDArray[np.int32]) -> Rows:
    """One row per box of the images that are inputs: image by image, in the order of the box file.

    Args:
        table: the box file.
        image_of: ``(M,)`` int64, for each image of the box file the input that it is, or -1.
        image_hw: ``(N, 2)`` int32, height and width of the inputs; 0 where they are not known.

    Returns:
        The rows; their scales are yet to be chosen.
    """
    image = image_of[table.image] if len(table) else np.empty(0, dtype=np.int64)
    kept = np.flatnonzero(image >= 0)
    source = kept[np.argsort(image[kept], kind="stable")]
    row_hw = image_hw[image[source]]
    boxes_px = boxes_to_px(table.boxes[source], table.convention, row_hw)
    box_row = np.full(len(table), -1, dtype=np.int64)
    box_row[source] = np.arange(len(source))
    every = Annotations(table.label, table.classes, table.score, table.ids, table.extra_names, table.extra)
    return Rows(
        _ranges(np.bincount(image[source], minlength=len(image_hw))),
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


def rows_of_views(views_of: Callable[[tuple[int, int]], Views], image_hw: npt.NDArray[np.int32]) -> Rows:
    """One row per view of each image.

    Args:
        views_of: height and width of an image to its views.
        image_hw: ``(N, 2)`` int32, height and width of the inputs. Where they are not known, 0, an image
            has the rows of one of 1 x 1 pixels, without boxes.

    Returns:
        The rows; their scales are yet to be chosen where the views leave them open.
    """
    sizes, inverse = np.unique(image_hw, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    views = [views_of((max(1, height), max(1, width))) for height, width in sizes.tolist()]
    counts = np.array([len(own.ids) for own in views], dtype=np.int64)
    ranges = _ranges(counts[inverse] if len(views) else np.empty(0, dtype=np.int64))
    n_rows = int(ranges[-1, 1]) if len(ranges) else 0
    boxes_px = np.empty((n_rows, 4))
    scale, mirrored = np.empty(n_rows, dtype=np.int16), np.empty(n_rows, dtype=bool)
    order = np.argsort(inverse, kind="stable")
    of_size = np.split(order, np.cumsum(np.bincount(inverse, minlength=len(views)))[:-1])
    for i, own in enumerate(views):
        rows = ranges[of_size[i], 0][:, None] + np.arange(counts[i])
        boxes_px[rows] = own.boxes_px if sizes[i].all() else np.nan
        scale[rows] = own.scale
        mirrored[rows] = own.mirrored
    row_hw = image_hw[np.repeat(np.arange(len(image_hw)), np.diff(ranges, axis=1).reshape(-1))]
    ids = chain.from_iterable(views[i].ids for i in inverse.tolist())
    return Rows(
        ranges,
        RowBoxes(
            boxes_px=boxes_px,
            flag=clip_boxes(boxes_px, row_hw)[1],
            scale=scale,
            mirrored=mirrored,
            source=np.arange(n_rows, dtype=np.int64),
            annotations=_only_ids(ids, n_rows),
            box_row=np.arange(n_rows, dtype=np.int64),
        ),
    )


def _only_ids(ids: Iterable[bytes], n_rows: int) -> Annotations:
    return Annotations(
        label=np.full(n_rows, -1, dtype=np.int64),
        classes=(),
        score=np.full(n_rows, np.nan),
        ids=PathTable(ids),
        extra_names=(),
        extra=(),
    )


def _ranges(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Half-open ranges, one behind the other, of these lengths, as ``(N, 2)``."""
    ends = np.cumsum(counts, dtype=np.int64)
    return np.stack((ends - counts, ends), axis=1)
