"""What tells whether an object has changed."""

import hashlib
from collections.abc import Mapping
from typing import Any

__all__ = ["version_in"]

_OF_VERSION = (
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


def version_in(found: Mapping[str, Any]) -> str:
    """A digest of what a file system says of an object that changes with its content, under whatever names."""
    said = [(name, str(found[name])) for name in _OF_VERSION if name in found]
    return hashlib.sha256(repr(said).encode()).hexdigest()
