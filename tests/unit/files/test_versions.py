"""A file or an object that has been written again is another version of it."""

import os
import pickle
import shutil

import pytest

from sppfeat.files.versions import FileVersion, object_digest


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"four")
    os.utime(path, ns=(10, 20))
    return path


def test_a_version_is_the_same_from_a_path_a_descriptor_and_a_status(path):
    version = FileVersion.of(path)
    assert (version.nbytes, version.mtime_ns) == (4, 20)
    assert version.inode == (os.stat(path).st_dev, os.stat(path).st_ino)
    with open(path, "rb") as file:
        assert FileVersion.of(file.fileno()) == version
    assert FileVersion.of(os.fsencode(path)) == FileVersion.of(os.stat(path)) == version
    assert pickle.loads(pickle.dumps(version)) == version


@pytest.mark.parametrize(
    "change", [lambda path: path.write_bytes(b"five!"), lambda path: os.utime(path, ns=(10, 21))]
)
def test_another_size_and_another_time_are_another_content(path, change):
    before = FileVersion.of(path)
    change(path)
    os.utime(path, ns=(10, os.stat(path).st_mtime_ns))
    assert not FileVersion.of(path).has_content_of(before)
    assert not FileVersion.of(path).is_file_of(before)


def test_a_copy_with_the_same_time_has_the_same_content_and_is_another_file(path, tmp_path):
    copy = shutil.copy2(path, tmp_path / "copy")
    assert FileVersion.of(copy).has_content_of(FileVersion.of(path))
    assert not FileVersion.of(copy).is_file_of(FileVersion.of(path))


def test_an_object_is_another_one_when_a_property_that_changes_with_it_does():
    found = {"name": "b/k", "size": 4, "ETag": '"a"', "StorageClass": "STANDARD"}
    version = FileVersion.of_object(found)
    assert version.nbytes == 4
    assert FileVersion.of_object({**found, "StorageClass": "GLACIER"}).has_content_of(version)
    assert not FileVersion.of_object({**found, "ETag": '"b"'}).has_content_of(version)
    assert object_digest(found) != object_digest({**found, "ETag": '"b"'})
    assert FileVersion.of_object({"name": "without size"}).nbytes == -1


def test_the_digest_of_an_object_is_fixed_for_records_of_earlier_versions():
    assert object_digest({"size": 4, "ETag": '"a"'}).startswith("af9d77d09e786d3d")
