"""Sizes of images, learnt from their headers: of all before a run, or of some at a time during it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.decoding import Decoder
from sppfeat.sources import Storage

__all__ = ["FoundSizes", "read_sizes"]

FoundSizes = tuple[npt.NDArray[np.int32], dict[int, str]]
"""``(n, 2)`` int32 heights and widths of images, 0 where unknown, and the reasons by position."""

_FETCHED_AT_ONCE = 4096


def read_sizes(
    storage: Storage,
    images: npt.NDArray[np.int64],
    *,
    decoder: Decoder,
    scratch: Path,
    on_probe: Callable[[int, int], None] = lambda done, total: None,
) -> FoundSizes:
    """Read the headers of some images of a storage.

    Args:
        storage: where they are.
        images: ``(n,)`` int64.
        decoder: reads them.
        scratch: for what has to be fetched.
        on_probe: called with the number of headers read, and of all.
    """
    image_hw = np.zeros((len(images), 2), dtype=np.int32)
    reasons: dict[int, str] = {}
    for start in range(0, len(images), _FETCHED_AT_ONCE):
        with storage.fetch(images[start : start + _FETCHED_AT_ONCE], scratch) as places:
            for i, answer in enumerate(decoder.probe(places), start):
                if isinstance(answer, str):
                    reasons[i] = answer
                else:
                    image_hw[i] = answer
                on_probe(i + 1, len(images))
    return image_hw, reasons
