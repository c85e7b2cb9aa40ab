"""Where the boxes of a run come from: a box file, or windows made for each image."""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.coordinates import boxes_to_px
from sppfeat.boxes.table import BoxTable
from sppfeat.boxes.views import VIEW_SIDE, Views, grid_views, multiview_views
from sppfeat.config.regions import GridSpec
from sppfeat.config.specs import InputSpec
from sppfeat.config.wording import counted, one_line
from sppfeat.errors import BoxError
from sppfeat.extraction.plan import input_sizes
from sppfeat.extraction.rows import Rows, rows_of_table, rows_of_views
from sppfeat.files.name_matching import count_same_file_names, match_images
from sppfeat.store.tables import RowBoxes

__all__ = ["BoxSource", "FileBoxes", "ViewBoxes"]


class BoxSource(Protocol):
    """Makes the rows of images."""

    @property
    def needs_sizes(self) -> bool:
        """Whether the number of rows depends on the sizes of the images."""
        ...

    def rows(
        self, root: bytes, paths: Sequence[bytes], image_hw: npt.NDArray[np.int32], *, first: int = 0
    ) -> Rows:
        """Rows of the images from ``first`` on, ``(N - first, 2)`` sizes ``image_hw``; no scales chosen."""
        ...

    def refit(self, boxes: RowBoxes, image_hw: tuple[int, int]) -> npt.NDArray[np.float64] | None:
        """``(K, 4)`` boxes_px of the rows of one image at another size; None where they would be other rows."""
        ...

    def scales(self, boxes: RowBoxes) -> npt.NDArray[np.int16]:
        """``(K,)`` scales of rows as the source has them; -1: to be chosen by size."""
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

    needs_sizes = False

    def rows(
        self, root: bytes, paths: Sequence[bytes], image_hw: npt.NDArray[np.int32], *, first: int = 0
    ) -> Rows:
        """Return one row per box of the images from ``first`` on.

        Raises:
            BoxError: the box file names none of the images, or one that two images could be.
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
        """Return the boxes of some rows in pixels of an image of this size."""
        row_hw = np.full((len(boxes), 2), image_hw, dtype=np.int32)
        return boxes_to_px(self.table.boxes[boxes.source], self.table.convention, row_hw)

    def scales(self, boxes: RowBoxes) -> npt.NDArray[np.int16]:
        """Return -1 for each row: to be chosen."""
        return np.full(len(boxes), -1, dtype=np.int16)

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Return the rows one after the other; both are of this box file.

        Raises:
            BoxError: a box that was of one of the old images is of a new one, too.
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
    """Windows of each image.

    Attributes:
        grid: a grid of them; None for the views of SPP-net's multi-view test.
        input: sizes of the network input.
    """

    grid: GridSpec | None
    input: InputSpec

    @property
    def needs_sizes(self) -> bool:
        """Whether the number of windows depends on the sizes of the images: where these are in pixels."""
        return self.grid is not None and self.grid.in_pixels

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
        """Return the windows of an image of this size, if they are the same; NaN where it is not known."""
        if 0 in image_hw:
            return np.full((len(boxes), 4), np.nan)
        views = self._views(image_hw)
        return views.boxes_px if views.ids == tuple(boxes.annotations.ids) else None

    def scales(self, boxes: RowBoxes) -> npt.NDArray[np.int16]:
        """Return the scale of each view; -1 for windows of a grid: to be chosen."""
        return boxes.scale if self.grid is None else np.full(len(boxes), -1, dtype=np.int16)

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Return the rows one after the other, numbered on."""
        n_before = len(boxes.box_row)
        moved = dataclasses.replace(added, source=added.source + n_before)
        return boxes.followed_by(moved, box_row=np.concatenate((boxes.box_row, added.box_row + len(boxes))))

    def _views(self, image_hw: tuple[int, int]) -> Views:
        if self.grid is not None:
            return grid_views(self.grid, image_hw)
        sizes, _ = input_sizes(np.array([image_hw], dtype=np.int32), self.input)
        windows_hw = [self._window_hw(image_hw, (in_h, in_w)) for in_h, in_w in sizes[0].tolist()]
        return multiview_views(image_hw, self.input.short_sides, windows_hw=windows_hw)

    def _window_hw(self, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> tuple[float, float]:
        """Height and width, in pixels of the image, of a square window of the network input.

        The long side of the input is that of the aspect ratio but for half a pixel, unless its sides are rounded
        each by itself. Of an image that cannot be processed, ``input_hw`` 0, there are views, too: rows that stay
        NaN.
        """
        if self.input.round_to == 1:
            image_hw, input_hw = (min(image_hw),) * 2, (min(input_hw),) * 2
        height, width = (
            VIEW_SIDE * side / (input_side or side)
            for side, input_side in zip(image_hw, input_hw, strict=True)
        )
        return height, width
