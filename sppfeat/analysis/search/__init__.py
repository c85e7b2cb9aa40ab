"""Search for the rows nearest to a descriptor, exactly.

Queries (images, boxes of images, or rows) and a selection of an open file go in; the nearest rows come out, with their
distances, paths, labels and boxes. The search itself must not know images or networks: only ``queries`` computes
descriptors of images, with the settings recorded in the file, and loads torch only when there is an image to describe.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sppfeat.analysis.choices import DEFAULT_METRIC, DEFAULT_NEIGHBORS
from sppfeat.analysis.search.hits import Hit, make_hits
from sppfeat.analysis.search.neighbors import nearest_rows
from sppfeat.analysis.search.queries import Query, describe_queries, read_queries
from sppfeat.config.distribution import RunOptions
from sppfeat.config.values import StrPath
from sppfeat.files.downloads import OnDownload
from sppfeat.store.reader import FeatureFile
from sppfeat.store.selection import LabelSource, RowsLike

__all__ = ["Found", "Hit", "Query", "search"]


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
        return [Found(*pair) for pair in zip(asked, make_hits(found, selection, root=root), strict=True)]
