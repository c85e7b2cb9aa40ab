"""Conversion of an opened image to upright 8-bit RGB, for JPEGs also at a fraction of their size.

It departs from Pillow's own conversions where they spoil the picture: 16-bit grayscale is scaled rather than clipped
to white, and transparency is laid over white rather than dropped.
"""

import struct
from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin
from PIL.Image import Transpose

from sppfeat.errors import ImageError
from sppfeat.files.places import read_at

__all__ = [
    "SWAPS_SIDES",
    "check_pixels",
    "displayed_hw",
    "picture_box",
    "read_orientation",
    "reduce_jpeg",
    "scale_key_color",
    "to_rgb",
    "turn_upright",
]

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_AS_STORED = _UPRIGHT | {6: Transpose.ROTATE_90, 8: Transpose.ROTATE_270}
SWAPS_SIDES = frozenset((5, 6, 7, 8))
_LONGEST_EXIF = 1 << 20


def displayed_hw(image: Image.Image, orientation: int, exif: str) -> tuple[int, int]:
    """Height and width of an opened image in pixels, after its EXIF orientation unless ``exif`` is ``"ignore"``."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # From the tags, because Pillow 11.2 and later swap the size of a TIFF when opening it.
        height, width = int(image.tag_v2[257]), int(image.tag_v2[256])
    else:
        height, width = image.height, image.width
    return (width, height) if exif == "apply" and orientation in SWAPS_SIDES else (height, width)


def read_orientation(image: Image.Image, file: BinaryIO | None = None) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 if there is none or it cannot be understood.

    ``file`` is what a PNG is read from, which may store its orientation after the pixels.
    """
    try:
        if image.format == "PNG" and file is not None and "exif" not in image.info:
            # PngImageFile.getexif decodes the picture to find a chunk after the pixels.
            late_exif = _late_png_exif(file)
            if late_exif is not None:
                image.info["exif"] = b"Exif\x00\x00" + late_exif
        orientation = Image.Image.getexif(image).get(_ORIENTATION_TAG)
        return int(orientation) if orientation in _UPRIGHT else 1
    except Exception:  # Pillow's parser raises nearly every type on a damaged block, as in pillow_errors
        return 1


def _late_png_exif(file: BinaryIO) -> bytes | None:
    """The eXIf chunk of a PNG, even after the pixels, where exiftool puts it."""
    position = 8
    while True:
        header = read_at(file, 8, position)
        if len(header) < 8 or header[4:] == b"IEND":
            return None
        length, kind = struct.unpack(">I4s", header)
        if kind == b"eXIf":
            return read_at(file, min(length, _LONGEST_EXIF), position + 8)
        position += 12 + length


def turn_upright(rgb: Image.Image, image: Image.Image, orientation: int, exif: str) -> Image.Image:
    """Turns pixels decoded from an opened image by its EXIF orientation, unless ``exif`` is ``"ignore"``."""
    turned_by_pillow = isinstance(image, TiffImagePlugin.TiffImageFile)  # while it decodes
    if turned_by_pillow == (exif == "apply") or orientation == 1:
        return rgb
    return rgb.transpose((_UPRIGHT if exif == "apply" else _AS_STORED)[orientation])


def check_pixels(image: Image.Image) -> None:
    """Refuses floats, and signed or 32-bit integers, which have no defined black and white, with an ImageError."""
    if image.mode == "F":
        raise ImageError("32-bit float pixels have no defined range; convert it to 8 or 16 bits")
    if image.mode == "I" and image.format != "PPM":  # which Pillow scales to 0..65535
        raise ImageError("signed or 32-bit integer pixels have no defined range; convert it to 8 or 16 bits")


def scale_key_color(image: ImageFile.ImageFile) -> None:
    """Scales the transparent color of a PNG to 8 bits, the depth of its decoded pixels.

    Pillow leaves the color at the file's own depth, where it matches the wrong pixels or none.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None:
        return
    raw_mode = image.tile[0][3]
    if raw_mode == "1" and key == 1:  # Pillow before 11
        image.info["transparency"] = 255
    elif raw_mode in ("L;2", "L;4"):
        image.info["transparency"] = key * (85 if raw_mode == "L;2" else 17)
    elif raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(sample >> 8 for sample in key)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decodes the pixels of an image as 8-bit RGB, not turned (except by Pillow itself, for TIFF)."""
    image.load()
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _high_bytes(image)
    if image.mode == "La":  # to which no other conversion leads
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")  # which copies
        canvas = Image.new("RGB", rgba.size, "white")
        canvas.paste(rgba, (0, 0), rgba)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_bytes(image: Image.Image) -> Image.Image:
    """16-bit grayscale as RGB: ``sample >> 8``, as Pillow does for 16-bit color.

    Pillow's own conversion clips, so that every sample above 255 becomes white.
    """
    samples = np.asarray(image)
    shift = 8
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if tags.get(258) == (12,):  # BitsPerSample: Pillow unpacks 12 bits to 0..4095
        shift = 4
    gray = (samples >> shift).astype(np.uint8)
    if tags.get(262) == 0:  # PhotometricInterpretation: 0 is white
        gray = 255 - gray
    if "transparency" in image.info:
        gray[samples == image.info["transparency"]] = 255
    return Image.fromarray(gray).convert("RGB")


# EXIF orientations that put the first stored column last, and the first stored row.
_FLIPPED_X, _FLIPPED_Y = frozenset((2, 3, 6, 7)), frozenset((3, 4, 7, 8))

_FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))
_FRAMES_OF_BLOCKS = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = frozenset((0x00, 0x01, *range(0xD0, 0xDA)))
_MOST_SEGMENTS = 10_000


def reduce_jpeg(image: ImageFile.ImageFile, least_hw: tuple[int, int]) -> int:
    """Makes Pillow decode a JPEG at ``ceil(side / factor)``, at least ``least_hw`` as stored; returns 2, 4 or 8.

    Returns 1 and changes nothing if the image is not a JPEG, is too small, or is of a kind without reduced sizes.
    """
    height, width = least_hw
    before = image.width
    is_large = min(image.height // height, before // width) >= 2
    if image.format not in ("JPEG", "MPO") or not is_large or not _is_of_blocks(image):
        return 1
    drafted = image.draft(None, (width, height))
    return 1 if drafted is None else round(before / drafted[1][2])


def picture_box(
    image_hw: tuple[int, int], factor: int, orientation: int
) -> tuple[float, float, float, float]:
    """The box ``x0, y0, x1, y1`` that the picture takes up in the pixels of its reduced size, turned upright.

    Before it is turned by its EXIF orientation, its right and lower edges may fall inside the last pixel. ``image_hw``
    is upright, at full size.

    Example:
        >>> picture_box((40, 61), 2, 1), picture_box((40, 61), 2, 3)
        ((0.0, 0.0, 30.5, 20.0), (0.5, 0.0, 31.0, 20.0))
    """
    height, width = (side / factor for side in image_hw)
    rows, columns = (-(-side // factor) for side in image_hw)
    x0 = columns - width if orientation in _FLIPPED_X else 0.0
    y0 = rows - height if orientation in _FLIPPED_Y else 0.0
    return x0, y0, x0 + width, y0 + height


def _is_of_blocks(image: ImageFile.ImageFile) -> bool:
    """True if a JPEG consists of frequency blocks, according to a header that every decoder reads alike.

    A lossless JPEG does not. libjpeg-turbo 3 decodes it at full width whatever size is requested, and Pillow (10.4 to
    12.0 at least) writes past the end of its reduced row, which crashes the process.
    """
    if image.fp is None:
        return False
    file, position = cast(BinaryIO, image.fp), 2
    frames: list[int] = []
    for _ in range(_MOST_SEGMENTS):
        start, marker, length = struct.unpack(">BBH", read_at(file, 4, position).ljust(4, b"\0"))
        if start != 0xFF or marker in _WITHOUT_LENGTH:
            return False
        if marker == 0xFF:  # fills up
            position += 1
            continue
        if marker == _START_OF_SCAN:
            return len(frames) == 1 and frames[0] in _FRAMES_OF_BLOCKS
        if marker in _FRAMES:
            frames.append(marker)
        position += 2 + length
    return False
