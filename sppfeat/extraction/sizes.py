"""Sizes of images, learnt from their headers: of all before a run, or of some at a time during it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.decoding import Decoder
from sppfeat.files.byte_ranges import Place
from sppfeat.inputs import Storage

__all__ = ["FoundSizes", "read_sizes", "sizes_at"]

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
            sizes, why = sizes_at(
                places,
                decoder,
                on_probe=lambda n: on_probe(start + n, len(images)),  # noqa: B023 - called before the loop goes on
            )
        image_hw[start : start + len(places)] = sizes
        reasons.update({start + i: reason for i, reason in why.items()})
    return image_hw, reasons


def sizes_at(
    places: Sequence[Place | str], decoder: Decoder, *, on_probe: Callable[[int], None] = lambda done: None
) -> FoundSizes:
    """Read the headers of images that are here.

    Args:
        places: where they are, or why they are nowhere.
        decoder: reads them.
        on_probe: called with the number of headers read.
    """
    image_hw = np.zeros((len(places), 2), dtype=np.int32)
    reasons: dict[int, str] = {}
    for i, answer in enumerate(decoder.probe(places)):
        if isinstance(answer, str):
            reasons[i] = answer
        else:
            image_hw[i] = answer
        on_probe(i + 1)
    return image_hw, reasons
