"""The network-input size of an image, in exact integer arithmetic.

The paper (He et al., TPAMI 2015, section 3.1.2) resizes each image so that its shorter side is ``S`` and keeps the
aspect ratio. Two limits are added: a maximum number of pixels, and the smallest input that the backbone accepts. On
request both sides become multiples of a number, so that images of many sizes share a few input sizes.
"""

import math
import operator

from sppfeat.errors import ImageError

__all__ = ["network_input_hw"]


def network_input_hw(
    image_hw: tuple[int, int], *, short_side: int | None, max_pixels: int, min_side: int, round_to: int = 1
) -> tuple[int, int]:
    """Computes the height and width of the network input of an image.

    The short side is ``short_side``, or the largest one that keeps within ``max_pixels``, but at least ``min_side``.
    The long side follows from the image's own aspect ratio, ``floor(long * S / short + 1/2)``, so roundings do not add
    up; it is one less if only this rounding would exceed ``max_pixels``.

    Then each side is rounded to the nearest positive multiple of ``round_to``, halves up. The sides are rounded
    independently, so the aspect ratio changes a little. If the result exceeds ``max_pixels``, both are rounded down. A
    side below ``min_side`` is rounded up.

    Args:
        image_hw: height and width of the image as displayed, in pixels, each at least 1.
        short_side: the short side ``S`` in pixels, at least 1, or None for the image's own size.
        max_pixels: maximum number of pixels of the result, at least 1.
        min_side: the backbone's smallest input side in pixels, at least 1.
        round_to: both sides become multiples of this number of pixels; 1 leaves them as they are.

    Returns:
        ``(height, width)`` in pixels, in the image's orientation as displayed.

    Raises:
        ImageError: the image is empty, or too elongated for sides of at least ``min_side`` within ``max_pixels`` at its
            aspect ratio, or in multiples of ``round_to``.

    Example:
        >>> network_input_hw((480, 640), short_side=224, max_pixels=4_000_000, min_side=32)
        (224, 299)
        >>> network_input_hw((6000, 4000), short_side=None, max_pixels=4_000_000, min_side=32)
        (2448, 1632)
        >>> network_input_hw((480, 640), short_side=224, max_pixels=4_000_000, min_side=32, round_to=32)
        (224, 288)
    """
    # Python integers, because numpy's overflow in the products below.
    height, width = (operator.index(side) for side in image_hw)
    short, long = min(height, width), max(height, width)
    if short < 1:
        raise ImageError(f"an image of {height} x {width} (height x width) has no pixels")

    side = short if short_side is None else operator.index(short_side)
    if side * _long_side(short, long, side) > max_pixels:
        side = math.isqrt(short * max_pixels // long)
    side = max(side, min_side)
    if side * side * long > max_pixels * short:
        needed = _long_side(short, long, min_side)
        raise ImageError(
            f"too elongated: {height} x {width} (height x width) scaled to the backbone's smallest side of "
            f"{min_side} is {min_side} x {needed} = {min_side * needed} pixels, more than max-pixels {max_pixels}"
        )
    other = min(_long_side(short, long, side), max_pixels // side)
    input_hw = (side, other) if height <= width else (other, side)
    if round_to == 1:
        return input_hw
    return _rounded(input_hw, operator.index(round_to), max_pixels=max_pixels, min_side=min_side)


def _rounded(hw: tuple[int, int], step: int, *, max_pixels: int, min_side: int) -> tuple[int, int]:
    """Rounds a size to multiples of ``step`` within the limits."""
    least = -(-min_side // step) * step  # at least one step: min_side is at least 1
    for added in (step // 2, 0):  # to nearest, down
        height, width = (max((side + added) // step * step, least) for side in hw)
        if height * width <= max_pixels:
            return height, width
    raise ImageError(
        f"its network input of {hw[0]} x {hw[1]} (height x width) cannot be rounded to multiples of {step}: "
        f"{height} x {width} = {height * width} pixels are more than max-pixels {max_pixels}"
    )


def _long_side(short: int, long: int, side: int) -> int:
    """The long side for the short side ``side``: ``floor(long * side / short + 1/2)``."""
    return (2 * long * side + short) // (2 * short)
