"""Reads archives of images in place: tar files, such as WebDataset shards, and zip files.

The path of an archive goes in. A :class:`sppfeat.inputs.segments.Segment` comes out, whose storage knows the byte
range of each image. Indexes of large archives are cached from run to run. The package must not know the other inputs
of a run, and decodes no images.
"""

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sppfeat.config.machine import user_cache_folder
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.outputs import whole_file
from sppfeat.files.paths import PathTable
from sppfeat.files.places import FileVersion
from sppfeat.inputs.archives.index import index_zip
from sppfeat.inputs.archives.tar import index_tar
from sppfeat.inputs.segments import Members, MemberStorage, OwnLabels, Segment, Storage

__all__ = ["index_archive", "load_index", "read_archive", "save_index", "segment_at"]


# Version of index files and of the code that builds them; indexes of other versions are rebuilt.
_SCHEMA = 6
_FEWEST_IMAGES = 1000  # an index of this many images takes 30 ms to build, and 2 ms to load
_TEXTS = ("names", "refusals", "ids", "classes", "system_folders", "other_files")
_SETTLED_NS = 2_000_000_000  # a younger file may change again without a new time stamp


def read_archive(path: bytes) -> Segment:
    """Find the images of a local archive, in its order; ConfigError if it cannot be read as one."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait forever
            raise ConfigError("it is not a regular file")
        with open(path, "rb") as file:
            version = FileVersion.of(file.fileno())
            index = load_index(path, version)
            if index is None:
                index = index_archive(path, file)
                if not FileVersion.of(file.fileno()).has_content_of(version):
                    raise ConfigError("it changed while it was being read")
                save_index(path, version, index)
    except (OSError, ConfigError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read the archive {os.fsdecode(path)!r}: {reason}") from error
    segment, members = index
    return segment_at(path, segment, MemberStorage(path, version, members))


def index_archive(name: bytes, file: BinaryIO) -> tuple[Segment, Members]:
    """Find the images of an open tar or zip file, told apart by name; ConfigError if it is damaged or neither."""
    return (index_tar if name.lower().endswith(b".tar") else index_zip)(file)


def segment_at(top: bytes, segment: Segment, storage: Storage) -> Segment:
    """Complete the segment of an archive with its absolute path or URL, and the storage of its images."""
    return replace(segment, top=top, above=os.path.dirname(top), storage=storage)


def load_index(path: bytes, version: FileVersion) -> tuple[Segment, Members] | None:
    """Load the cached index of the archive at an absolute path or URL; None without a valid one of this version."""
    kept_at = _file_of(path)
    if kept_at is None or not kept_at.exists():
        return None
    try:
        with open(kept_at, "rb") as file, np.load(file, allow_pickle=False) as columns:
            return _index(columns) if bytes(columns["key"]) == _key(path, version) else None
    except Exception:  # a damaged file raises nearly any type; the index is then rebuilt
        return None


def save_index(path: bytes, version: FileVersion, index: tuple[Segment, Members]) -> None:
    """Save an index for :func:`load_index`, if that saves time and the cache can be written to."""
    kept_at = _file_of(path)
    if kept_at is None or len(index[0].names) < _FEWEST_IMAGES:
        return
    if abs(time.time_ns() - max(version.mtime_ns, version.ctime_ns)) < _SETTLED_NS:
        return
    key = np.frombuffer(_key(path, version), dtype=np.uint8)
    # On a full disk or in a read-only home, the next run rebuilds the index.
    with contextlib.suppress(OSError, StoreError):
        kept_at.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with whole_file(kept_at) as file:
            np.savez(file, key=key, **_columns(*index))


def _file_of(path: bytes) -> Path | None:
    """The file of an index in the user's cache folder; None without such a folder."""
    folder = user_cache_folder()
    return folder and folder / "indexes" / f"{hashlib.sha256(path).hexdigest()[:40]}.npz"


def _key(path: bytes, version: FileVersion) -> bytes:
    """The key of an index file, which identifies the archive and its version.

    It contains the time of the last metadata change, which no program can set. Size and modification time are not
    enough: sizes of tar files are multiples of 10 kB, and unpacked or copied files may share one modification time.
    """
    return json.dumps([_SCHEMA, path.hex(), version.nbytes, version.mtime_ns, version.ctime_ns]).encode()


def _columns(segment: Segment, members: Members) -> dict[str, Any]:
    """Convert an index to arrays, empty ones for missing classes and ids."""
    own = segment.own_labels or OwnLabels.none(0)
    columns: dict[str, Any] = {
        "ranges": members.ranges,
        "has_headers": members.has_headers,
        "counts": [segment.n_other_files, segment.n_repeated],
        "labels": own.labels,
    }
    skipped = (segment.system_folders, segment.other_files)
    texts = (segment.names, members.refusals, segment.ids or (), own.classes, *skipped)
    for name, table in zip(_TEXTS, texts, strict=True):
        columns[name], columns[f"{name}_ends"] = PathTable(table).to_arrays()
    return columns


def _index(columns: Mapping[str, Any]) -> tuple[Segment, Members]:
    """Convert arrays to an index; may raise any exception if they do not describe one."""
    names, refusals, ids, classes, system_folders, other_files = (
        PathTable.from_arrays(columns[name], columns[f"{name}_ends"]) for name in _TEXTS
    )
    n_other_files, n_repeated = map(int, columns["counts"])
    segment = Segment(
        None,
        names,
        own_labels=OwnLabels(columns["labels"], tuple(classes)) if len(classes) else None,
        ids=ids if len(ids) else None,
        n_other_files=n_other_files,
        other_files=tuple(other_files),
        n_repeated=n_repeated,
        system_folders=tuple(system_folders),
    )
    return segment, Members(
        columns["ranges"], tuple(map(os.fsdecode, refusals)), bool(columns["has_headers"])
    )
