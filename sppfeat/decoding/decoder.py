"""Decoders: the batches that go in and come out, and the decoder without processes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sppfeat.config.values import DEFAULT_MAX_DECODE_PIXELS
from sppfeat.decoding.images import decode_image, probe_image
from sppfeat.errors import ImageError
from sppfeat.files.byte_ranges import Place

__all__ = ["DecodeSettings", "DecodeTask", "Decoded", "Decoder", "InlineDecoder"]


class DecodeSettings(NamedTuple):
    """What holds for every image of a run.

    Attributes:
        exif: ``apply`` or ``ignore`` the EXIF orientation.
        resample: Pillow filter that resizes to the network input.
        max_pixels: a larger image fails, undecoded.
        decode: ``exact`` or ``fast``, see :func:`sppfeat.decoding.images.decode_image`.
    """

    exif: str
    resample: str
    max_pixels: int = DEFAULT_MAX_DECODE_PIXELS
    decode: str = "exact"


class DecodeTask(NamedTuple):
    """Images of one network-input size.

    Attributes:
        images: any numbers that name the images to the caller.
        places: where they are; a path is a whole file, and a text the reason why an image is nowhere.
        image_hw: height and width of each as displayed, as planned.
        input_hw: height and width to resize to.
    """

    images: Sequence[int]
    places: Sequence[bytes | Place | str]
    image_hw: Sequence[tuple[int, int]]
    input_hw: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded batch."""
        return len(self.images) * 3 * self.input_hw[0] * self.input_hw[1]


class Decoded(NamedTuple):
    """One decoded batch.

    Attributes:
        images: those of the task that could be decoded, in its order.
        pixels: ``(n, H, W, 3)`` uint8 RGB, writable, valid until the next batch is asked for.
        failures: the reason for each image of the task that could not be decoded.
    """

    images: Sequence[int]
    pixels: npt.NDArray[np.uint8]
    failures: dict[int, str]


class Decoder(Protocol):
    """Reads headers and decodes batches, in order."""

    def probe(self, places: Iterable[bytes | Place | str]) -> Iterator[tuple[int, int] | str]:
        """Yield for each image height and width as displayed, or the reason why it cannot be read."""
        ...

    def decode(self, tasks: Iterable[DecodeTask]) -> Iterator[Decoded]:
        """Yield for each task its batch, looking ahead as far as memory allows."""
        ...

    def close(self) -> None:
        """Stop; no further calls."""
        ...


class InlineDecoder:
    """Decodes in the calling process, one image after the other.

    Args:
        settings: what holds for every image.
    """

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings

    def probe(self, places: Iterable[bytes | Place | str]) -> Iterator[tuple[int, int] | str]:
        """Yield for each image height and width as displayed, or the reason why it cannot be read."""
        for place in places:
            try:
                yield probe_image(
                    _found(place), exif=self._settings.exif, max_pixels=self._settings.max_pixels
                )
            except ImageError as error:
                yield str(error)

    def decode(self, tasks: Iterable[DecodeTask]) -> Iterator[Decoded]:
        """Yield for each task its batch."""
        settings = self._settings
        for task in tasks:
            good: list[int] = []
            pixels = np.empty((len(task.images), *task.input_hw, 3), dtype=np.uint8)
            failures: dict[int, str] = {}
            for image, place, image_hw in zip(task.images, task.places, task.image_hw, strict=True):
                try:
                    pixels[len(good)] = decode_image(
                        _found(place), image_hw=image_hw, input_hw=task.input_hw, **settings._asdict()
                    )
                    good.append(image)
                except ImageError as error:
                    failures[image] = str(error)
            yield Decoded(good, pixels[: len(good)], failures)

    def close(self) -> None:
        """Do nothing: there is nothing to stop."""


def _found(place: bytes | Place | str) -> bytes | Place:
    if isinstance(place, str):
        raise ImageError(place)
    return place
