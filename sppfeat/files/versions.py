"""Versions of files and of remote objects: they differ once something has been written again."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["FileVersion", "object_digest"]

# Under whatever names a file system keeps them.
_CHANGING_PROPERTIES = (
    "ETag",
    "LastModified",
    "VersionId",
    "content_md5",
    "created",
    "etag",
    "generation",
    "last_modified",
    "md5Hash",
    "modified",
    "mtime",
    "size",
    "updated",
)


class FileVersion(NamedTuple):
    """The state of a file at one moment. Two versions are equal if nobody has touched the file in between.

    Attributes:
        nbytes: its size.
        mtime_ns: time of the last change of its content, in nanoseconds since 1970; of a remote object a number made
            of :func:`object_digest`.
        ctime_ns: time of the last change of its metadata, which nobody can set; 0 for a remote object.
        inode: device and number of the file; zeros for a remote object.
    """

    nbytes: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, file: str | bytes | os.PathLike[str] | int | os.stat_result) -> "FileVersion":
        """Return the version of a file.

        Args:
            file: a path, a file descriptor, or what ``os.stat`` returned.

        Raises:
            OSError: it is not there, or cannot be looked at.
        """
        status = file if isinstance(file, os.stat_result) else os.stat(file)
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, (status.st_dev, status.st_ino))

    @classmethod
    def of_object(cls, properties: Mapping[str, Any]) -> "FileVersion":
        """Return the version of a remote object.

        Args:
            properties: what its file system says of it, ``size`` included.
        """
        size = properties.get("size")
        return cls(-1 if size is None else int(size), int(object_digest(properties)[:15], 16))

    def has_content_of(self, other: "FileVersion") -> bool:
        """Return True if size and time of the content agree, also of a copy on another machine that kept the time."""
        return self[:2] == other[:2]

    def is_file_of(self, other: "FileVersion") -> bool:
        """Return True if it is, moreover, the very same file: none that was renamed to its name."""
        return self.has_content_of(other) and self.inode == other.inode


def object_digest(properties: Mapping[str, Any]) -> str:
    """Return a digest of those properties of a remote object that change with its content, in hexadecimal.

    Args:
        properties: what its file system says of it, under whatever names.
    """
    found = [(name, str(properties[name])) for name in _CHANGING_PROPERTIES if name in properties]
    return hashlib.sha256(repr(found).encode()).hexdigest()
