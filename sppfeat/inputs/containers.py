"""Files that hold images, or name them, by their suffixes: who reads each kind."""

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sppfeat.errors import ConfigError
from sppfeat.inputs.segments import Segment

__all__ = ["Kind", "is_container", "kind_of"]


class Kind(NamedTuple):
    """How files of a kind are read.

    Attributes:
        read: from the absolute path of one to its images; raises ConfigError where it cannot be read.
        in_folders: whether those in a folder without images are read when the folder is an input.
    """

    read: Callable[[bytes], Segment]
    in_folders: bool = True


def kind_of(name: bytes) -> Kind | None:
    """The kind that a file is of by its name; None for an image, and everything else.

    Example:
        >>> kind_of(b"photos.ZIP") is not None, kind_of(b"photo.jpg")
        (True, None)
    """
    stem, suffix = os.path.splitext(name.lower())
    if os.path.splitext(stem)[1] == b".tar":
        suffix = b".tar" + suffix
    return _KINDS.get(suffix)


def is_container(name: bytes) -> bool:
    """Whether a file is read where it lies in a folder without images."""
    kind = kind_of(name)
    return kind is not None and kind.in_folders


def _read_tar(path: bytes) -> Segment:
    from sppfeat.inputs.archives import read_tar

    return read_tar(path)


def _read_zip(path: bytes) -> Segment:
    from sppfeat.inputs.archives import read_zip

    return read_zip(path)


def _read_manifest(path: bytes) -> Segment:
    from sppfeat.inputs.tables.text import read_manifest

    return read_manifest(path)


def _read_parquet(path: bytes) -> Segment:
    from sppfeat.inputs.tables.parquet import read_parquet

    return read_parquet(path)


def _read_arrow(path: bytes) -> Segment:
    from sppfeat.inputs.tables.arrow import read_arrow

    return read_arrow(path)


def _refuse_packed(path: bytes) -> Segment:
    command = _DECOMPRESS[os.path.splitext(path.lower())[1]]
    raise ConfigError(
        f"the archive {os.fsdecode(path)!r} is compressed as a whole, and images in it cannot be read in place: "
        f"decompress it first, by '{command}'; allowed: .tar, .zip"
    )


_DECOMPRESS = {
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

# Imported where they are used: not every input is one of these.
_KINDS: Mapping[bytes, Kind] = {
    b".tar": Kind(_read_tar),
    b".zip": Kind(_read_zip),
    b".arrow": Kind(_read_arrow),
    b".parquet": Kind(_read_parquet),
    **dict.fromkeys((b".csv", b".tsv", b".jsonl", b".ndjson"), Kind(_read_manifest, in_folders=False)),
    **{
        suffix if suffix.startswith(b".t") else b".tar" + suffix: Kind(_refuse_packed)
        for suffix in _DECOMPRESS
    },
}
