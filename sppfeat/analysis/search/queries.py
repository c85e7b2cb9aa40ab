"""Queries: images, boxes of images, and rows of the file; computes their descriptors with the file's settings."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.coordinates import clip_boxes
from sppfeat.config.distribution import RunOptions
from sppfeat.config.regions import RowFlag
from sppfeat.config.wording import one_line
from sppfeat.decoding.images import probe_image
from sppfeat.errors import BoxError, ConfigError, ImageError
from sppfeat.files.downloads import OnDownload
from sppfeat.inputs import is_list, read_list
from sppfeat.inputs.lookup import find_image
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.selection import Selection, select_rows

__all__ = ["Query", "describe_queries", "parse_query", "read_queries"]

_ALLOWED = "an image, IMAGE#x0,y0,x1,y1, row:N, @LIST or -"
_ROW = re.compile(r"row:([0-9]{1,18})")
_N_IMAGES = 64  # images to describe between two reports of progress


@dataclass(frozen=True)
class Query:
    """A query: an image, a box of an image, or a row of the file.

    Attributes:
        text: the query as the user wrote it.
        path: path of the image, which may lie in an archive (``a.zip/b.jpg``); None for a row.
        box: ``x0, y0, x1, y1`` in pixels of the image as displayed, edges, half-open; None for the whole image.
        row: row number; None for an image.
    """

    text: str
    path: str | None = None
    box: tuple[float, float, float, float] | None = None
    row: int | None = None


def read_queries(texts: Iterable[str]) -> list[Query]:
    """Parses queries as :func:`parse_query` does, and lists of them: ``@FILE``, or ``-`` for standard input.

    Raises:
        ConfigError: a list cannot be read, a text is not a query, or there is no query at all.
    """
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

    Raises:
        ConfigError: there is no such file, it is a folder, or the box is not four numbers.

    Example:
        >>> parse_query("row:17").row
        17
    """
    missing = _why_missing(text)
    if missing is None:
        return Query(text, path=text)
    if row := _ROW.fullmatch(text):
        return Query(text, row=int(row[1]))
    path, _, numbers = text.rpartition("#")
    if not path or _why_missing(path) is not None:
        raise ConfigError(f"query {one_line(repr(text))}: {one_line(missing)}; allowed: {_ALLOWED}")
    try:
        x0, y0, x1, y1 = map(float, numbers.split(","))
    except ValueError as error:
        raise ConfigError(
            f"query {one_line(repr(text))}: its box is {one_line(repr(numbers))}; allowed: x0,y0,x1,y1, in pixels"
        ) from error
    return Query(text, path=path, box=(x0, y0, x1, y1))


def _why_missing(path: str) -> str | None:
    """The reason why there is no file; None if there is one, perhaps in an archive."""
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
    image in one run of the network. The network is loaded only if there are images, and only after all rows have been
    looked up and all images and boxes checked as far as the headers of the images allow.

    Args:
        queries: the queries; if the rows of the file are boxes, an image means a box that covers all of it.
        selection: rows of an open file; determines the columns and their scaling.
        weights: file or name of the weights; as recorded in the file if None.
        weights_dir: a folder to search first for weights given by name.
        device: device to run the network on.
        on_progress: called with the number of queries described so far.
        on_download: called with the name of a weights file, the bytes downloaded, and their total (None if unknown).

    Raises:
        SppfeatError: a reason listed at :func:`sppfeat.search`, or a descriptor holds NaN or infinities.
    """
    file = selection.file
    rows = [i for i, query in enumerate(queries) if query.row is not None]
    numbers = np.array([queries[i].row for i in rows], dtype=np.int64)
    of_rows = dataclasses.replace(selection, rows=select_rows(file, numbers, selection.labels))
    asked_of: dict[str, list[int]] = {}
    for i, query in enumerate(queries):
        if query.path is not None:
            asked_of.setdefault(query.path, []).append(i)
    for path, asked in asked_of.items():
        _check_image(path, [queries[i] for i in asked], file)
    result = np.empty((len(queries), selection.dimension), dtype=file.dtype)
    result[rows] = of_rows.X
    on_progress(len(rows))
    if asked_of:
        from sppfeat.extractor import Extractor  # imported late, because it loads torch

        extractor = Extractor.from_file(
            file, weights=weights, weights_dir=weights_dir, device=device, on_download=on_download
        )
        n_described = len(rows)
        whole = [i for asked in asked_of.values() for i in asked if queries[i].box is None]
        for some in [whole[start : start + _N_IMAGES] for start in range(0, len(whole), _N_IMAGES)]:
            result[some] = selection.of_descriptors(extractor([str(queries[i].path) for i in some]))
            on_progress(n_described := n_described + len(some))
        for path, asked in asked_of.items():
            if boxed := [i for i in asked if queries[i].box is not None]:
                boxes = np.array([queries[i].box for i in boxed])
                result[boxed] = selection.of_descriptors(extractor(path, boxes))
                on_progress(n_described := n_described + len(boxed))
    for query, descriptor in zip(queries, result, strict=True):
        if not np.isfinite(descriptor).all():
            raise ConfigError(
                f"query {one_line(repr(query.text))}: its descriptor holds NaN or infinities, which are near to nothing"
            )
    return result


def _check_image(path: str, queries: Sequence[Query], file: FeatureTable) -> None:
    """Reads the header of an image and checks that its boxes have an area."""
    try:
        place = find_image(b"", os.fsencode(path))
        height, width = probe_image(
            place, exif=file.config.input.exif, max_pixels=RunOptions.max_decode_pixels
        )
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
