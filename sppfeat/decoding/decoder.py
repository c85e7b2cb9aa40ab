"""Settings, jobs and batches of decoders, and the decoder without processes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.values import DEFAULT_MAX_DECODE_PIXELS
from sppfeat.decoding.images import decode_image, probe_image
from sppfeat.errors import ImageError
from sppfeat.files.places import Place, place_of

__all__ = [
    "Answer",
    "Batch",
    "BatchInFlight",
    "DecodeJob",
    "DecodeSettings",
    "Decoded",
    "InlineDecoder",
    "ProbeJob",
]

Answer: TypeAlias = tuple[int, int] | str | None


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


class ProbeJob(NamedTuple):
    """A header to read; the answer is ``(height, width)`` in pixels or the reason of a failure."""

    place: Place
    settings: DecodeSettings

    def answer(self) -> tuple[int, int] | str:
        """Reads the header."""
        try:
            return probe_image(self.place, exif=self.settings.exif, max_pixels=self.settings.max_pixels)
        except ImageError as error:
            return str(error)


class DecodeJob(NamedTuple):
    """An image to decode into the arena at ``offset``.

    The answer is None, the reason of a failure, or the least and greatest sample of an image with few of 16 bits.
    """

    place: Place
    settings: DecodeSettings
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    offset: int

    @property
    def end(self) -> int:
        """Offset of the end of the pixels in the arena."""
        return self.offset + 3 * self.input_hw[0] * self.input_hw[1]

    def answer(self, arena: npt.NDArray[np.uint8]) -> Answer:
        """Decodes the image."""
        narrow: list[tuple[int, int]] = []
        try:
            pixels = decode_image(
                self.place,
                image_hw=self.image_hw,
                input_hw=self.input_hw,
                on_narrow=narrow.append,
                **self.settings._asdict(),
            )
        except ImageError as error:
            return str(error)
        arena[self.offset : self.end] = pixels.reshape(-1)
        return narrow[0] if narrow else None


class BatchInFlight:
    """A batch whose images are being decoded into one piece of the arena."""

    def __init__(self, batch: Batch, offset: int = 0) -> None:
        self.batch = batch
        self.offset = offset
        self.n_open = len(batch.images)
        self._failures: dict[int, str] = {}  # by position in the batch
        self._narrow: dict[int, tuple[int, int]] = {}  # likewise

    def jobs(self, settings: DecodeSettings) -> Iterator[tuple[int, DecodeJob]]:
        """Yields position and job of each image; records the failure of images that are not available."""
        batch, image_nbytes = self.batch, 3 * self.batch.input_hw[0] * self.batch.input_hw[1]
        for i, (place, image_hw) in enumerate(zip(batch.places, batch.image_hw, strict=True)):
            if isinstance(place, str):
                self.finish(i, place)
            else:
                offset = self.offset + i * image_nbytes
                yield i, DecodeJob(place_of(place), settings, image_hw, batch.input_hw, offset)

    def finish(self, position: int, answer: Answer) -> None:
        """Records the answer for one image of the batch."""
        self.n_open -= 1
        if isinstance(answer, str):
            self._failures[position] = answer
        elif answer is not None:
            self._narrow[position] = answer

    def decoded(self, arena: npt.NDArray[np.uint8]) -> Decoded:
        """Returns the batch; later images move up to replace failed ones."""
        images = self.batch.images
        pixels = arena[self.offset : self.offset + self.batch.nbytes]
        pixels = pixels.reshape(len(images), *self.batch.input_hw, 3)
        good = [i for i in range(len(images)) if i not in self._failures]
        if self._failures:
            pixels[: len(good)] = pixels[good]
        return Decoded(
            self.batch,
            [images[i] for i in good],
            pixels[: len(good)],
            {images[i]: self._failures[i] for i in sorted(self._failures)},
            {images[i]: self._narrow[i] for i in sorted(self._narrow)},
        )


class InlineDecoder:
    """Decodes in the calling process, one image after another: for few images, and as the pool's reference."""

    def __init__(self, settings: DecodeSettings) -> None:
        self._settings = settings

    def probe(self, places: Iterable[bytes | Place | str]) -> Iterator[tuple[int, int] | str]:
        """Yields height and width of each image as displayed, in pixels, or the reason why it cannot be read."""
        for place in places:
            yield place if isinstance(place, str) else ProbeJob(place_of(place), self._settings).answer()

    def decode(self, batches: Iterable[Batch]) -> Iterator[Decoded]:
        """Yields each batch decoded."""
        for batch in batches:
            begun, arena = BatchInFlight(batch), np.empty(batch.nbytes, dtype=np.uint8)
            for i, job in begun.jobs(self._settings):
                begun.finish(i, job.answer(arena))
            yield begun.decoded(arena)

    def close(self) -> None:
        """Does nothing; the decoder has no processes."""
