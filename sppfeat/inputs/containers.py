"""Kinds of archives and tables of images, recognized by their suffixes."""

import os
from collections.abc import Mapping
from enum import Enum, auto

__all__ = ["ContainerKind", "decompress_command", "is_archive", "is_container", "kind_of"]


class ContainerKind(Enum):
    """Kinds of files that hold or name many images; ``PACKED`` is an archive that is compressed as a whole."""

    ARCHIVE, ARROW, MANIFEST, PACKED, PARQUET = (auto() for _ in range(5))


_KINDS: Mapping[bytes, ContainerKind] = {
    **dict.fromkeys((b".tar", b".zip"), ContainerKind.ARCHIVE),
    b".arrow": ContainerKind.ARROW,
    b".parquet": ContainerKind.PARQUET,
    **dict.fromkeys((b".csv", b".tsv", b".jsonl", b".ndjson"), ContainerKind.MANIFEST),
}
_DECOMPRESS: Mapping[bytes, str] = {
    **dict.fromkeys((b".tar.gz", b".tgz"), "gzip -dk"),
    **dict.fromkeys((b".tar.bz2", b".tbz2", b".tbz"), "bzip2 -dk"),
    **dict.fromkeys((b".tar.xz", b".txz"), "xz -dk"),
    **dict.fromkeys((b".tar.zst", b".tzst"), "zstd -d"),
}


def kind_of(name: bytes) -> ContainerKind | None:
    """Recognize the kind of a file by its name; None for images and all other files.

    Example:
        >>> kind_of(b"photos.ZIP").name, kind_of(b"photos.tar.gz").name, kind_of(b"photo.jpg")
        ('ARCHIVE', 'PACKED', None)
    """
    return ContainerKind.PACKED if _suffix(name) in _DECOMPRESS else _KINDS.get(_suffix(name))


def is_container(name: bytes) -> bool:
    """Return True if a file is read in place of images when an input folder contains no image files."""
    return kind_of(name) not in (None, ContainerKind.MANIFEST)


def is_archive(name: bytes) -> bool:
    """Return True if a file is an archive that can be read in place."""
    return kind_of(name) is ContainerKind.ARCHIVE


def decompress_command(name: bytes) -> str:
    """Return the command that decompresses a file of kind ``PACKED``."""
    return _DECOMPRESS[_suffix(name)]


def _suffix(name: bytes) -> bytes:
    stem, suffix = os.path.splitext(name.lower())
    return b".tar" + suffix if stem.endswith(b".tar") else suffix
