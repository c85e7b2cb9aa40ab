"""Grids and the views of SPP-net's multi-view test, against windows placed one by one in fractions."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from box_rows import views_of
from hypothesis import example, given
from hypothesis import strategies as st

from sppfeat.boxes.table import clip_boxes
from sppfeat.boxes.views import grid_views
from sppfeat.config.regions import GridSpec, parse_grid
from sppfeat.errors import ConfigError

SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
COUNTS = st.integers(1, 12)
WINDOWS = st.integers(1, 400)
OVERLAPS = st.integers(0, 99).map(lambda n: n / 100)
QUARTERS = st.sampled_from([0.0, 0.25, 0.5, 0.75])  # of which steps are exact
SIDES = st.lists(st.integers(1, 1500) | st.none(), min_size=1, max_size=6, unique=True).map(tuple)


def axes_of(views, rows, columns):
    """Boxes as ``(rows, columns, 4)``; checks that rows share y and columns share x."""
    boxes = views.boxes_px.reshape(rows, columns, 4)
    assert (boxes[:, :1, 1::2] == boxes[:, :, 1::2]).all()
    assert (boxes[:1, :, 0::2] == boxes[:, :, 0::2]).all()
    return boxes[:, 0, 1::2].tolist(), boxes[0, :, 0::2].tolist()


def by_size(side, window, overlap):
    window = min(window, side)
    step = window * (1 - Fraction(overlap))
    windows = [(Fraction(0), Fraction(window))]
    while windows[-1][1] < side:
        start = min(windows[-1][0] + step, side - window)
        windows.append((start, start + window))
    return windows


# --- grids ----------------------------------------------------------------------------------------


@given(COUNTS, COUNTS, OVERLAPS, SIZES)
def test_a_grid_by_number_covers_the_image_with_equal_windows(rows, columns, overlap, image_hw):
    views = grid_views(GridSpec(rows, columns, False, overlap), image_hw)
    for side, n, windows in zip(image_hw, (rows, columns), axes_of(views, rows, columns), strict=True):
        assert windows[0][0] == 0
        assert windows[-1][1] == side  # to the bit
        size = Fraction(side) / (1 + (n - 1) * (1 - Fraction(overlap)))
        for i, (start, end) in enumerate(windows):
            assert start == pytest.approx(float(i * size * (1 - Fraction(overlap))), abs=1e-12 * side)
            assert end - start == pytest.approx(float(size), rel=1e-11)
        for before, after in itertools.pairwise(windows):
            assert after[0] <= before[1]  # no gap, not even of a rounding
            assert (before[1] - after[0]) / float(size) == pytest.approx(overlap, abs=1e-10)


@given(WINDOWS, WINDOWS, QUARTERS, SIZES)
def test_a_grid_by_pixels_covers_the_image_with_windows_of_that_size(height, width, overlap, image_hw):
    expected = [by_size(side, n, overlap) for side, n in zip(image_hw, (height, width), strict=True)]
    spec = GridSpec(height, width, True, overlap)
    if len(expected[0]) * len(expected[1]) > 1_000_000:
        with pytest.raises(ConfigError, match="windows"):
            grid_views(spec, image_hw)
        return
    found = axes_of(grid_views(spec, image_hw), len(expected[0]), len(expected[1]))
    for windows, own in zip(found, expected, strict=True):
        assert [tuple(window) for window in windows] == [(float(a), float(b)) for a, b in own]


@given(WINDOWS, OVERLAPS, st.integers(1, 3000))
@example(1, 0.9, 17)
@example(1, 0.78, 100)
def test_the_last_window_by_pixels_ends_at_the_border_to_the_bit(window, overlap, side):
    # Once: where the step is rounded (1 px, overlap 0.9, side 17) the last one ends 4e-15 before the border.
    boxes = grid_views(GridSpec(5000, window, True, overlap), (1, side)).boxes_px
    assert boxes[0, 0] == 0
    assert boxes[-1, 2] == side
    assert (boxes[1:, 0] <= boxes[:-1, 2]).all()
    assert (boxes[1:, 0] > boxes[:-1, 0]).all()  # no window twice


@given(COUNTS, COUNTS, st.booleans(), QUARTERS, st.tuples(st.integers(1, 200), st.integers(1, 200)))
def test_windows_lie_in_the_image_row_by_row_under_their_names(rows, columns, in_pixels, overlap, image_hw):
    views = grid_views(GridSpec(rows, columns, in_pixels, overlap), image_hw)
    n = len(views.ids)
    assert views.boxes_px.shape == (n, 4)
    assert views.boxes_px.dtype == np.float64
    assert views.scale.tolist() == [-1] * n
    assert views.mirrored.tolist() == [False] * n
    _, flag = clip_boxes(views.boxes_px, np.full((n, 2), image_hw, dtype=np.int32))
    assert not flag.any()
    by_place = sorted(range(n), key=lambda i: (views.boxes_px[i, 1], views.boxes_px[i, 0]))
    assert by_place == list(range(n))
    xs, ys = (
        {side: i for i, side in enumerate(sorted(set(sides)))} for sides in views.boxes_px.T[:2].tolist()
    )
    places = [(ys[y], xs[x]) for x, y in views.boxes_px[:, :2].tolist()]
    assert list(views.ids) == [f"{row},{column}".encode() for row, column in places]


@pytest.mark.parametrize(
    ("grid", "image_hw"),
    [
        ("grid:1001x1000", (480, 640)),
        ("grid:99999x99999", (480, 640)),
        ("grid:1x1px", (1001, 1000)),
        # Once: the windows of an axis are made before they are counted: MemoryError, or the machine's whole memory
        ("grid:1x1px:0.999999999", (1000, 1000)),
    ],
)
def test_too_many_windows_are_refused(grid, image_hw):
    with pytest.raises(ConfigError, match=r"windows on an image of \d+ x \d+ pixels.*up to 1000000"):
        grid_views(parse_grid(grid), image_hw)


def test_a_million_windows_are_allowed():
    assert len(grid_views(parse_grid("grid:1000x1000"), (480, 640)).ids) == 1_000_000


# --- the multi-view test --------------------------------------------------------------------------

PLACES = {
    "whole": None,
    "centre": (0.5, 0.5),
    "top-left": (0, 0),
    "top-right": (1, 0),
    "bottom-left": (0, 1),
    "bottom-right": (1, 1),
    "top": (0.5, 0),
    "left": (0, 0.5),
    "right": (1, 0.5),
    "bottom": (0.5, 1),
}


@given(SIZES, SIDES)
def test_twenty_views_of_each_scale(image_hw, short_sides):
    views = views_of(image_hw, short_sides)
    n = 20 * len(short_sides)
    assert views.boxes_px.shape == (n, 4)
    assert views.scale.tolist() == [i for i in range(len(short_sides)) for _ in range(20)]
    assert views.mirrored.tolist() == ([False] * 10 + [True] * 10) * len(short_sides)
    assert len(set(views.ids)) == n
    by_id = {name.decode(): i for i, name in enumerate(views.ids)}
    for scale, side in enumerate(short_sides):
        for place in PLACES:
            plain = by_id[f"{side or 'native'} {place}"]
            mirrored = by_id[f"{side or 'native'} {place} mirrored"]
            assert views.scale[[plain, mirrored]].tolist() == [scale, scale]
            assert views.mirrored[[plain, mirrored]].tolist() == [False, True]
            assert (views.boxes_px[plain] == views.boxes_px[mirrored]).all()


@given(SIZES, SIDES)
def test_views_are_windows_of_224_input_pixels_at_their_places(image_hw, short_sides):
    height, width = image_hw
    views = views_of(image_hw, short_sides)
    _, flag = clip_boxes(views.boxes_px, np.full((len(views.ids), 2), image_hw, dtype=np.int32))
    assert not flag.any()  # all have an area, inside
    names = list(PLACES) * 2
    for i, box in enumerate(views.boxes_px.tolist()):
        if names[i % 20] == "whole":
            assert box == [0, 0, width, height]
            continue
        side = short_sides[i // 20]
        pixels = Fraction(224 * min(image_hw), side) if side else Fraction(224)
        for low, high, extent, place in zip(
            box[:2], box[2:], (width, height), PLACES[names[i % 20]], strict=True
        ):
            size = min(pixels, Fraction(extent))
            start = (extent - size) * Fraction(place)
            assert low == pytest.approx(float(start), abs=1e-10)
            assert high == pytest.approx(float(start + size), abs=1e-10)
            assert low == 0 if place == 0 or size == extent else True  # to the bit
            assert high == extent if place == 1 or size == extent else True


def test_at_224_pixels_a_window_is_as_high_as_the_image():
    boxes = views_of((375, 500), (224,)).boxes_px
    assert sorted({tuple(box) for box in boxes.tolist()}) == [
        (0, 0, 375, 375),
        (0, 0, 500, 375),
        (62.5, 0, 437.5, 375),
        (125, 0, 500, 375),
    ]
