"""Parts of files that read like files, and versions that change when a file or object is rewritten."""

import io
import os
import pickle
import shutil
import zlib

import numpy as np
import pytest
from conftest import write_image
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.decoding.images import decode_image, probe_image
from sppfeat.errors import ImageError
from sppfeat.files.places import FileVersion, PartOfFile, Place, object_digest, read_at

CONTENT = bytes(range(256)) * 3


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("part") / "whole"
    path.write_bytes(CONTENT)
    return path


@given(
    offset=st.integers(0, 800),
    nbytes=st.integers(0, 800),
    steps=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 300)), max_size=5),
)
def test_a_part_reads_like_a_file_of_its_bytes(whole, offset, nbytes, steps):
    expected = io.BytesIO(CONTENT[offset : offset + nbytes])
    with whole.open("rb", buffering=0) as file, io.BufferedReader(PartOfFile(file, offset, nbytes)) as part:
        for position, count in steps:
            assert part.seek(position) == expected.seek(position)
            assert part.read(count) == expected.read(count)
            assert part.tell() == expected.tell()
            assert read_at(part, 7, 3) == expected.getvalue()[3:10]
        assert part.seek(0, io.SEEK_END) == len(expected.getvalue())
        part.seek(0)
        assert part.read() == expected.getvalue()
        with pytest.raises(OSError, match="Invalid argument"):
            part.raw.seek(-1)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp", "gif"])
def test_an_image_inside_a_file_is_decoded(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    write_image(path, 37, 53, seed=1)
    content = path.read_bytes()
    packed = zlib.compress(content, wbits=-15)
    both = tmp_path / "archive"
    both.write_bytes(b"x" * 100 + content + b"y" * 50 + packed + b"z")
    wanted = decode_image(path, exif="apply", image_hw=(37, 53), input_hw=(20, 30), resample="bilinear")
    stored = Place(bytes(both), 100, len(content))
    deflated = Place(bytes(both), 150 + len(content), len(packed), len(content))
    for place in (stored, deflated):
        assert probe_image(place, exif="apply") == (37, 53)
        found = decode_image(place, exif="apply", image_hw=(37, 53), input_hw=(20, 30), resample="bilinear")
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: place._replace(unpacked_nbytes=place.unpacked_nbytes - 1), "unpacks to more bytes"),
        (lambda place: place._replace(unpacked_nbytes=place.unpacked_nbytes + 1), "bytes, not to"),
        (lambda place: place._replace(offset=place.offset + 3), "damaged in its archive"),
        (lambda place: place._replace(nbytes=10), "damaged in its archive"),
        (lambda place: place._replace(nbytes=0), "empty file"),
        (lambda place: place._replace(path=b"/nowhere/archive"), "no such file"),
    ],
)
def test_a_damaged_member_of_an_archive_fails_with_a_reason(tmp_path, change, message):
    write_image(tmp_path / "image.png", 30, 40, seed=1)
    content = (tmp_path / "image.png").read_bytes()
    packed = zlib.compress(content, wbits=-15)
    (tmp_path / "archive").write_bytes(packed)
    place = Place(bytes(tmp_path / "archive"), 0, len(packed), len(content))
    with pytest.raises(ImageError, match=message):
        probe_image(change(place), exif="apply")


def test_a_part_beyond_the_end_of_the_file_fails_with_a_reason(tmp_path):
    write_image(tmp_path / "image.png", 30, 40, seed=1)
    place = Place(bytes(tmp_path / "image.png"), 20, 1 << 40)
    with pytest.raises(ImageError, match="not an image"):
        probe_image(place, exif="apply")


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
def test_another_size_or_time_is_another_content(path, change):
    before = FileVersion.of(path)
    change(path)
    os.utime(path, ns=(10, os.stat(path).st_mtime_ns))
    assert not FileVersion.of(path).has_content_of(before)
    assert not FileVersion.of(path).is_file_of(before)


def test_a_copy_with_the_same_time_has_the_same_content_and_is_another_file(path, tmp_path):
    copy = shutil.copy2(path, tmp_path / "copy")
    assert FileVersion.of(copy).has_content_of(FileVersion.of(path))
    assert not FileVersion.of(copy).is_file_of(FileVersion.of(path))


def test_a_changed_property_is_another_version_of_an_object():
    found = {"name": "b/k", "size": 4, "ETag": '"a"', "StorageClass": "STANDARD"}
    version = FileVersion.of_object(found)
    assert version.nbytes == 4
    assert FileVersion.of_object({**found, "StorageClass": "GLACIER"}).has_content_of(version)
    assert not FileVersion.of_object({**found, "ETag": '"b"'}).has_content_of(version)
    assert object_digest(found) != object_digest({**found, "ETag": '"b"'})
    assert FileVersion.of_object({"name": "without size"}).nbytes == -1


def test_the_digest_of_an_object_is_fixed_for_records_of_earlier_versions():
    assert object_digest({"size": 4, "ETag": '"a"'}).startswith("af9d77d09e786d3d")
