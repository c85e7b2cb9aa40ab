"""The images of one input, before the inputs are joined, and images that are named repeatedly."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.files.classes import ClassNumbers
from sppfeat.files.paths import PathTable, natural_key, possibly_repeated
from sppfeat.inputs.storage import Storage

__all__ = ["LabelBuilder", "Once", "OwnLabels", "Segment", "find_repeated"]


@dataclass(frozen=True)
class OwnLabels:
    """Classes that an input itself gives its images.

    Attributes:
        labels: ``(n,)`` int64, index into ``classes`` or -1.
        classes: their names, in the input's own order if it has one.
    """

    labels: npt.NDArray[np.int64]
    classes: tuple[bytes, ...]


@dataclass(frozen=True)
class Segment:
    """The images of one input, in order.

    Attributes:
        top: absolute path or URL of the folder, archive or table that was read; None for files named one by one.
        names: relative to ``top``, with ``/`` separators, unique; if ``top`` is None, absolute and as often as they
            were named.
        above: folder that the names in the output start from if this is the only input; None for ``top``.
        storage: brings the images; None for files of this machine under their names.
        own_labels: classes that the input gives; None if folders decide.
        ids: names that the input gives its images; None if it gives none.
        n_other_files: files skipped for want of an image suffix.
        n_repeated: images that the input contains more than once and that are listed once.
    """

    top: bytes | None
    names: PathTable
    above: bytes | None = None
    storage: Storage | None = None
    own_labels: OwnLabels | None = None
    ids: PathTable | None = None
    n_other_files: int = 0
    n_repeated: int = 0


class LabelBuilder:
    """Collects the class of each image of an input, by its name.

    Args:
        classes: all classes in their order; None for those of the images, in natural order.
    """

    def __init__(self, classes: tuple[bytes, ...] | None = None) -> None:
        self._classes = classes
        self._known = ClassNumbers(classes or ())
        self._numbers = array("q")

    def extend(self, names: Iterable[bytes]) -> None:
        """Add the classes of the next images; an empty name is none."""
        self._numbers.extend(self._known.numbers(names))

    def build(self) -> OwnLabels | None:
        """Return the class of every image; None if none has a class."""
        if not len(self._known):
            return None
        numbers = np.array(self._numbers, dtype=np.int64)
        if self._classes is not None:
            return OwnLabels(numbers, self._classes)
        return OwnLabels(*self._known.in_order(numbers, key=natural_key))


@dataclass(frozen=True)
class Once:
    """The images that count, each once, among images that may be named repeatedly.

    Attributes:
        kept: ``(n,)`` int64, ascending, the first mention of each image.
        same_as: ``(m,)`` int64, for every mention the first one of the same name.
        told_by: ``(n,)`` int64, for each image the first mention that a scan found, whose folder gives the class.
    """

    kept: npt.NDArray[np.int64]
    same_as: npt.NDArray[np.int64]
    told_by: npt.NDArray[np.int64]

    @property
    def n_repeated(self) -> int:
        """Number of mentions that repeat an earlier one."""
        return len(self.same_as) - len(self.kept)

    @property
    def named_often(self) -> npt.NDArray[np.int64]:
        """All mentions of the names that are mentioned more than once, ``(r,)`` int64, ascending."""
        again = self.same_as[self.same_as != np.arange(len(self.same_as))]
        return np.flatnonzero(np.isin(self.same_as, again))


def find_repeated(segments: Sequence[Segment], paths: PathTable) -> Once:
    """Find the images that are named more than once.

    Args:
        segments: the inputs, whose images are numbered consecutively.
        paths: all of these images, relative to the root.
    """
    every = np.arange(len(paths), dtype=np.int64)
    if len(segments) == 1 and segments[0].top is not None:
        return Once(every, every, every)
    suspects = possibly_repeated(paths)
    if not len(suspects):
        return Once(every, every, every)
    is_scanned = np.repeat([s.top is not None for s in segments], [len(s.names) for s in segments])
    first: dict[bytes, int] = {}
    same_as, told_by = every.copy(), every.copy()
    for image in suspects.tolist():
        path = paths[image]
        if path not in first:
            first[path] = image
            continue
        same_as[image] = first[path]
        if not is_scanned[told_by[first[path]]]:
            told_by[first[path]] = image
    kept = np.flatnonzero(same_as == every)
    return Once(kept, same_as, told_by[kept])
