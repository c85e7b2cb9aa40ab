"""Where the boxes of a run come from: a box file, or windows made for each image."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.box_table import BoxTable
from sppfeat.boxes import boxes_to_px
from sppfeat.config import GridSpec
from sppfeat.errors import BoxError
from sppfeat.matching import match_images
from sppfeat.rows import RowBoxes, Rows, rows_of_table, rows_of_views
from sppfeat.views import Views, grid_views, multiview_views

__all__ = ["BoxSource", "FileBoxes", "ViewBoxes"]


class BoxSource(Protocol):
    """Makes the rows of images."""

    def rows(
        self, root: bytes, paths: Sequence[bytes], image_hw: npt.NDArray[np.int32], *, first: int = 0
    ) -> Rows:
        """Rows of the images from ``first`` on, ``(N - first, 2)`` sizes ``image_hw``; no scales chosen."""
        ...

    def refit(self, boxes: RowBoxes, image_hw: tuple[int, int]) -> npt.NDArray[np.float64] | None:
        """``(K, 4)`` boxes_px of the rows of one image at another size; None where they would be other rows."""
        ...

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Rows of a file followed by those of images that are added to it."""
        ...


@dataclass(frozen=True)
class FileBoxes:
    """The boxes of a box file.

    Attributes:
        table: what it says, in the convention that it is meant in.
        path: of the file, for messages.
    """

    table: BoxTable
    path: str

    def rows(
        self, root: bytes, paths: Sequence[bytes], image_hw: npt.NDArray[np.int32], *, first: int = 0
    ) -> Rows:
        """Return one row per box of the images from ``first`` on.

        Raises:
            BoxError: the box file names none of the images, or one that two images could be.
        """
        try:
            image_of = match_images(self.table, root, paths)
        except BoxError as error:
            raise BoxError(f"{self.path!r}: {error}") from error
        if len(image_of) and (image_of < 0).all():
            raise BoxError(
                f"{self.path!r}: none of its {len(image_of)} images is among the inputs; the first is "
                f"{self.table.images[0].decode('utf-8', 'backslashreplace')!r}, the first input "
                f"{paths[0].decode('utf-8', 'backslashreplace')!r}"
            )
        return rows_of_table(self.table, np.where(image_of < first, -1, image_of - first), image_hw)

    def refit(self, boxes: RowBoxes, image_hw: tuple[int, int]) -> npt.NDArray[np.float64] | None:
        """Return the boxes of some rows in pixels of an image of this size."""
        row_hw = np.full((len(boxes), 2), image_hw, dtype=np.int32)
        return boxes_to_px(self.table.boxes[boxes.source], self.table.convention, row_hw)

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Return the rows one after the other; both are of this box file."""
        shifted = np.where(added.box_row >= 0, added.box_row + len(boxes), -1)
        return boxes.followed_by(added, box_row=np.where(boxes.box_row >= 0, boxes.box_row, shifted))


@dataclass(frozen=True)
class ViewBoxes:
    """Windows of each image.

    Attributes:
        grid: a grid of them; None for the views of SPP-net's multi-view test.
        short_sides: of the network input, per scale.
    """

    grid: GridSpec | None
    short_sides: tuple[int | None, ...]

    def rows(
        self,
        root: bytes,  # noqa: ARG002
        paths: Sequence[bytes],  # noqa: ARG002
        image_hw: npt.NDArray[np.int32],
        *,
        first: int = 0,  # noqa: ARG002
    ) -> Rows:
        """Return one row per window of each image."""
        return rows_of_views(self._views, image_hw)

    def refit(self, boxes: RowBoxes, image_hw: tuple[int, int]) -> npt.NDArray[np.float64] | None:
        """Return the windows of an image of this size, if they are as many."""
        views = self._views(image_hw)
        return views.boxes_px if len(views.ids) == len(boxes) else None

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Return the rows one after the other, numbered on."""
        n_before = len(boxes.box_row)
        moved = dataclasses.replace(added, source=added.source + n_before)
        return boxes.followed_by(moved, box_row=np.concatenate((boxes.box_row, added.box_row + len(boxes))))

    def _views(self, image_hw: tuple[int, int]) -> Views:
        if self.grid is None:
            return multiview_views(image_hw, self.short_sides)
        return grid_views(self.grid, image_hw)
