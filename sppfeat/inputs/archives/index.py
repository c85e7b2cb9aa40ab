"""The images of an archive: their names, and where in it they are; columns, not an object per image."""

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.files.paths import PathTable, possibly_repeated
from sppfeat.inputs.segments import OwnLabels, Segment
from sppfeat.inputs.storage import Storage

__all__ = [
    "DEFLATED_MEMBER",
    "STORED_MEMBER",
    "ArchiveIndex",
    "GrowingMembers",
    "Members",
    "encoded_name",
    "harmless_name",
    "is_hidden",
    "last_of_each",
    "target_of",
]

STORED_MEMBER, DEFLATED_MEMBER, _FIRST_REFUSAL = 0, 1, 2


@dataclass(frozen=True)
class Members:
    """Where in an archive the bytes of members are.

    Attributes:
        offset: ``(n,)`` int64, of the first byte of each; with ``has_headers`` of the header before it.
        nbytes: ``(n,)`` int64, as it lies in the archive, without that header.
        packing: ``(n,)`` uint8: ``STORED_MEMBER``, ``DEFLATED_MEMBER``, or from 2 on a position in ``refusals``.
        unpacked_nbytes: ``(n,)`` int64.
        refusals: why members cannot be read in place: of packing 2 the first.
        has_headers: whether the bytes of each come after a header of a length of its own, as in zip files.
    """

    offset: npt.NDArray[np.int64]
    nbytes: npt.NDArray[np.int64]
    packing: npt.NDArray[np.uint8]
    unpacked_nbytes: npt.NDArray[np.int64]
    refusals: tuple[str, ...]
    has_headers: bool

    def __len__(self) -> int:
        return len(self.offset)

    def refusal(self, packing: int) -> str | None:
        """Why members of this packing cannot be read in place; None where they can."""
        return self.refusals[packing - _FIRST_REFUSAL] if packing >= _FIRST_REFUSAL else None

    @property
    def memory_nbytes(self) -> int:
        """Bytes of memory that this holds."""
        return sum(column.nbytes for column in (self.offset, self.nbytes, self.packing, self.unpacked_nbytes))


@dataclass(frozen=True)
class ArchiveIndex:
    """The images of an archive, in its order.

    Attributes:
        names: of the images, relative, unique.
        members: where they are.
        labels: classes that the archive gives them; None where it has none.
        ids: what the archive calls them; None where it has no such names.
        n_other_files: members that are no images by their names.
        n_repeated: images that are there again, under the same name, further back.
    """

    names: PathTable
    members: Members
    labels: OwnLabels | None = None
    ids: PathTable | None = None
    n_other_files: int = 0
    n_repeated: int = 0

    def segment(self, top: bytes, storage: Storage) -> Segment:
        """Return the images as those of an input.

        Args:
            top: absolute path, or URL, of the archive.
            storage: brings the members.
        """
        return Segment(
            top=top,
            names=self.names,
            above=os.path.dirname(top),
            storage=storage,
            own_labels=self.labels,
            ids=self.ids,
            n_other_files=self.n_other_files,
            n_repeated=self.n_repeated,
        )


class GrowingMembers:
    """Members, one after the other."""

    def __init__(self) -> None:
        self._offset, self._nbytes, self._unpacked_nbytes = array("q"), array("q"), array("q")
        self._packing = array("B")
        self._packing_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._packing)

    def add(self, offset: int, nbytes: int, packing: int = STORED_MEMBER, unpacked_nbytes: int = -1) -> None:
        """Add a member; without ``unpacked_nbytes`` it is not packed."""
        self._offset.append(offset)
        self._nbytes.append(nbytes)
        self._packing.append(packing)
        self._unpacked_nbytes.append(nbytes if unpacked_nbytes < 0 else unpacked_nbytes)

    def refuse(self, reason: str) -> None:
        """Add a member that cannot be read in place; of such reasons there are few."""
        self.add(0, 0, self._packing_of.setdefault(reason, _FIRST_REFUSAL + len(self._packing_of)))

    def copy(self, source: int, target: int) -> None:
        """Give one member the bytes of another."""
        for column in (self._offset, self._nbytes, self._packing, self._unpacked_nbytes):
            column[target] = column[source]

    def take(self, members: npt.NDArray[np.int64], *, has_headers: bool) -> Members:
        """Some of them; ``has_headers`` as there."""
        return Members(
            offset=np.array(self._offset, dtype=np.int64)[members],
            nbytes=np.array(self._nbytes, dtype=np.int64)[members],
            packing=np.array(self._packing, dtype=np.uint8)[members],
            unpacked_nbytes=np.array(self._unpacked_nbytes, dtype=np.int64)[members],
            refusals=tuple(self._packing_of),
            has_headers=has_headers,
        )


def last_of_each(names: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """Positions of the names that do not come again, ascending: those of the members that unpacking would leave.

    Example:
        >>> last_of_each([b"a", b"b", b"a", b"c"]).tolist()
        [1, 2, 3]
    """
    suspects = possibly_repeated(names)
    is_last = np.ones(len(names), dtype=bool)
    is_last[suspects] = False
    last = {names[i]: i for i in suspects.tolist()}
    is_last[list(last.values())] = True
    return np.flatnonzero(is_last)


def harmless_name(name: str) -> bytes:
    """The name of a member, relative, without ``.``, ``..`` and repeated slashes: there is no way out of the archive.

    Args:
        name: as the archive has it; bytes that are not UTF-8 by ``surrogateescape``.

    Example:
        >>> harmless_name("./a//b.jpg"), harmless_name("/../../etc/x.jpg"), harmless_name("a/../b.jpg")
        (b'a/b.jpg', b'etc/x.jpg', b'b.jpg')
    """
    parts: list[bytes] = []
    for part in encoded_name(name).split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def is_hidden(name: bytes) -> bool:
    """Whether a scan passes over a member: hidden, or what macOS adds."""
    slashed = b"/" + name
    return b"/." in slashed or b"/__MACOSX/" in slashed


def target_of(link: bytes, folder: bytes) -> bytes | None:
    """The member that a link leads to; None where that is outside.

    Args:
        link: as the archive has it.
        folder: the folder that it starts from, a harmless name; empty for the top.

    Example:
        >>> target_of(b"../c.jpg", b"a/b"), target_of(b"../c.jpg", b""), target_of(b"/c.jpg", b"a")
        (b'a/c.jpg', None, None)
    """
    if link.startswith(b"/"):
        return None
    parts = folder.split(b"/") if folder else []
    for part in link.split(b"/"):
        if part == b"..":
            if not parts:
                return None
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def encoded_name(name: str) -> bytes:
    """A name as bytes, which no zero byte can be part of."""
    return name.partition("\0")[0].encode("utf-8", "surrogateescape")
