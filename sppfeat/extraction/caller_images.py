"""Reads the images that a caller passes to :class:`sppfeat.Extractor`.

An image is a path (possibly inside an archive), a byte range of a file, a Pillow image, or a uint8 array, ``(H, W, 3)``
RGB or ``(H, W)`` gray. Messages name an image by its path, or else by its position among the images of the call.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image

from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.values import StrPath
from sppfeat.decoding import DecodeSettings
from sppfeat.decoding.images import decode_image, image_from_array, probe_image, resize_image
from sppfeat.errors import ImageError
from sppfeat.extraction.plan import input_sizes
from sppfeat.files.places import Place
from sppfeat.inputs import find_image

__all__ = ["ImageLike", "ImageReader", "NetworkInput", "as_list", "name_image"]

ImageLike: TypeAlias = StrPath | Place | Image.Image | npt.NDArray[np.uint8]


def as_list(images: Any) -> tuple[list[Any], bool]:
    """Return the images as a list, and True if they are one image, not a sequence.

    Raises:
        ImageError: an array has too few or too many axes.
    """
    if not isinstance(images, np.ndarray):
        is_one = isinstance(images, str | os.PathLike | Place | Image.Image)
        # Bytes and values that are not sequences are refused as one image, by the function that converts it.
        is_one = (
            is_one or isinstance(images, bytes | bytearray | memoryview) or not isinstance(images, Iterable)
        )
        return ([images] if is_one else list(images)), is_one
    if images.ndim not in (2, 3, 4) and images.dtype.kind in "biuf":  # an array of other types may hold paths
        raise ImageError(
            f"an array of shape {images.shape} is not an image; allowed: (H, W, 3), (H, W), or (N, H, W, 3) for several"
        )
    is_one = images.ndim in (2, 3)
    return ([images] if is_one else list(images)), is_one


def name_image(image: object, position: int = 0) -> str:
    """Return the name of an image for messages."""
    if isinstance(image, Place):
        return f"{os.fsdecode(image.path)!r} at byte {image.offset}"
    return repr(os.fspath(image)) if isinstance(image, str | os.PathLike) else f"image {position}"


class NetworkInput(NamedTuple):
    """An image at the size of its network input.

    Attributes:
        image_hw: height and width of the original image as displayed, in pixels.
        pixels: ``(H, W, 3)`` uint8 RGB, resized to the network input.
    """

    image_hw: tuple[int, int]
    pixels: npt.NDArray[np.uint8]


class ImageReader:
    """Reads images with the settings of a feature file; images of more than ``max_pixels`` are refused."""

    def __init__(self, config: ExtractConfig, max_pixels: int) -> None:
        self._spec = config.input
        self._settings = DecodeSettings.of(config, max_pixels)

    def sizes(
        self, images: Sequence[Any], *, on_progress: Callable[[int], None] = lambda n_read: None
    ) -> tuple[list[tuple[int, int]], npt.NDArray[np.int32]]:
        """Return height and width of each image as displayed, and the sizes of its network inputs, ``(N, S, 2)``.

        Raises:
            ImageError: an image cannot be read, or cannot be resized to a valid network input.
        """
        exif, image_hws = self._settings.exif, []
        for image in images:
            with _named_errors(image):
                if _is_file(image):
                    size = probe_image(_place_of(image), exif=exif, max_pixels=self._settings.max_pixels)
                else:
                    upright = image_from_array(image, exif=exif)
                    size = upright.height, upright.width
            image_hws.append(size)
            on_progress(len(image_hws))
        input_hws, errors = input_sizes(np.array(image_hws, np.int32).reshape(-1, 2), self._spec)
        for i, reason in errors.items():
            raise ImageError(f"{name_image(images[i], i)}: {reason}")
        return image_hws, input_hws

    def pixels(self, image: Any, image_hw: tuple[int, int], input_hw: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Return an image as displayed, resized to ``input_hw``: ``(H, W, 3)`` uint8 RGB.

        Raises:
            ImageError: the image cannot be read, or its size is no longer ``image_hw``.
        """
        height, width = map(int, input_hw)
        with _named_errors(image):
            if _is_file(image):
                settings, place = self._settings._asdict(), _place_of(image)
                return decode_image(place, image_hw=image_hw, input_hw=(height, width), **settings)
            upright = image_from_array(image, exif=self._settings.exif)
            return resize_image(upright, input_hw=(height, width), resample=self._settings.resample)

    def network_input(self, image: Any, scale: int) -> NetworkInput:
        """Return an image at a scale, an index into ``short_sides``; raises ImageError as the other methods do."""
        (image_hw,), input_hws = self.sizes([image])
        return NetworkInput(image_hw, self.pixels(image, image_hw, input_hws[0, scale]))


@contextlib.contextmanager
def _named_errors(image: Any) -> Iterator[None]:
    """Prefix the message of an ImageError with the name of the image, if it is a file."""
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
