"""The index of the images in a zip file."""

import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from sppfeat.errors import ConfigError
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import PathTable
from sppfeat.inputs.archives.index import (
    DEFLATED_MEMBER,
    STORED_MEMBER,
    ArchiveIndex,
    GrowingMembers,
    clean_name,
    find_last_of_each,
    is_hidden,
)

__all__ = ["HEADER_NBYTES", "MOST_UNPACKED_NBYTES", "data_offset", "index_zip"]

HEADER_NBYTES = 30
"""Size of the fixed part of the header before each member, in bytes."""

MOST_UNPACKED_NBYTES = 1 << 30
"""Size of the largest deflated image, which is unpacked in memory, in bytes: that of uncompressed 16-bit RGB with the
most pixels decoded by default. A small zip file can unpack to a thousand times its size."""

_ENCRYPTED = 0x1 | 0x40 | 0x2000  # by the classic cipher; by a strong one; with the central directory
_PATCH = 0x20
_METHODS = {
    1: "shrinking",
    6: "imploding",
    9: "deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "xz",
    98: "PPMd",
}


def index_zip(file: BinaryIO) -> ArchiveIndex:
    """Find the images of a zip file.

    Args:
        file: the open file, seekable, at any position.

    Returns:
        The index, with the offsets of the headers before the members; see :func:`data_offset`.

    Raises:
        ConfigError: the file is not a zip file, is damaged or cut short.
        OSError: the file cannot be read.
    """
    nbytes = file.seek(0, os.SEEK_END)
    if nbytes == 0:
        raise ConfigError("it is empty")
    try:
        entries = zipfile.ZipFile(file).infolist()
    except OSError:
        raise
    except Exception as error:  # many types, if the central directory is damaged
        raise ConfigError(f"it is no zip file, damaged or cut short: {error}") from error
    scan = _Scan(entries, nbytes)
    names = PathTable(scan)
    last = find_last_of_each(names)
    return ArchiveIndex(
        names=names if len(last) == len(names) else PathTable(names[i] for i in last.tolist()),
        members=scan.members.take(last, has_headers=True),
        n_other_files=scan.n_other_files,
        n_repeated=len(names) - len(last),
    )


def data_offset(header: bytes, offset: int) -> int | None:
    """Find the offset of a member's first byte; None if there is no header before it.

    Args:
        header: ``HEADER_NBYTES`` bytes of the archive from ``offset`` on.
        offset: offset of the member in the index.
    """
    if len(header) < HEADER_NBYTES or header[:4] != b"PK\3\4":
        return None
    n_name, n_extra = struct.unpack_from(
        "<HH", header, 26
    )  # they may differ from those of the central directory
    return int(offset + HEADER_NBYTES + n_name + n_extra)


class _Scan:
    """Scans the members; can be iterated once, for the names of the images."""

    def __init__(self, entries: list[zipfile.ZipInfo], archive_nbytes: int) -> None:
        self.members = GrowingMembers()
        self.n_other_files = 0
        self._entries = entries
        self._archive_nbytes = archive_nbytes

    def __iter__(self) -> Iterator[bytes]:
        """Yield the name of each image, and collect its byte range."""
        for member in self._entries:
            name = clean_name(member.filename)
            if member.filename.endswith("/") or is_hidden(name):
                continue
            if not has_image_suffix(name):
                self.n_other_files += 1
                continue
            self._take(member)
            yield name

    def _take(self, member: zipfile.ZipInfo) -> None:
        refusal = _refusal(member, self._archive_nbytes)
        if refusal:
            self.members.refuse(refusal)
        elif member.compress_type == zipfile.ZIP_DEFLATED and member.file_size:
            self.members.add(
                member.header_offset, member.compress_size, DEFLATED_MEMBER, unpacked_nbytes=member.file_size
            )
        else:
            self.members.add(member.header_offset, member.file_size, STORED_MEMBER)


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
        return "damaged in its archive: it would end behind the end of that"
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        return "damaged in its archive: stored with two different sizes"
    if member.compress_type == zipfile.ZIP_DEFLATED and member.file_size > MOST_UNPACKED_NBYTES:
        return f"would unpack to more than {MOST_UNPACKED_NBYTES} bytes"
    return None
