"""Search for the rows nearest to a descriptor, exactly.

Queries (images, boxes of images, or rows) and a selection of an open file go in; the nearest rows come out, with their
distances, paths, labels and boxes. The search itself must not know images or networks: only ``queries`` computes
descriptors of images, with the settings recorded in the file, and loads torch only when there is an image to describe.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sppfeat.analysis.choices import DEFAULT_METRIC, DEFAULT_NEIGHBORS
from sppfeat.analysis.search.neighbors import Neighbors, nearest_rows
from sppfeat.analysis.search.queries import Query, describe_queries, read_queries
from sppfeat.config.distribution import RunOptions
from sppfeat.config.values import StrPath
from sppfeat.files.downloads import OnDownload
from sppfeat.store.reader import FeatureFile
from sppfeat.store.selection import LabelSource, RowsLike, Selection

__all__ = ["Found", "Hit", "Query", "search"]


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


@dataclass(frozen=True)
class Found:
    """Rows that are nearest to a query.

    Attributes:
        query: the query.
        hits: the rows, nearest first.
    """

    query: Query
    hits: list[Hit]


def search(
    features: StrPath,
    queries: Iterable[str],
    *,
    k: int = DEFAULT_NEIGHBORS,
    metric: str = DEFAULT_METRIC,
    one_per_image: bool = False,
    include_self: bool = False,
    rows: RowsLike = None,
    layers: Iterable[str] | str | None = None,
    levels: Iterable[int] | int | None = None,
    labels: LabelSource = None,
    root: StrPath | None = None,
    weights: str | None = None,
    weights_dir: StrPath | None = None,
    device: str = RunOptions.device,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> list[Found]:
    """Finds the rows of a feature file that are nearest to images, boxes of images, or rows; the result is exact.

    Args:
        features: path of the feature file.
        queries: each an image, ``IMAGE#x0,y0,x1,y1`` (a box in pixels of the image as displayed, edges, half-open),
            ``row:N``, ``@FILE`` (a file with a list of queries), or ``-`` (such a list on standard input).
        k: number of rows per query, 1 or more.
        metric: ``"cosine"`` (one minus the cosine, 0 to 2) or ``"l2"`` (the Euclidean distance).
        one_per_image: keep only the nearest row of each image.
        include_self: a row may be its own neighbor; with ``one_per_image``, its image may.
        rows, layers, levels, labels: see :meth:`sppfeat.store.reader.FeatureFile.select`; by default all rows that
            have a descriptor, all columns, and the labels of the file.
        root: folder that now holds the images of the file; as recorded in the file if None.
        weights, weights_dir, device, on_download: see :func:`sppfeat.analysis.search.queries.describe_queries`.
        on_progress: called with ``"describing"`` and numbers of queries, then with ``"searching"`` and numbers of
            rows: those done, and all.

    Returns:
        For each query, in order, the rows that are nearest to it.

    Raises:
        ConfigError: a query, row, layer, level or setting does not exist or is not allowed.
        ImageError: an image cannot be read.
        BoxError: a box has no area inside its image.
        StoreError: a file cannot be read, or the weights are missing or have changed.
    """
    asked = read_queries(queries)
    with FeatureFile(Path(features)) as file:
        selection = file.select(rows=rows, layers=layers, levels=levels, labels=labels)
        n_rows = len(selection)
        descriptors = describe_queries(
            asked,
            selection,
            weights=weights,
            weights_dir=weights_dir,
            device=device,
            on_progress=lambda done: on_progress("describing", done, len(asked)),
            on_download=on_download,
        )
        found = nearest_rows(
            selection,
            descriptors,
            min(k, max(1, n_rows)),
            metric=metric,
            exclude=None if include_self else [-1 if query.row is None else query.row for query in asked],
            one_per_image=one_per_image,
            on_progress=lambda done: on_progress("searching", done, n_rows),
        )
        return [Found(*pair) for pair in zip(asked, _hits_of(found, selection, root=root), strict=True)]


def _hits_of(neighbors: Neighbors, selection: Selection, *, root: StrPath | None) -> list[list[Hit]]:
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
