"""The images and rows of a feature file as columns: the input to its layout."""

import dataclasses
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from sppfeat.config.regions import RowFlag
from sppfeat.files.columns import ClassNumbers
from sppfeat.files.paths import PathTable

__all__ = ["Annotations", "FileTables", "RowBoxes"]

_ROW_ARRAYS = ("boxes_px", "flag", "scale", "mirrored", "source")  # of RowBoxes, one entry per row


@dataclass(frozen=True)
class Annotations:
    """Labels, scores and other columns of a box file, one entry per row."""

    label: npt.NDArray[np.int64]  # ``(R,)``, index into ``classes``; -1 for none
    classes: tuple[str, ...]
    score: npt.NDArray[np.float64]  # ``(R,)``, NaN for none
    ids: PathTable  # ``(R,)`` names of the boxes, empty for none
    extra_names: tuple[str, ...]
    extra: tuple[PathTable, ...]  # ``(R,)`` texts of each other column

    def take(self, rows: npt.NDArray[np.int64] | slice) -> "Annotations":
        """Return the annotations of rows ``(K,)``, or of a range."""
        return dataclasses.replace(
            self,
            label=self.label[rows],
            score=self.score[rows],
            ids=_take_texts(self.ids, rows),
            extra=tuple(_take_texts(column, rows) for column in self.extra),
        )

    def followed_by(self, other: "Annotations") -> "Annotations":
        """Return these annotations followed by others from the same box file, whose classes may be renumbered."""
        known = ClassNumbers(self.classes)
        number = known.renumbering(other.classes)
        extra = dict(zip(other.extra_names, other.extra, strict=True))  # a newer reader may find more columns
        return dataclasses.replace(
            self,
            label=np.concatenate((self.label, number[other.label])),
            classes=known.names,
            score=np.concatenate((self.score, other.score)),
            ids=PathTable(chain(self.ids, other.ids)),
            extra=tuple(
                PathTable(chain(own, extra[name]))
                for name, own in zip(self.extra_names, self.extra, strict=True)
            ),
        )


@dataclass(frozen=True)
class RowBoxes:
    """The box of each row: the part of its image to pool."""

    # ``(R, 4)``, ``xyxy`` edges in pixels of the image as displayed, not clipped; NaN while a box depends on an image
    # size that is still unknown.
    boxes_px: npt.NDArray[np.float64]
    flag: npt.NDArray[np.uint8]  # ``(R,)``, bits of :class:`sppfeat.config.regions.RowFlag`
    scale: npt.NDArray[
        np.int16
    ]  # ``(R,)``, index of the short side to pool at; -1 for none, or not yet chosen
    mirrored: npt.NDArray[np.bool_]  # ``(R,)``, True for rows pooled from the mirrored image
    source: npt.NDArray[np.int64]  # ``(R,)``, index of the box in the box file, or among all views
    annotations: Annotations
    box_row: npt.NDArray[np.int64]  # ``(X,)``, row of each box or view; -1 if its image is not an input

    def __len__(self) -> int:
        return len(self.flag)

    @property
    def is_degenerate(self) -> npt.NDArray[np.bool_]:
        """``(R,)`` bool: True for boxes that have no area inside their image, and so no descriptor."""
        return np.asarray((self.flag & RowFlag.DEGENERATE) != 0)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> "RowBoxes":
        """Return rows ``(K,)`` or a range, with ``box_row`` unchanged."""
        return dataclasses.replace(
            self,
            **{name: getattr(self, name)[rows] for name in _ROW_ARRAYS},
            annotations=self.annotations.take(rows),
        )

    def numbered_from(self, first_row: int, *, has_views: bool) -> "RowBoxes":
        """Turn these rows of a larger table, from ``first_row`` on, into a table of their own, numbered from 0.

        If the boxes are views, the views of other images are dropped, and the rest numbered from 0. If they come from a
        box file, all its boxes stay, with their indices.
        """
        is_own = (self.box_row >= first_row) & (self.box_row < first_row + len(self))
        if has_views:  # the views of these rows are consecutive, including views that share a row
            own = np.flatnonzero(is_own)
            first = int(own[0]) if len(own) else 0
            return dataclasses.replace(
                self, source=self.source - first, box_row=self.box_row[own] - first_row
            )
        return dataclasses.replace(self, box_row=np.where(is_own, self.box_row - first_row, -1))

    def followed_by(self, other: "RowBoxes", *, box_row: npt.NDArray[np.int64]) -> "RowBoxes":
        """Return these rows followed by others; ``box_row`` gives the row of each box in the result."""
        joined = {name: np.concatenate((getattr(self, name), getattr(other, name))) for name in _ROW_ARRAYS}
        return RowBoxes(
            **joined, annotations=self.annotations.followed_by(other.annotations), box_row=box_row
        )


@dataclass(frozen=True, kw_only=True)
class FileTables:
    """Every image and every row of a file, in file order, as arrays."""

    root: bytes  # absolute path, or URL, of the folder of all images
    paths: PathTable  # of each image, relative to ``root``
    image_hw: npt.NDArray[np.int32]  # ``(N, 2)``, height and width as displayed, in pixels; 0 if unknown
    # ``(N, 2)``, bytes and modification time in ns of each image's file before its header was read; -1 if unknown
    versions: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]  # ``(N, 2)``, half-open range of each image's rows
    labels: npt.NDArray[np.int64]  # ``(N,)``, index into ``classes``; -1 for none
    classes: tuple[bytes, ...]
    ids: PathTable | None = None  # name that an input table gives each image; None if no image has one
    boxes: RowBoxes | None = None  # of each row; None if each row is a whole image

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.paths)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.rows[-1, 1]) if len(self.rows) else 0

    @property
    def row_images(self) -> npt.NDArray[np.int64]:
        """``(R,)`` int64: index of each row's image."""
        return np.repeat(np.arange(self.n_images), np.diff(self.rows, axis=1).reshape(-1))

    def row_range(self, first: int, stop: int) -> tuple[int, int]:
        """Return the half-open range of the rows of images ``first`` to ``stop``."""
        if first == stop:
            return 0, 0
        return int(self.rows[first, 0]), int(self.rows[stop - 1, 1])


def _take_texts(texts: PathTable, rows: npt.NDArray[np.int64] | slice) -> PathTable:
    if isinstance(rows, slice):
        return texts.part(rows.start, rows.stop)
    return PathTable(texts[i] for i in rows.tolist())
