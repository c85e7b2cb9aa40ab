"""The storage of images in a local archive, which are parts of its file."""

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.files.byte_ranges import DEFLATED, STORED, Place
from sppfeat.files.versions import FileVersion
from sppfeat.inputs.archives.index import DEFLATED_MEMBER, HEADER_NBYTES, Members

__all__ = ["MemberStorage", "find_members"]


@dataclass(frozen=True)
class MemberStorage:
    """Images in the local archive at ``path``; none is read of another than the listed version."""

    path: bytes
    version: FileVersion
    members: Members

    is_local = True

    @property
    def nbytes(self) -> int:
        """Memory of the storage, in bytes."""
        return self.members.memory_nbytes

    def fetch(
        self,
        images: npt.NDArray[np.int64],
        scratch: Path,  # noqa: ARG002
    ) -> AbstractContextManager[Sequence[Place | str]]:
        """Return the places of images, which are parts of the archive's file."""
        return contextlib.nullcontext(list(self._places(images)))

    def _places(self, images: npt.NDArray[np.int64]) -> Iterator[Place | str]:
        members = self.members
        with contextlib.ExitStack() as stack:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                is_same = FileVersion.of(fd).has_content_of(self.version)
            except OSError as error:
                yield from [f"its archive cannot be read: {error.strerror}"] * len(images)
                return
            if not is_same:
                yield from ["its archive has changed since it was listed"] * len(images)
                return
            yield from find_members(self.path, fd, members, images)


def find_members(
    path: bytes, fd: int, members: Members, images: npt.NDArray[np.int64]
) -> Iterator[Place | str]:
    """Yield the place of each image in a file with the bytes of an archive, or the reason why it has none."""
    columns = (members.offset, members.nbytes, members.packing, members.unpacked_nbytes)
    for offset, nbytes, packing, unpacked in zip(
        *(column[images].tolist() for column in columns), strict=True
    ):
        refusal = members.refusal(packing)
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
