"""Which images are named more than once, by one input or by several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.files.paths import PathTable
from sppfeat.inputs.segments import Segment

__all__ = ["Once", "find_repeated", "possibly_repeated"]


@dataclass(frozen=True)
class Once:
    """Which images count, of those that may be named repeatedly.

    Attributes:
        kept: ``(n,)`` int64, ascending: of each the first.
        same_as: ``(m,)`` int64, for each of all images the first of its name.
        told_by: ``(n,)`` int64: of each the first that was found by a scan, since its folder tells the class.
    """

    kept: npt.NDArray[np.int64]
    same_as: npt.NDArray[np.int64]
    told_by: npt.NDArray[np.int64]

    @property
    def n_repeated(self) -> int:
        """How many are named again and do not count."""
        return len(self.same_as) - len(self.kept)

    @property
    def named_often(self) -> npt.NDArray[np.int64]:
        """``(r,)`` int64, ascending: all images of the names that are there more than once."""
        again = self.same_as[self.same_as != np.arange(len(self.same_as))]
        return np.flatnonzero(np.isin(self.same_as, again))


def find_repeated(segments: Sequence[Segment], paths: PathTable) -> Once:
    """Find the images that are named more than once.

    Args:
        segments: the inputs, whose images are numbered on.
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


def possibly_repeated(paths: PathTable) -> npt.NDArray[np.int64]:
    """``(s,)`` int64, ascending: all images of a name that is there more than once; hardly any others."""
    hashes = np.fromiter(map(hash, paths), dtype=np.int64, count=len(paths))
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[inverse] > 1)
