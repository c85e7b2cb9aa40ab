"""Images that are parts of a local file, such as the members of an archive, and their storage."""

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.errors import StoreError
from sppfeat.files.places import DEFLATED, STORED, FileVersion, Place

__all__ = [
    "DEFLATED_MEMBER",
    "FIRST_REFUSAL",
    "HEADER_NBYTES",
    "STORED_MEMBER",
    "MemberStorage",
    "Members",
    "find_members",
]

STORED_MEMBER, DEFLATED_MEMBER, FIRST_REFUSAL = 0, 1, 2

HEADER_NBYTES = 30
"""Size of the fixed part of the header before each member of a zip file, in bytes."""


@dataclass(frozen=True)
class Members:
    """The byte ranges of images that are parts of a file, such as members of an archive.

    Attributes:
        ranges: ``(n, 4)`` int64: the offset of the first byte of each member, or, with ``has_headers``, of the header
            before it; its size in the file in bytes, without that header; ``STORED_MEMBER``, ``DEFLATED_MEMBER``, or,
            from ``FIRST_REFUSAL`` on, a refusal; and its size in bytes once it is unpacked.
        refusals: reasons why members cannot be read in place; ``FIRST_REFUSAL`` stands for the first.
        has_headers: True if a header of variable length precedes each member, as in zip files.
    """

    ranges: npt.NDArray[np.int64]
    refusals: tuple[str, ...]
    has_headers: bool


@dataclass(frozen=True)
class MemberStorage:
    """Images that are parts of a local file.

    Attributes:
        path: absolute path of the file.
        version: version of the file when it was listed; no image of another version is read.
        members: byte ranges of the images.
        is_table: True for a table, which ends the run if it has changed; the images of an archive fail instead.
    """

    path: bytes
    version: FileVersion
    members: Members
    is_table: bool = False

    is_local = True

    def fetch(
        self,
        images: npt.NDArray[np.int64],
        scratch: Path,  # noqa: ARG002
    ) -> AbstractContextManager[Sequence[Place | str]]:
        """Return the places of images, which are parts of the file; StoreError if a table has changed."""
        return contextlib.nullcontext(list(self._places(images)))

    def _places(self, images: npt.NDArray[np.int64]) -> Iterator[Place | str]:
        with contextlib.ExitStack() as stack:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                is_same = FileVersion.of(fd).has_content_of(self.version)
                reason = None if is_same else "has changed since it was listed"
            except OSError as error:
                reason = f"cannot be read: {error.strerror}"
            if reason is None:
                yield from find_members(self.path, fd, self.members, images)
            elif self.is_table:
                raise StoreError(f"{os.fsdecode(self.path)!r} {reason}")
            else:
                yield from [f"its archive {reason}"] * len(images)


def find_members(
    path: bytes, fd: int, members: Members, images: npt.NDArray[np.int64]
) -> Iterator[Place | str]:
    """Yield the place of each image in a file with the bytes of an archive, or the reason why it has none."""
    for offset, nbytes, packing, unpacked in members.ranges[images].tolist():
        refusal = members.refusals[packing - FIRST_REFUSAL] if packing >= FIRST_REFUSAL else None
        start = offset if refusal or not members.has_headers else _find_data(fd, offset)
        if refusal or start is None:
            yield refusal or "damaged in its archive: there is no header before it"
        elif packing == DEFLATED_MEMBER:
            yield Place(path, start, nbytes, DEFLATED, unpacked)
        else:
            yield Place(path, start, nbytes, STORED)


def _find_data(fd: int, offset: int) -> int | None:
    """The offset of a zip member's first byte, behind its header; None if there is no header at ``offset``."""
    try:
        header = os.pread(fd, HEADER_NBYTES, offset)  # cheap, as the bytes after it are read anyway
    except OSError:  # a failing disk: what follows the header cannot be read either
        return None
    if len(header) < HEADER_NBYTES or header[:4] != b"PK\3\4":
        return None
    n_name, n_extra = struct.unpack_from("<HH", header, 26)  # they may differ from the central directory's
    return int(offset + HEADER_NBYTES + n_name + n_extra)
