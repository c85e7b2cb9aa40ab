"""Repeated mentions of an image among the inputs."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.errors import ConfigError
from sppfeat.files.paths import PathTable, possibly_repeated
from sppfeat.inputs.segments import Segment

__all__ = ["Once", "are_scanned", "find_repeated"]


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

    def agreed(self, paths: PathTable, fact_of: Callable[[int], bytes], clash: str) -> dict[int, bytes]:
        """Return a fact about each repeatedly mentioned image, by its first mention.

        ``fact_of`` returns the fact that a mention gives, or nothing. Raises ConfigError for two different facts, with
        ``clash`` as the format of the message.
        """
        again = self.same_as[self.same_as != np.arange(len(self.same_as))]
        found: dict[int, bytes] = {}
        for mention in np.flatnonzero(np.isin(self.same_as, again)).tolist():
            first, fact = int(self.same_as[mention]), fact_of(mention)
            if fact and found.setdefault(first, fact) != fact:
                raise ConfigError(clash.format(*map(os.fsdecode, (paths[mention], found[first], fact))))
        return found


def find_repeated(segments: Sequence[Segment], paths: PathTable) -> Once:
    """Find the distinct images of all inputs, whose ``paths`` are relative to the root, and their repetitions."""
    every = np.arange(len(paths), dtype=np.int64)
    is_unique = len(segments) == 1 and segments[0].top is not None
    suspects = every[:0] if is_unique else possibly_repeated(paths)
    if not len(suspects):
        return Once(every, every, every)
    is_scanned = are_scanned(segments)
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


def are_scanned(segments: Sequence[Segment]) -> npt.NDArray[np.bool_]:
    """Return True for each mention of an image whose input was scanned, not named one by one."""
    return np.repeat([segment.top is not None for segment in segments], [len(s.names) for s in segments])
