"""Reads single images that a caller passes.

An image is a path (possibly inside an archive), a byte range of a file, a Pillow image, or a uint8 array, ``(H, W, 3)``
RGB or ``(H, W)`` gray.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from sppfeat.config.values import StrPath
from sppfeat.decoding import DecodeSettings
from sppfeat.decoding.images import decode_image, image_from_array, probe_image, resize_image
from sppfeat.errors import ImageError
from sppfeat.files.byte_ranges import Place
from sppfeat.inputs.lookup import find_image

__all__ = ["name_image", "naming", "read_pixels", "read_size"]


def read_size(image: Any, settings: DecodeSettings) -> tuple[int, int]:
    """Return the height and width of an image as displayed, in pixels.

    Raises:
        ImageError: the image cannot be read.
    """
    if _is_file(image):
        return probe_image(_place_of(image), exif=settings.exif, max_pixels=settings.max_pixels)
    upright = image_from_array(image, exif=settings.exif)
    return upright.height, upright.width


def read_pixels(
    image: Any, settings: DecodeSettings, *, image_hw: tuple[int, int], input_hw: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Return an image as displayed, resized to ``input_hw``: ``(H, W, 3)`` uint8 RGB.

    Raises:
        ImageError: the image cannot be read, or its size is no longer ``image_hw``.
    """
    if _is_file(image):
        return decode_image(_place_of(image), image_hw=image_hw, input_hw=input_hw, **settings._asdict())
    upright = image_from_array(image, exif=settings.exif)
    return resize_image(upright, input_hw=input_hw, resample=settings.resample)


def name_image(image: object, position: int = 0) -> str:
    """Return a name for messages: a path, a file with a byte offset, or the position among the images."""
    if isinstance(image, Place):
        return f"{os.fsdecode(image.path)!r} from byte {image.offset} on"
    return repr(os.fspath(image)) if isinstance(image, str | os.PathLike) else f"image {position}"


@contextlib.contextmanager
def naming(image: Any) -> Iterator[None]:
    """Name the image in the message of an ImageError, if it is a file."""
    try:
        yield
    except ImageError as error:
        if not _is_file(image):
            raise
        raise ImageError(f"{name_image(image)}: {error}") from error


def _is_file(image: Any) -> TypeGuard[StrPath | Place]:
    return isinstance(image, str | os.PathLike | Place)


def _place_of(image: StrPath | Place) -> Place:
    return image if isinstance(image, Place) else find_image(b"", os.fsencode(image))
