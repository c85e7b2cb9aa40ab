"""Small box tables, and the rows and plans made from them."""

import math

import numpy as np
from feature_files import listing_of

from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.boxes.views import VIEW_SIDE, multiview_views
from sppfeat.config.regions import BoxConvention
from sppfeat.config.specs import InputSpec
from sppfeat.extraction.plan import BoxRows, Plan, make_plan
from sppfeat.extraction.regions import Projector
from sppfeat.extraction.rows import RowPlanner, rows_of_table
from sppfeat.files.paths import PathTable
from sppfeat.geometry import FeatureGeometry

ROOT = b"/data"
PROJECTOR = Projector((FeatureGeometry(16.0, 0.0),), "sppnet", 0.0)


def table_of(boxes, *, images=(), convention=None, names="path", sizes=None) -> BoxTable:
    """A table of ``(image name, four numbers)``; ``images`` come first, with boxes or without.

    Box ``i`` has the label ``c<i % 3>``, the score ``i / 8``, the id ``box<i>`` and the note ``note <i>``.
    """
    builder = BoxTableBuilder(extra_names=("note",))
    for name in images:
        builder.add_image(name.encode(), (sizes or {}).get(name, (0, 0)))
    for i, (name, box) in enumerate(boxes):
        builder.add_box(
            builder.add_image(name.encode(), (sizes or {}).get(name, (0, 0))),
            box,
            label=f"c{i % 3}",
            score=i / 8,
            box_id=b"box%d" % i,
            extra={"note": b"note %d" % i},
        )
    return builder.build(convention or BoxConvention(), names=names)


def sizes_of(image_hw) -> np.ndarray:
    return np.array(image_hw, dtype=np.int32).reshape(-1, 2)


def rows_of(boxes_of_image, image_hw) -> BoxRows:
    """Rows of boxes in pixels, a list of boxes per image, in this order in the box file too."""
    boxes = [(str(i), box) for i, own in enumerate(boxes_of_image) for box in own]
    table = table_of(boxes, images=[str(i) for i in range(len(boxes_of_image))])
    return rows_of_table(table, np.arange(len(boxes_of_image)), sizes_of(image_hw))


def views_of(image_hw, short_sides):
    """The views of the multi-view test, at network inputs of the image's aspect ratio."""
    low = min(image_hw)
    windows_hw = [(VIEW_SIDE * low / (side or low),) * 2 for side in short_sides]
    return multiview_views(image_hw, short_sides, windows_hw)


def map_hws(input_hw):
    """Size of the only map of an imaginary network."""
    return [tuple(math.ceil(side / 16) for side in input_hw)]


def planner_of(spec: InputSpec, source, *, drop=False) -> RowPlanner:
    """The planner of a box file, of a grid, or of the views of the multi-view test."""
    return RowPlanner(spec, PROJECTOR, map_hws if drop else None, **source)


def whole_images(n, hw=(40, 60)) -> Plan:
    return plan_of(None, [hw] * n, InputSpec())


def plan_of(rows: BoxRows | None, image_hw, spec: InputSpec) -> Plan:
    n = len(image_hw)
    listing = listing_of(
        root=ROOT,
        paths=PathTable(f"{i}.jpg" for i in range(n)),
        labels=np.full(n, -1, dtype=np.int64),
        classes=(),
    )
    return make_plan(listing, sizes_of(image_hw), {}, spec, rows)


def clip(box, hw):
    """The part of a box inside an image, by plain arithmetic; None for no part."""
    if not all(math.isfinite(value) for value in box):
        return None
    x0, x1 = (min(max(value, 0.0), float(hw[1])) for value in box[::2])
    y0, y1 = (min(max(value, 0.0), float(hw[0])) for value in box[1::2])
    return [x0, y0, x1, y1] if x0 < x1 and y0 < y1 else None
