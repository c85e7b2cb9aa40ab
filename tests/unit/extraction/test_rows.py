"""Rows of boxes: every box of an input once, image by image, and what was said of it with it."""

import math

import numpy as np
from box_rows import sizes_of, table_of, views_of
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.boxes.views import grid_views
from sppfeat.config.regions import BoxConvention, GridSpec
from sppfeat.extraction.rows import rows_of_table, rows_of_views

NUMBERS = st.integers(-50, 150).map(float) | st.sampled_from([math.nan, math.inf])
BOXES = st.lists(st.tuples(st.integers(0, 5).map(str), st.tuples(*[NUMBERS] * 4)), max_size=25)
SIZES = st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)) | st.just((0, 0)), max_size=5)


@st.composite
def tables(draw):
    """Boxes of six named images, some of which are inputs, and the sizes of these."""
    boxes, image_hw = draw(BOXES), draw(SIZES)
    n = len(image_hw)
    image_of = draw(st.lists(st.integers(-1, n - 1), min_size=6, max_size=6))
    return boxes, image_of, image_hw


@given(tables())
def test_each_box_of_an_input_is_a_row_in_the_order_of_the_file(case):
    boxes, image_of, image_hw = case
    table = table_of(boxes, images=map(str, range(6)))
    ranges, rows = rows_of_table(table, np.array(image_of), sizes_of(image_hw))
    expected = [[] for _ in image_hw]
    for i, (name, _) in enumerate(boxes):
        if image_of[int(name)] >= 0:
            expected[image_of[int(name)]].append(i)
    flat = [i for own in expected for i in own]
    assert len(rows) == len(flat)
    assert rows.source.tolist() == flat
    assert ranges.shape == (len(image_hw), 2)
    assert [rows.source[a:b].tolist() for a, b in ranges.tolist()] == expected
    assert rows.box_row.tolist() == [flat.index(i) if i in flat else -1 for i in range(len(boxes))]
    assert rows.scale.tolist() == [-1] * len(flat)
    assert not rows.mirrored.any()
    for row, i in enumerate(flat):
        assert np.array_equal(rows.boxes_px[row], boxes[i][1], equal_nan=True)
        said = rows.annotations
        assert said.classes[said.label[row]] == f"c{i % 3}"
        assert said.score[row] == i / 8
        assert said.ids[row] == b"box%d" % i
        assert [column[row] for column in said.extra] == [b"note %d" % i]
    assert rows.annotations.extra_names == ("note",)


def test_boxes_are_converted_with_the_size_of_their_own_image():
    yolo = BoxConvention(coords="cxcywh", units="normalized")
    middle = (0.5, 0.5, 0.5, 0.5)
    table = table_of([("b", middle), ("c", middle), ("a", middle)], images="abc", convention=yolo)
    ranges, rows = rows_of_table(table, np.array([0, 1, 2]), sizes_of([(40, 80), (80, 40), (0, 0)]))
    assert ranges.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert np.array_equal(rows.boxes_px, [[20, 10, 60, 30], [10, 20, 30, 60], [math.nan] * 4], equal_nan=True)
    assert rows.flag.tolist() == [0, 0, 0]
    assert rows.source.tolist() == [2, 0, 1]
    assert rows.box_row.tolist() == [1, 2, 0]


# --- rows of views --------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), SIZES)
def test_each_view_of_each_image_is_a_row(rows, columns, in_pixels, image_hw):
    grid = GridSpec(rows * 10, columns * 10, True, 0.0) if in_pixels else GridSpec(rows, columns, False, 0.25)
    ranges, found = rows_of_views(lambda hw: grid_views(grid, hw), sizes_of(image_hw))
    first = 0
    for (height, width), (start, stop) in zip(image_hw, ranges.tolist(), strict=True):
        views = grid_views(grid, (height, width) if height else (1, 1))
        assert start == first
        assert stop - start == len(views.ids)
        boxes = views.boxes_px if height else np.full((len(views.ids), 4), np.nan)
        assert np.array_equal(found.boxes_px[start:stop], boxes, equal_nan=True)
        assert [found.annotations.ids[i] for i in range(start, stop)] == list(views.ids)
        first = stop
    assert len(found) == len(found.annotations.ids) == first
    assert found.source.tolist() == found.box_row.tolist() == list(range(first))
    assert not found.flag.any()
    assert (found.scale == -1).all()


def test_multiview_rows_know_their_scale_and_their_side():
    image_hw = [(300, 400), (0, 0), (400, 300)]
    ranges, found = rows_of_views(lambda hw: views_of(hw, (224, 256)), sizes_of(image_hw))
    assert ranges.tolist() == [[0, 40], [40, 80], [80, 120]]
    assert found.scale.tolist() == ([0] * 20 + [1] * 20) * 3
    assert found.mirrored.tolist() == ([False] * 10 + [True] * 10) * 6
    assert np.isnan(found.boxes_px[40:80]).all()
    assert found.boxes_px[80].tolist() == [0, 0, 300, 400]
