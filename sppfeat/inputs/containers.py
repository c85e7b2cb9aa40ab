"""Kinds of archives and tables of images, recognized by their suffixes."""

import os
from collections.abc import Mapping
from enum import Enum

__all__ = ["ContainerKind", "decompress_command", "is_archive", "is_container", "kind_of"]


class ContainerKind(Enum):
    """Kinds of files that hold or name many images."""

    ARCHIVE = "an archive of images that is read in place"
    ARROW = "an Arrow file of images, or of their paths"
    MANIFEST = "a text table of paths"
    PACKED = "an archive that is compressed as a whole"
    PARQUET = "a Parquet file of images, or of their paths"


_DECOMPRESS: Mapping[bytes, str] = {
    b".gz": "gzip -dk",
    b".tgz": "gzip -dk",
    b".bz2": "bzip2 -dk",
    b".tbz2": "bzip2 -dk",
    b".tbz": "bzip2 -dk",
    b".xz": "xz -dk",
    b".txz": "xz -dk",
    b".zst": "zstd -d",
    b".tzst": "zstd -d",
}

_KINDS: Mapping[bytes, ContainerKind] = {
    **dict.fromkeys((b".tar", b".zip"), ContainerKind.ARCHIVE),
    b".arrow": ContainerKind.ARROW,
    b".parquet": ContainerKind.PARQUET,
    **dict.fromkeys((b".csv", b".tsv", b".jsonl", b".ndjson"), ContainerKind.MANIFEST),
    **{
        suffix if suffix.startswith(b".t") else b".tar" + suffix: ContainerKind.PACKED
        for suffix in _DECOMPRESS
    },
}


def kind_of(name: bytes) -> ContainerKind | None:
    """Recognize the kind of a file by its name; None for images and all other files.

    Example:
        >>> kind_of(b"photos.ZIP").name, kind_of(b"photos.tar.gz").name, kind_of(b"photo.jpg")
        ('ARCHIVE', 'PACKED', None)
    """
    stem, suffix = os.path.splitext(name.lower())
    if os.path.splitext(stem)[1] == b".tar":
        suffix = b".tar" + suffix
    return _KINDS.get(suffix)


def is_container(name: bytes) -> bool:
    """Return True if a file is read in place of images when an input folder contains no image files."""
    return kind_of(name) not in (None, ContainerKind.MANIFEST)


def is_archive(name: bytes) -> bool:
    """Return True if a file is an archive that can be read in place.

    Example:
        >>> is_archive(b"shard-000.TAR"), is_archive(b"a.tar.gz")
        (True, False)
    """
    return kind_of(name) is ContainerKind.ARCHIVE


def decompress_command(name: bytes) -> str:
    """Return the command that decompresses a file of kind ``PACKED``."""
    return _DECOMPRESS[os.path.splitext(name.lower())[1]]
