"""Image files: every kind of pixel, orientation and damage, and that a header never lies about the pixels."""

import contextlib
import functools
import gc
import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_bytes import ORIENTATION, PILLOW_MAJOR, exif_block, noise, png, saved, tiff, with_right_checksums
from PIL import Image, ImageFile, ImageOps, features

from sppfeat.decoding import images
from sppfeat.decoding.image_files import IMAGE_FORMATS
from sppfeat.decoding.images import decode_image, image_from_array, probe_image, read_image
from sppfeat.errors import ImageError
from sppfeat.files.image_names import IMAGE_SUFFIXES

HAS_AVIF = bool(features.check("avif")) if "avif" in features.modules else False

WHITE = (255, 255, 255)


# --- making files ---------------------------------------------------------------------------------


def read_array(path, exif="apply"):
    image = read_image(path, exif=exif)
    assert image.mode == "RGB"
    array = np.asarray(image)
    assert probe_image(path, exif=exif) == array.shape[:2]
    return array


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="image"):
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write_file


# --- kinds of pixels ------------------------------------------------------------------------------

HIGH_BYTES = [0, 0, 1, 128, 255]
SAMPLES_16 = [0, 255, 256, 0x80FF, 65535]
GRAY = np.array([[0, 60, 128, 200, 255]], np.uint8)


def gray_rgb(values):
    return [[(value,) * 3 for value in values]]


def big_endian(*values):
    return struct.pack(f">{len(values)}H", *values)


def image_16(mode, dtype):
    return Image.frombytes(mode, (5, 1), np.array(SAMPLES_16, dtype).tobytes())


def palette_image():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    return image


def row_png(width, depth, color, row, key=()):
    """Return a PNG of one row, with a transparent color if a key is given."""
    before = [(b"tRNS", big_endian(*key))] if key else []
    return png(width, 1, depth=depth, color=color, rows=[row], before=before)


def row_tiff(width, content, photometric, bits, *, alpha=None):
    """Return a TIFF of one row, whose samples have these bits; ``alpha`` is the kind of an extra sample."""
    extra = {} if alpha is None else {338: (3, [alpha])}
    tags = {262: (3, [photometric]), 258: (3, bits), 277: (3, [len(bits)])}
    return tiff(width, 1, content, tags | extra)


WORDS = big_endian(*SAMPLES_16)
EXACT_KINDS = {
    "gray PNG": lambda: (saved(Image.fromarray(GRAY), "PNG"), gray_rgb(GRAY[0])),
    "gray TIFF, white is 0": lambda: (row_tiff(2, bytes([0, 55]), 0, [8]), gray_rgb([255, 200])),
    "1-bit": lambda: (row_png(8, 1, 0, b"\xa0"), gray_rgb([255, 0, 255, 0, 0, 0, 0, 0])),
    "palette": lambda: (saved(palette_image(), "PNG"), [[(10, 20, 30), (40, 50, 60), (70, 80, 90)]]),
    "palette, one transparent": lambda: (
        saved(palette_image(), "PNG", transparency=1),
        [[(10, 20, 30), WHITE, (70, 80, 90)]],
    ),
    "palette, several alphas": lambda: (
        saved(palette_image(), "PNG", transparency=bytes([255, 0, 51])),
        [[(10, 20, 30), WHITE, (218, 220, 222)]],  # (51 * c + 204 * 255) / 255
    ),
    "palette GIF, transparent": lambda: (
        saved(palette_image(), "GIF", transparency=2),
        [[(10, 20, 30), (40, 50, 60), WHITE]],
    ),
    "RGBA": lambda: (
        row_png(3, 8, 6, bytes([9, 8, 7, 255, 9, 8, 7, 0, 100, 0, 200, 128])),
        [[(9, 8, 7), WHITE, (177, 127, 227)]],  # round(c * 128 / 255 + 127)
    ),
    "LA": lambda: (row_png(2, 8, 4, bytes([9, 255, 9, 0])), gray_rgb([9, 255])),
    "key color, RGB": lambda: (row_png(2, 8, 2, b"\1\2\3\4\5\6", (1, 2, 3)), [[WHITE, (4, 5, 6)]]),
    "key color, 8-bit gray": lambda: (row_png(2, 8, 0, b"\2\3", (2,)), gray_rgb([255, 3])),
    "key color, 4-bit gray": lambda: (row_png(2, 4, 0, b"\x23", (2,)), gray_rgb([255, 51])),
    "key color, 2-bit gray": lambda: (row_png(4, 2, 0, b"\x1b", (2,)), gray_rgb([0, 85, 255, 255])),
    "key color, 1-bit": lambda: (row_png(8, 1, 0, b"\xa0", (0,)), gray_rgb([255] * 8)),
    "key color white, 1-bit": lambda: (
        row_png(8, 1, 0, b"\xa0", (1,)),
        gray_rgb([255, 0, 255, 0, 0, 0, 0, 0]),
    ),
    "key color, 16-bit gray": lambda: (row_png(5, 16, 0, WORDS, (256,)), gray_rgb([0, 0, 255, 128, 255])),
    "key color, 16-bit RGB": lambda: (
        row_png(2, 16, 2, big_endian(*[0x1234] * 3, *[0x3400] * 3), (0x1234,) * 3),
        [[WHITE, (0x34,) * 3]],
    ),
    "16-bit gray PNG": lambda: (row_png(5, 16, 0, WORDS), gray_rgb(HIGH_BYTES)),
    "16-bit gray + alpha PNG": lambda: (
        row_png(2, 16, 4, big_endian(0x1234, 65535, 0x1234, 0)),
        gray_rgb([0x12, 255]),
    ),
    "16-bit RGB PNG": lambda: (row_png(1, 16, 2, big_endian(255, 0x80FF, 65535)), [[(0, 128, 255)]]),
    "16-bit gray TIFF": lambda: (saved(image_16("I;16", "<u2"), "TIFF"), gray_rgb(HIGH_BYTES)),
    "16-bit gray TIFF, big-endian": lambda: (saved(image_16("I;16B", ">u2"), "TIFF"), gray_rgb(HIGH_BYTES)),
    "16-bit gray TIFF, LZW": lambda: (
        saved(image_16("I;16", "<u2"), "TIFF", compression="tiff_lzw"),
        gray_rgb(HIGH_BYTES),
    ),
    "16-bit gray TIFF, white is 0": lambda: (
        row_tiff(5, struct.pack("<5H", *SAMPLES_16), 0, [16]),
        gray_rgb([255, 255, 254, 127, 0]),
    ),
    "12-bit gray TIFF": lambda: (row_tiff(2, b"\xff\xf1\x20", 1, [12]), gray_rgb([255, 0x12])),
    "16-bit RGB TIFF": lambda: (
        row_tiff(1, struct.pack("<3H", 255, 0x80FF, 65535), 2, [16] * 3),
        [[(0, 128, 255)]],
    ),
    "16-bit PGM": lambda: (b"P5 5 1 65535\n" + WORDS, gray_rgb(HIGH_BYTES)),
    "12-bit PGM": lambda: (b"P5 3 1 4095\n" + big_endian(0, 2048, 4095), gray_rgb([0, 128, 255])),
    "plain PGM of 7 grays": lambda: (b"P2 3 1 6\n0 3 6\n", gray_rgb([0, 128, 255])),
    "16-bit gray JPEG 2000": lambda: (
        saved(image_16("I;16", "<u2"), "JPEG2000", irreversible=False),
        gray_rgb(HIGH_BYTES),
    ),
    "CMYK TIFF": lambda: (
        saved(Image.frombytes("CMYK", (2, 1), bytes([0, 255, 255, 0, 0, 0, 0, 255])), "TIFF"),
        [[(255, 0, 0), (0, 0, 0)]],
    ),
    "premultiplied RGBA TIFF": lambda: (
        row_tiff(2, bytes([51, 0, 0, 51, 0, 0, 0, 0]), 2, [8] * 4, alpha=1),
        [[(255, 204, 204), WHITE]],
    ),
    "premultiplied gray + alpha TIFF": lambda: (
        row_tiff(2, bytes([51, 51, 0, 0]), 1, [8] * 2, alpha=1),
        gray_rgb([255, 255]),
    ),
}
NEED_PILLOW_13 = {"premultiplied gray + alpha TIFF", "YCbCr TIFF"}  # older ones fail, with a reason


@pytest.mark.parametrize("kind", EXACT_KINDS)
def test_pixels_of_lossless_kinds_are_exact(kind, write):
    if kind in NEED_PILLOW_13 and PILLOW_MAJOR < 13:
        pytest.skip("Pillow 13 reads it")
    content, expected = EXACT_KINDS[kind]()
    path = write(content)
    np.testing.assert_array_equal(read_array(path), np.array(expected, np.uint8))
    np.testing.assert_array_equal(read_array(path, exif="ignore"), np.array(expected, np.uint8))


def ycck_red():
    """Return an Adobe YCCK JPEG that is red: the C, M, Y planes as Y, Cb, Cr, all inverted."""
    cmy = Image.new("RGB", (32, 16), (0, 255, 255)).convert("YCbCr")
    planes = [ImageOps.invert(plane) for plane in cmy.split()]
    # Pillow inverts what it writes; libjpeg turns YCC into 255 - C, so the planes go in uninverted.
    content = bytearray(
        saved(Image.merge("CMYK", [*planes, Image.new("L", (32, 16), 0)]), "JPEG", quality=95)
    )
    content[content.index(b"Adobe") + 11] = 2
    return bytes(content)


def lab_tiff():
    mid_gray = bytes([137, 0, 0])  # L = 53.6 of 100, a = b = 0
    return row_tiff(1, mid_gray, 8, [8] * 3)


CLOSE_KINDS = {
    "CMYK JPEG": (lambda: saved(Image.new("CMYK", (32, 16), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "CMYK JPEG, black": (lambda: saved(Image.new("CMYK", (32, 16), (0, 0, 0, 255)), "JPEG"), (0, 0, 0)),
    "YCCK JPEG": (ycck_red, (255, 0, 0)),
    "gray JPEG": (lambda: saved(Image.new("L", (32, 16), 77), "JPEG"), (77, 77, 77)),
    "YCbCr TIFF": (
        lambda: saved(Image.new("RGB", (8, 8), (200, 30, 60)).convert("YCbCr"), "TIFF"),
        (200, 30, 60),
    ),
    "JPEG in TIFF": (
        lambda: saved(Image.new("RGB", (32, 16), (200, 30, 60)), "TIFF", compression="jpeg"),
        (200, 30, 60),
    ),
    "LAB TIFF": (lab_tiff, (128, 128, 128)),
    "corrupt ICC profile": (
        lambda: saved(Image.new("RGB", (32, 16), (200, 30, 60)), "JPEG", icc_profile=b"no profile"),
        (200, 30, 60),
    ),
}


@pytest.mark.parametrize("kind", CLOSE_KINDS)
def test_colors_of_lossy_kinds_are_close(kind, write):
    if kind in NEED_PILLOW_13 and PILLOW_MAJOR < 13:
        pytest.skip("Pillow 13 reads it")
    make, color = CLOSE_KINDS[kind]
    array = read_array(write(make()))
    assert np.abs(array.astype(int) - color).max() <= 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: saved(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"),
        lambda: saved(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF"),
        lambda: tiff(1, 1, b"\1\0", {262: (3, [1]), 258: (3, [16]), 339: (3, [2])}),
        lambda: b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5),
    ],
    ids=["float TIFF", "int32 TIFF", "int16 TIFF", "float PFM"],
)
def test_pixels_without_a_range_are_refused_before_and_at_reading(make, write):
    path = write(make())
    for read in (probe_image, read_image):
        with pytest.raises(ImageError, match="no defined range; convert it to 8 or 16 bits"):
            read(path, exif="apply")


FRAMES = [Image.new("RGB", (24, 16), color) for color in ("red", "lime")]


def test_an_mpo_whose_second_picture_is_missing_gives_the_first(write):
    content = saved(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:], quality=100)
    array = read_array(write(content[: content.rindex(b"\xff\xd8")]))
    assert np.abs(array.astype(int) - (255, 0, 0)).max() <= 2


def test_a_gif_frame_larger_than_its_screen_has_one_size(write):
    content = bytearray(saved(palette_image().resize((30, 20)), "GIF"))
    content[6:10] = struct.pack("<HH", 10, 40)
    assert read_array(write(bytes(content))).shape == (40, 30, 3)


# --- orientation ----------------------------------------------------------------------------------

TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
STORED = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
BLOCKS = np.asarray(Image.fromarray(STORED).resize((56, 40), Image.Resampling.NEAREST))


def png_with_late_exif(orientation):
    rows = [row.tobytes() for row in STORED]
    return png(7, 5, depth=8, color=2, rows=rows, after=[(b"eXIf", exif_block(orientation)[6:])])


def tiff_with_orientation(orientation, **options):
    return saved(Image.fromarray(STORED), "TIFF", tiffinfo={ORIENTATION: orientation}, **options)


ORIENTED = {
    "PNG": lambda o: saved(Image.fromarray(STORED), "PNG", exif=exif_block(o)),
    "PNG, late eXIf": png_with_late_exif,
    "WebP": lambda o: saved(Image.fromarray(STORED), "WEBP", lossless=True, exif=exif_block(o)),
    "TIFF": tiff_with_orientation,
    "TIFF, LZW": lambda o: tiff_with_orientation(o, compression="tiff_lzw"),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ORIENTED)
def test_orientation_is_applied_or_ignored(kind, orientation, write):
    path = write(ORIENTED[kind](orientation))
    np.testing.assert_array_equal(read_array(path, exif="apply"), TURNED[orientation](STORED))
    np.testing.assert_array_equal(read_array(path, exif="ignore"), STORED)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("image_format", ["JPEG", "MPO", "AVIF"])
def test_orientation_of_lossy_formats(image_format, orientation, write):
    if image_format == "AVIF" and not HAS_AVIF:
        pytest.skip("this Pillow has no AVIF")
    frames = (
        {"save_all": True, "append_images": [Image.new("RGB", (56, 40))]} if image_format == "MPO" else {}
    )
    options = {"quality": 98, "exif": exif_block(orientation), **frames}
    path = write(saved(Image.fromarray(BLOCKS), image_format, **options))
    stored, upright = read_array(path, exif="ignore"), read_array(path, exif="apply")
    np.testing.assert_array_equal(upright, TURNED[orientation](stored))
    assert np.abs(stored.astype(int) - BLOCKS).mean() < 25


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("kind", sorted(set(ORIENTED) - {"TIFF, LZW"}))  # which libtiff will not write
def test_an_orientation_that_does_not_exist_counts_as_none(kind, orientation, write):
    np.testing.assert_array_equal(read_array(write(ORIENTED[kind](orientation))), STORED)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(junk=st.binary(max_size=60), start=st.integers(0, 60))
def test_no_exif_block_harms_an_image(junk, start, write):
    block = bytearray(exif_block(6))
    block[start : start + len(junk)] = junk
    path = write(saved(Image.new("RGB", (7, 5)), "JPEG", exif=bytes(block)))
    assert read_array(path).shape in {(5, 7, 3), (7, 5, 3)}


def test_a_tiff_with_a_dangling_exif_pointer_is_read(write):
    tags = {262: (3, [1]), 258: (3, [8]), ORIENTATION: (3, [6]), 0x8769: (4, [0x7FFFFFF0])}
    path = write(tiff(2, 1, b"\0\xff", tags))
    np.testing.assert_array_equal(read_array(path), [[[0] * 3], [[255] * 3]])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_an_orientation_in_xmp_only_leaves_header_and_pixels_agreed(kind, write):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    jpeg = saved(Image.new("RGB", (7, 5)), "JPEG")
    segment = b"http://ns.adobe.com/xap/1.0/\0" + xmp
    rows = [row.tobytes() for row in STORED]
    itxt = (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    content = {
        "JPEG": jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:],
        "PNG": png(7, 5, depth=8, color=2, rows=rows, before=[itxt]),
        "TIFF": tiff(7, 5, bytes(35), {262: (3, [1]), 258: (3, [8]), 700: (1, list(xmp))}),
    }[kind]
    # Whether XMP counts depends on the version of Pillow; read_array checks that the sizes agree.
    assert sorted(read_array(write(content)).shape) == [3, 5, 7]
    assert read_array(write(content), exif="ignore").shape == (5, 7, 3)


# --- damage ---------------------------------------------------------------------------------------

PICTURE = noise(60, 90, 3)
INTACT = {
    "JPEG": saved(PICTURE, "JPEG"),
    "progressive JPEG": saved(PICTURE, "JPEG", progressive=True),
    "PNG": saved(PICTURE, "PNG"),
    "GIF": saved(PICTURE, "GIF"),
    "WebP": saved(PICTURE, "WEBP"),
    "TIFF": saved(PICTURE, "TIFF"),
    "TIFF, deflate": saved(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, JPEG": saved(PICTURE, "TIFF", compression="jpeg"),
    "BMP": saved(PICTURE, "BMP"),
    "JPEG 2000": saved(PICTURE, "JPEG2000"),
    "PPM": saved(PICTURE, "PPM"),
    "SGI": saved(PICTURE, "SGI"),
    "PCX": saved(PICTURE, "PCX"),
    "TGA": saved(PICTURE, "TGA"),
}
if HAS_AVIF:
    INTACT["AVIF"] = saved(PICTURE, "AVIF")


@pytest.mark.parametrize("kind", INTACT)
def test_a_file_that_is_cut_short_fails_or_has_all_its_pixels(kind, write):
    content = INTACT[kind]
    whole = read_array(write(content))
    n_failed = 0
    for n_bytes in {1, 8, 20, *np.linspace(30, len(content) - 1, 25).astype(int).tolist()}:
        path = write(content[:n_bytes])
        try:
            array = read_array(path)
        except ImageError as error:
            assert_is_a_reason(str(error))
            n_failed += 1
        else:  # only what follows the pixels is missing
            np.testing.assert_array_equal(array, whole)
            assert n_bytes > 0.98 * len(content)
    assert n_failed >= 24


@pytest.mark.parametrize("n_planes", [1, 2, 3])
def test_a_tiff_without_all_its_planes_is_not_filled_up(n_planes, write):
    color = {262: (3, [2]), 258: (3, [8] * 3), 277: (3, [3]), 284: (3, [2])}
    tiles = {322: (4, [16]), 323: (4, [16]), 324: (4, [8] * n_planes), 325: (4, [256] * n_planes)}
    path = write(tiff(16, 16, b"\xff" * 256, color | tiles))
    if n_planes == 3:
        assert read_array(path).tolist() == np.full((16, 16, 3), 255).tolist()
        return
    with pytest.raises(ImageError, match=f"hold {256 * n_planes} of 768 samples"):
        probe_image(path, exif="apply")


def test_settings_of_pillow_do_not_let_damage_through(write, monkeypatch):
    """Many programs set both; Pillow would fill the missing part with gray."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for kind in ("JPEG", "PNG", "TIFF", "GIF"):
        path = write(INTACT[kind][: len(INTACT[kind]) * 3 // 4])
        with pytest.raises(ImageError):
            read_image(path, exif="apply")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert Image.MAX_IMAGE_PIXELS is None


def assert_is_a_reason(reason):
    assert 0 < len(reason) < 300
    assert reason.isprintable()
    assert "image.bin" not in reason
    assert "0x" not in reason, "an address, different in each run"


EXTREMES = [
    struct.pack(order + size, value)
    for order in "<>"
    for size, bits in (("H", 16), ("I", 32), ("Q", 64))
    for value in (0, 1, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 1)
]
# Headers are where it matters: half of the changes go into the first 200 bytes.
PLACES = st.integers(0, 200) | st.integers(0, 1 << 20)
EDITS = st.tuples(PLACES, st.integers(0, 255).map(lambda value: bytes([value])) | st.sampled_from(EXTREMES))
CUTS = st.tuples(PLACES, st.sampled_from([-100, -4, -1, 1, 4, 100, 3000]))  # bytes repeated, or left out


def damaged(content, edits, cuts):
    """Return the bytes with some of them changed, and some repeated or left out."""
    content = bytearray(content)
    for place, new in edits:
        place %= len(content)
        content[place : place + len(new)] = new
    for place, length in cuts:
        place %= len(content)
        repeated = content[place : place + length] if length > 0 else b""
        content[place : place + max(0, -length)] = repeated
    return bytes(content)


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@given(
    kind=st.sampled_from(sorted(INTACT)),
    edits=st.lists(EDITS, max_size=6),
    cuts=st.lists(CUTS, max_size=1),
    mend=st.booleans(),
)
def test_hostile_bytes_give_a_reason_or_an_image_of_the_probed_size(kind, edits, cuts, mend, write):
    content = damaged(INTACT[kind], edits, cuts)
    if mend and kind == "PNG":
        content = with_right_checksums(content)
    path = write(content, "image.bin")
    for exif in ("apply", "ignore"):
        try:
            image = read_image(path, exif=exif, max_pixels=1_000_000)
            assert probe_image(path, exif=exif) == (image.height, image.width)
            assert fast(path, (9, 10), exif=exif).shape == (9, 10, 3)
        except ImageError as error:
            assert_is_a_reason(str(error))


def count_open_files():
    descriptors = Path("/proc/self/fd")
    return len(list(descriptors.iterdir())) if descriptors.is_dir() else None


def test_files_that_cannot_be_opened(tmp_path, write):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    cases = {
        tmp_path / "missing.jpg": "no such file",
        tmp_path: "is a folder",
        tmp_path / "fifo": "is not a regular file",
        tmp_path / "loop": "Too many levels of symbolic links",
        Path(write(b"x")) / "below": "no such file",
        tmp_path / ("n" * 300): "File name too long",
    }
    for path, reason in cases.items():
        with pytest.raises(ImageError) as error:
            probe_image(str(path), exif="apply")
        assert str(error.value) == reason
        assert isinstance(error.value.__cause__, OSError) or path in (tmp_path, tmp_path / "fifo")
    with pytest.raises(ImageError, match=r"embedded null"):
        probe_image("a\0b", exif="apply")


@pytest.mark.parametrize("limit", [5400, 5399, 2700, 100, 1])
def test_the_limit_of_pixels_is_exact_and_leaves_pillow_as_it_was(limit, write):
    before = Image.MAX_IMAGE_PIXELS
    path = write(INTACT["PNG"])  # 60 x 90
    size = r"60 x 90 \(height x width\) are " if limit == 5399 else ""
    remedy = "--max-decode-pixels 5400 --retry-failed lets it in"
    message = f"too many pixels: {size}5400, more than --max-decode-pixels {limit}; {remedy}"
    for reading in (probe_image, read_image):
        with pytest.raises(ImageError, match=f"^{message}$") if limit < 5400 else contextlib.nullcontext():
            reading(path, exif="apply", max_pixels=limit)
    assert before == Image.MAX_IMAGE_PIXELS


def test_limits_of_pixels_in_several_threads_do_not_meet(write):
    before = Image.MAX_IMAGE_PIXELS
    path = write(INTACT["PNG"])

    def reading(limit):
        for _ in range(50):
            with pytest.raises(ImageError) if limit < 5400 else contextlib.nullcontext():
                read_image(path, exif="apply", max_pixels=limit)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(reading, [5399, 178_956_970, 100, 10_000]))
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_large_image_below_the_limit_passes_in_silence(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = write(png(10_000, 10_000, depth=8, color=2, rows=[b""]))
        assert probe_image(path, exif="apply") == (10_000, 10_000)


@pytest.mark.parametrize("error_type", [MemoryError, SyntaxError, struct.error, KeyError, RecursionError])
def test_any_exception_of_pillow_becomes_an_image_error(error_type, write, monkeypatch):
    def fail(*_):
        raise error_type("odd\x1b[31m\nthing")

    path = write(INTACT["JPEG"])
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", fail)
    with pytest.raises(ImageError) as error:
        read_image(path, exif="apply")
    assert isinstance(error.value.__cause__, error_type)
    assert_is_a_reason(str(error.value))
    expected = "not enough memory" if error_type is MemoryError else r"odd\x1b[31m thing"
    assert expected in str(error.value).replace(r"\\", "\\").replace(r"\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*INTACT, "damaged JPEG"])
def test_no_file_handle_stays_open_and_nothing_is_printed(kind, write, capfd):
    path = write(INTACT["JPEG"][:700] if kind == "damaged JPEG" else INTACT[kind])
    before = count_open_files()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in (probe_image, read_image):
            try:
                kept = read(path, exif="apply")
            except ImageError:
                kept = None
            assert count_open_files() == before
            del kept
        gc.collect()
    assert capfd.readouterr() == ("", "")


# --- decoding for the network ---------------------------------------------------------------------


def test_decoding_resizes_the_upright_rgb_pixels_as_pillow_does(write):
    path = write(saved(PICTURE, "PNG", exif=exif_block(6)))
    upright = Image.fromarray(np.rot90(np.asarray(PICTURE), -1))
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"):
        array = decode_image(path, exif="apply", image_hw=(90, 60), input_hw=(48, 32), resample=name)
        expected = upright.resize((32, 48), Image.Resampling[name.upper()])
        np.testing.assert_array_equal(array, np.asarray(expected))
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous
        assert array.shape == (48, 32, 3)


def test_decoding_at_its_own_size_changes_no_pixel(write, monkeypatch):
    monkeypatch.delattr(Image.Image, "resize")
    path = write(INTACT["PNG"])
    array = decode_image(path, exif="apply", image_hw=(60, 90), input_hw=(60, 90), resample="lanczos")
    np.testing.assert_array_equal(array, np.asarray(PICTURE))


def test_an_image_that_has_changed_is_refused(write):
    path = write(INTACT["PNG"])
    with pytest.raises(ImageError) as error:
        decode_image(path, exif="apply", image_hw=(90, 60), input_hw=(9, 6), resample="box")
    assert str(error.value) == "changed since it was planned: was 90 x 60 (height x width), is 60 x 90"


# --- decoding at a part of the size ---------------------------------------------------------------

WIDE = noise(101, 203, 3)  # neither side is a multiple of 2
SHADES = Image.fromarray(np.rint(np.add.outer(np.arange(101), np.arange(203)) * 0.84).astype(np.uint8))
INKS = Image.merge("CMYK", [*WIDE.split(), SHADES])
FAST_KINDS = {
    "baseline": lambda exif: saved(WIDE, "JPEG", quality=95, exif=exif),
    "progressive": lambda exif: saved(WIDE, "JPEG", progressive=True, exif=exif),
    "4:2:0": lambda exif: saved(WIDE, "JPEG", subsampling=2, exif=exif),
    "gray": lambda exif: saved(WIDE.convert("L"), "JPEG", exif=exif),
    "CMYK": lambda exif: saved(INKS, "JPEG", exif=exif),
    "MPO": lambda exif: saved(WIDE, "MPO", save_all=True, append_images=[WIDE.rotate(180)], exif=exif),
}
# Where the picture is in reduced pixels of all_w x all_h, of which it has w x h, once they are turned.
TURNED_BOXES = {
    1: lambda all_w, all_h, w, h: (0, 0, w, h),
    2: lambda all_w, all_h, w, h: (all_w - w, 0, all_w, h),
    3: lambda all_w, all_h, w, h: (all_w - w, all_h - h, all_w, all_h),
    4: lambda all_w, all_h, w, h: (0, all_h - h, w, all_h),
    5: lambda all_w, all_h, w, h: (0, 0, h, w),
    6: lambda all_w, all_h, w, h: (all_h - h, 0, all_h, w),
    7: lambda all_w, all_h, w, h: (all_h - h, all_w - w, all_h, all_w),
    8: lambda all_w, all_h, w, h: (0, all_w - w, h, all_w),
}


def fast(path, input_hw, *, exif="apply", resample="bilinear", decode="fast", **settings):
    options = {"exif": exif, "resample": resample, "decode": decode, **settings}
    return decode_image(path, image_hw=probe_image(path, exif=exif), input_hw=input_hw, **options)


exact = functools.partial(fast, decode="exact")


def plain_fast(path, input_hw, orientation, resample):
    """Pillow's ``draft``, turned with numpy, and the box written out for each orientation; no EXIF of Pillow."""
    stored_hw = input_hw[::-1] if orientation >= 5 else input_hw
    with Image.open(path) as image:
        height, width = image.height, image.width
        _, (_, _, w, h) = image.draft(None, stored_hw[::-1])
        reduced = np.asarray(image.convert("RGB"))
    assert reduced.shape[0] < height
    assert reduced.shape[1] < width
    turned = Image.fromarray(np.ascontiguousarray(TURNED[orientation](reduced)))
    box = TURNED_BOXES[orientation](reduced.shape[1], reduced.shape[0], w, h)
    return np.asarray(turned.resize(input_hw[::-1], Image.Resampling[resample.upper()], box))


@pytest.mark.slow
@settings(max_examples=60)
@given(
    kind=st.sampled_from(sorted(FAST_KINDS)),
    orientation=st.integers(1, 8),
    height=st.integers(1, 50),
    width=st.integers(1, 101),
    resample=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
)
def test_fast_is_pillows_draft_and_a_resize(kind, orientation, height, width, resample, write):
    path = write(FAST_KINDS[kind](exif_block(orientation)))
    input_hw = (width, height) if orientation >= 5 else (height, width)
    got = fast(path, input_hw, resample=resample)
    assert got.shape == (*input_hw, 3)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, plain_fast(path, input_hw, orientation, resample))
    np.testing.assert_array_equal(
        fast(path, (height, width), exif="ignore", resample=resample),
        plain_fast(path, (height, width), 1, resample),
    )


@pytest.mark.slow
@settings(max_examples=60)
@given(
    kind=st.sampled_from(sorted(FAST_KINDS)),
    orientation=st.integers(1, 8),
    sides=st.tuples(st.integers(51, 250), st.integers(1, 250))
    | st.tuples(st.integers(1, 250), st.integers(102, 250)),
)
def test_fast_equals_exact_if_the_input_is_more_than_half_as_large(kind, orientation, sides, write):
    path = write(FAST_KINDS[kind](exif_block(orientation)))
    input_hw = sides[::-1] if orientation >= 5 else sides
    np.testing.assert_array_equal(fast(path, input_hw), exact(path, input_hw))


NOT_JPEGS = {
    **{name: lambda make=make: make(6) for name, make in ORIENTED.items()},
    "GIF": lambda: saved(WIDE, "GIF"),
    "JPEG 2000": lambda: saved(WIDE, "JPEG2000"),
    "JPEG in TIFF": lambda: saved(WIDE, "TIFF", compression="jpeg"),
}


@pytest.mark.parametrize("kind", NOT_JPEGS)
def test_fast_equals_exact_for_all_formats_but_jpeg(kind, write):
    path = write(NOT_JPEGS[kind]())
    np.testing.assert_array_equal(fast(path, (2, 2)), exact(path, (2, 2)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("input_hw", [(50, 101), (25, 50), (12, 25), (9, 20)])
def test_fast_shifts_nothing(orientation, input_hw, write):
    """Taking all of the reduced pixels for the picture moves it by 0.9 to 3.3 shades, unturned by 0.8 to 6.6."""
    input_hw = input_hw[::-1] if orientation >= 5 else input_hw
    moved = []
    for shades in (SHADES, ImageOps.invert(SHADES)):  # what rounding does is the same in both
        path = write(saved(shades, "JPEG", quality=98, exif=exif_block(orientation)))
        moved.append(fast(path, input_hw).astype(float) - exact(path, input_hw))
    assert np.abs(moved[0] - moved[1]).max() / 2 <= 2
    assert np.abs(moved[0] - moved[1]).mean() / 2 < 0.6


def bmp_32(*pixels, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000)):
    """Return a BMP of one row with a V4 header; each pixel is blue, green, red, alpha."""
    row = bytes(value for pixel in pixels for value in pixel)
    info = struct.pack("<IiiHHIIiiII4I", 108, len(pixels), 1, 1, 32, 3, len(row), 0, 0, 0, 0, *masks).ljust(
        108, b"\0"
    )
    return b"BM" + struct.pack("<IHHI", 14 + 108 + len(row), 0, 0, 14 + 108) + info + row


def tga(kind, depth, n_pixels, row, *, alpha_bits=0, palette=b""):
    """Return an uncompressed TGA of one row."""
    n_colors = len(palette) // 4
    header = struct.pack(
        "<BBBHHBHHHHBB",
        0,
        bool(palette),
        kind,
        0,
        n_colors,
        32 if palette else 0,
        0,
        0,
        n_pixels,
        1,
        depth,
        alpha_bits,
    )
    return header + palette + row


@pytest.mark.parametrize("alpha_bits", [0, 8])
@pytest.mark.parametrize("name", ["a.bmp", "a.dib", "a.tga"])
def test_an_alpha_of_zero_everywhere_is_opaque_where_programs_leave_it_unused(name, alpha_bits, write):
    content = {
        "a.bmp": bmp_32((3, 2, 1, 0), (6, 5, 4, 0)),
        "a.dib": bmp_32((3, 2, 1, 0), (6, 5, 4, 0))[14:],
        "a.tga": tga(2, 32, 2, bytes([3, 2, 1, 0, 6, 5, 4, 0]), alpha_bits=alpha_bits),
    }[name]
    assert read_array(write(content, name)).tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_other_layouts_of_tga_without_opacity_are_opaque(write):
    assert read_array(write(tga(3, 16, 2, bytes([7, 0, 9, 0]), alpha_bits=8), "a.tga")).tolist() == [
        [[7] * 3, [9] * 3]
    ]
    palette = bytes([3, 2, 1, 0, 6, 5, 4, 0])
    assert read_array(write(tga(1, 8, 2, b"\1\0", palette=palette), "a.tga")).tolist() == [
        [[4, 5, 6], [1, 2, 3]]
    ]


def test_one_pixel_with_alpha_makes_the_others_transparent(write):
    for content in (bmp_32((3, 2, 1, 0), (6, 5, 4, 255)), tga(2, 32, 2, bytes([3, 2, 1, 0, 6, 5, 4, 255]))):
        assert read_array(write(content)).tolist() == [[list(WHITE), [4, 5, 6]]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF"])
def test_other_images_that_are_transparent_everywhere_are_blank(kind, write):
    clear = Image.new("RGBA", (2, 1), (1, 2, 3, 0))
    assert read_array(write(saved(clear, kind))).tolist() == [[list(WHITE)] * 2]


def narrow_range(path, **options):
    found = []
    decode_image(
        path,
        exif="apply",
        image_hw=probe_image(path, exif="apply"),
        input_hw=(1, 2),
        resample="box",
        on_narrow=found.append,
        **options,
    )
    return found


def deep_images(low, high):
    """Return images with 16-bit samples from ``low`` to ``high``, by kind."""
    gray = Image.frombytes("I;16", (2, 1), np.array([low, high], "<u2").tobytes())
    color, alpha = big_endian(*[low] * 3, *[high] * 3), big_endian(*[low] * 3, 0, *[high] * 3, 65535)
    return {
        "gray PNG": saved(gray, "PNG"),
        "gray TIFF": saved(gray, "TIFF"),
        "gray TIFF, LZW": saved(gray, "TIFF", compression="tiff_lzw"),
        "gray PGM": b"P5 2 1 65535\n" + big_endian(low, high),
        "gray JPEG 2000": saved(gray, "JPEG2000", irreversible=False),
        "gray and alpha PNG": row_png(2, 16, 4, big_endian(low, 0, high, 65535)),
        "RGB PNG": row_png(2, 16, 2, color),
        "RGBA PNG": row_png(2, 16, 6, alpha),
        "RGB TIFF": row_tiff(2, struct.pack("<6H", *[low] * 3, *[high] * 3), 2, [16] * 3),
    }


@pytest.mark.parametrize("kind", deep_images(0, 1))
def test_16_bit_images_that_use_little_of_their_range_are_reported(kind, write):
    exact = kind.startswith("gray") and "alpha" not in kind
    for low, high in ((0, 255), (0, 1023), (0, 4095), (0, 16383), (30000, 40000)):
        found = narrow_range(write(deep_images(low, high)[kind]))
        assert found == [(low, high) if exact else (low >> 8 << 8, high | 255)]
    for low, high in ((0, 65535), (0, 16384), (20000, 40000), (65535, 65535)):
        assert not narrow_range(write(deep_images(low, high)[kind]))


def test_a_16_bit_ppm_is_reported_as_pillow_rounds_it(write):
    color = b"P6 2 1 65535\n" + big_endian(0, 0, 0, 4095, 4095, 4095)
    assert narrow_range(write(color)) == [(0, 4351)]
    assert not narrow_range(write(b"P6 2 1 4095\n" + big_endian(0, 0, 0, 4095, 4095, 4095)))


def test_images_of_other_depths_have_no_range_to_report(write):
    dark = Image.new("RGB", (2, 1), (1, 2, 3))
    for content in (
        *(saved(dark, kind) for kind in ("PNG", "BMP", "TGA", "JPEG", "TIFF", "PPM")),
        row_tiff(2, b"\0\x10\x01", 1, [12]),
    ):
        assert not narrow_range(write(content))


def test_the_limit_of_pixels_is_that_of_the_full_size(write):
    with pytest.raises(ImageError, match=r"5400, more than --max-decode-pixels 5399"):
        fast(write(INTACT["JPEG"]), (6, 9), max_pixels=5399)


def test_pixels_of_another_size_than_the_header_are_noticed_fast_too(write, monkeypatch):
    path = write(saved(WIDE, "JPEG"))
    monkeypatch.setattr(images, "_to_rgb", lambda image, on_narrow: Image.new("RGB", (51, 26)))
    assert fast(path, (25, 50)).shape == (25, 50, 3)
    monkeypatch.setattr(images, "_to_rgb", lambda image, on_narrow: Image.new("RGB", (203, 101)))
    with pytest.raises(
        ImageError, match=r"^its header says 101 x 203, its pixels are 101 x 203 at 1/4 of it$"
    ):
        fast(path, (25, 50))


# --- images in memory -----------------------------------------------------------------------------


def test_arrays_and_pillow_images_become_rgb():
    rgb = np.asarray(PICTURE)
    for image in (rgb, rgb[::2, ::3], rgb[..., ::-1], Image.fromarray(rgb)):
        got = image_from_array(image)
        assert got.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(got), np.asarray(image))
    gray = rgb[..., 0]
    np.testing.assert_array_equal(np.asarray(image_from_array(gray)), np.stack([gray] * 3, -1))
    wide = Image.fromarray(np.array([SAMPLES_16], np.uint16))
    np.testing.assert_array_equal(np.asarray(image_from_array(wide)), gray_rgb(HIGH_BYTES))
    assert image_from_array(Image.new("HSV", (1, 1), (0, 255, 255))).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((3, 5, 7), np.uint8), r"shape \(3, 5, 7\) and dtype uint8"),
        (np.zeros((5, 7, 4), np.uint8), r"shape \(5, 7, 4\)"),
        (np.zeros((5, 7, 3), np.float32), "dtype float32"),
        (np.zeros((5, 7), bool), "dtype bool"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        ([[1, 2]], "not an image but list"),
        ("photo.jpg", "not an image but str"),
    ],
)
def test_other_arrays_are_refused_with_what_is_allowed(image, found):
    with pytest.raises(ImageError, match=f"{found}.*allowed are uint8 arrays"):
        image_from_array(image)


@pytest.mark.parametrize("image", [np.zeros((0, 7, 3), np.uint8), Image.new("RGB", (0, 3))])
def test_images_without_pixels_are_refused(image):
    with pytest.raises(ImageError, match="no pixels"):
        image_from_array(image)


@pytest.mark.parametrize("kind", ORIENTED)
def test_an_image_straight_from_image_open_is_treated_as_its_file(kind, write):
    path = write(ORIENTED[kind](6))
    for exif in ("apply", "ignore"):
        with Image.open(path) as image:
            expected = read_array(path, exif=exif)
            np.testing.assert_array_equal(np.asarray(image_from_array(image, exif=exif)), expected)


def test_an_image_that_was_not_just_opened_is_not_turned(write):
    with Image.open(write(ORIENTED["PNG"](6))) as image:
        turned = ImageOps.exif_transpose(image)
        np.testing.assert_array_equal(np.asarray(image_from_array(turned)), TURNED[6](STORED))
        copied = image.copy()
    np.testing.assert_array_equal(np.asarray(image_from_array(copied)), STORED)


# --- the whole ------------------------------------------------------------------------------------


def test_suffixes_cover_what_pillow_decodes():
    Image.init()
    read = {suffix for suffix, name in Image.EXTENSION.items() if name in IMAGE_FORMATS}
    other_names = {".icb", ".vda", ".vst", ".bw", ".rgb", ".rgba", ".pfm", ".avifs"}
    assert read - other_names <= IMAGE_SUFFIXES
    assert not {"EPS", "PDF", "PSD", "WMF", "FITS", "HDF5"} & set(IMAGE_FORMATS)
