"""The network-input size: worked examples, an oracle in fractions, and its properties."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sppfeat.decoding.sizing import network_input_hw
from sppfeat.errors import ImageError

SIDES = st.integers(1, 70_000)
HW = st.tuples(SIDES, SIDES)
SHORT_SIDES = st.none() | st.integers(1, 3_000)
MAX_PIXELS = st.integers(1, 10_000_000)
MIN_SIDES = st.integers(1, 300)
STEPS = st.integers(1, 1024) | st.sampled_from([2, 3, 16, 32, 64])


def size_or_none(image_hw, short_side, max_pixels, min_side):
    try:
        return network_input_hw(image_hw, short_side=short_side, max_pixels=max_pixels, min_side=min_side)
    except ImageError:
        return None


def oracle(image_hw, short_side, max_pixels, min_side):
    """Return the size by rational numbers and bisection, or None: no isqrt, no integer division."""
    short, long = sorted(image_hw)
    aspect = Fraction(long, short)

    def rounded_long(side):
        return max(1, floor(aspect * side + Fraction(1, 2)))

    side = short_side or short
    if side * rounded_long(side) > max_pixels:
        low, high = 0, side + 1  # largest side with side * (side * aspect) <= max_pixels
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if middle * (middle * aspect) <= max_pixels else (low, middle)
        side = low
    side = max(side, min_side)
    if side * (side * aspect) > max_pixels:
        return None
    other = rounded_long(side)
    while side * other > max_pixels:
        other -= 1
    return (side, other) if image_hw[0] <= image_hw[1] else (other, side)


@pytest.mark.parametrize(
    ("image_hw", "settings", "expected"),
    [
        ((375, 500), {}, (224, 299)),  # 298.67
        ((500, 375), {}, (299, 224)),
        ((2, 3), {"short_side": 3, "min_side": 1}, (3, 5)),  # 4.5 rounds up, not to even
        ((3000, 4000), {"short_side": None}, (1732, 2309)),  # sqrt(3e6) = 1732.05
        ((2000, 2000), {"short_side": None}, (2000, 2000)),  # the bound itself is allowed
        ((10, 20), {"short_side": None}, (32, 64)),  # scaled up to the smallest input
        ((10, 25), {"short_side": 4}, (32, 80)),
        # 3 x 4.5 = 13.5 fits in 14; 3 x 5 would not
        ((2, 3), {"short_side": 3, "max_pixels": 14, "min_side": 1}, (3, 4)),
        ((20_000, 1), {"min_side": 1}, (280_000, 14)),
        ((375, 500), {"round_to": 32}, (224, 288)),  # 224 x 299
        ((375, 500), {"round_to": 2}, (224, 300)),  # 299 lies halfway: up
        ((375, 500), {"short_side": 240, "round_to": 32}, (256, 320)),  # 240 = 7.5 x 32: up, not to even
        ((375, 500), {"round_to": 1024}, (1024, 1024)),  # at least one multiple
        ((10, 300), {"short_side": None, "min_side": 1, "round_to": 64}, (64, 320)),
        # 64 would be below min_side
        ((100, 100), {"short_side": None, "min_side": 100, "round_to": 64}, (128, 128)),
        # 2016 x 2016 would be more than max_pixels, and 2016 x 1984 is the bound itself
        ((2000, 2000), {"short_side": None, "round_to": 32}, (1984, 1984)),
        ((2000, 1999), {"short_side": None, "max_pixels": 2016 * 1984, "round_to": 32}, (2016, 1984)),
        ((2000, 1999), {"short_side": None, "max_pixels": 2016 * 1984 - 1, "round_to": 32}, (1984, 1984)),
    ],
)
def test_worked_examples(image_hw, settings, expected):
    limits = {"short_side": 224, "max_pixels": 4_000_000, "min_side": 32, **settings}
    assert network_input_hw(image_hw, **limits) == expected


@pytest.mark.parametrize(
    ("image_hw", "settings", "message"),
    [
        (
            (1, 20_000),
            {"short_side": 224, "max_pixels": 4_000_000, "min_side": 32},
            "too elongated: 1 x 20000 (height x width) scaled to the backbone's smallest side of 32 "
            "is 32 x 640000 = 20480000 pixels, more than max-pixels 4000000",
        ),
        (
            (100, 100),
            {"short_side": None, "max_pixels": 10_000, "min_side": 100, "round_to": 64},
            "its network input of 100 x 100 (height x width) cannot be rounded to multiples of 64: "
            "128 x 128 = 16384 pixels are more than max-pixels 10000",
        ),
    ],
)
def test_an_image_without_a_possible_size_is_refused_in_one_line(image_hw, settings, message):
    with pytest.raises(ImageError) as error:
        network_input_hw(image_hw, **settings)
    assert str(error.value) == message


@given(HW, SHORT_SIDES, MAX_PIXELS, MIN_SIDES)
@example((2, 3), 3, 14, 1)
@example((1, 20_000), 224, 4_000_000, 32)
@example((65_535, 65_534), None, 4_000_000, 32)
def test_equals_the_oracle(image_hw, short_side, max_pixels, min_side):
    got = size_or_none(image_hw, short_side, max_pixels, min_side)
    assert got == oracle(image_hw, short_side, max_pixels, min_side)


@given(st.integers(1, 10**30), st.integers(1, 10**30), st.integers(1, 10**12))
def test_huge_sides_are_exact(height, width, short_side):
    limits = {"max_pixels": 10**80, "min_side": 1}
    got = size_or_none((height, width), short_side, **limits)
    assert got == oracle((height, width), short_side, **limits)


def test_numpy_integers_do_not_overflow():
    image_hw = tuple(np.array([2**31 - 1, 2**31 - 2], np.int32))
    got = network_input_hw(image_hw, short_side=None, max_pixels=4_000_000, min_side=32)
    assert got == (1999, 1999)
    assert all(type(side) is int for side in got)


@pytest.mark.parametrize("image_hw", [(0, 5), (5, 0), (-1, 5)])
def test_an_image_without_pixels_is_refused(image_hw):
    with pytest.raises(ImageError, match="no pixels"):
        network_input_hw(image_hw, short_side=224, max_pixels=4_000_000, min_side=32)


# --- multiples of a number ------------------------------------------------------------------------


def rounded_or_reason(image_hw, step, **limits):
    try:
        return network_input_hw(image_hw, round_to=step, **limits)
    except ImageError as error:
        return str(error)


def multiples_by_search(side, step, min_side):
    """Return the nearest multiple that is not below ``min_side``, the larger of two, and the largest not above."""
    allowed = [m for m in range(step, side + 2 * step + min_side, step) if m >= min_side]
    nearest = min(allowed, key=lambda m: (abs(m - side), -m))
    return nearest, max([m for m in allowed if m <= side], default=allowed[0])


@given(HW, SHORT_SIDES, MAX_PIXELS, MIN_SIDES, STEPS)
@example((2000, 2000), None, 4_000_000, 32, 32)
@example((100, 100), None, 10_000, 100, 64)
def test_each_side_is_the_nearest_multiple_within_the_bounds(
    image_hw, short_side, max_pixels, min_side, step
):
    plain = size_or_none(image_hw, short_side, max_pixels, min_side)
    limits = {"short_side": short_side, "max_pixels": max_pixels, "min_side": min_side}
    got = rounded_or_reason(image_hw, step, **limits)
    if plain is None:
        assert "too elongated" in got
        return
    (height, lower_height), (width, lower_width) = (multiples_by_search(s, step, min_side) for s in plain)
    if height * width <= max_pixels:
        assert got == (height, width)
    elif lower_height * lower_width <= max_pixels:
        assert got == (lower_height, lower_width)
    else:
        assert f"cannot be rounded to multiples of {step}" in got
