"""The rows of boxes: which part of which image each row of the output is, and what the box file said of it."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.coordinates import boxes_to_px, clip_boxes
from sppfeat.boxes.table import BoxTable
from sppfeat.boxes.views import Views
from sppfeat.inputs import PathTable
from sppfeat.store.schema import RowFlag

__all__ = ["Annotations", "RowBoxes", "Rows", "rows_of_table", "rows_of_views"]


@dataclass(frozen=True)
class Annotations:
    """What was said of the box of each row.

    Attributes:
        label: ``(R,)`` int64, index into ``classes`` or -1.
        classes: class names.
        score: ``(R,)`` float64, NaN where there is none.
        ids: ``(R,)`` names of the boxes; empty where they have none.
        extra_names: of further columns.
        extra: for each of these ``(R,)`` texts.
    """

    label: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    score: npt.NDArray[np.float64]
    ids: PathTable
    extra_names: tuple[str, ...]
    extra: tuple[PathTable, ...]

    def take(self, rows: npt.NDArray[np.int64]) -> "Annotations":
        """Return those of some rows."""
        numbers = rows.tolist()
        return dataclasses.replace(
            self,
            label=self.label[rows],
            score=self.score[rows],
            ids=PathTable(self.ids[i] for i in numbers),
            extra=tuple(PathTable(column[i] for i in numbers) for column in self.extra),
        )

    def part(self, start: int, stop: int) -> "Annotations":
        """Return those of rows that follow each other."""
        return dataclasses.replace(
            self,
            label=self.label[start:stop],
            score=self.score[start:stop],
            ids=self.ids.part(start, stop),
            extra=tuple(column.part(start, stop) for column in self.extra),
        )

    def followed_by(self, other: "Annotations") -> "Annotations":
        """Return these and then those of the same box file."""
        return dataclasses.replace(
            self,
            label=np.concatenate((self.label, other.label)),
            score=np.concatenate((self.score, other.score)),
            ids=PathTable(chain(self.ids, other.ids)),
            extra=tuple(PathTable(chain(a, b)) for a, b in zip(self.extra, other.extra, strict=True)),
        )


@dataclass(frozen=True)
class RowBoxes:
    """Which part of its image each row is.

    Attributes:
        boxes_px: ``(R, 4)`` float64, xyxy edges in pixels of the image as displayed, not clipped; NaN where
            the image's size is needed and not known.
        flag: ``(R,)`` uint8, :class:`sppfeat.store.schema.RowFlag`.
        scale: ``(R,)`` int16, index of the short side at which it is pooled; -1: not chosen, or none.
        mirrored: ``(R,)`` bool, whether it is pooled from the mirror image.
        source: ``(R,)`` int64, position in the box file, or among all views.
        annotations: what was said of it.
        box_row: ``(X,)`` int64, for each box of the box file its row, or -1: not of an input.
    """

    boxes_px: npt.NDArray[np.float64]
    flag: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.int16]
    mirrored: npt.NDArray[np.bool_]
    source: npt.NDArray[np.int64]
    annotations: Annotations
    box_row: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.flag)

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays hold, the annotations apart."""
        arrays = (self.boxes_px, self.flag, self.scale, self.mirrored, self.source, self.box_row)
        return sum(array.nbytes for array in arrays)

    @property
    def is_degenerate(self) -> npt.NDArray[np.bool_]:
        """``(R,)`` bool, whether a row's box has no area in its image: it has no descriptor."""
        return np.asarray((self.flag & RowFlag.DEGENERATE) != 0)

    def take(self, rows: npt.NDArray[np.int64]) -> "RowBoxes":
        """Return some rows; ``box_row`` stays as it is."""
        return dataclasses.replace(
            self,
            boxes_px=self.boxes_px[rows],
            flag=self.flag[rows],
            scale=self.scale[rows],
            mirrored=self.mirrored[rows],
            source=self.source[rows],
            annotations=self.annotations.take(rows),
        )

    def part(self, start: int, stop: int) -> "RowBoxes":
        """Return rows that follow each other; ``box_row`` stays as it is."""
        return dataclasses.replace(
            self,
            boxes_px=self.boxes_px[start:stop],
            flag=self.flag[start:stop],
            scale=self.scale[start:stop],
            mirrored=self.mirrored[start:stop],
            source=self.source[start:stop],
            annotations=self.annotations.part(start, stop),
        )

    def numbered_from(self, first_row: int, *, has_views: bool) -> "RowBoxes":
        """Return some rows of a whole as if they were all, numbered from 0.

        Args:
            first_row: of these, in the whole.
            has_views: they are windows of each image, of which those of other images are left out; boxes of a box
                file keep their numbers.
        """
        is_own = (self.box_row >= first_row) & (self.box_row < first_row + len(self))
        if has_views:  # one after the other, also those that share a row
            own = np.flatnonzero(is_own)
            first = int(own[0]) if len(own) else 0
            return dataclasses.replace(
                self, source=self.source - first, box_row=self.box_row[own] - first_row
            )
        return dataclasses.replace(self, box_row=np.where(is_own, self.box_row - first_row, -1))

    def followed_by(self, other: "RowBoxes", *, box_row: npt.NDArray[np.int64]) -> "RowBoxes":
        """Return these rows and then others, with where each box went."""
        return RowBoxes(
            boxes_px=np.concatenate((self.boxes_px, other.boxes_px)),
            flag=np.concatenate((self.flag, other.flag)),
            scale=np.concatenate((self.scale, other.scale)),
            mirrored=np.concatenate((self.mirrored, other.mirrored)),
            source=np.concatenate((self.source, other.source)),
            annotations=self.annotations.followed_by(other.annotations),
            box_row=box_row,
        )


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
