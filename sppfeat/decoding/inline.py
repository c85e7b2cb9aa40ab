"""The decoder without processes: for few images, for debugging, and as the oracle of the other one."""

from collections.abc import Iterable, Iterator

import numpy as np

from sppfeat.decoding.decoder import Decoded, DecodeSettings, DecodeTask
from sppfeat.decoding.images import decode_image, probe_image
from sppfeat.errors import ImageError
from sppfeat.files.byte_ranges import Place

__all__ = ["InlineDecoder"]


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
