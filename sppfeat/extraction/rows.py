"""Makes the rows of boxes, from a box file or from views of each image."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.coordinates import boxes_to_px, clip_boxes
from sppfeat.boxes.table import BoxTable
from sppfeat.boxes.views import VIEW_SIDE, Views, grid_views, multiview_views
from sppfeat.config.regions import GridSpec
from sppfeat.config.specs import InputSpec
from sppfeat.config.wording import counted, one_line
from sppfeat.errors import BoxError
from sppfeat.extraction.sizes import input_sizes
from sppfeat.files.image_names import count_same_file_names, match_images
from sppfeat.files.paths import PathTable
from sppfeat.store.tables import Annotations, RowBoxes

__all__ = ["BoxRows", "BoxSource", "FileBoxes", "ViewBoxes", "rows_of_table", "rows_of_views"]


class BoxRows(NamedTuple):
    """The rows of some images: a box for each.

    Attributes:
        ranges: ``(N, 2)`` int64, half-open range of each image's rows.
        boxes: the box of each row.
    """

    ranges: npt.NDArray[np.int64]
    boxes: RowBoxes


def rows_of_table(
    table: BoxTable, image_of: npt.NDArray[np.int64], image_hw: npt.NDArray[np.int32]
) -> BoxRows:
    """Make one row for each box whose image is an input: image by image, in the order of the box file.

    Args:
        table: the content of the box file.
        image_of: ``(M,)`` int64, input index of each image named in the box file; -1 for none.
        image_hw: ``(N, 2)`` int32, height and width of the inputs as displayed, in pixels; 0 if unknown.

    Returns:
        The rows, with scales still to be chosen (-1).
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
    """Make one row for each view of each image.

    Args:
        views_of: makes the views of an image from its height and width in pixels.
        image_hw: ``(N, 2)`` int32, height and width of the inputs as displayed, in pixels. An image of unknown size, 0,
            gets as many rows as one of 1 x 1 pixels, with boxes of NaN.

    Returns:
        The rows, with scales still to be chosen (-1) unless the views fix them.
    """
    sizes, inverse = np.unique(image_hw, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    views = [views_of((max(1, height), max(1, width))) for height, width in sizes.tolist()]
    counts = np.array([len(own.ids) for own in views], dtype=np.int64)
    ranges = _make_ranges(counts[inverse] if len(views) else np.empty(0, dtype=np.int64))
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
    return BoxRows(
        ranges,
        RowBoxes(
            boxes_px=boxes_px,
            flag=clip_boxes(boxes_px, row_hw)[1],
            scale=scale,
            mirrored=mirrored,
            source=np.arange(n_rows, dtype=np.int64),
            annotations=_annotate_ids(ids, n_rows),
            box_row=np.arange(n_rows, dtype=np.int64),
        ),
    )


def _annotate_ids(ids: Iterable[bytes], n_rows: int) -> Annotations:
    return Annotations(
        label=np.full(n_rows, -1, dtype=np.int64),
        classes=(),
        score=np.full(n_rows, np.nan),
        ids=PathTable(ids),
        extra_names=(),
        extra=(),
    )


def _make_ranges(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return consecutive half-open ranges ``(N, 2)`` of the lengths ``counts``."""
    ends = np.cumsum(counts, dtype=np.int64)
    return np.stack((ends - counts, ends), axis=1)


class BoxSource(Protocol):
    """Makes the rows of images, from a box file or from views."""

    @property
    def needs_sizes(self) -> bool:
        """True if the number of rows depends on the sizes of the images."""
        ...

    def rows(
        self, root: bytes, paths: Sequence[bytes], image_hw: npt.NDArray[np.int32], *, first: int = 0
    ) -> BoxRows:
        """Make the rows of the images from ``first`` on; ``image_hw`` is ``(N - first, 2)``, in pixels."""
        ...

    def refit(self, boxes: RowBoxes, image_hw: tuple[int, int]) -> npt.NDArray[np.float64] | None:
        """Return the boxes ``(K, 4)`` of an image for another image size, in pixels; None if the rows change."""
        ...

    def scales(self, boxes: RowBoxes) -> npt.NDArray[np.int16]:
        """Return the scale ``(K,)`` that the source fixes for each box; -1 for none."""
        ...

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Append the rows of new images to those of a file."""
        ...


@dataclass(frozen=True)
class FileBoxes:
    """The boxes of a box file.

    Attributes:
        table: the content of the file, with any convention that the user gives.
        path: path of the file, for messages.
    """

    table: BoxTable
    path: str

    needs_sizes = False

    def rows(
        self, root: bytes, paths: Sequence[bytes], image_hw: npt.NDArray[np.int32], *, first: int = 0
    ) -> BoxRows:
        """Make one row for each box of the images from ``first`` on.

        Raises:
            BoxError: the box file names none of the images, or a name matches two images.
        """
        try:
            image_of = match_images(self.table.images, root, paths, kind=self.table.names)
        except BoxError as error:
            raise BoxError(f"{self.path!r}: {error}") from error
        if not first and len(image_of) and (image_of < 0).all():
            n_elsewhere = count_same_file_names(list(self.table.images), paths)
            hint = (
                "; " + counted(n_elsewhere, "has", "have") + " the file name of an input, in another folder"
            )
            hint = hint if n_elsewhere else ""
            raise BoxError(
                f"{self.path!r}: none of its images ({len(image_of)}) is among the inputs; the first is "
                f"{one_line(repr(os.fsdecode(self.table.images[0])))}, the first input "
                f"{os.fsdecode(paths[0])!r}{hint}"
            )
        return rows_of_table(self.table, np.where(image_of < first, -1, image_of - first), image_hw)

    def refit(self, boxes: RowBoxes, image_hw: tuple[int, int]) -> npt.NDArray[np.float64] | None:
        """Return the boxes ``(K, 4)`` of the rows, in pixels of an image of this size."""
        row_hw = np.full((len(boxes), 2), image_hw, dtype=np.int32)
        return boxes_to_px(self.table.boxes[boxes.source], self.table.convention, row_hw)

    def scales(self, boxes: RowBoxes) -> npt.NDArray[np.int16]:
        """Return -1 for each row: a box file fixes no scales."""
        return np.full(len(boxes), -1, dtype=np.int16)

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Append the rows of new images to those of a file.

        Raises:
            BoxError: a box belongs both to an image of the file and to a new one.
        """
        twice = np.flatnonzero((boxes.box_row >= 0) & (added.box_row >= 0))
        if len(twice):
            name = self.table.images[int(self.table.image[twice[0]])].decode("utf-8", "backslashreplace")
            raise BoxError(
                f"{self.path!r}: the image {name!r} is another one among the new inputs than in the file; start "
                "anew with --overwrite, or name it by more of its path"
            )
        shifted = np.where(added.box_row >= 0, added.box_row + len(boxes), -1)
        return boxes.followed_by(added, box_row=np.where(boxes.box_row >= 0, boxes.box_row, shifted))


@dataclass(frozen=True)
class ViewBoxes:
    """Views of each image: a grid of boxes, or the views of SPP-net's multi-view test.

    Attributes:
        grid: the grid; None for the multi-view test.
        input: the network-input settings.
    """

    grid: GridSpec | None
    input: InputSpec

    @property
    def needs_sizes(self) -> bool:
        """True if the number of views depends on the image size, as for a grid in pixels."""
        return self.grid is not None and self.grid.in_pixels

    def rows(
        self,
        root: bytes,  # noqa: ARG002
        paths: Sequence[bytes],  # noqa: ARG002
        image_hw: npt.NDArray[np.int32],
        *,
        first: int = 0,  # noqa: ARG002
    ) -> BoxRows:
        """Make one row for each view of each image."""
        return rows_of_views(self._views, image_hw)

    def refit(self, boxes: RowBoxes, image_hw: tuple[int, int]) -> npt.NDArray[np.float64] | None:
        """Return the views ``(K, 4)`` of an image of this size, NaN if it is unknown; None if there are other views."""
        if 0 in image_hw:
            return np.full((len(boxes), 4), np.nan)
        views = self._views(image_hw)
        return views.boxes_px if views.ids == tuple(boxes.annotations.ids) else None

    def scales(self, boxes: RowBoxes) -> npt.NDArray[np.int16]:
        """Return the scale of each view; -1 for a grid, which fixes no scales."""
        return boxes.scale if self.grid is None else np.full(len(boxes), -1, dtype=np.int16)

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Append the rows of new images to those of a file; view indices continue."""
        n_before = len(boxes.box_row)
        moved = dataclasses.replace(added, source=added.source + n_before)
        return boxes.followed_by(moved, box_row=np.concatenate((boxes.box_row, added.box_row + len(boxes))))

    def _views(self, image_hw: tuple[int, int]) -> Views:
        if self.grid is not None:
            return grid_views(self.grid, image_hw)
        sizes, _ = input_sizes(np.array([image_hw], dtype=np.int32), self.input)
        windows_hw = [self._window_hw(image_hw, (in_h, in_w)) for in_h, in_w in sizes[0].tolist()]
        return multiview_views(image_hw, self.input.short_sides, windows_hw)

    def _window_hw(self, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> tuple[float, float]:
        """Return the height and width, in image pixels, of the multi-view test's square window in the network input.

        Without rounding, both directions use the scale of the short side, since the long side keeps the aspect ratio to
        within half a pixel. With ``round_to``, each direction has its own scale. An image that cannot be processed,
        ``input_hw`` 0, gets views, too; their rows stay NaN.
        """
        if self.input.round_to == 1:
            image_hw, input_hw = (min(image_hw),) * 2, (min(input_hw),) * 2
        height, width = (
            VIEW_SIDE * side / (input_side or side)
            for side, input_side in zip(image_hw, input_hw, strict=True)
        )
        return height, width
