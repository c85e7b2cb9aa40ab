"""Reads single images that a caller passes: files, byte ranges of files, Pillow images or arrays."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.values import StrPath
from sppfeat.decoding import DecodeSettings
from sppfeat.decoding.images import decode_image, image_from_array, probe_image, resize_image
from sppfeat.errors import ImageError
from sppfeat.extraction.sizes import input_sizes
from sppfeat.files.byte_ranges import Place
from sppfeat.inputs.lookup import find_image

__all__ = ["ImageReader", "name_image"]


@dataclass(frozen=True)
class ImageReader:
    """Reads the sizes and pixels of single images, by the settings of a run.

    An image is a path (possibly inside an archive), a byte range of a file, a Pillow image, or a uint8 array, ``(H, W,
    3)`` RGB or ``(H, W)`` gray.

    Attributes:
        config: the settings that determine a descriptor.
        max_decode_pixels: largest image file to decode, in pixels; a larger one raises ImageError.
    """

    config: ExtractConfig
    max_decode_pixels: int

    def image_hw(self, image: Any) -> tuple[int, int]:
        """Return the height and width of an image as displayed, in pixels.

        Raises:
            ImageError: the image cannot be read; the message names a file.
        """
        exif = self.config.input.exif
        if not isinstance(image, str | os.PathLike | Place):
            upright = image_from_array(image, exif=exif)
            return upright.height, upright.width
        try:
            return probe_image(_place_of(image), exif=exif, max_pixels=self.max_decode_pixels)
        except ImageError as error:
            raise ImageError(f"{name_image(image, 0)}: {error}") from error

    def input_sizes(self, image: Any) -> tuple[tuple[int, int], npt.NDArray[np.int32]]:
        """Return ``(height, width)`` of an image as displayed, and its network-input sizes ``(S, 2)``, in pixels.

        Raises:
            ImageError: the image cannot be read, or has no valid network-input size.
        """
        image_hw = self.image_hw(image)
        sizes, errors = input_sizes(np.array([image_hw], dtype=np.int32), self.config.input)
        if errors:
            raise ImageError(f"{name_image(image, 0)}: {errors[0]}")
        return image_hw, sizes[0]

    def pixels(self, image: Any, image_hw: Any, input_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Return an image as displayed, resized to ``input_hw``: ``(H, W, 3)`` uint8 RGB.

        Raises:
            ImageError: the image cannot be read; the message names a file.
        """
        settings = DecodeSettings.of(self.config, self.max_decode_pixels)
        if not isinstance(image, str | os.PathLike | Place):
            upright = image_from_array(image, exif=settings.exif)
            return resize_image(upright, input_hw=input_hw, resample=settings.resample)
        try:
            place = _place_of(image)
            return decode_image(place, image_hw=tuple(image_hw), input_hw=input_hw, **settings._asdict())
        except ImageError as error:
            raise ImageError(f"{name_image(image, 0)}: {error}") from error


def name_image(image: object, position: int) -> str:
    """Return a name for messages: a path, a file with a byte offset, or the position among the images."""
    if isinstance(image, Place):
        return f"{os.fsdecode(image.path)!r} from byte {image.offset} on"
    return repr(os.fspath(image)) if isinstance(image, str | os.PathLike) else f"image {position}"


def _place_of(image: StrPath | Place) -> Place:
    return image if isinstance(image, Place) else find_image(b"", os.fsencode(image))
