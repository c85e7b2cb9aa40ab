"""What the file says of rows that were found."""

import math
import os
from dataclasses import dataclass

from sppfeat.analysis.search.neighbors import Neighbors
from sppfeat.store.selection import Selection

__all__ = ["Hit", "make_hits"]


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One row that was found.

    Attributes:
        rank: 1 for the nearest.
        distance: of its descriptor from the query's.
        row: its number.
        image: path of its image, relative to the file's root.
        path: the same below the root.
        image_id: what the inputs called the image; None where they did not.
        label: its class by the selection's labels; None where it has none.
        box: ``x0, y0, x1, y1`` in pixels of the image as displayed, edges, half-open; None where rows are whole
            images, and likewise the following.
        score: of the box; None where it has none.
        id: what the box file calls the box; None where it has no name.
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


def make_hits(
    neighbors: Neighbors, selection: Selection, *, root: str | os.PathLike[str] | None = None
) -> list[list[Hit]]:
    """For each query what was found, the nearest first.

    Args:
        neighbors: of the selection.
        selection: what was searched; its labels are those of the hits.
        root: folder that the images lie under now; the recorded one where None.
    """
    facts = _Facts(selection, selection.file.root if root is None else os.fspath(root))
    return [
        [
            facts.hit(rank, *found)
            for rank, found in enumerate(zip(rows, distances, strict=True), 1)
            if found[0] >= 0
        ]
        for rows, distances in zip(neighbors.rows.tolist(), neighbors.distances.tolist(), strict=True)
    ]


class _Facts:
    """What a file says of its rows, read once."""

    def __init__(self, selection: Selection, root: str) -> None:
        file = selection.file
        self._file = file
        self._root = root
        self._labels = selection.labels
        self._image_index = file.image_index
        self._image_ids = file.image_id_table
        self._boxes = (file.boxes, file.row_score, file.row_id) if file.has_boxes else None

    def hit(self, rank: int, row: int, distance: float) -> Hit:
        """Return what there is to say of a row."""
        image = int(self._image_index[row])
        path = self._file.path_of(image)
        box, score, name = None, None, None
        if self._boxes is not None:
            boxes, scores, names = self._boxes
            x0, y0, x1, y1 = boxes[row].tolist()
            box, score, name = (x0, y0, x1, y1), float(scores[row]), names[row] or None
            score = None if math.isnan(score) else score
        return Hit(
            rank=rank,
            distance=distance,
            row=row,
            image=path,
            path=os.path.join(self._root, path),
            image_id=None if self._image_ids is None else os.fsdecode(self._image_ids[image]) or None,
            label=self._labels.name_of(row),
            box=box,
            score=score,
            id=name,
        )
