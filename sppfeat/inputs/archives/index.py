"""Indexes of archives: names and byte ranges of their images, as columns rather than one object per image."""

import posixpath
from array import array
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from sppfeat.files.paths import PathTable, PathTableBuilder, possibly_repeated
from sppfeat.inputs.segments import FIRST_REFUSAL, STORED_MEMBER, Members, Segment

__all__ = ["IndexBuilder", "clean_name", "encode_name", "is_hidden"]


class IndexBuilder:
    """Collects the members of an archive, one after the other, and counts those without an image suffix."""

    def __init__(self) -> None:
        self.n_other_files = 0
        self._names = PathTableBuilder()
        self._rows = array("q")  # those of Members
        self._packing_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows) // 4

    def add(
        self, name: bytes, offset: int, nbytes: int, packing: int = STORED_MEMBER, unpacked_nbytes: int = -1
    ) -> None:
        """Add a member; without ``unpacked_nbytes`` it unpacks to ``nbytes``."""
        self._names.extend([name])
        self._rows.extend((offset, nbytes, packing, nbytes if unpacked_nbytes < 0 else unpacked_nbytes))

    def refuse(self, name: bytes, reason: str) -> None:
        """Add a member that cannot be read in place, with one of a few reasons."""
        self.add(name, 0, 0, self._packing_of.setdefault(reason, FIRST_REFUSAL + len(self._packing_of)))

    def copy(self, source: int, target: int) -> None:
        """Give one member the bytes of another."""
        self._rows[4 * target : 4 * target + 4] = self._rows[4 * source : 4 * source + 4]

    @cached_property
    def names(self) -> PathTable:
        """Names of all members; afterwards none can be added."""
        return self._names.build()

    def build(self, images: Sequence[int] | None = None, *, has_headers: bool) -> tuple[Segment, Members]:
        """Return the last image of each name, the one that unpacking would leave, without the place of the archive.

        ``images`` are the numbers of the members that are images, ascending; None for all.
        """
        chosen = np.arange(len(self)) if images is None else np.array(images, dtype=np.int64)
        names = self.names if images is None else PathTable(self.names[i] for i in images)
        last = _find_last_of_each(names)
        ranges = np.array(self._rows, dtype=np.int64).reshape(-1, 4)[chosen[last]]
        segment = Segment(
            None,
            names if len(last) == len(names) else PathTable(names[i] for i in last.tolist()),
            n_other_files=self.n_other_files,
            n_repeated=len(names) - len(last),
        )
        return segment, Members(ranges, tuple(self._packing_of), has_headers)


def _find_last_of_each(names: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Find the last member of each name, as ascending positions ``(n,)`` int64."""
    suspects = possibly_repeated(names)
    is_last = np.ones(len(names), dtype=bool)
    is_last[suspects] = False
    last = {names[i]: i for i in suspects.tolist()}
    is_last[list(last.values())] = True
    return np.flatnonzero(is_last)


def clean_name(name: str) -> bytes:
    """Make the name of a member relative, without ``.``, ``..`` and repeated slashes: it cannot leave its folder.

    Example:
        >>> clean_name("./a//b.jpg"), clean_name("/../../etc/x.jpg"), clean_name("a/../b.jpg")
        (b'a/b.jpg', b'etc/x.jpg', b'b.jpg')
    """
    return posixpath.normpath(b"/" + encode_name(name)).lstrip(b"/")


def is_hidden(name: bytes) -> bool:
    """Return True if a scan skips a member because it is hidden or added by macOS."""
    slashed = b"/" + name
    return b"/." in slashed or b"/__MACOSX/" in slashed


def encode_name(name: str) -> bytes:
    """Encode a name, up to its first zero byte."""
    return name.partition("\0")[0].encode("utf-8", "surrogateescape")
