"""Finds images whose files have changed since a feature file recorded their size and modification time."""

import datetime
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
    """The images of a feature file whose files are no longer what was extracted.

    Attributes:
        changed: ``(N,)`` bool, True where the file has another size in bytes or another modification time.
        missing: ``(N,)`` bool, True where there is no such file any more.
        now: ``(N, 2)`` int64, bytes and modification time in ns as they are now; -1 if unknown.
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
    """Compare recorded versions ``(N, 2)`` of images with their files; what is not known on both sides is no change.

    A failed image that had no file when it was recorded has changed once there is one; files made before versions were
    recorded do not tell.

    Args:
        storage, numbers: the storage of the images, and the number of each in it, ``(N,)`` int64; -1 if it has none.
        status: ``(N,)`` uint8, status of each image in the feature file.
        has_moved: True if the images lie in another folder than recorded: copying may have changed the times, so that
            only sizes are compared.
    """
    is_known = (versions != UNKNOWN).any(axis=1)
    is_asked = (numbers >= 0) & (is_known | (status == Status.FAILED))
    now = np.full_like(versions, UNKNOWN)
    now[is_asked] = storage.versions(numbers[is_asked])
    differs = (now != versions) & (now != UNKNOWN) & (versions != UNKNOWN)
    is_back = (status == Status.FAILED) & ~is_known & (now != UNKNOWN).any(axis=1) & is_known.any()
    changed = differs[:, 0] | (differs[:, 1] & (not has_moved)) | is_back
    was_file = versions[:, 1] != UNKNOWN
    missing = is_asked & was_file & (now == UNKNOWN).all(axis=1) & (not has_moved)
    return FileChanges(np.asarray(changed), np.asarray(missing), now)


def recorded_file_changes(file: FeatureTable, root: str | None = None) -> FileChanges:
    """Compare a feature file with the image files below ``root``, or its own root if that is None.

    Members of archives and objects of stores are not looked up.
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
    """Say in which of size and modification time, ``(2,)`` int64 each, a file differs; empty for neither."""
    if was[0] != now[0] and UNKNOWN not in (was[0], now[0]):
        return f"was {counted(int(was[0]), 'byte')}, is {now[0]}"
    if was[1] != now[1] and UNKNOWN not in (was[1], now[1]):
        before, after = (_moment(int(ns)) for ns in (was[1], now[1]))
        return f"same size, was of {before}, is of {after}"
    return ""


def place_version(place: Place) -> npt.NDArray[np.int64]:
    """Return ``(2,)`` int64, bytes and modification time in ns of an image; for a part of a file, no time."""
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
    """Say how many images, ``changed`` ``(k,)`` int64, have changed, with an example; nothing for none.

    ``runs_by`` is the option that runs them again; empty if this run does.
    """
    if not len(changed):
        return []
    first = int(changed[0])
    how = describe_change(versions[first], changes.now[first]) or "it has a file now"
    since = counted(len(changed), "image changed since it was", "images changed since they were")
    it, they_run = ("it", "it runs") if len(changed) == 1 else ("them", "they run")
    end = f"{runs_by} runs {it} again" if runs_by else f"{they_run} again"
    return [f"{since} extracted, such as {os.fsdecode(paths[first])!r} ({how}); {end}"]


def _moment(ns: int) -> str:
    """Return a time in UTC to the second, or as a number if no calendar has it."""
    try:
        moment = datetime.datetime.fromtimestamp(ns // 10**9, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{ns} ns"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{ns % 10**9 // 10**6:03d} UTC"
