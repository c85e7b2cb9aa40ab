"""Numbers as text that gives the same number when it is read, with few digits, and fast."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["TEXT_BLOCK_NBYTES", "number_text_rows", "printable", "printf_format"]

TEXT_BLOCK_NBYTES = 2 << 20  # of vectors, of which Python's numbers and texts take 20 times as much

_POWERS = 10.0 ** np.arange(23)  # those that a float64 holds exactly
_FORMATS = {"float16": "%s", "float32": "%.9g", "float64": "%r"}


def number_text_rows(block: npt.NDArray[np.floating[Any]], separator: str) -> Iterator[str]:
    """Yield each row of ``(k, d)`` numbers as text.

    Every number is read as itself: as its type, or as float64 and cast to it. A float32 takes 0.5 microseconds;
    numpy's own text of it 1.6, and Python's of the float64 1.0 and twice the digits.

    Example:
        >>> list(number_text_rows(np.array([[0.1, 0, np.nan, 1e-30]], dtype=np.float32), ","))
        ['0.1,0,nan,1e-30']
    """
    line = separator.join([printf_format(block.dtype)] * block.shape[1])
    for row in printable(block).tolist():
        yield line % tuple(row)


def printf_format(dtype: np.dtype[Any]) -> str:
    """How printf prints what :func:`printable` gives for numbers of this type."""
    return _FORMATS[dtype.name]


def printable(block: npt.NDArray[np.floating[Any]]) -> npt.NDArray[Any]:
    """What :func:`printf_format` prints as texts that are read as these numbers; of the same shape.

    Of a float32 the float64 next to the decimal number of the fewest digits, 6 to 9, that rounds to the same
    float32: '%.9g' prints just these. Nine digits always do; so many has what is too small for exact powers of ten.
    """
    if block.dtype == np.float16:
        return _half_texts()[block.view(np.uint16)]
    if block.dtype == np.float64:
        return block
    result = block.astype(np.float64)
    flat = result.reshape(-1)
    left = np.flatnonzero((flat != 0) & np.isfinite(flat))
    exact, wanted = flat[left], block.reshape(-1)[left]
    magnitude = np.floor(np.log10(np.abs(exact))).astype(np.int64)
    for n_digits in (6, 7, 8, 9):
        power = _POWERS[np.clip(n_digits - 1 - magnitude, 0, len(_POWERS) - 1)]
        shorter = np.rint(exact * power) / power
        same = shorter.astype(np.float32) == wanted
        flat[left[same]] = shorter[same]
        left, exact, wanted, magnitude = (part[~same] for part in (left, exact, wanted, magnitude))
    return result


@cache
def _half_texts() -> npt.NDArray[np.object_]:
    """Every float16 as text, by its bits."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    return np.array([str(value) for value in every], dtype=object)
