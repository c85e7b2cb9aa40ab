"""Images and boxes to measure with: a sample of the user's images, or synthetic photographs; random boxes."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sppfeat.config.specs import InputSpec
from sppfeat.config.wording import counted
from sppfeat.decoding.images import read_image
from sppfeat.errors import ConfigError, ImageError, StoreError
from sppfeat.inputs import FileStorage, list_images

__all__ = ["choose_images", "draw_boxes", "synthetic_photo", "write_photos"]

# Cells of noise along the long side; each octave has half the contrast of the one before.
_OCTAVES = (4, 8, 16, 32, 64, 128)
_QUALITY = 90
_COMMON_HW = ((375, 500), (500, 375), (333, 500), (500, 333))
_LONG_SIDES = (400, 640)  # range of the long sides of random sizes, in pixels
_LARGEST_RATIO = 1.6


def choose_images(
    inputs: Sequence[str], n: int, *, on_image: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[str], int]:
    """Chooses up to ``n`` images evenly from folders, image files and lists of them.

    Each chosen image is decoded once: unreadable ones are left out, the others enter the system's cache.

    Returns:
        The paths of the readable images, and the number of unreadable ones.

    Raises:
        ConfigError: the inputs include archives or remote files.
        ImageError: none of the chosen images can be read.
    """
    listing = list_images(inputs, labels="none")
    if not isinstance(listing.storage, FileStorage):
        raise ConfigError(
            "the inputs include archives or remote files; allowed: folders, images and lists of them"
        )
    n = min(n, len(listing.paths))
    good: list[str] = []
    reasons: list[str] = []
    for i, image in enumerate(np.linspace(0, len(listing.paths) - 1, n).round().astype(np.int64).tolist()):
        path = os.fsdecode(os.path.join(listing.root, listing.paths[image]))
        try:
            read_image(path, exif=InputSpec.exif)
            good.append(path)
        except ImageError as error:
            reasons.append(f"{path!r}: {error}")
        on_image(i + 1, n)
    if not good:
        raise ImageError(f"none of {counted(n, 'image')} can be read; the first: {reasons[0]}")
    return good, len(reasons)


def draw_boxes(n: int, extent_hw: tuple[int, int], *, shortest: int, seed: int) -> npt.NDArray[np.int64]:
    """Draws boxes with log-uniform sides at uniform positions; a smaller ``n`` gives the first of the same boxes.

    Returns ``(n, 4)`` int64 ``x0, y0, x1, y1`` in the unit of ``extent_hw``, pixels or cells, half-open, inside the
    extent and not empty. Sides are ``shortest`` or longer, unless the extent is smaller.
    """
    extent = np.array(extent_hw[::-1], dtype=np.float64)
    uniform = np.random.default_rng(seed).random((n, 2, 2))  # sides and position of each box
    least = np.minimum(shortest, extent)
    side = np.floor(np.exp(np.log(least) + uniform[:, 0] * np.log((extent + 1) / least)))
    side = side.clip(least, extent)
    start = np.floor(uniform[:, 1] * (extent - side + 1)).clip(0, extent - side)
    return np.concatenate((start, start + side), axis=1).astype(np.int64)


def synthetic_photo(height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """Draws an 8-bit RGB image of smooth colored noise, which compresses and resizes like a photograph."""
    total = np.full((height, width, 3), 128.0, dtype=np.float32)
    contrast = 128.0
    for cells in _OCTAVES:
        rows, columns = (max(2, cells * side // max(height, width)) for side in (height, width))
        coarse = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        layer = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        contrast /= 2
        total += (np.asarray(layer, dtype=np.float32) - 128) * (contrast / 64)
    pixels: npt.NDArray[np.uint8] = total.clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def write_photos(
    folder: Path, n: int, *, seed: int, on_image: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Writes ``n`` synthetic photographs as JPEG files, half of them in four common sizes, half in random sizes.

    Returns their paths; the same seed gives the same files. Raises StoreError if a file cannot be written.
    """
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(n):
        height, width = _COMMON_HW[i // 2 % len(_COMMON_HW)] if i % 2 else _ragged_hw(rng)
        path = folder / f"{i:06}.jpg"
        try:
            synthetic_photo(height, width, rng).save(path, quality=_QUALITY)
        except OSError as error:
            raise StoreError(
                f"cannot write a synthetic photograph, {str(path)!r}: {error.strerror}"
            ) from error
        paths.append(str(path))
        on_image(i + 1, n)
    return paths


def _ragged_hw(rng: np.random.Generator) -> tuple[int, int]:
    long = int(rng.integers(*_LONG_SIDES))
    short = round(long / rng.uniform(1, _LARGEST_RATIO))
    return (short, long) if rng.random() < 0.5 else (long, short)
