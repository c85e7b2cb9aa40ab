"""Segments, the images of single inputs before they are joined, and the images that are named repeatedly."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.errors import ConfigError
from sppfeat.files.classes import ClassNumbers
from sppfeat.files.paths import PathTable, natural_key, possibly_repeated
from sppfeat.inputs.storage import Storage

__all__ = ["LabelBuilder", "Once", "OwnLabels", "Segment", "find_repeated"]


@dataclass(frozen=True)
class OwnLabels:
    """The classes that an input itself gives its images.

    Attributes:
        labels: ``(n,)`` int64, index into ``classes``; -1 for no class.
        classes: names of the classes, in the input's own order if it has one.
    """

    labels: npt.NDArray[np.int64]
    classes: tuple[bytes, ...]


@dataclass(frozen=True)
class Segment:
    """The images of one input, in order.

    Attributes:
        top: absolute path or URL of the folder, archive or table that was read; None for files named one by one.
        names: unique names relative to ``top``, with ``/`` separators; if ``top`` is None, absolute paths, repeated
            as often as they were named.
        above: root of the listing if this is the only input; None for ``top``.
        storage: fetches the images; None for local files.
        own_labels: classes that the input gives; None if folders decide.
        ids: ids that the input gives its images; None if it gives none.
        n_other_files: number of files skipped because they have no image suffix.
        n_repeated: number of images that the input repeats, each of which is listed once.
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
        classes: all classes in their order; None for the classes of the images, in natural order.
    """

    def __init__(self, classes: tuple[bytes, ...] | None = None) -> None:
        self._classes = classes
        self._known = ClassNumbers(classes or ())
        self._numbers = array("q")

    def extend(self, names: Iterable[bytes]) -> None:
        """Add the classes of the next images; an empty name stands for no class."""
        self._numbers.extend(self._known.numbers(names))

    def build(self) -> OwnLabels | None:
        """Return the class of every image; None if no image has a class."""
        if not len(self._known):
            return None
        numbers = np.array(self._numbers, dtype=np.int64)
        if self._classes is not None:
            return OwnLabels(numbers, self._classes)
        return OwnLabels(*self._known.in_order(numbers, key=natural_key))


@dataclass(frozen=True)
class Once:
    """The distinct images among ``m`` mentions, which may repeat an image.

    Attributes:
        kept: ``(n,)`` int64, ascending: the first mention of each image.
        same_as: ``(m,)`` int64: for each mention, the first mention of the same image.
        told_by: ``(n,)`` int64: for each image, the mention whose folder gives the class: the first one from a
            scanned input, or else the first one.
    """

    kept: npt.NDArray[np.int64]
    same_as: npt.NDArray[np.int64]
    told_by: npt.NDArray[np.int64]

    @property
    def n_repeated(self) -> int:
        """Number of mentions that repeat an earlier one."""
        return len(self.same_as) - len(self.kept)

    def agreed(
        self, fact_of: Callable[[int], bytes], error: Callable[[int, bytes, bytes], ConfigError]
    ) -> dict[int, bytes]:
        """Return the fact that any mention gives of each image that is mentioned repeatedly, by its first mention.

        Args:
            fact_of: the fact that a mention gives, or nothing.
            error: makes the error about a mention with another fact than an earlier one.

        Raises:
            ConfigError: two mentions give different facts.
        """
        again = self.same_as[self.same_as != np.arange(len(self.same_as))]
        found: dict[int, bytes] = {}
        for mention in np.flatnonzero(np.isin(self.same_as, again)).tolist():
            first, fact = int(self.same_as[mention]), fact_of(mention)
            if fact and found.setdefault(first, fact) != fact:
                raise error(mention, found[first], fact)
        return found


def find_repeated(segments: Sequence[Segment], paths: PathTable) -> Once:
    """Find the distinct images, and the mentions that repeat them.

    Args:
        segments: the inputs, whose images are numbered consecutively.
        paths: paths of all their images, relative to the root.
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
