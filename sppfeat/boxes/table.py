"""Boxes in a file's own order and convention, and their conversion to pixels of the images.

``boxes_px`` are ``x0, y0, x1, y1`` in pixels of the image as displayed, 0-based pixel edges, half-open:
the whole image is ``[0, 0, width, height]``.
"""

import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.config.regions import BoxConvention, RowFlag
from sppfeat.config.wording import counted, first_few
from sppfeat.files.columns import NO_CLASS, ClassNumbers
from sppfeat.files.paths import PathTable
from sppfeat.files.tables import parse_number

__all__ = ["ROTATION", "BoxTable", "BoxTableBuilder", "boxes_to_px", "clip_boxes"]

ROTATION = "rotation"
"""The extra column with the angles of boxes, in degrees."""

_ANGLES = (ROTATION, "angle", "theta")  # columns of angles; only ROTATION has a known unit

# Pixels that a box may extend beyond the border without being flagged as clipped. Fractions rounded to six digits, as
# in YOLO files, are off by up to 0.002 pixels on a side of 4000 pixels.
_ROUNDING = 0.01


@dataclass(frozen=True)
class BoxTable:
    """All boxes of a box file, in its order, as arrays, not as one object per box.

    The file has ``M`` images and ``B`` boxes.
    """

    images: PathTable  # (M,) names of the images in the file, each once, including images without boxes
    image: npt.NDArray[np.int64]  # (B,) int64, index into images
    boxes: npt.NDArray[np.float64]  # (B, 4) float64, the numbers in the file
    # Meaning of these numbers; the default of the format unless options override it.
    convention: BoxConvention
    label: npt.NDArray[np.int64]  # (B,) int64, index into classes or -1
    classes: tuple[str, ...]  # class names
    score: npt.NDArray[np.float64]  # (B,) float64, NaN for a box without a score
    ids: PathTable  # (B,) ids of the boxes in the file; empty for a box without an id
    extra_names: tuple[str, ...]  # names of all other columns of the file
    extra: tuple[PathTable, ...]  # for each of these columns, its (B,) texts
    # (M, 2) int32, height and width of each image according to the file, in pixels; 0 if it gives none.
    image_hw: npt.NDArray[np.int32]
    # Kind of the names in images: path (the last parts of a path, perhaps without the suffix), id (numbers
    # or texts that equal file names without suffix, apart from leading zeros) or single (the boxes of one
    # image, which the file does not name).
    names: str = "path"
    notes: tuple[str, ...] = ()  # notes for the user, such as shapes that are not boxes
    # (M,) for each image, the name of its annotation file if the name inside differs, else empty; None if all agree.
    own_names: PathTable | None = None

    def __len__(self) -> int:
        return len(self.image)


class BoxTableBuilder:
    """Collects boxes one by one, in compact arrays.

    New names of extra columns and of classes follow those known in advance. If no classes are known in advance, they
    are in natural order.
    """

    def __init__(self, *, extra_names: Sequence[str] = (), classes: Sequence[str] = ()) -> None:
        self._images: dict[bytes, int] = {}
        self._own_names: list[bytes] = []
        self._image_hw = array("i")
        self._image = array("q")
        self._boxes = array("d")
        self._label = array("q")
        self._classes = ClassNumbers(classes)
        self._has_order = bool(self._classes)
        self._score = array("d")
        self._ids: list[bytes] = []
        self._extra: dict[str, list[bytes]] = {name: [] for name in extra_names}

    def __len__(self) -> int:
        return len(self._image)

    @property
    def image_names(self) -> Collection[bytes]:
        """Names of the images so far."""
        return self._images.keys()

    @property
    def extra_names(self) -> Collection[str]:
        """Names of the extra columns so far."""
        return self._extra.keys()

    def add_image(self, name: bytes, image_hw: tuple[int, int] = (0, 0), *, own_name: bytes = b"") -> int:
        """Return the index of an image; add a new one with its height and width in pixels.

        ``own_name`` is the name of its annotation file, if it differs.
        """
        index = self._images.setdefault(name, len(self._images))
        if 2 * index == len(self._image_hw):
            self._image_hw.extend(image_hw)
            self._own_names.append(own_name)
        return index

    def add_box(
        self,
        image: int,
        box: Sequence[float],
        *,
        label: str = "",
        score: float = math.nan,
        box_id: bytes = b"",
        extra: Mapping[str, bytes] | None = None,
    ) -> None:
        """Append a box of four numbers in the file's convention, with its class name if it has one.

        Blanks around the name are dropped, unless the classes were given in advance.
        The texts in ``extra`` go into the columns of these names; other boxes have empty texts there.
        """
        for name, text in (extra or {}).items():
            column = self._extra.setdefault(name, [])
            column += [b""] * (len(self) - len(column))
            column.append(text)
        label = label if self._has_order else label.strip()
        self._image.append(image)
        self._boxes.extend(box)
        self._label.append(self._classes.number(label) if label else NO_CLASS)
        self._score.append(score)
        self._ids.append(box_id)

    def build(self, convention: BoxConvention, *, names: str = "path", notes: Sequence[str] = ()) -> BoxTable:
        """Build the table of all boxes added so far."""
        label, classes = np.array(self._label, dtype=np.int64), self._classes.names
        if not self._has_order:
            label, classes = self._classes.in_order(label)
        return BoxTable(
            images=PathTable(self._images),
            image=np.array(self._image, dtype=np.int64),
            boxes=np.array(self._boxes, dtype=np.float64).reshape(-1, 4),
            convention=convention,
            label=label,
            classes=classes,
            score=np.array(self._score, dtype=np.float64),
            ids=PathTable(self._ids),
            extra_names=tuple(self._extra),
            extra=tuple(
                PathTable(column + [b""] * (len(self) - len(column))) for column in self._extra.values()
            ),
            image_hw=np.array(self._image_hw, dtype=np.int32).reshape(-1, 2),
            names=names,
            notes=(*notes, *self._rotation_notes()),
            own_names=PathTable(self._own_names) if any(self._own_names) else None,
        )

    def _rotation_notes(self) -> list[str]:
        notes = []
        for name, column in self._extra.items():
            if name.lower() not in _ANGLES:
                continue
            angles = [angle for text in column if (angle := parse_number(text)) and math.isfinite(angle)]
            if angles:
                shown = first_few((f"{angle:g}" for angle in angles), 3)
                unit = "degrees" if name == ROTATION else f"in {name!r}"
                rotations = counted(len(angles), "box has a rotation", "boxes have a rotation")
                notes.append(f"{rotations} ({shown} {unit}), which is not applied")
        return notes


def boxes_to_px(
    boxes: npt.NDArray[np.float64], convention: BoxConvention, image_hw: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """Convert the boxes of a file to pixels of their images, without clipping them or ordering their corners.

    Args:
        boxes: ``(K, 4)`` float64, the numbers in the file.
        convention: meaning of these numbers.
        image_hw: ``(K, 2)`` int32, height and width of each box's image, in pixels; 0 if unknown.

    Returns:
        ``boxes_px``: ``(K, 4)`` float64, xyxy, half-open, in pixels of the image; NaN for a box that depends on an
            unknown size.

    Example:
        >>> voc = BoxConvention(origin=1, ends="inclusive")
        >>> boxes_to_px(np.array([[1.0, 1.0, 500.0, 375.0]]), voc, np.array([[375, 500]])).tolist()
        [[0.0, 0.0, 500.0, 375.0]]
    """
    if convention.order == "yx":
        boxes = boxes[:, [1, 0, 3, 2]]
    first, second = boxes[:, :2], boxes[:, 2:]
    # Overflow gives infinities, which have no area inside any image.
    with np.errstate(over="ignore", invalid="ignore"):
        if convention.coords == "xyxy":
            start, end = first - convention.origin, second - convention.origin
        elif convention.coords == "xywh":
            start = first - convention.origin
            end = start + second
        else:
            center = first - convention.origin
            start, end = center - second / 2, center + second / 2
        if convention.ends == "inclusive":
            end = end + 1
        boxes_px = np.concatenate((start, end), axis=1)
        if convention.units == "percent":
            boxes_px = boxes_px / 100
        if convention.is_relative:
            height, width = image_hw[:, 0].astype(np.float64), image_hw[:, 1].astype(np.float64)
            boxes_px = boxes_px * np.stack((width, height, width, height), axis=1)
            boxes_px[(image_hw == 0).any(axis=1)] = np.nan
    return boxes_px


def clip_boxes(
    boxes_px: npt.NDArray[np.float64], image_hw: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Clip boxes to their images.

    Args:
        boxes_px: ``(K, 4)`` float64, xyxy, half-open, in pixels of the image; corners in any order, of any extent.
        image_hw: ``(K, 2)`` int32, height and width of each box's image, in pixels; 0 if unknown.

    Returns:
        ``(K, 4)`` float64, xyxy, inside the image and with an area, or zeros; and ``(K,)`` uint8
        :class:`sppfeat.config.regions.RowFlag`: ``CLIPPED`` if a box extends beyond the border by more than 0.01
        pixels (less is rounding), ``DEGENERATE`` if it has no area inside or is not finite, 0 for every box of
        an image of unknown size.

    Example:
        >>> clipped, flag = clip_boxes(np.array([[-5.0, 0.0, 20.0, 30.0]]), np.array([[30, 40]]))
        >>> clipped.tolist(), flag.tolist()
        ([[0.0, 0.0, 20.0, 30.0]], [1])
    """
    limit = image_hw[:, ::-1].astype(np.float64)
    known = (image_hw > 0).all(axis=1)
    clipped = boxes_px.copy()
    clipped[:, :2] = np.clip(boxes_px[:, :2], 0, limit)
    clipped[:, 2:] = np.clip(boxes_px[:, 2:], 0, limit)
    finite = np.isfinite(boxes_px).all(axis=1)
    with np.errstate(invalid="ignore"):
        has_area = finite & (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
        reaches_over = (np.abs(clipped - boxes_px) > _ROUNDING).any(axis=1)
    flag = np.zeros(len(boxes_px), dtype=np.uint8)
    flag[reaches_over & has_area] = RowFlag.CLIPPED
    flag[~has_area & known] = RowFlag.DEGENERATE
    clipped[~has_area | ~known] = 0
    return clipped, flag
