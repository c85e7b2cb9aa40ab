"""Boxes of any convention in pixels, and clipped, against arithmetic on one box at a time."""

import itertools
import math
import warnings

import numpy as np
import pytest
from box_rows import clip
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.boxes.table import boxes_to_px, clip_boxes
from sppfeat.config.regions import BOX_ORIGINS, BoxConvention, RowFlag
from sppfeat.config.values import CHOICES
from sppfeat.errors import ConfigError
from sppfeat.store.schema import whole_image_boxes


def _legal():
    choices = (CHOICES[f"box_{name}"] for name in ("coords", "units", "ends", "order"))
    for coords, units, ends, order, origin in itertools.product(*choices, BOX_ORIGINS):
        try:
            yield BoxConvention(coords=coords, units=units, origin=origin, ends=ends, order=order)
        except ConfigError:
            continue


LEGAL = list(_legal())
CONVENTIONS = st.sampled_from(LEGAL)
# Eighths of a pixel: sums and halves of them are exact in float64.
EIGHTHS = st.integers(-800, 4000).map(lambda n: n / 8)
WILD = st.floats(width=64) | st.sampled_from([math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 5e-324, -0.0])
ROUNDING = 0.01  # pixels over the border that are no more than that
SIZES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
MAYBE_SIZES = SIZES | st.just((0, 0))


def to_px(box, convention, hw):
    """One box, number by number."""
    a, b, c, d = box
    if convention.order == "yx":
        a, b, c, d = b, a, d, c
    a, b = a - convention.origin, b - convention.origin
    if convention.coords == "xyxy":
        c, d = c - convention.origin, d - convention.origin
        if convention.ends == "inclusive":
            c, d = c + 1, d + 1
    elif convention.coords == "xywh":
        c, d = a + c, b + d
    else:
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if convention.units != "absolute":
        height, width = hw
        if not height or not width:
            return [math.nan] * 4
        if convention.units == "percent":
            a, b, c, d = a / 100, b / 100, c / 100, d / 100
        a, b, c, d = a * width, b * height, c * width, d * height
    return [a, b, c, d]


def clip_and_flag(box, hw):
    """One box; its part inside the image, and its flag."""
    inside = clip(box, hw)
    if inside is None:
        return [0.0] * 4, RowFlag.DEGENERATE if all(hw) else RowFlag.OK
    over = max(abs(a - b) for a, b in zip(inside, box, strict=True))
    return inside, RowFlag.CLIPPED if over > ROUNDING else RowFlag.OK


def arrays(boxes, sizes):
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(sizes, dtype=np.int32).reshape(-1, 2)


def same(found, expected):
    return np.array_equal(found, np.array(expected, dtype=np.float64).reshape(-1, 4), equal_nan=True)


# --- conventions ----------------------------------------------------------------------------------


def test_legal_conventions():
    # absolute: (xyxy x 2 ends + xywh + cxcywh) x 2 origins; normalized and percent: 3; each in 2 orders
    assert len(LEGAL) == (4 * 2 + 2 * 3) * 2


@given(CONVENTIONS, st.lists(st.tuples(st.tuples(*[EIGHTHS] * 4), MAYBE_SIZES), max_size=8))
def test_boxes_are_converted_as_each_by_itself(convention, cases):
    boxes, image_hw = arrays([box for box, _ in cases], [hw for _, hw in cases])
    before = boxes.copy()
    found = boxes_to_px(boxes, convention, image_hw)
    assert found.shape == (len(cases), 4)
    assert found.dtype == np.float64
    assert np.array_equal(boxes, before)
    assert not np.shares_memory(found, boxes)
    assert same(found, [to_px(box, convention, hw) for box, hw in cases])


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({}, [10, 20, 40, 60]),
        ({"origin": 1}, [11, 21, 41, 61]),
        ({"origin": 1, "ends": "inclusive"}, [11, 21, 40, 60]),  # VOC
        ({"origin": 1, "ends": "inclusive", "order": "yx"}, [21, 11, 60, 40]),  # Selective Search
        ({"coords": "xywh"}, [10, 20, 30, 40]),  # COCO
        ({"coords": "cxcywh"}, [25, 40, 30, 40]),
        ({"coords": "cxcywh", "units": "normalized"}, [0.125, 0.4, 0.15, 0.4]),  # YOLO
        ({"units": "normalized", "order": "yx"}, [0.2, 0.05, 0.6, 0.2]),  # TensorFlow
        ({"coords": "xywh", "units": "percent"}, [5, 20, 15, 40]),  # Label Studio
    ],
)
def test_one_box_by_hand(settings, written):
    box, image_hw = arrays([written], [(100, 200)])
    found = boxes_to_px(box, BoxConvention(**settings), image_hw)
    assert found.tolist() == [pytest.approx([10, 20, 40, 60])]


@given(CONVENTIONS, st.lists(st.tuples(st.tuples(*[WILD] * 4), MAYBE_SIZES), max_size=8))
def test_any_number_at_all_gives_boxes_and_no_warning(convention, cases):
    boxes, image_hw = arrays([box for box, _ in cases], [hw for _, hw in cases])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        boxes_px = boxes_to_px(boxes, convention, image_hw)
        clipped, flag = clip_boxes(boxes_px, image_hw)
    assert boxes_px.shape == (len(cases), 4)
    assert np.isfinite(clipped).all()
    for (box, hw), own in zip(cases, flag.tolist(), strict=True):
        if not all(map(math.isfinite, box)) and hw != (0, 0):
            assert own == RowFlag.DEGENERATE


# --- clipping -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.tuples(*[EIGHTHS | WILD] * 4), MAYBE_SIZES), max_size=12))
def test_boxes_are_clipped_as_each_by_itself(cases):
    boxes, image_hw = arrays([box for box, _ in cases], [hw for _, hw in cases])
    before = boxes.copy()
    clipped, flag = clip_boxes(boxes, image_hw)
    assert np.array_equal(boxes, before, equal_nan=True)
    expected = [clip_and_flag(box, hw) for box, hw in cases]
    assert clipped.tolist() == [box for box, _ in expected]
    assert flag.tolist() == [int(own) for _, own in expected]
    assert (clipped.shape, flag.dtype) == ((len(cases), 4), np.uint8)


@pytest.mark.parametrize(
    ("box", "expected", "flag"),
    [
        ([0, 0, 40, 30], [0, 0, 40, 30], RowFlag.OK),  # the whole image
        ([-0.005, 0, 40, 30.005], [0, 0, 40, 30], RowFlag.OK),  # by a rounding
        ([-0.005, 0, 40, 30.015], [0, 0, 40, 30], RowFlag.CLIPPED),
        ([39.995, 0, 40.005, 30], [39.995, 0, 40, 30], RowFlag.OK),
        ([40, 0, 40.005, 30], None, RowFlag.DEGENERATE),
        ([-1e300, -1e300, 1e300, 1e300], [0, 0, 40, 30], RowFlag.CLIPPED),
        ([39.5, 29.5, 60, 60], [39.5, 29.5, 40, 30], RowFlag.CLIPPED),
        ([40, 0, 60, 30], None, RowFlag.DEGENERATE),  # touches the border from outside
        ([5, 5, 5, 20], None, RowFlag.DEGENERATE),  # no width
        ([20, 5, 10, 20], None, RowFlag.DEGENERATE),  # reversed
        ([math.nan, 0, 10, 10], None, RowFlag.DEGENERATE),
    ],
)
def test_one_box_is_clipped_by_hand(box, expected, flag):
    clipped, found = clip_boxes(*arrays([box], [[30, 40]]))
    assert clipped.tolist() == [expected or [0, 0, 0, 0]]
    assert found.tolist() == [flag]


@given(
    st.integers(1, 2000),
    st.integers(1, 2000),
    st.integers(0, 10**6),
)
def test_a_normalized_box_that_ends_at_the_border_is_not_clipped_for_a_rounding(height, width, start):
    # What a label tool writes of a box from x0 to the right border: centre and width, in full precision.
    x0 = start / 10**6 * 0.999
    box = [(x0 + 1) / 2, 0.5, 1 - x0, 1.0]
    yolo = BoxConvention(coords="cxcywh", units="normalized")
    boxes, image_hw = arrays([box], [[height, width]])
    assert clip_boxes(boxes_to_px(boxes, yolo, image_hw), image_hw)[1].tolist() == [RowFlag.OK]


def test_whole_images():
    found = whole_image_boxes(np.array([[30, 40], [0, 0], [2**31 - 1, 1]], dtype=np.int32))
    assert same(found, [[0, 0, 40, 30], [math.nan] * 4, [0, 0, 1, 2**31 - 1]])
    assert whole_image_boxes(np.empty((0, 2), dtype=np.int32)).shape == (0, 4)
