"""Settings of decoders, batches before and after decoding, and the decoder without processes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.values import DEFAULT_MAX_DECODE_PIXELS
from sppfeat.decoding.images import decode_image, probe_image
from sppfeat.errors import ImageError
from sppfeat.files.places import Place

__all__ = ["Batch", "DecodeSettings", "Decoded", "InlineDecoder"]


class DecodeSettings(NamedTuple):
    """Settings for all images of a run, as :func:`sppfeat.decoding.images.decode_image` takes them."""

    exif: str
    resample: str
    max_pixels: int = DEFAULT_MAX_DECODE_PIXELS
    decode: str = "exact"

    @classmethod
    def of(cls, config: ExtractConfig, max_pixels: int) -> "DecodeSettings":
        """Returns the settings of a run with this configuration."""
        return cls(config.input.exif, config.backbone.interpolation, max_pixels, config.input.decode)


class Batch(NamedTuple):
    """Images of one network-input size, to be decoded and run together.

    Attributes:
        images: the caller's numbers of the images.
        places: location of each image: the path of a file, a byte range of a file, or, as str, the reason why the image
            is not available.
        image_hw: expected height and width of each image as displayed, in pixels.
        input_hw: height and width to resize to, in pixels.
        scale: index of the images' scale.
        is_last: for each image, True if no later batch contains it.
    """

    images: Sequence[int]
    places: Sequence[bytes | Place | str]
    image_hw: Sequence[tuple[int, int]]
    input_hw: tuple[int, int]
    scale: int = 0
    is_last: Sequence[bool] = ()

    @property
    def nbytes(self) -> int:
        """Size of the decoded batch, in bytes."""
        return len(self.images) * 3 * self.input_hw[0] * self.input_hw[1]


class Decoded(NamedTuple):
    """A decoded batch and the request for it."""

    batch: Batch
    images: Sequence[int]  # numbers of the decoded images, in the order of the batch
    pixels: npt.NDArray[np.uint8]  # (n, H, W, 3) uint8 RGB, writable, valid until the next batch is requested
    failures: dict[int, str]  # reasons by the number of the failed image
    # Least and greatest sample of images that use less than a quarter of 16 bits, by their numbers.
    narrow: Mapping[int, tuple[int, int]] = MappingProxyType({})


class InlineDecoder:
    """Decodes in the calling process, one image after another: for few images, and as the pool's reference."""

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings

    def probe(self, places: Iterable[bytes | Place | str]) -> Iterator[tuple[int, int] | str]:
        """Yields height and width of each image as displayed, in pixels, or the reason why it cannot be read."""
        for place in places:
            try:
                yield probe_image(
                    _available(place), exif=self._settings.exif, max_pixels=self._settings.max_pixels
                )
            except ImageError as error:
                yield str(error)

    def decode(self, batches: Iterable[Batch]) -> Iterator[Decoded]:
        """Yields each batch decoded."""
        for batch in batches:
            good: list[int] = []
            pixels = np.empty((len(batch.images), *batch.input_hw, 3), dtype=np.uint8)
            failures: dict[int, str] = {}
            narrow: dict[int, tuple[int, int]] = {}
            for image, place, image_hw in zip(batch.images, batch.places, batch.image_hw, strict=True):
                try:
                    pixels[len(good)] = decode_image(
                        _available(place),
                        image_hw=image_hw,
                        input_hw=batch.input_hw,
                        on_narrow=partial(narrow.__setitem__, image),
                        **self._settings._asdict(),
                    )
                    good.append(image)
                except ImageError as error:
                    failures[image] = str(error)
            yield Decoded(batch, good, pixels[: len(good)], failures, narrow)

    def close(self) -> None:
        """Does nothing; the decoder has no processes."""


def _available(place: bytes | Place | str) -> bytes | Place:
    """Returns the place of an image; raises ImageError if it is a reason instead."""
    if isinstance(place, str):
        raise ImageError(place)
    return place
