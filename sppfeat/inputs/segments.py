"""Segments, the images of single inputs before they are joined, and the images that are named repeatedly."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.errors import ConfigError
from sppfeat.files.columns import NO_CLASS, ClassNumbers
from sppfeat.files.paths import PathTable, natural_key, possibly_repeated
from sppfeat.inputs.storage import Storage

__all__ = ["Once", "OwnLabels", "Segment", "find_repeated", "if_any", "own_classes"]


@dataclass(frozen=True)
class OwnLabels:
    """The classes that an input itself gives its images.

    Attributes:
        labels: ``(n,)`` int64, index into ``classes``; -1 for no class.
        classes: names of the classes, in the input's own order if it has one.
    """

    labels: npt.NDArray[np.int64]
    classes: tuple[bytes, ...]

    @classmethod
    def none(cls, n: int) -> "OwnLabels":
        """Return the labels of ``n`` images without classes."""
        return cls(np.full(n, NO_CLASS, dtype=np.int64), ())


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


def own_classes(names: Iterable[bytes], classes: tuple[bytes, ...] | None = None) -> OwnLabels | None:
    """Number the class of each image, empty for none; None if no image has a class.

    ``classes`` are all classes in their order; None for the classes of the images, in natural order.
    """
    known = ClassNumbers(classes or ())
    numbers = np.fromiter(known.numbers(names), dtype=np.int64)
    if not len(known):
        return None
    return (
        OwnLabels(*known.in_order(numbers, key=natural_key))
        if classes is None
        else OwnLabels(numbers, classes)
    )


def if_any(ids: PathTable) -> PathTable | None:
    """Return the ids of all images; None if none has one."""
    return ids if any(ids) else None


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

        ``fact_of`` returns the fact that a mention gives, or nothing; two different ones are the ``error``.
        """
        again = self.same_as[self.same_as != np.arange(len(self.same_as))]
        found: dict[int, bytes] = {}
        for mention in np.flatnonzero(np.isin(self.same_as, again)).tolist():
            first, fact = int(self.same_as[mention]), fact_of(mention)
            if fact and found.setdefault(first, fact) != fact:
                raise error(mention, found[first], fact)
        return found


def find_repeated(segments: Sequence[Segment], paths: PathTable) -> Once:
    """Find the distinct images of all inputs, whose ``paths`` are relative to the root, and their repetitions."""
    every = np.arange(len(paths), dtype=np.int64)
    is_unique = len(segments) == 1 and segments[0].top is not None
    suspects = every[:0] if is_unique else possibly_repeated(paths)
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
