"""Searches of a feature file for the rows nearest to images, boxes of images, or rows of the file.

Images are described with the settings recorded in the file, which loads torch; queries by row do not load it.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.choices import DEFAULT_METRIC, DEFAULT_NEIGHBORS
from sppfeat.analysis.neighbors import Neighbors, nearest_rows
from sppfeat.boxes.table import clip_boxes
from sppfeat.config.distribution import RunOptions
from sppfeat.config.regions import RowFlag
from sppfeat.config.values import StrPath
from sppfeat.config.wording import one_line
from sppfeat.decoding.images import probe_image
from sppfeat.errors import BoxError, ConfigError, ImageError
from sppfeat.files.downloads import OnDownload
from sppfeat.inputs import find_image, is_list, read_list
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.labels import LabelSource
from sppfeat.store.reader import FeatureFile, Selection
from sppfeat.store.rows import RowsLike, select_rows

__all__ = ["Found", "Hit", "Query", "describe_queries", "parse_query", "read_queries", "search"]

_ALLOWED = "an image, IMAGE#x0,y0,x1,y1, row:N, @LIST or -"
_ROW = re.compile(r"row:([0-9]{1,18})")
_N_IMAGES = 64  # images to describe between two reports of progress


@dataclass(frozen=True)
class Query:
    """A query: an image, a box of an image, or a row of the file.

    Attributes:
        text: the query as the user wrote it.
        path: path of the image, possibly inside an archive (``a.zip/b.jpg``); None for a row.
        box: ``x0, y0, x1, y1`` in pixels of the image as displayed, edges, half-open; None for the whole image.
        row: row number; None for an image.
    """

    text: str
    path: str | None = None
    box: tuple[float, float, float, float] | None = None
    row: int | None = None


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A row that a search found.

    Attributes:
        rank: 1 for the nearest row.
        distance: distance between the descriptors of row and query, in the metric of the search.
        row: row number in the file.
        image: path of the image, relative to the file's root.
        path: path of the image, with the root.
        image_id: id of the image in the inputs; None if it has none.
        label: class of the row in the selection's labels; None if it has none.
        box: ``x0, y0, x1, y1`` in pixels of the image as displayed, edges, half-open; None if rows are whole images.
        score: score of the box; None without one.
        id: id of the box in its box file; None without one.
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
    """A query, and the rows that are nearest to it, nearest first."""

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
        root: folder that now holds the images of the file; None: as recorded in the file.
        weights: weights file or name; None: as recorded in the file.
        weights_dir: folder to search for named weights before torch's hub cache.
        device: device to run the network on.
        on_progress: called with ``"describing"`` and the numbers of queries done and in total, then with
            ``"searching"`` and the numbers of rows.
        on_download: called with the name of a weights file, the bytes downloaded, and their total (None if unknown).

    Raises:
        ConfigError: a query, row, layer, level or setting does not exist or is not allowed.
        ImageError: an image cannot be read.
        BoxError: a box has no area inside its image.
        StoreError: a file cannot be read, or the weights are missing or have changed.
    """
    parsed = read_queries(queries)
    with FeatureFile(Path(features)) as file:
        selection = file.select(rows=rows, layers=layers, levels=levels, labels=labels)
        n_rows = len(selection)
        descriptors = describe_queries(
            parsed,
            selection,
            weights=weights,
            weights_dir=weights_dir,
            device=device,
            on_progress=lambda done: on_progress("describing", done, len(parsed)),
            on_download=on_download,
        )
        found = nearest_rows(
            selection,
            descriptors,
            min(k, max(1, n_rows)),
            metric=metric,
            exclude=None if include_self else [-1 if query.row is None else query.row for query in parsed],
            one_per_image=one_per_image,
            on_progress=lambda done: on_progress("searching", done, n_rows),
        )
        return [Found(*pair) for pair in zip(parsed, _hits_of(found, selection, root=root), strict=True)]


def _hits_of(neighbors: Neighbors, selection: Selection, *, root: StrPath | None) -> list[list[Hit]]:
    file, labels = selection.file, selection.labels
    folder = file.root if root is None else os.fspath(root)
    image_index, image_ids = file.image_index, file.image_id_table
    boxes, scores, ids = (file.boxes, file.row_score, file.row_id) if file.has_boxes else (None, None, None)
    found = []
    for rows, distances in zip(neighbors.rows.tolist(), neighbors.distances.tolist(), strict=True):
        hits = []
        for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), 1):
            if row < 0:
                break
            image = int(image_index[row])
            path = file.path_of(image)
            score = math.nan if scores is None else float(scores[row])
            hit = Hit(
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
            hits.append(hit)
        found.append(hits)
    return found


def read_queries(texts: Iterable[str]) -> list[Query]:
    """Parses queries as :func:`parse_query` does, and lists of them: ``@FILE``, or ``-`` for standard input."""
    queries = []
    for text in texts:
        if is_list(text):
            queries += [parse_query(os.fsdecode(entry)) for entry in read_list(text)]
        else:
            queries.append(parse_query(text))
    if not queries:
        raise ConfigError(f"no queries; allowed: {_ALLOWED}")
    return queries


def parse_query(text: str) -> Query:
    """Parses a query: an image file, ``IMAGE#x0,y0,x1,y1`` or ``row:N``.

    A text that is the path of an existing file means that file, even if it also looks like a box or a row.
    """
    why_missing = _why_missing(text)
    if why_missing is None:
        return Query(text, path=text)
    if row := _ROW.fullmatch(text):
        return Query(text, row=int(row[1]))
    path, _, numbers = text.rpartition("#")
    if not path or _why_missing(path) is not None:
        raise ConfigError(f"query {one_line(repr(text))}: {one_line(why_missing)}; allowed: {_ALLOWED}")
    try:
        x0, y0, x1, y1 = map(float, numbers.split(","))
    except ValueError as error:
        raise ConfigError(
            f"query {one_line(repr(text))}: its box is {one_line(repr(numbers))}; allowed: x0,y0,x1,y1, in pixels"
        ) from error
    return Query(text, path=path, box=(x0, y0, x1, y1))


def _why_missing(path: str) -> str | None:
    """The reason why a file cannot be found, on disk or inside an archive; None if it was found."""
    if os.path.isdir(path):
        raise ConfigError(f"query {one_line(repr(path))} is a folder; allowed: {_ALLOWED}")
    try:
        find_image(b"", os.fsencode(path))
    except ImageError as error:
        return str(error)
    return None


def describe_queries(
    queries: Sequence[Query],
    selection: Selection,
    *,
    weights: str | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    device: str = RunOptions.device,
    on_progress: Callable[[int], None] = lambda described: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> npt.NDArray[np.floating[Any]]:
    """Descriptors ``(q, d)`` of queries in the columns of a selection and in the file's type, finite.

    Images are described with the file's settings and weights (:meth:`sppfeat.Extractor.from_file`), all boxes of an
    image in one run of the network. The network is loaded last, once the rows, the headers of the images and the boxes
    are checked, and only if there are images.

    If the rows of the file are boxes, an image query is a box that covers the whole image. For the arguments and errors
    see :func:`search`. A descriptor that holds NaN or infinities is an error, too.
    """
    file = selection.file
    rows = [i for i, query in enumerate(queries) if query.row is not None]
    numbers = np.array([queries[i].row for i in rows], dtype=np.int64)
    of_rows = dataclasses.replace(selection, rows=select_rows(file, numbers, selection.labels))
    by_path: dict[str, list[int]] = {}
    for i, query in enumerate(queries):
        if query.path is not None:
            by_path.setdefault(query.path, []).append(i)
    for own in by_path.values():
        _check_image([queries[i] for i in own], file)
    result = np.empty((len(queries), selection.dimension), dtype=file.dtype)
    result[rows] = of_rows.X
    on_progress(len(rows))
    if by_path:
        from sppfeat.extractor import Extractor  # imported late, because it loads torch

        extractor = Extractor.from_file(
            file, weights=weights, weights_dir=weights_dir, device=device, on_download=on_download
        )
        n_described = len(rows)
        whole = [i for own in by_path.values() for i in own if queries[i].box is None]
        for part in [whole[start : start + _N_IMAGES] for start in range(0, len(whole), _N_IMAGES)]:
            result[part] = selection.of_descriptors(extractor([str(queries[i].path) for i in part]))
            on_progress(n_described := n_described + len(part))
        for path, own in by_path.items():
            if boxed := [i for i in own if queries[i].box is not None]:
                boxes = np.array([queries[i].box for i in boxed])
                result[boxed] = selection.of_descriptors(extractor(path, boxes))
                on_progress(n_described := n_described + len(boxed))
    for query, descriptor in zip(queries, result, strict=True):
        if not np.isfinite(descriptor).all():
            raise ConfigError(
                f"query {one_line(repr(query.text))}: its descriptor holds NaN or infinities, so it has no neighbors"
            )
    return result


def _check_image(queries: Sequence[Query], file: FeatureTable) -> None:
    """Reads the header of the image of some queries and checks that their boxes have an area."""
    try:
        place = find_image(b"", os.fsencode(str(queries[0].path)))
        height, width = probe_image(place, exif=file.config.input.exif, max_pixels=file.max_decode_pixels)
    except ImageError as error:
        raise ImageError(f"query {one_line(repr(queries[0].text))}: {error}") from error
    for query in queries:
        if query.box is None:
            continue
        _, flag = clip_boxes(np.array([query.box]), np.array([[height, width]], dtype=np.int32))
        if flag[0] & RowFlag.DEGENERATE:
            raise BoxError(
                f"query {one_line(repr(query.text))}: the box has no area in its image of {width} x {height} pixels; "
                "allowed: x0 < x1, y0 < y1"
            )
