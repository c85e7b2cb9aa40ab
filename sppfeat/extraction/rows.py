"""Plans the rows of boxes, from a box file or as views of each image: their order, images and scales."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.table import BoxTable, boxes_to_px, clip_boxes
from sppfeat.boxes.views import VIEW_SIDE, Views, grid_views, multiview_views
from sppfeat.config.regions import GridSpec
from sppfeat.config.specs import InputSpec
from sppfeat.config.wording import counted, quoted
from sppfeat.errors import BoxError
from sppfeat.extraction.own_names import match_table
from sppfeat.extraction.plan import BoxRows, FoundSizes, Plan, input_sizes
from sppfeat.extraction.regions import MapSizes, Projector, best_scales
from sppfeat.files.paths import PathTable
from sppfeat.store.tables import Annotations, RowBoxes

__all__ = [
    "RowPlanner",
    "choose_scales",
    "drop_duplicates",
    "fill_in_sizes",
    "rows_of_table",
    "rows_of_views",
]


@dataclass(frozen=True)
class RowPlanner:
    """Plans the rows of the boxes of a box file, or of views of each image.

    Attributes:
        map_sizes: finds the sizes of the maps, so that boxes on the same cells share a row; None for one row per box.
        table: the content of the box file; None for views.
        path: path of the box file, for messages.
        grid: the grid of views; None for a box file or the views of SPP-net's multi-view test.
        notes: remarks on the match between names in the box file and the images planned last.
    """

    input: InputSpec
    projector: Projector
    map_sizes: MapSizes | None = None
    table: BoxTable | None = None
    path: str = ""
    grid: GridSpec | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def needs_sizes(self) -> bool:
        """True if the number of rows depends on image sizes, as with windows of a fixed size."""
        return self.map_sizes is not None or (self.grid is not None and self.grid.in_pixels)

    @property
    def has_views(self) -> bool:
        """True if boxes are views of each image; False for a box file."""
        return self.table is None

    def rows(
        self, root: bytes, paths: Sequence[bytes], image_hw: npt.NDArray[np.int32], *, first: int = 0
    ) -> BoxRows:
        """Plan the rows of the images from ``first`` on.

        ``paths`` are the paths of all ``N`` images; ``image_hw``, ``(N - first, 2)``, are the sizes of the images to
        plan, 0 if unknown.

        Raises:
            BoxError: no box belongs to any of the images, or a name matches two images.
        """
        if self.table is None:
            rows = rows_of_views(self._views, image_hw)
        else:
            image_of = self._match_images(self.table, root, paths, is_whole=not first)
            rows = rows_of_table(self.table, np.where(image_of < first, -1, image_of - first), image_hw)
        rows = choose_scales(rows, image_hw, self.input.short_sides)
        if self.map_sizes is None:
            return rows
        input_hw, _ = input_sizes(image_hw, self.input)
        return drop_duplicates(rows, image_hw, input_hw, projector=self.projector, map_sizes=self.map_sizes)

    def refit(self, boxes: RowBoxes, image_hw: tuple[int, int]) -> RowBoxes | None:
        """Adapt the boxes of one image to another image size; None if that would add or remove rows."""
        hw = np.array([image_hw], dtype=np.int32)
        row_hw = np.repeat(hw, len(boxes), axis=0)
        scale = np.full(len(boxes), -1, dtype=np.int16)
        if self.table is None:
            views = self._views(image_hw)
            if views.ids != tuple(boxes.annotations.ids):
                return None
            boxes_px, scale = views.boxes_px, views.scale
        else:
            boxes_px = boxes_to_px(self.table.boxes[boxes.source], self.table.convention, row_hw)
        if self.map_sizes is not None:
            own = boxes.box_row[boxes.source]  # the indices of these rows
            if np.isin(boxes.box_row, own).sum() > len(boxes):
                return None  # boxes that shared a region may not share it now
        flag = clip_boxes(boxes_px, row_hw)[1]
        moved = dataclasses.replace(boxes, boxes_px=boxes_px, flag=flag, scale=scale)
        rows = BoxRows(np.array([[0, len(boxes)]]), moved)
        return choose_scales(rows, hw, self.input.short_sides).boxes

    def join(self, boxes: RowBoxes, added: RowBoxes) -> RowBoxes:
        """Append the rows of new images to those of a file.

        Raises:
            BoxError: a box belongs both to an image of the file and to a new one.
        """
        shifted = np.where(added.box_row >= 0, added.box_row + len(boxes), -1)
        if self.table is None:
            moved = dataclasses.replace(added, source=added.source + len(boxes.box_row))
            return boxes.followed_by(moved, box_row=np.concatenate((boxes.box_row, shifted)))
        twice = np.flatnonzero((boxes.box_row >= 0) & (shifted >= 0))
        if len(twice):
            name = self.table.images[int(self.table.image[twice[0]])].decode("utf-8", "backslashreplace")
            raise BoxError(
                f"{self.path!r}: the name {name!r} fits an image of the feature file and a new input; give more of "
                "its path, or start over with --overwrite"
            )
        return boxes.followed_by(added, box_row=np.where(boxes.box_row >= 0, boxes.box_row, shifted))

    def _match_images(
        self, table: BoxTable, root: bytes, paths: Sequence[bytes], *, is_whole: bool
    ) -> npt.NDArray[np.int64]:
        """Return ``(M,)`` int64, the input that matches each image of the box file; -1 for none."""
        try:
            image_of, notes = match_table(table, root, paths)
        except BoxError as error:
            raise BoxError(f"{self.path!r}: {error}") from error
        self.notes[:] = (f"{self.path!r}: {note}" for note in notes)
        if is_whole and len(image_of) and (image_of < 0).all():
            doubts = "".join(f"; {note}" for note in (*notes, *table.notes))
            raise BoxError(
                f"{self.path!r}: none of its {counted(len(image_of), 'image')} is in the input; the first is "
                f"{quoted(table.images[0])}, the first input {quoted(paths[0])}{doubts}. Give the folder with these "
                "images as input, or use their paths in the box file"
            )
        return image_of

    def _views(self, image_hw: tuple[int, int]) -> Views:
        """Return the views of an image; an image that cannot be processed gets views whose rows stay NaN.

        The windows of the multi-view test are squares in the network input. Without rounding, both directions use the
        scale of the short side, since the long side keeps the aspect ratio to within half a pixel. With ``round_to``,
        each direction has its own scale.
        """
        if self.grid is not None:
            return grid_views(self.grid, image_hw)
        image = np.array(image_hw)
        input_hw = input_sizes(image[None].astype(np.int32), self.input)[0][0]
        if self.input.round_to == 1:
            image, input_hw = image.min(keepdims=True), input_hw.min(axis=1, keepdims=True)
        windows = VIEW_SIDE * image / np.where(input_hw > 0, input_hw, image)
        sides = np.broadcast_to(windows, (len(windows), 2)).tolist()
        return multiview_views(image_hw, self.input.short_sides, [(h, w) for h, w in sides])


def fill_in_sizes(
    plan: Plan,
    images: npt.NDArray[np.int64],
    found: FoundSizes,
    spec: InputSpec,
    planner: RowPlanner | None,
) -> npt.NDArray[np.int64]:
    """Fill in the sizes of some images of a plan and adapt their boxes; return the images whose size has changed.

    An image whose rows would change fails. An image of unknown size keeps its former size. Another thread may run other
    images of the plan meanwhile.
    """
    sizes, reasons = found
    is_new = (sizes > 0).all(axis=1) & (sizes != plan.image_hw[images]).any(axis=1)
    changed = images[is_new]
    plan.image_hw[changed] = sizes[is_new]
    plan.input_hw[images], too_odd = input_sizes(plan.image_hw[images], spec)
    for image in images.tolist():
        plan.errors.pop(image, None)
    plan.errors.update({int(images[position]): reason for position, reason in {**too_odd, **reasons}.items()})
    boxes = plan.boxes
    if boxes is None or planner is None:
        return np.asarray(changed)
    for image in changed.tolist():
        rows, (height, width) = slice(*plan.rows[image].tolist()), plan.image_hw[image].tolist()
        fitted = planner.refit(boxes.take(rows), (height, width))
        if fitted is None:
            plan.errors[image] = (
                f"its size has changed to {height} x {width} (height x width), which gives other rows than the "
                f"{rows.stop - rows.start} in the file; start over with --overwrite"
            )
        else:
            for name in ("boxes_px", "flag", "scale"):
                getattr(boxes, name)[rows] = getattr(fitted, name)
    return np.asarray(changed)


def rows_of_table(
    table: BoxTable, image_of: npt.NDArray[np.int64], image_hw: npt.NDArray[np.int32]
) -> BoxRows:
    """Make one row for each box whose image is an input: image by image, in the order of the box file.

    ``image_of`` is the input of each image in the box file, or -1. Scales are left at -1, to be chosen.
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
    """Make one row for each view of each image; scales are left at -1, to be chosen, unless the views fix them.

    An image of unknown size, 0, gets as many rows as an image of 1 x 1 pixels, with boxes of NaN.
    """
    sizes, inverse = np.unique(image_hw, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    views = [views_of((max(1, height), max(1, width))) for height, width in sizes.tolist()]
    counts = np.array([len(own.ids) for own in views], dtype=np.int64)[inverse]
    ranges, n_rows = _make_ranges(counts), int(counts.sum())
    boxes_px = np.empty((n_rows, 4))
    scale, mirrored = np.empty(n_rows, dtype=np.int16), np.empty(n_rows, dtype=bool)
    by_size = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    # np.split gives one empty group if there are no images.
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


def choose_scales(
    rows: BoxRows, image_hw: npt.NDArray[np.int32], short_sides: Sequence[int | None]
) -> BoxRows:
    """Choose the scale of each row of scale -1 whose box has an area and whose image size is known."""
    boxes = rows.boxes
    row_hw = image_hw[rows.row_images]
    clipped, _ = clip_boxes(boxes.boxes_px, row_hw)
    scale = boxes.scale.copy()
    open_rows = (scale < 0) & ~boxes.is_degenerate & (row_hw > 0).all(axis=1)
    short_side = row_hw.min(axis=1, keepdims=True)  # the choice depends on it and the box only
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
    """Drop rows with the same regions as an earlier row of the image and scale; ``box_row`` then points to that row.

    Images whose ``input_hw``, ``(N, S, 2)``, is 0 keep all rows.
    """
    boxes, image = rows.boxes, rows.row_images
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
    flat_cells = cells.reshape(len(boxes), 4 * cells.shape[1])
    keys = np.column_stack((image, boxes.scale, boxes.mirrored, flat_cells))[pooled]
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    same_as = np.arange(len(boxes))
    same_as[pooled] = pooled[first[inverse.reshape(-1)]]
    kept = np.unique(same_as)
    new_row = np.searchsorted(kept, same_as)
    is_row = boxes.box_row >= 0
    box_row = boxes.box_row.copy()
    box_row[is_row] = new_row[boxes.box_row[is_row]]
    return BoxRows(np.searchsorted(kept, rows.ranges), dataclasses.replace(boxes.take(kept), box_row=box_row))


def _group_rows(keys: npt.NDArray[np.int32], rows: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Split rows ``(n,)`` into groups of equal keys; ``keys`` has one line per row of the table."""
    if not len(rows):
        return []
    _, inverse = np.unique(keys[rows], axis=0, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    bounds = np.flatnonzero(np.diff(inverse.reshape(-1)[order])) + 1
    return np.split(rows[order], bounds)
