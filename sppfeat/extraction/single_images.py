"""Images that a caller hands over one by one: files, parts of files, Pillow images or arrays."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.values import StrPath
from sppfeat.decoding.images import decode_image, image_from_array, probe_image, resize_image
from sppfeat.errors import ImageError
from sppfeat.extraction.sizes import input_sizes
from sppfeat.files.byte_ranges import Place
from sppfeat.inputs.lookup import find_image

__all__ = ["ImageReader", "name_image"]


@dataclass(frozen=True)
class ImageReader:
    """Reads the sizes and the pixels of single images, as the settings of a run ask for.

    An image is a path, which may lead into an archive, a part of a file, a Pillow image or a uint8 array.

    Attributes:
        config: the settings that shape a descriptor.
        max_decode_pixels: an image file of more pixels is refused.
    """

    config: ExtractConfig
    max_decode_pixels: int

    def image_hw(self, image: Any) -> tuple[int, int]:
        """Return the height and width of an image as displayed, in pixels.

        Raises:
            ImageError: the image cannot be read; a file is named.
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
        """Return the height and width of an image, and those of its network input at each scale, ``(S, 2)``.

        Raises:
            ImageError: the image cannot be read, or has no valid network-input size.
        """
        image_hw = self.image_hw(image)
        sizes, errors = input_sizes(np.array([image_hw], dtype=np.int32), self.config.input)
        if errors:
            raise ImageError(f"{name_image(image, 0)}: {errors[0]}")
        return image_hw, sizes[0]

    def pixels(self, image: Any, image_hw: Any, input_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Return the upright pixels of an image at the size of its network input, ``(H, W, 3)`` uint8 RGB.

        Raises:
            ImageError: the image cannot be read; a file is named.
        """
        resample, exif = self.config.backbone.interpolation, self.config.input.exif
        if not isinstance(image, str | os.PathLike | Place):
            return resize_image(image_from_array(image, exif=exif), input_hw=input_hw, resample=resample)
        try:
            return decode_image(
                _place_of(image),
                exif=exif,
                image_hw=tuple(image_hw),
                input_hw=input_hw,
                resample=resample,
                max_pixels=self.max_decode_pixels,
                decode=self.config.input.decode,
            )
        except ImageError as error:
            raise ImageError(f"{name_image(image, 0)}: {error}") from error


def name_image(image: object, position: int) -> str:
    """The name of an image in messages: its path, its place in a file, or its position among the images."""
    if isinstance(image, Place):
        return f"{os.fsdecode(image.path)!r} from byte {image.offset} on"
    return repr(os.fspath(image)) if isinstance(image, str | os.PathLike) else f"image {position}"


def _place_of(image: StrPath | Place) -> Place:
    return image if isinstance(image, Place) else find_image(b"", os.fsencode(image))
