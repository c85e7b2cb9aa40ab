"""The table of all boxes in a box file, in the file's own order and convention."""

import math
from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.config.regions import BoxConvention
from sppfeat.files.columns import NO_CLASS, ClassNumbers
from sppfeat.files.paths import PathTable

__all__ = ["BoxTable", "BoxTableBuilder"]


@dataclass(frozen=True)
class BoxTable:
    """All boxes of a box file, in its order, as arrays rather than one object per box.

    The file has ``M`` images and ``B`` boxes.

    Attributes:
        images: ``(M,)`` names of the images in the file, each once, including images without boxes.
        image: ``(B,)`` int64, index into ``images``.
        boxes: ``(B, 4)`` float64, the numbers in the file.
        convention: meaning of these numbers; the default of the format unless options override it.
        label: ``(B,)`` int64, index into ``classes`` or -1.
        classes: class names.
        score: ``(B,)`` float64, NaN for a box without a score.
        ids: ``(B,)`` ids of the boxes in the file; empty for a box without an id.
        extra_names: names of all other columns of the file.
        extra: for each of these columns, its ``(B,)`` texts.
        image_hw: ``(M, 2)`` int32, height and width of each image according to the file, in pixels; 0 if it gives
            none.
        names: kind of the names in ``images``: ``path`` (the last parts of a path, perhaps without the suffix),
            ``id`` (numbers or texts that equal file names without suffix, apart from leading zeros) or ``single``
            (the boxes of one image, which the file does not name).
    """

    images: PathTable
    image: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    convention: BoxConvention
    label: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    score: npt.NDArray[np.float64]
    ids: PathTable
    extra_names: tuple[str, ...]
    extra: tuple[PathTable, ...]
    image_hw: npt.NDArray[np.int32]
    names: str = "path"

    def __len__(self) -> int:
        return len(self.image)


class BoxTableBuilder:
    """Collects boxes one by one, in compact arrays.

    Args:
        extra_names: names of further columns; others are appended.
        classes: class names known in advance, in the order of their numbers; others are appended.
    """

    def __init__(self, *, extra_names: Sequence[str] = (), classes: Sequence[str] = ()) -> None:
        self._images: dict[bytes, int] = {}
        self._image_hw = array("i")
        self._image = array("q")
        self._boxes = array("d")
        self._label = array("q")
        self._classes = ClassNumbers(classes)
        self._score = array("d")
        self._ids: list[bytes] = []
        self._extra: dict[str, list[bytes]] = {name: [] for name in extra_names}

    def __len__(self) -> int:
        return len(self._image)

    @property
    def extra_names(self) -> Collection[str]:
        """Names of the further columns so far."""
        return self._extra.keys()

    def add_image(self, name: bytes, image_hw: tuple[int, int] = (0, 0)) -> int:
        """Return the index of an image; a new one is added with its height and width in pixels."""
        index = self._images.setdefault(name, len(self._images))
        if 2 * index == len(self._image_hw):
            self._image_hw.extend(image_hw)
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

        The texts in ``extra`` go into the columns of these names, which are empty for boxes without them.
        """
        for name, text in (extra or {}).items():
            column = self._extra.setdefault(name, [])
            column += [b""] * (len(self) - len(column))
            column.append(text)
        self._image.append(image)
        self._boxes.extend(box)
        self._label.append(self._classes.number(label) if label else NO_CLASS)
        self._score.append(score)
        self._ids.append(box_id)

    def build(self, convention: BoxConvention, *, names: str = "path") -> BoxTable:
        """Build the table of all boxes added so far."""
        return BoxTable(
            images=PathTable(self._images),
            image=np.array(self._image, dtype=np.int64),
            boxes=np.array(self._boxes, dtype=np.float64).reshape(-1, 4),
            convention=convention,
            label=np.array(self._label, dtype=np.int64),
            classes=self._classes.names,
            score=np.array(self._score, dtype=np.float64),
            ids=PathTable(self._ids),
            extra_names=tuple(self._extra),
            extra=tuple(
                PathTable(column + [b""] * (len(self) - len(column))) for column in self._extra.values()
            ),
            image_hw=np.array(self._image_hw, dtype=np.int32).reshape(-1, 2),
            names=names,
        )
