"""Versions of files and remote objects, which differ once the content has been written again."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["FileVersion", "object_digest"]

# The names of these properties in all file systems.
_CHANGING_PROPERTIES = (
    *("ETag", "LastModified", "VersionId", "content_md5", "created", "etag", "generation", "last_modified"),
    *("md5Hash", "modified", "mtime", "size", "updated"),
)


class FileVersion(NamedTuple):
    """The state of a file at one moment; two versions are equal if the file was not touched in between.

    Attributes:
        nbytes: size of the file.
        mtime_ns: time of the last change of its content, in nanoseconds since 1970; for a remote object a number
            derived from :func:`object_digest`.
        ctime_ns: time of the last change of its metadata, in nanoseconds since 1970, which no program can set; 0 for
            a remote object.
        inode: device and inode number of the file; zeros for a remote object.
    """

    nbytes: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, file: str | bytes | os.PathLike[str] | int | os.stat_result) -> "FileVersion":
        """Return the version of a path, a descriptor or a result of ``os.stat``; raise OSError if there is no file."""
        status = file if isinstance(file, os.stat_result) else os.stat(file)
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, (status.st_dev, status.st_ino))

    @classmethod
    def of_object(cls, properties: Mapping[str, Any]) -> "FileVersion":
        """Return the version of a remote object, from its properties as fsspec reports them."""
        size = properties.get("size")
        return cls(-1 if size is None else int(size), int(object_digest(properties)[:15], 16))

    def has_content_of(self, other: "FileVersion") -> bool:
        """Return True if size and modification time agree, as they do for a copy elsewhere that kept the time."""
        return self[:2] == other[:2]

    def is_file_of(self, other: "FileVersion") -> bool:
        """Return True if, in addition, both are the same file rather than another one renamed to the same name."""
        return self.has_content_of(other) and self.inode == other.inode


def object_digest(properties: Mapping[str, Any]) -> str:
    """Return a digest, in hexadecimal, of those properties of a remote object that change with its content."""
    found = [(name, str(properties[name])) for name in _CHANGING_PROPERTIES if name in properties]
    return hashlib.sha256(repr(found).encode()).hexdigest()
