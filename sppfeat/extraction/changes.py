"""Finds images whose files have changed since a feature file recorded their size and modification time."""

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import counted
from sppfeat.files.paths import PathTable
from sppfeat.files.places import WHOLE_FILE, FileVersion, Place
from sppfeat.inputs import FileStorage, Storage
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.schema import UNKNOWN, Status

__all__ = [
    "FileChanges",
    "changed_note",
    "describe_change",
    "find_changes",
    "place_version",
    "recorded_file_changes",
]


class FileChanges(NamedTuple):
    """The images of a feature file whose files have changed since the extraction.

    Attributes:
        changed: ``(N,)`` bool, True if size in bytes or modification time differ.
        missing: ``(N,)`` bool, True if the file no longer exists.
        now: ``(N, 2)`` int64, current bytes and modification time in ns; -1 if unknown.
    """

    changed: npt.NDArray[np.bool_]
    missing: npt.NDArray[np.bool_]
    now: npt.NDArray[np.int64]


def find_changes(
    versions: npt.NDArray[np.int64],
    storage: Storage,
    numbers: npt.NDArray[np.int64],
    *,
    status: npt.NDArray[np.uint8],
    has_moved: bool,
) -> FileChanges:
    """Compare recorded versions ``(N, 2)`` of images with their files; values unknown on either side are no change.

    An image that failed because it had no file has changed once the file exists. Feature files without versions, of old
    releases, do not show this.

    Args:
        storage, numbers: the storage of the images, and the number of each in it, ``(N,)`` int64; -1 for none.
        status: ``(N,)`` uint8, status of each image in the feature file.
        has_moved: True if the images are in a different folder than recorded. Copying may have changed the times, so
            only sizes are compared.
    """
    is_known = (versions != UNKNOWN).any(axis=1)
    is_compared = (numbers >= 0) & (is_known | (status == Status.FAILED))
    now = np.full_like(versions, UNKNOWN)
    now[is_compared] = storage.versions(numbers[is_compared])
    differs = (now != versions) & (now != UNKNOWN) & (versions != UNKNOWN)
    is_back = (status == Status.FAILED) & ~is_known & (now != UNKNOWN).any(axis=1) & is_known.any()
    changed = differs[:, 0] | (differs[:, 1] & (not has_moved)) | is_back
    was_file = versions[:, 1] != UNKNOWN
    missing = is_compared & was_file & (now == UNKNOWN).all(axis=1) & (not has_moved)
    return FileChanges(np.asarray(changed), np.asarray(missing), now)


def recorded_file_changes(file: FeatureTable, root: str | None = None) -> FileChanges:
    """Compare a feature file with the image files below ``root``, or below its recorded root if None.

    Members of archives and objects of stores are not compared.
    """
    folder, versions = os.fsencode(file.root if root is None else root), file.image_versions
    is_file = versions[:, 1] != UNKNOWN
    return find_changes(
        versions,
        FileStorage(os.path.abspath(folder), file.path_table),
        np.where(is_file, np.arange(len(versions)), -1),
        status=file.status,
        has_moved=root is not None and os.path.abspath(folder) != os.fsencode(file.root),
    )


def describe_change(was: npt.NDArray[np.int64], now: npt.NDArray[np.int64]) -> str:
    """Describe the change between two versions ``(2,)`` int64 of a file: size or modification time; empty for none."""
    if was[0] != now[0] and UNKNOWN not in (was[0], now[0]):
        return f"was {counted(int(was[0]), 'byte')}, is {now[0]}"
    if was[1] != now[1] and UNKNOWN not in (was[1], now[1]):
        before, after = (
            str(np.datetime64(int(ns) // 10**6, "ms")).replace("T", " ") for ns in (was[1], now[1])
        )
        return f"same size, modified {after} UTC, was {before} UTC"
    return ""


def place_version(place: Place) -> npt.NDArray[np.int64]:
    """Return ``(2,)`` int64, bytes and modification time in ns of an image; the time of a part of a file is unknown."""
    if place.nbytes == WHOLE_FILE:
        return np.array(FileVersion.of(place.path)[:2])
    return np.array([place.nbytes if place.unpacked_nbytes is None else place.unpacked_nbytes, UNKNOWN])


def changed_note(
    paths: PathTable,
    versions: npt.NDArray[np.int64],
    changes: FileChanges,
    changed: npt.NDArray[np.int64],
    *,
    runs_by: str,
) -> list[str]:
    """Return the note about changed images ``(k,)`` int64, with an example; an empty list for no images.

    ``runs_by`` is the option that runs them again; empty if this run does.
    """
    if not len(changed):
        return []
    first = int(changed[0])
    how = describe_change(versions[first], changes.now[first]) or "its file exists now"
    since = counted(len(changed), "image changed since it was", "images changed since they were")
    it, they_run = ("it", "it runs") if len(changed) == 1 else ("them", "they run")
    end = f"{runs_by} runs {it} again" if runs_by else f"{they_run} again"
    return [f"{since} extracted, such as {os.fsdecode(paths[first])!r} ({how}); {end}"]
