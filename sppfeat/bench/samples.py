"""Synthetic photographs: smooth coloured noise, which compresses and resizes as pictures do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from sppfeat.errors import StoreError

__all__ = ["synthetic_photo", "write_photos"]

_OCTAVES = (
    4,
    8,
    16,
    32,
    64,
    128,
)  # cells of noise along the long side; each has half the contrast of the last
_QUALITY = 90
_COMMON_HW = ((375, 500), (500, 375), (333, 500), (500, 333))
_LONG_SIDES = (400, 640)  # of the sizes that are not common, in pixels
_LARGEST_RATIO = 1.6


def synthetic_photo(height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """A picture of so many pixels, 8-bit RGB.

    Args:
        height: in pixels.
        width: in pixels.
        rng: what it is drawn with.
    """
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
    folder: Path, n: int, *, seed: int, on_photo: Callable[[int], None] = lambda n_done: None
) -> list[str]:
    """Write JPEG files, half of them of four common sizes, half of any.

    Args:
        folder: where to.
        n: how many.
        seed: the same files for the same seed.
        on_photo: called with the number of files that are written.

    Returns:
        Their paths.

    Raises:
        StoreError: one cannot be written.
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
        on_photo(i + 1)
    return paths


def _ragged_hw(rng: np.random.Generator) -> tuple[int, int]:
    long = int(rng.integers(*_LONG_SIDES))
    short = round(long / rng.uniform(1, _LARGEST_RATIO))
    return (short, long) if rng.random() < 0.5 else (long, short)
