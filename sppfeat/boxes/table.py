"""What a box file says: its boxes as they stand there, in its own order and convention."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.config.regions import BoxConvention
from sppfeat.files.classes import ClassNumbers
from sppfeat.files.paths import PathTable

__all__ = ["BoxTable", "BoxTableBuilder"]


@dataclass(frozen=True)
class BoxTable:
    """Every box of a box file, in its order; arrays, not an object per box.

    ``M`` images, ``B`` boxes.

    Attributes:
        images: ``(M,)`` names of the images as the file has them, each once; also of images without boxes.
        image: ``(B,)`` int64, index into ``images``.
        boxes: ``(B, 4)`` float64, the numbers as the file has them.
        convention: how these are meant, by the format's default.
        label: ``(B,)`` int64, index into ``classes`` or -1.
        classes: class names.
        score: ``(B,)`` float64, NaN where there is none.
        ids: ``(B,)`` what names a box in the file; empty where nothing does.
        extra_names: of whatever else the file says of each box.
        extra: for each of these ``(B,)`` texts.
        image_hw: ``(M,)`` height and width that the file gives each image, as ``(M, 2)`` int32; 0 where it
            gives none.
        names: what the names of the images are: ``path`` (the last parts of a path; without the suffix where
            they have none), ``id`` (numbers or texts that the file names without suffix stand for, leading
            zeros apart) or ``single`` (the boxes of one image, which the file does not name).
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
    """Collects boxes one by one; compact from the start.

    Args:
        extra_names: of whatever else there is to say of each box.
        classes: class names that are known beforehand, in the order of their numbers; others are appended.
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
        self._extra_names = tuple(extra_names)
        self._extra: list[list[bytes]] = [[] for _ in extra_names]

    def add_image(self, name: bytes, image_hw: tuple[int, int] = (0, 0)) -> int:
        """Return the index of an image, which is added if it is new; its size counts then."""
        index = self._images.setdefault(name, len(self._images))
        if 2 * index == len(self._image_hw):
            self._image_hw.extend(image_hw)
        return index

    def add_class(self, name: str) -> int:
        """Return the index of a class, which is added if it is new."""
        return self._classes.number(name)

    def add_box(
        self,
        image: int,
        box: Sequence[float],
        *,
        label: int = -1,
        score: float = float("nan"),
        box_id: bytes = b"",
        extra: Sequence[bytes] = (),
    ) -> None:
        """Append a box of four numbers; ``extra`` as long as the names are."""
        self._image.append(image)
        self._boxes.extend(box)
        self._label.append(label)
        self._score.append(score)
        self._ids.append(box_id)
        for column, text in zip(self._extra, extra, strict=True):
            column.append(text)

    def build(self, convention: BoxConvention, *, names: str = "path") -> BoxTable:
        """Return the table of what was added."""
        return BoxTable(
            images=PathTable(self._images),
            image=np.array(self._image, dtype=np.int64),
            boxes=np.array(self._boxes, dtype=np.float64).reshape(-1, 4),
            convention=convention,
            label=np.array(self._label, dtype=np.int64),
            classes=self._classes.names,
            score=np.array(self._score, dtype=np.float64),
            ids=PathTable(self._ids),
            extra_names=self._extra_names,
            extra=tuple(PathTable(column) for column in self._extra),
            image_hw=np.array(self._image_hw, dtype=np.int32).reshape(-1, 2),
            names=names,
        )
