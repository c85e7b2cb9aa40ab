"""The images and rows of a feature file as columns: what its layout is written from."""

import dataclasses
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from sppfeat.config.regions import RowFlag
from sppfeat.files.paths import PathTable

__all__ = ["Annotations", "FileTables", "RowBoxes"]


@dataclass(frozen=True)
class Annotations:
    """What was said of the box of each row.

    Attributes:
        label: ``(R,)`` int64, index into ``classes`` or -1.
        classes: class names.
        score: ``(R,)`` float64, NaN where there is none.
        ids: ``(R,)`` names of the boxes; empty where they have none.
        extra_names: of further columns.
        extra: for each of these ``(R,)`` texts.
    """

    label: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    score: npt.NDArray[np.float64]
    ids: PathTable
    extra_names: tuple[str, ...]
    extra: tuple[PathTable, ...]

    def take(self, rows: npt.NDArray[np.int64]) -> "Annotations":
        """Return those of some rows."""
        numbers = rows.tolist()
        return dataclasses.replace(
            self,
            label=self.label[rows],
            score=self.score[rows],
            ids=PathTable(self.ids[i] for i in numbers),
            extra=tuple(PathTable(column[i] for i in numbers) for column in self.extra),
        )

    def part(self, start: int, stop: int) -> "Annotations":
        """Return those of rows that follow each other."""
        return dataclasses.replace(
            self,
            label=self.label[start:stop],
            score=self.score[start:stop],
            ids=self.ids.part(start, stop),
            extra=tuple(column.part(start, stop) for column in self.extra),
        )

    def followed_by(self, other: "Annotations") -> "Annotations":
        """Return these and then those of the same box file."""
        return dataclasses.replace(
            self,
            label=np.concatenate((self.label, other.label)),
            score=np.concatenate((self.score, other.score)),
            ids=PathTable(chain(self.ids, other.ids)),
            extra=tuple(PathTable(chain(a, b)) for a, b in zip(self.extra, other.extra, strict=True)),
        )


@dataclass(frozen=True)
class RowBoxes:
    """Which part of its image each row is.

    Attributes:
        boxes_px: ``(R, 4)`` float64, xyxy edges in pixels of the image as displayed, not clipped; NaN where
            the image's size is needed and not known.
        flag: ``(R,)`` uint8, :class:`sppfeat.config.regions.RowFlag`.
        scale: ``(R,)`` int16, index of the short side at which it is pooled; -1: not chosen, or none.
        mirrored: ``(R,)`` bool, whether it is pooled from the mirror image.
        source: ``(R,)`` int64, position in the box file, or among all views.
        annotations: what was said of it.
        box_row: ``(X,)`` int64, for each box of the box file its row, or -1: not of an input.
    """

    boxes_px: npt.NDArray[np.float64]
    flag: npt.NDArray[np.uint8]
    scale: npt.NDArray[np.int16]
    mirrored: npt.NDArray[np.bool_]
    source: npt.NDArray[np.int64]
    annotations: Annotations
    box_row: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.flag)

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays hold, the annotations apart."""
        arrays = (self.boxes_px, self.flag, self.scale, self.mirrored, self.source, self.box_row)
        return sum(array.nbytes for array in arrays)

    @property
    def is_degenerate(self) -> npt.NDArray[np.bool_]:
        """``(R,)`` bool, whether a row's box has no area in its image: it has no descriptor."""
        return np.asarray((self.flag & RowFlag.DEGENERATE) != 0)

    def take(self, rows: npt.NDArray[np.int64]) -> "RowBoxes":
        """Return some rows; ``box_row`` stays as it is."""
        return dataclasses.replace(
            self,
            boxes_px=self.boxes_px[rows],
            flag=self.flag[rows],
            scale=self.scale[rows],
            mirrored=self.mirrored[rows],
            source=self.source[rows],
            annotations=self.annotations.take(rows),
        )

    def part(self, start: int, stop: int) -> "RowBoxes":
        """Return rows that follow each other; ``box_row`` stays as it is."""
        return dataclasses.replace(
            self,
            boxes_px=self.boxes_px[start:stop],
            flag=self.flag[start:stop],
            scale=self.scale[start:stop],
            mirrored=self.mirrored[start:stop],
            source=self.source[start:stop],
            annotations=self.annotations.part(start, stop),
        )

    def numbered_from(self, first_row: int, *, has_views: bool) -> "RowBoxes":
        """Return some rows of a whole as if they were all, numbered from 0.

        Args:
            first_row: of these, in the whole.
            has_views: they are windows of each image, of which those of other images are left out; boxes of a box
                file keep their numbers.
        """
        is_own = (self.box_row >= first_row) & (self.box_row < first_row + len(self))
        if has_views:  # one after the other, also those that share a row
            own = np.flatnonzero(is_own)
            first = int(own[0]) if len(own) else 0
            return dataclasses.replace(
                self, source=self.source - first, box_row=self.box_row[own] - first_row
            )
        return dataclasses.replace(self, box_row=np.where(is_own, self.box_row - first_row, -1))

    def followed_by(self, other: "RowBoxes", *, box_row: npt.NDArray[np.int64]) -> "RowBoxes":
        """Return these rows and then others, with where each box went."""
        return RowBoxes(
            boxes_px=np.concatenate((self.boxes_px, other.boxes_px)),
            flag=np.concatenate((self.flag, other.flag)),
            scale=np.concatenate((self.scale, other.scale)),
            mirrored=np.concatenate((self.mirrored, other.mirrored)),
            source=np.concatenate((self.source, other.source)),
            annotations=self.annotations.followed_by(other.annotations),
            box_row=box_row,
        )


@dataclass(frozen=True, kw_only=True)
class FileTables:
    """Every image and every row, in the order of the file; arrays, not an object per image.

    Attributes:
        root: absolute path, or URL, that all images lie under.
        paths: relative to ``root``.
        image_hw: ``(N, 2)`` int32, height and width as displayed; 0 where they are not known.
        rows: ``(N, 2)`` int64, half-open range of the image's rows.
        labels: ``(N,)`` int64, index into ``classes`` or -1.
        classes: class names.
        ids: what the inputs call the images; None where they have no such names.
        boxes: which part of its image each row is; None where each row is a whole image.
    """

    root: bytes
    paths: PathTable
    image_hw: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    classes: tuple[bytes, ...]
    ids: PathTable | None = None
    boxes: RowBoxes | None = None

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
        """``(R,)`` int64: the image of each row."""
        return np.repeat(np.arange(self.n_images), np.diff(self.rows, axis=1).reshape(-1))

    def row_range(self, first: int, stop: int) -> tuple[int, int]:
        """Return the half-open range of the rows of images ``first`` to ``stop``."""
        if first == stop:
            return 0, 0
        return int(self.rows[first, 0]), int(self.rows[stop - 1, 1])
