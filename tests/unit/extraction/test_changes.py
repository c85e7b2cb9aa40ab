"""Changes of image files between two runs."""

import os

import numpy as np
import pytest

from sppfeat.extraction.changes import describe_change, find_changes
from sppfeat.files.paths import PathTable
from sppfeat.inputs import FileStorage
from sppfeat.store.schema import Status

NOON = 1_700_000_000_000_000_000  # ns


@pytest.fixture
def storage(tmp_path):
    """One file of 5 bytes, of noon; another name that no file has."""
    (tmp_path / "there.jpg").write_bytes(b"image")
    os.utime(tmp_path / "there.jpg", ns=(NOON, NOON))
    return FileStorage(os.fsencode(tmp_path), PathTable([b"there.jpg", b"gone.jpg"]))


def changes(storage, was, *, number=0, status=Status.DONE, has_moved=False):
    # A second image of the file has known versions, as those of an older file would not be.
    versions = np.array([was, (1, 1)], dtype=np.int64)
    numbers = np.array([number, -1])
    found = find_changes(
        versions, storage, numbers, status=np.array([status, 1], dtype=np.uint8), has_moved=has_moved
    )
    assert not found.changed[1]
    assert not found.missing[1]
    return bool(found.changed[0]), bool(found.missing[0])


@pytest.mark.parametrize(
    ("was", "is_changed"),
    [
        ((5, NOON), False),
        ((6, NOON), True),
        ((5, NOON - 1), True),  # an edit may keep the size
        ((5, NOON + 1), True),  # a backup that was restored
        ((5, -1), False),
        ((6, -1), True),
        ((-1, NOON), False),
        ((-1, -1), False),
    ],
)
def test_a_file_has_changed_if_its_size_or_time_differs(storage, was, is_changed):
    assert changes(storage, was) == (is_changed, False)


@pytest.mark.parametrize(("was", "is_changed"), [((5, NOON - 1), False), ((6, NOON), True)])
def test_only_sizes_count_in_a_moved_folder(storage, was, is_changed):
    assert changes(storage, was, has_moved=True) == (is_changed, False)


def test_a_removed_file_is_missing_not_changed(storage):
    assert changes(storage, (5, NOON), number=1) == (False, True)
    assert changes(storage, (5, NOON), number=-1) == (False, False)  # it is not among the inputs


@pytest.mark.parametrize(
    ("status", "number", "is_changed"),
    [
        (Status.FAILED, 0, True),
        (Status.FAILED, 1, False),
        (Status.DONE, 0, False),
        (Status.PENDING, 0, False),
    ],
)
def test_a_failed_image_without_a_file_has_changed_once_the_file_exists(storage, status, number, is_changed):
    assert changes(storage, (-1, -1), number=number, status=status) == (is_changed, False)


def test_files_without_versions_show_no_changes(storage):
    versions = np.full((1, 2), -1, dtype=np.int64)
    status = np.array([Status.FAILED], dtype=np.uint8)
    found = find_changes(versions, storage, np.array([0]), status=status, has_moved=False)
    assert not found.changed.any()


@pytest.mark.parametrize(
    ("was", "now", "text"),
    [
        ((1, 0), (17, 5), "was 1 byte, is 17"),
        (
            (4, 0),
            (4, NOON),
            "same size, modified 2023-11-14 22:13:20.000 UTC, was 1970-01-01 00:00:00.000 UTC",
        ),
        ((4, NOON), (4, NOON), ""),
        ((-1, NOON), (4, -1), ""),
    ],
)
def test_a_change_is_described(was, now, text):
    assert describe_change(np.array(was), np.array(now)) == text
