"""JPEGs decoded at a fraction of their size: the factor, and headers that rule it out."""

import struct

import pytest
from image_bytes import saved
from PIL import Image

from sppfeat.decoding.images import reduce_jpeg

PICTURE = Image.radial_gradient("L").resize((203, 101)).convert("RGB")


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def lossless_jpeg(height, width):
    """Return a gray lossless JPEG: each difference to its neighbor is 0, in a code of one bit."""
    table = bytes([0, 1, *[0] * 15, 0])
    frame = struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0])
    scan = segment(0xDA, bytes([1, 1, 0, 1, 0, 0])) + bytes(height * width // 8 + 8)
    return b"\xff\xd8" + segment(0xC4, table) + segment(0xC3, frame) + scan + b"\xff\xd9"


def jpeg(image=PICTURE, image_format="JPEG", **options):
    return saved(image, image_format, **options)


@pytest.fixture
def open_image(tmp_path):
    files = []

    def open_file(content):
        path = tmp_path / "image"
        path.write_bytes(content)
        files.append(path.open("rb", buffering=0))
        return Image.open(files[-1])

    yield open_file
    for file in files:
        file.close()


@pytest.mark.parametrize(
    ("least_hw", "factor"),
    [
        ((101, 203), 1),
        ((51, 101), 1),  # 101 / 2 is below it
        ((50, 102), 1),
        ((50, 101), 2),
        ((26, 50), 2),
        ((25, 50), 4),
        ((13, 25), 4),
        ((12, 25), 8),
        ((1, 1), 8),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": 2, "quality": 20},
        {"image": PICTURE.convert("L")},
        {"image": PICTURE.convert("CMYK")},
        {"image_format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (203, 101))]},
        {"comment": b"\xff\xc3\xff\xda" * 500},
    ],
)
def test_a_jpeg_at_least_twice_as_large_is_reduced_as_far_as_possible(open_image, options, least_hw, factor):
    image = open_image(jpeg(**options))
    mode = image.mode
    assert reduce_jpeg(image, least_hw) == factor
    assert (image.height, image.width) == (-(-101 // factor), -(-203 // factor))
    image.load()
    assert (image.height, image.width) == (-(-101 // factor), -(-203 // factor))
    assert image.mode == mode


def test_a_lossless_jpeg_is_not_reduced(open_image):
    """libjpeg-turbo decodes it at full size, and Pillow 12.0 crashes when it writes that into reduced rows."""
    image = open_image(lossless_jpeg(400, 3200))
    assert reduce_jpeg(image, (40, 320)) == 1
    assert image.size == (3200, 400)
    image.load()
    assert image.getextrema() == (128, 128)


PLAIN = jpeg()
FIRST = PLAIN.index(b"\xff\xc0")  # the frame
FRAME = PLAIN[FIRST : FIRST + 2 + int.from_bytes(PLAIN[FIRST + 2 : FIRST + 4], "big")]


@pytest.mark.parametrize(
    ("inserted", "factor"),
    [
        (b"", 4),
        (b"\xff" * 5, 4),  # fill bytes
        (segment(0xFE, b"comment"), 4),
        (FRAME.replace(b"\xff\xc0", b"\xff\xc3"), 1),
        (b"junk", 1),
        (b"\xff\x01", 1),
        (b"\xff\x00", 1),
    ],
)
def test_a_header_that_decoders_may_read_differently_is_left_alone(open_image, tmp_path, inserted, factor):
    image = open_image(PLAIN)
    (tmp_path / "image").write_bytes(PLAIN[:FIRST] + inserted + PLAIN[FIRST:])
    assert reduce_jpeg(image, (25, 50)) == factor


@pytest.mark.parametrize("content", [PLAIN[:FIRST], PLAIN[:2], b""])
def test_a_header_that_does_not_come_to_the_picture_is_left_alone(open_image, tmp_path, content):
    image = open_image(PLAIN)
    (tmp_path / "image").write_bytes(content)
    assert reduce_jpeg(image, (25, 50)) == 1
