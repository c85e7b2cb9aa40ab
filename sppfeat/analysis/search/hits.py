"""Records of the rows that a search found."""

import math
import os
from dataclasses import dataclass

from sppfeat.analysis.search.neighbors import Neighbors
from sppfeat.config.values import StrPath
from sppfeat.store.selection import Selection

__all__ = ["Hit", "make_hits"]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A row that a search found.

    Attributes:
        rank: 1 for the nearest row.
        distance: distance between the descriptors of row and query, in the metric of the search.
        row: row number in the file.
        image: path of the image relative to the file's root.
        path: path of the image including the root, with which it can be opened.
        image_id: id of the image in the inputs; None if it has none.
        label: class of the row in the selection's labels; None if it has none.
        box: ``x0, y0, x1, y1`` in pixels of the image as displayed, edges, half-open; None if rows are whole images.
        score: score of the box; None if it has none, or if rows are whole images.
        id: id of the box in its box file; None if it has none, or if rows are whole images.
    """

    rank: int
    distance: float
    row: int
    image: str
    path: str
    image_id: str | None
    label: str | None
    box: tuple[float, float, float, float] | None
    score: float | None
    id: str | None


def make_hits(neighbors: Neighbors, selection: Selection, *, root: StrPath | None = None) -> list[list[Hit]]:
    """Makes a list of hits for each query, nearest first.

    Args:
        neighbors: the nearest rows and their distances.
        selection: the selection that was searched, whose labels the hits get.
        root: folder that now holds the images; the root recorded in the file if None.
    """
    file, labels = selection.file, selection.labels
    folder = file.root if root is None else os.fspath(root)
    image_index, image_ids = file.image_index, file.image_id_table
    boxes, scores, ids = (file.boxes, file.row_score, file.row_id) if file.has_boxes else (None, None, None)

    def hit(rank: int, row: int, distance: float) -> Hit:
        image = int(image_index[row])
        path = file.path_of(image)
        score = math.nan if scores is None else float(scores[row])
        return Hit(
            rank=rank,
            distance=distance,
            row=row,
            image=path,
            path=os.path.join(folder, path),
            image_id=None if image_ids is None else os.fsdecode(image_ids[image]) or None,
            label=labels.name_of(row),
            box=None if boxes is None else tuple(boxes[row].tolist()),
            score=None if math.isnan(score) else score,
            id=None if ids is None else ids[row] or None,
        )

    return [
        [
            hit(rank, row, distance)
            for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), 1)
            if row >= 0
        ]
        for rows, distances in zip(neighbors.rows.tolist(), neighbors.distances.tolist(), strict=True)
    ]
