"""Rows of large arrays, some at a time."""

from collections.abc import Iterator

__all__ = ["row_ranges"]


def row_ranges(n_rows: int, *, row_nbytes: int, nbytes: int) -> Iterator[slice]:
    """Yield ranges that make up all rows, each of about so many bytes, and of one row at least.

    Args:
        n_rows: how many there are.
        row_nbytes: bytes of one of them; 0 counts as 1.
        nbytes: of a range.

    Example:
        >>> list(row_ranges(5, row_nbytes=100, nbytes=250))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, nbytes // max(1, row_nbytes))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
