"""Boxes to measure with."""

import numpy as np
import numpy.typing as npt

__all__ = ["draw_boxes"]


def draw_boxes(n: int, extent_hw: tuple[int, int], *, shortest: int, seed: int) -> npt.NDArray[np.int64]:
    """Boxes whose sides are log-uniform, at uniform places.

    Args:
        n: how many.
        extent_hw: height and width of what they lie in, in pixels or cells.
        shortest: the shortest side, as far as the extent allows it.
        seed: the same boxes for the same seed; fewer are the first of more.

    Returns:
        ``(n, 4)`` int64, ``x0, y0, x1, y1``, half-open, none empty, all inside.

    Example:
        >>> draw_boxes(1, (1, 1), shortest=1, seed=0).tolist()
        [[0, 0, 1, 1]]
    """
    extent = np.array(extent_hw[::-1], dtype=np.float64)
    uniform = np.random.default_rng(seed).random((n, 2, 2))  # of each box: of its sides, of its place
    least = np.minimum(shortest, extent)
    side = np.floor(np.exp(np.log(least) + uniform[:, 0] * np.log((extent + 1) / least)))
    side = side.clip(least, extent)
    start = np.floor(uniform[:, 1] * (extent - side + 1)).clip(0, extent - side)
    return np.concatenate((start, start + side), axis=1).astype(np.int64)
