"""The index of an archive's images, their names and byte ranges as columns, and how to build it for a zip file.

The index of a tar file, which has links and the texts of samples too, is in :mod:`sppfeat.inputs.archives.tar`.
"""

import os
import posixpath
import stat
import zipfile
from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from sppfeat.errors import ConfigError
from sppfeat.files.globs import find_system_folder
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import N_EXAMPLES, PathTable, PathTableBuilder, possibly_repeated
from sppfeat.inputs.segments import (
    DEFLATED_MEMBER,
    FIRST_REFUSAL,
    HEADER_NBYTES,
    STORED_MEMBER,
    Members,
    Segment,
)

__all__ = ["IndexBuilder", "clean_name", "encode_name", "index_zip"]

# A deflated image is unpacked in memory, to a thousand times its size. This is uncompressed 16-bit RGB with the most
# pixels that are decoded by default.
_MOST_UNPACKED_NBYTES = 1 << 30

_ENCRYPTED = 0x1 | 0x40 | 0x2000  # classic cipher; strong cipher; encrypted central directory
_PATCH = 0x20
_METHODS = {
    1: "shrinking", 6: "imploding", 9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"
}  # fmt: skip


def index_zip(file: BinaryIO) -> tuple[Segment, Members]:
    """Find the images of an open zip file; ConfigError if it is not one, damaged or cut short."""
    nbytes = file.seek(0, os.SEEK_END)
    if nbytes == 0:
        raise ConfigError("it is empty")
    try:
        entries = zipfile.ZipFile(file).infolist()
    except OSError:
        raise
    except Exception as error:  # many types, if the central directory is damaged
        raise ConfigError(f"it is not a zip file, or is damaged or cut short: {error}") from error
    members = IndexBuilder()
    for entry in entries:
        name = clean_name(entry.filename)
        if entry.filename.endswith("/") or members.hides(name):
            continue
        if not has_image_suffix(name):
            members.skip(name)
        elif refusal := _refusal(entry, nbytes):
            members.refuse(name, refusal)
        elif entry.compress_type == zipfile.ZIP_DEFLATED and entry.file_size:
            members.add(name, entry.header_offset, entry.compress_size, DEFLATED_MEMBER, entry.file_size)
        else:
            members.add(name, entry.header_offset, entry.file_size)
    return members.build(has_headers=True)


def _refusal(member: zipfile.ZipInfo, archive_nbytes: int) -> str | None:
    """Return the reason why a member cannot be read in place; None if it can."""
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted in its archive"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & _PATCH:
        method = _METHODS.get(member.compress_type, "another method")
        return f"is compressed by {method} in its archive; allowed: stored, deflated"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link in its archive"
    if not 0 <= member.header_offset <= archive_nbytes - HEADER_NBYTES - member.compress_size:
        return "damaged in its archive: it would end beyond the end of the archive"
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        return "damaged in its archive: stored with two different sizes"
    if member.compress_type == zipfile.ZIP_DEFLATED and member.file_size > _MOST_UNPACKED_NBYTES:
        return f"would unpack to more than {_MOST_UNPACKED_NBYTES} bytes"
    return None


class IndexBuilder:
    """Collects the members of an archive, one after the other, and counts those without an image suffix."""

    def __init__(self) -> None:
        self._n_other_files = 0
        self._other_files: list[bytes] = []
        self._system_folders: dict[bytes, None] = {}
        self._names = PathTableBuilder()
        self._rows = array("q")  # those of Members
        self._packing_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._rows) // 4

    def hides(self, name: bytes) -> bool:
        """Return True if a scan skips a member because it is hidden or in a system folder; count the latter."""
        found = find_system_folder(name)
        if found is not None:
            self._system_folders[found] = None
        return found is not None or b"/." in b"/" + name

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
        """Give a member the bytes of another one."""
        self._rows[4 * target : 4 * target + 4] = self._rows[4 * source : 4 * source + 4]

    @cached_property
    def names(self) -> PathTable:
        """Names of all members; none can be added afterwards."""
        return self._names.build()

    def skip(self, name: bytes) -> None:
        """Count a member without an image suffix."""
        self._n_other_files += 1
        if len(self._other_files) < N_EXAMPLES:
            self._other_files.append(name)

    def build(self, images: Sequence[int] | None = None, *, has_headers: bool) -> tuple[Segment, Members]:
        """Return the last image of each name, as unpacking would leave it, without the path of the archive.

        ``images`` are the numbers of the members that are images, ascending; None for all.
        """
        chosen = np.arange(len(self)) if images is None else np.array(images, dtype=np.int64)
        names = self.names if images is None else PathTable(self.names[i] for i in images)
        last = _find_last_of_each(names)
        ranges = np.array(self._rows, dtype=np.int64).reshape(-1, 4)[chosen[last]]
        segment = Segment(
            None,
            names if len(last) == len(names) else PathTable(names[i] for i in last.tolist()),
            n_other_files=self._n_other_files,
            other_files=tuple(self._other_files),
            n_repeated=len(names) - len(last),
            system_folders=tuple(self._system_folders),
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


def encode_name(name: str) -> bytes:
    """Encode a name, up to its first zero byte."""
    return name.partition("\0")[0].encode("utf-8", "surrogateescape")
