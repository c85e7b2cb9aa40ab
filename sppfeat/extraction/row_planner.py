"""Plans the rows of boxes: chooses scales, drops duplicates, and adapts rows to image sizes read later."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.coordinates import clip_boxes
from sppfeat.config.specs import InputSpec
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.regions import MapSizes, Projector, best_scales
from sppfeat.extraction.rows import BoxRows, BoxSource, ViewBoxes
from sppfeat.extraction.sizes import FoundSizes, input_sizes
from sppfeat.store.tables import RowBoxes

__all__ = ["RowPlanner", "choose_scales", "drop_duplicates", "fill_in_sizes"]


@dataclass(frozen=True)
class RowPlanner:
    """Plans the rows of a box source.

    Attributes:
        source: the box file or the views.
        input: the network-input settings.
        projector: projects boxes to cells.
        map_sizes: finds the sizes of the maps, so that boxes on the same cells share a row; None: a row for each box.
    """

    source: BoxSource
    input: InputSpec
    projector: Projector
    map_sizes: MapSizes | None

    @property
    def needs_sizes(self) -> bool:
        """True if the number of rows depends on the sizes of the images."""
        return self.map_sizes is not None or self.source.needs_sizes

    @property
    def has_views(self) -> bool:
        """True if boxes are views of each image; False if they come from a box file."""
        return isinstance(self.source, ViewBoxes)

    def rows(
        self, root: bytes, paths: Sequence[bytes], image_hw: npt.NDArray[np.int32], *, first: int = 0
    ) -> BoxRows:
        """Plan the rows of the images from ``first`` on.

        Args:
            root: absolute path of the folder that holds all images.
            paths: paths of all ``N`` images, relative to ``root``.
            image_hw: ``(N - first, 2)`` int32, height and width as displayed of the images from ``first`` on, in
                pixels; 0 if unknown.
            first: index of the first image to plan.

        Raises:
            BoxError: no box belongs to any of the images, or a name matches two images.
        """
        rows = self.source.rows(root, paths, image_hw, first=first)
        rows = choose_scales(rows, image_hw, self.input.short_sides)
        if self.map_sizes is None:
            return rows
        input_hw, _ = input_sizes(image_hw, self.input)
        return drop_duplicates(rows, image_hw, input_hw, projector=self.projector, map_sizes=self.map_sizes)

    def refit(self, boxes: RowBoxes, image_hw: tuple[int, int]) -> RowBoxes | None:
        """Adapt the boxes of one image to another image size; None if that would change which rows there are."""
        boxes_px = self.source.refit(boxes, image_hw)
        if boxes_px is None:
            return None
        if self.map_sizes is not None and 0 not in image_hw:
            own = boxes.box_row[boxes.source]  # the indices of these rows
            if np.isin(boxes.box_row, own).sum() > len(boxes):
                return None  # boxes that shared a region may not share it now
        _, flag = clip_boxes(boxes_px, np.full((len(boxes_px), 2), image_hw, dtype=np.int32))
        moved = dataclasses.replace(boxes, boxes_px=boxes_px, flag=flag, scale=self.source.scales(boxes))
        rows = BoxRows(np.array([[0, len(boxes_px)]]), moved)
        return choose_scales(rows, np.array([image_hw], dtype=np.int32), self.input.short_sides).boxes

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Append the rows of new images to those of a file."""
        return self.source.join(boxes, added)


def fill_in_sizes(
    plan: Plan,
    images: npt.NDArray[np.int64],
    found: FoundSizes,
    spec: InputSpec,
    planner: RowPlanner | None,
) -> npt.NDArray[np.int64]:
    """Fill the sizes of some images into a plan, and adapt their boxes; their rows stay the same.

    Another thread may run other images of the plan meanwhile.

    Args:
        plan: the plan.
        images: ``(n,)`` int64, indices of the images whose headers were read.
        found: ``(n, 2)`` int32 heights and widths in pixels, 0 if unknown, and reasons by position; an image of unknown
            size keeps its former size.
        spec: the network-input settings.
        planner: plans the rows of boxes; None for whole images.

    Returns:
        ``(m,)`` int64, the images whose size has changed.
    """
    sizes, reasons = found
    is_new = (sizes > 0).all(axis=1) & (sizes != plan.image_hw[images]).any(axis=1)
    changed = images[is_new]
    plan.image_hw[changed] = sizes[is_new]
    plan.input_hw[images], too_odd = input_sizes(plan.image_hw[images], spec)
    for image in images.tolist():
        plan.errors.pop(image, None)
    plan.errors.update({int(images[position]): reason for position, reason in {**too_odd, **reasons}.items()})
    if plan.boxes is not None and planner is not None:
        _refit_boxes(plan, plan.boxes, changed, planner)
    return np.asarray(changed)


def choose_scales(
    rows: BoxRows, image_hw: npt.NDArray[np.int32], short_sides: Sequence[int | None]
) -> BoxRows:
    """Choose the scale of each box: the one at which its area is nearest to 224 x 224 pixels.

    Args:
        rows: the rows; those of scale -1 get a scale if their box has an area and the image size is known.
        image_hw: ``(N, 2)`` int32, height and width of the images as displayed, in pixels.
        short_sides: short sides of the network input in pixels, ascending; a single one may be None, the image's own.
    """
    boxes = rows.boxes
    row_hw = image_hw[_row_images(rows)]
    clipped, _ = clip_boxes(boxes.boxes_px, row_hw)
    scale = boxes.scale.copy()
    open_rows = (scale < 0) & ~boxes.is_degenerate & (row_hw > 0).all(axis=1)
    short_side = row_hw.min(axis=1, keepdims=True)  # apart from the box, the choice depends on nothing else
    for group in _group_rows(short_side, np.flatnonzero(open_rows)):
        square = (int(short_side[group[0], 0]),) * 2
        scale[group] = best_scales(clipped[group], square, short_sides)
    scale[boxes.is_degenerate] = -1
    return rows._replace(boxes=dataclasses.replace(boxes, scale=scale))


def drop_duplicates(
    rows: BoxRows,
    image_hw: npt.NDArray[np.int32],
    input_hw: npt.NDArray[np.int32],
    *,
    projector: Projector,
    map_sizes: MapSizes,
) -> BoxRows:
    """Drop rows with the same region of the same maps as an earlier row; ``box_row`` then points to that row.

    Args:
        rows: the rows, with their scales.
        image_hw: ``(N, 2)`` int32, height and width of the images as displayed, in pixels.
        input_hw: ``(N, S, 2)`` int32, height and width of the network input at each scale, in pixels; images for which
            it is 0 keep all their rows.
        projector: projects boxes to cells.
        map_sizes: finds the sizes of the maps of a network input.
    """
    boxes, image = rows.boxes, _row_images(rows)
    usable = np.asarray((input_hw > 0).all(axis=(1, 2)))
    pooled = np.flatnonzero((boxes.scale >= 0) & usable[image])
    row_input_hw = input_hw[image, np.maximum(boxes.scale, 0)]
    cells = np.zeros((len(boxes), len(projector.geometries), 4), dtype=np.int64)
    for group in _group_rows(np.concatenate((image_hw[image], row_input_hw), axis=1), pooled):
        height, width = image_hw[image[group[0]]].tolist()
        in_h, in_w = row_input_hw[group[0]].tolist()
        cells[group] = projector.project(
            boxes.boxes_px[group],
            boxes.mirrored[group],
            image_hw=(height, width),
            input_hw=(in_h, in_w),
            map_hws=map_sizes((in_h, in_w)),
        ).region
    keys = np.column_stack(
        (
            image[pooled],
            boxes.scale[pooled],
            boxes.mirrored[pooled],
            cells[pooled].reshape(len(pooled), 4 * cells.shape[1]),
        )
    )
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    same_as = np.arange(len(boxes))
    same_as[pooled] = pooled[first[inverse.reshape(-1)]]
    kept = np.unique(same_as)
    new_row = np.searchsorted(kept, same_as)
    is_row = boxes.box_row >= 0
    box_row = boxes.box_row.copy()
    box_row[is_row] = new_row[boxes.box_row[is_row]]
    return BoxRows(
        np.searchsorted(kept, rows.ranges),
        dataclasses.replace(boxes.take(kept), box_row=box_row),
    )


def _row_images(rows: BoxRows) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(len(rows.ranges)), np.diff(rows.ranges, axis=1).reshape(-1))


def _group_rows(keys: npt.NDArray[np.int32], rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Split rows ``(n,)`` into groups of equal keys; ``keys`` has one line per row of the table."""
    if not len(rows):
        return []
    _, inverse = np.unique(keys[rows], axis=0, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    bounds = np.flatnonzero(np.diff(inverse.reshape(-1)[order])) + 1
    return np.split(rows[order], bounds)


def _refit_boxes(plan: Plan, boxes: RowBoxes, resized: npt.NDArray[np.int64], planner: RowPlanner) -> None:
    """Adapt the boxes of images whose size has changed; an image whose rows would change fails."""
    for image, (height, width) in zip(resized.tolist(), plan.image_hw[resized].tolist(), strict=True):
        rows = np.arange(*plan.rows[image].tolist())
        fitted = planner.refit(boxes.take(rows), (height, width))
        if fitted is None:
            plan.errors[image] = (
                f"its size is {height} x {width} (height x width), not what it was when the file was laid out, and "
                f"gives other rows than the {len(rows)} that the file has: start anew with --overwrite"
            )
        else:
            boxes.boxes_px[rows], boxes.flag[rows], boxes.scale[rows] = (
                fitted.boxes_px,
                fitted.flag,
                fitted.scale,
            )
