"""Decoding of JPEGs at 1/2, 1/4 or 1/8 of their size, without the high frequencies of their blocks.

This is several times as fast as decoding the full size and resizing; the pixel values differ.
"""

import struct
from typing import BinaryIO, cast

from PIL import ImageFile

from sppfeat.files.byte_ranges import read_at

__all__ = ["picture_box", "reduce_jpeg"]

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
