"""Conversion of an opened image to upright 8-bit RGB.

It departs from Pillow's own conversions where they spoil the picture: 16-bit grayscale is scaled rather than clipped
to white, and transparency is laid over white rather than dropped.
"""

import struct
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin
from PIL.Image import Transpose

from sppfeat.errors import ImageError
from sppfeat.files.byte_ranges import read_at

__all__ = [
    "SWAPS_SIDES",
    "check_pixels",
    "displayed_hw",
    "read_orientation",
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
