"""Places of bytes on this machine, in whole files or parts of files, and file versions that reveal a change.

Decoding workers import this module, so it uses the standard library only.
"""

import errno
import hashlib
import io
import os
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from sppfeat.errors import ImageError

__all__ = [
    "WHOLE_FILE",
    "FileVersion",
    "PartOfFile",
    "Place",
    "object_digest",
    "place_of",
    "read_at",
    "unpack",
]

WHOLE_FILE = -1
"""The value of ``nbytes`` for a whole file."""


class Place(NamedTuple):
    """The location of an image file's bytes: a whole file, or ``nbytes`` of one from ``offset`` on.

    If ``unpacked_nbytes`` is given, the bytes have to be inflated to that size first.
    """

    path: bytes
    offset: int = 0
    nbytes: int = WHOLE_FILE
    unpacked_nbytes: int | None = None


def place_of(place: bytes | str | Place) -> Place:
    """Return the place of a whole file from its path; a place is returned unchanged."""
    return place if isinstance(place, Place) else Place(os.fsencode(place))


class PartOfFile(io.RawIOBase):
    """A part of a file, as an unbuffered, seekable file of its own; closing it closes the whole file.

    The part is shorter than ``nbytes`` where the file ends earlier.
    """

    def __init__(self, file: io.FileIO, offset: int, nbytes: int) -> None:
        self._file = file
        self._offset = offset
        self._nbytes = max(0, min(nbytes, os.fstat(file.fileno()).st_size - offset))
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a byte and return its position; positions before the first byte raise OSError."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._nbytes}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # as with any file
        self._position = start + offset
        return self._position

    def readinto(self, buffer: "memoryview | bytearray", /) -> int:  # type: ignore[override]
        """Read from the current position into a buffer, up to the end of the part."""
        target = memoryview(buffer).cast("B")
        wanted = max(0, min(len(target), self._nbytes - self._position))
        n = os.preadv(self._file.fileno(), [target[:wanted]], self._offset + self._position) if wanted else 0
        self._position += n
        return n

    def close(self) -> None:
        """Close the part and its file."""
        self._file.close()
        super().close()


def unpack(packed: bytes, nbytes: int) -> bytes:
    """Inflate a member of an archive; raise ImageError if it is damaged, or does not unpack to ``nbytes`` bytes."""
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = decompressor.decompress(packed, nbytes + 1)
    except zlib.error as error:
        raise ImageError(f"damaged in its archive: {error}") from error
    if len(content) != nbytes:
        found = "more" if len(content) > nbytes else len(content)
        raise ImageError(f"damaged in its archive: it unpacks to {found} bytes, not to {nbytes}")
    return content


def read_at(file: BinaryIO, nbytes: int, position: int) -> bytes:
    """Read bytes at a position of a file and restore the file's own position."""
    before = file.tell()
    file.seek(position)
    content = file.read(nbytes)
    file.seek(before)
    return content


# Names of these properties in various file systems.
_CHANGING_PROPERTIES = (
    *("ETag", "LastModified", "VersionId", "content_md5", "created", "etag", "generation", "last_modified"),
    *("md5Hash", "modified", "mtime", "size", "updated"),
)


class FileVersion(NamedTuple):
    """The state of a file at one moment; two versions are equal if the file was not touched in between.

    Times are in nanoseconds since 1970; ``inode`` is the number of the device and that of the file. A remote object
    has a number derived from :func:`object_digest` as its ``mtime_ns``, and zeros after that.
    """

    nbytes: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, file: str | bytes | os.PathLike[str] | int | os.stat_result) -> "FileVersion":
        """Return the version of a path, a file descriptor or a result of ``os.stat``."""
        status = file if isinstance(file, os.stat_result) else os.stat(file)
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, (status.st_dev, status.st_ino))

    @classmethod
    def of_object(cls, properties: Mapping[str, Any]) -> "FileVersion":
        """Return the version of a remote object, from its properties as fsspec reports them."""
        size = properties.get("size")
        return cls(-1 if size is None else int(size), int(object_digest(properties)[:15], 16))

    def has_content_of(self, other: "FileVersion") -> bool:
        """Return True if size and modification time agree, as they do for a copy that kept its time."""
        return self[:2] == other[:2]

    def is_file_of(self, other: "FileVersion") -> bool:
        """Return True if, in addition, both are the same file, not another one renamed to the same name."""
        return self.has_content_of(other) and self.inode == other.inode


def object_digest(properties: Mapping[str, Any]) -> str:
    """Return a hexadecimal digest of the properties of a remote object that change with its content."""
    found = [(name, str(properties[name])) for name in _CHANGING_PROPERTIES if name in properties]
    return hashlib.sha256(repr(found).encode()).hexdigest()
