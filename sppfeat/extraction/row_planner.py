"""The rows of boxes, ready to be pooled: each with its scale, and those that are the same region once."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.coordinates import clip_boxes
from sppfeat.config.specs import InputSpec
from sppfeat.extraction.box_rows import BoxSource, ViewBoxes
from sppfeat.extraction.plan import input_sizes
from sppfeat.extraction.regions import MapSizes, Projector, choose_scales, drop_duplicates
from sppfeat.extraction.rows import Rows
from sppfeat.store.tables import RowBoxes

__all__ = ["RowPlanner"]


@dataclass(frozen=True)
class RowPlanner:
    """Makes rows of a box source.

    Attributes:
        source: where the boxes come from.
        input: sizes of the network input.
        projector: how boxes become regions.
        sizes: sizes of the maps, where boxes that fall on the same region are to be one row; None where not.
    """

    source: BoxSource
    input: InputSpec
    projector: Projector
    sizes: MapSizes | None

    @property
    def needs_sizes(self) -> bool:
        """Whether the number of rows depends on the sizes of the images."""
        return self.sizes is not None or self.source.needs_sizes

    @property
    def has_views(self) -> bool:
        """Whether boxes are windows of each image, and not of a box file."""
        return isinstance(self.source, ViewBoxes)

    def rows(
        self, root: bytes, paths: Sequence[bytes], image_hw: npt.NDArray[np.int32], *, first: int = 0
    ) -> Rows:
        """The rows of images.

        Args:
            root: absolute path of the folder that all images lie under.
            paths: all images, relative to it.
            image_hw: ``(N - first, 2)`` int32, height and width of the images from ``first`` on; 0 unknown.
            first: the first image whose rows are wanted.

        Raises:
            BoxError: boxes that are for none of the images, or for one that is not clearly named.
        """
        rows = self.source.rows(root, paths, image_hw, first=first)
        rows = choose_scales(rows, image_hw, self.input.short_sides)
        if self.sizes is None:
            return rows
        input_hw, _ = input_sizes(image_hw, self.input)
        return drop_duplicates(rows, image_hw, input_hw, projector=self.projector, sizes=self.sizes)

    def refit(self, boxes: RowBoxes, image_hw: tuple[int, int]) -> RowBoxes | None:
        """The rows of one image at another size than they were planned for; None where they would be others."""
        boxes_px = self.source.refit(boxes, image_hw)
        if boxes_px is None:
            return None
        if self.sizes is not None and 0 not in image_hw:
            own = boxes.box_row[boxes.source]  # the numbers of these rows
            if np.isin(boxes.box_row, own).sum() > len(boxes):
                return None  # boxes that were the same region may be different ones
        _, flag = clip_boxes(boxes_px, np.full((len(boxes_px), 2), image_hw, dtype=np.int32))
        moved = dataclasses.replace(boxes, boxes_px=boxes_px, flag=flag, scale=self.source.scales(boxes))
        rows = Rows(np.array([[0, len(boxes_px)]]), moved)
        return choose_scales(rows, np.array([image_hw], dtype=np.int32), self.input.short_sides).boxes

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Rows of a file followed by those of images that are added to it."""
        return self.source.join(boxes, added)
