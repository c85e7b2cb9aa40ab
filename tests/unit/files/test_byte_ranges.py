"""Parts of files as if they were files."""

import io
import zlib

import numpy as np
import pytest
from conftest import write_image
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.decoding.images import decode_image, probe_image
from sppfeat.errors import ImageError
from sppfeat.files.byte_ranges import DEFLATED, PartOfFile, Place, read_at

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
def test_a_part_reads_as_a_file_of_these_bytes(whole, offset, nbytes, steps):
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
def test_an_image_in_the_midst_of_a_file_is_the_image(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    write_image(path, 37, 53, seed=1)
    content = path.read_bytes()
    packed = zlib.compress(content, wbits=-15)
    both = tmp_path / "archive"
    both.write_bytes(b"x" * 100 + content + b"y" * 50 + packed + b"z")
    wanted = decode_image(path, exif="apply", image_hw=(37, 53), input_hw=(20, 30), resample="bilinear")
    stored = Place(bytes(both), 100, len(content))
    deflated = Place(bytes(both), 150 + len(content), len(packed), DEFLATED, len(content))
    for place in (stored, deflated):
        assert probe_image(place, exif="apply") == (37, 53)
        found = decode_image(place, exif="apply", image_hw=(37, 53), input_hw=(20, 30), resample="bilinear")
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda place: place._replace(unpacked_nbytes=place.unpacked_nbytes - 1), "unpacks to more bytes"),
        (lambda place: place._replace(unpacked_nbytes=place.unpacked_nbytes + 1), "and should to"),
        (lambda place: place._replace(offset=place.offset + 3), "damaged in its archive"),
        (lambda place: place._replace(nbytes=10), "damaged in its archive"),
        (lambda place: place._replace(nbytes=0), "empty file"),
        (lambda place: place._replace(path=b"/nowhere/archive"), "no such file"),
    ],
)
def test_what_is_damaged_in_an_archive_fails_with_a_reason(tmp_path, change, said):
    write_image(tmp_path / "image.png", 30, 40, seed=1)
    content = (tmp_path / "image.png").read_bytes()
    packed = zlib.compress(content, wbits=-15)
    (tmp_path / "archive").write_bytes(packed)
    place = Place(bytes(tmp_path / "archive"), 0, len(packed), DEFLATED, len(content))
    with pytest.raises(ImageError, match=said):
        probe_image(change(place), exif="apply")


def test_a_part_that_the_file_does_not_reach_fails_with_a_reason(tmp_path):
    write_image(tmp_path / "image.png", 30, 40, seed=1)
    place = Place(bytes(tmp_path / "image.png"), 20, 1 << 40)
    with pytest.raises(ImageError, match="not an image"):
        probe_image(place, exif="apply")
