"""Rows of box files and of windows: each box of an input once, adapted to another image size, and joined."""

import math

import box_rows
import numpy as np
import pytest
from box_rows import ROOT, sizes_of, table_of, views_of
from hypothesis import example, given
from hypothesis import strategies as st

from sppfeat.boxes.views import grid_views
from sppfeat.config.regions import BoxConvention, GridSpec, RowFlag, parse_grid
from sppfeat.config.specs import InputSpec
from sppfeat.errors import BoxError
from sppfeat.extraction.plan import input_sizes
from sppfeat.extraction.rows import rows_of_table, rows_of_views

NUMBERS = st.integers(-50, 150).map(float) | st.sampled_from([math.nan, math.inf])
BOXES = st.lists(st.tuples(st.integers(0, 5).map(str), st.tuples(*[NUMBERS] * 4)), max_size=25)
SIZES = st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)) | st.just((0, 0)), max_size=5)


@st.composite
def tables(draw):
    """Boxes of six named images, the input that each is, if any, and the sizes of the inputs."""
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


def test_multiview_rows_have_a_scale_and_a_mirror_flag():
    image_hw = [(300, 400), (0, 0), (400, 300)]
    ranges, found = rows_of_views(lambda hw: views_of(hw, (224, 256)), sizes_of(image_hw))
    assert ranges.tolist() == [[0, 40], [40, 80], [80, 120]]
    assert found.scale.tolist() == ([0] * 20 + [1] * 20) * 3
    assert found.mirrored.tolist() == ([False] * 10 + [True] * 10) * 6
    assert np.isnan(found.boxes_px[40:80]).all()
    assert found.boxes_px[80].tolist() == [0, 0, 300, 400]


YOLO = BoxConvention(coords="cxcywh", units="normalized")
NAMES = [f"{i}.jpg" for i in range(6)]
PATHS = [name.encode() for name in NAMES]
IMAGE_HW = [(60, 80), (80, 60), (40, 40), (0, 0), (100, 30), (64, 64)]
NAMED_BOXES = st.lists(
    st.tuples(st.sampled_from([*NAMES, "other.jpg"]), st.tuples(*[st.integers(-20, 120).map(float)] * 4)),
    max_size=20,
)


def planner_of(source, *, drop=False, **settings):
    return box_rows.planner_of(InputSpec(**{"size": 64, **settings}), source, drop=drop)


def file_boxes(boxes, **settings):
    return {"table": table_of(boxes, **settings), "path": "boxes.csv"}


def views(name):
    return {} if name == "multiview" else {"grid": parse_grid(name)}


def content(boxes):
    """All columns of rows, in plain Python; None for NaN."""
    numbers = [[None if math.isnan(v) else v for v in box] for box in boxes.boxes_px.tolist()]
    said = boxes.annotations
    return {
        "boxes_px": numbers,
        "flag": boxes.flag.tolist(),
        "scale": boxes.scale.tolist(),
        "mirrored": boxes.mirrored.tolist(),
        "source": boxes.source.tolist(),
        "ids": list(said.ids),
        "label": said.label.tolist(),
        "extra": [list(column) for column in said.extra],
    }


# --- rows -----------------------------------------------------------------------------------------


def test_equal_regions_share_a_row_only_on_request():
    boxes = [
        ("0.jpg", (0, 0, 30, 30)),
        ("0.jpg", (0, 0, 30.25, 30)),
        ("0.jpg", (9, 9, 9, 9)),
        ("x.jpg", (0, 0, 1, 1)),
    ]
    arguments = ROOT, PATHS, sizes_of(IMAGE_HW)
    assert planner_of(file_boxes(boxes)).rows(*arguments).boxes.box_row.tolist() == [0, 1, 2, -1]
    ranges, rows = planner_of(file_boxes(boxes), drop=True).rows(*arguments)
    assert rows.box_row.tolist() == [0, 0, 1, -1]
    assert ranges[0].tolist() == [0, 2]


def test_a_box_file_without_any_input_is_an_error():
    planner = planner_of(file_boxes([("a/x.jpg", (0, 0, 1, 1)), ("y.jpg", (0, 0, 1, 1))]))
    with pytest.raises(
        BoxError, match=r"^'boxes\.csv': none of its 2 images .*'a/x\.jpg'.*'0\.jpg'.*as input"
    ):
        planner.rows(ROOT, PATHS, sizes_of(IMAGE_HW))


def test_matches_by_weaker_rules_are_noted():
    planner = planner_of(file_boxes([("/home/al/0.jpg", (0, 0, 1, 1))]))
    assert planner.rows(ROOT, PATHS, sizes_of(IMAGE_HW)).boxes.box_row.tolist() == [0]
    assert [note.partition(": ")[2] for note in planner.notes] == [
        "1 name matched only by the file name: '/home/al/0.jpg' is '0.jpg'"
    ]
    twins = [b"a/0.jpg", b"b/0.jpg"]
    with pytest.raises(BoxError, match=r"fits several images.*\('a/0\.jpg' or 'b/0\.jpg'\)"):
        planner.rows(ROOT, twins, sizes_of(IMAGE_HW[:2]))


def test_an_ambiguous_name_is_an_error_that_names_the_box_file():
    planner = planner_of(file_boxes([("1.jpg", (0, 0, 1, 1))]))
    with pytest.raises(BoxError, match=r"^'boxes\.csv': .*'a/1\.jpg'"):
        planner.rows(ROOT, [b"a/1.jpg", b"b/1.jpg"], sizes_of([(9, 9)] * 2))


# --- another size than planned --------------------------------------------------------------------


@given(NAMED_BOXES, st.sampled_from([None, YOLO]), st.sampled_from([(60, 80), (33, 200), (1, 1)]))
def test_boxes_are_adapted_once_the_image_size_is_known(boxes, convention, hw):
    boxes = [("3.jpg", (0, 0, 0.5, 0.5)), *boxes]
    planner = planner_of(file_boxes(boxes, convention=convention), scales=(64, 128, 224))
    ranges, rows = planner.rows(ROOT, PATHS, sizes_of(IMAGE_HW))
    fitted = planner.refit(rows.take(np.arange(*ranges[3])), hw)
    known = [own if i != 3 else hw for i, own in enumerate(IMAGE_HW)]
    ranges, expected = planner.rows(ROOT, PATHS, sizes_of(known))
    assert content(fitted) == content(expected.take(np.arange(*ranges[3])))


@pytest.mark.parametrize(("source", "now"), [("file", (600, 900)), ("grid:1x1", (60, 2000))])
def test_the_scale_is_chosen_again_for_another_size(source, now):
    # An image that could not be decoded, and is another one now.
    # Once: the scale that was chosen for the size before stays.
    sides = (64, 128, 224, 448)
    boxes = file_boxes([("0.jpg", (0, 0, 40, 40))])
    planner = planner_of(boxes if source == "file" else views(source), scales=sides)
    before = planner.rows(ROOT, PATHS[:1], sizes_of([(60, 80)])).boxes
    expected = planner.rows(ROOT, PATHS[:1], sizes_of([now])).boxes
    assert expected.scale.tolist() != before.scale.tolist()
    assert content(planner.refit(before, now)) == content(expected)


def test_views_keep_their_scales_at_another_size():
    planner = planner_of(views("multiview"), scales=(224, 256))
    for hw in ((60, 80), (0, 0)):
        before = planner.rows(ROOT, PATHS[:1], sizes_of([hw])).boxes
        expected = planner.rows(ROOT, PATHS[:1], sizes_of([(600, 900)])).boxes
        assert content(planner.refit(before, (600, 900))) == content(expected)


def test_a_box_gains_and_loses_its_area_with_the_size():
    planner = planner_of(file_boxes([("0.jpg", (70, 0, 90, 40)), ("0.jpg", (0, 0, 5, 5))]))
    before = planner.rows(ROOT, PATHS[:1], sizes_of([(40, 70)])).boxes
    assert (before.flag.tolist(), before.scale.tolist()) == ([RowFlag.DEGENERATE, 0], [-1, 0])
    wide = planner.refit(before, (40, 80))
    assert (wide.flag.tolist(), wide.scale.tolist()) == ([RowFlag.CLIPPED, 0], [0, 0])
    narrow = planner.refit(wide, (40, 60))
    assert (narrow.flag.tolist(), narrow.scale.tolist()) == ([RowFlag.DEGENERATE, 0], [-1, 0])


def test_windows_that_would_change_are_not_refitted():
    planner = planner_of(views("grid:20x20px"))
    before = planner.rows(ROOT, PATHS[:1], sizes_of([(40, 60)])).boxes
    assert planner.refit(before, (40, 61)) is None
    assert planner.refit(before, (60, 40)) is None  # as many, at other places: 3 x 2 instead of 2 x 3
    assert planner.refit(before, (39, 59)).boxes_px[-1].tolist() == [39, 19, 59, 39]


def test_boxes_that_share_a_row_are_not_refitted_if_they_become_different():
    # Two boxes on the same cells of a 32 x 32 image; of a 32 x 320 one they are different.
    # Once: the second box keeps the row, and so gets the descriptor, of the first.
    boxes = [("0.jpg", (0.0, 0.0, 0.05, 1.0)), ("0.jpg", (0.0, 0.0, 0.1, 1.0))]
    planner = planner_of(file_boxes(boxes, convention=BoxConvention(units="normalized")), drop=True)
    before = planner.rows(ROOT, PATHS[:1], sizes_of([(32, 32)])).boxes
    assert before.box_row.tolist() == [0, 0]
    assert planner.rows(ROOT, PATHS[:1], sizes_of([(32, 320)])).boxes.box_row.tolist() == [0, 1]
    assert planner.refit(before, (32, 320)) is None
    unknown = planner.rows(ROOT, PATHS[:1], sizes_of([(0, 0)])).boxes
    assert unknown.box_row.tolist() == [0, 1]
    assert planner.refit(unknown, (32, 32)).boxes_px.tolist() == [[0, 0, 1.6, 32], [0, 0, 3.2, 32]]


# --- images that are added ------------------------------------------------------------------------


@given(NAMED_BOXES, st.integers(1, 6), st.booleans())
def test_boxes_of_added_images_follow_those_of_the_file(boxes, first, drop):
    boxes = [*boxes, *((name, (0, 0, 9, 9)) for name in (NAMES[0], NAMES[-1]))]
    source = file_boxes(boxes, images=NAMES)
    planner = planner_of(source, drop=drop, scales=(64, 224))
    image_hw = sizes_of(IMAGE_HW)
    old = planner.rows(ROOT, PATHS[:first], image_hw[:first]).boxes
    added = planner.rows(ROOT, PATHS, image_hw[first:], first=first).boxes
    joined, every = planner.join(old, added), planner.rows(ROOT, PATHS, image_hw).boxes
    assert content(joined) == content(every)
    assert joined.box_row.tolist() == every.box_row.tolist()


@pytest.mark.parametrize("boxes", ["grid:2x3", "multiview"])
@pytest.mark.parametrize("drop", [False, True])
def test_windows_of_added_images_follow_those_of_the_file(boxes, drop):
    planner = planner_of(views(boxes), drop=drop)
    image_hw = sizes_of(IMAGE_HW)
    every = planner.rows(ROOT, PATHS, image_hw).boxes
    for first in (1, 3, 5):
        old = planner.rows(ROOT, PATHS[:first], image_hw[:first]).boxes
        joined = planner.join(old, planner.rows(ROOT, PATHS, image_hw[first:], first=first).boxes)
        assert content(joined) == content(every)
        assert joined.box_row.tolist() == every.box_row.tolist()


def test_a_box_that_would_get_a_row_in_an_old_and_in_an_added_image_is_refused():
    # Alone, a/1.jpg is what '1.jpg' means; once there is 1.jpg, it is that one.
    planner = planner_of(file_boxes([("1.jpg", (0, 0, 9, 9)), ("2.jpg", (0, 0, 9, 9))]))
    old_paths, every_path = [b"a/1.jpg", b"2.jpg"], [b"a/1.jpg", b"2.jpg", b"1.jpg"]
    old = planner.rows(ROOT, old_paths, sizes_of([(9, 9)] * 2)).boxes
    added = planner.rows(ROOT, every_path, sizes_of([(9, 9)]), first=2).boxes
    with pytest.raises(BoxError, match=r"'1\.jpg' fits an image of the feature file and a new input"):
        planner.join(old, added)


def test_images_without_boxes_can_be_added_to_those_of_a_file_of_one_image():
    # Once: a file of the boxes of one image is refused as soon as a second image is added.
    planner = planner_of(file_boxes([("boxes", (0, 0, 9, 9))], names="single"))
    old = planner.rows(ROOT, [b"1.jpg"], sizes_of([(9, 9)])).boxes
    ranges, added = planner.rows(ROOT, [b"1.jpg", b"2.jpg"], sizes_of([(9, 9)]), first=1)
    assert ranges.tolist() == [[0, 0]]
    assert planner.join(old, added).box_row.tolist() == [0]


# Once: max_pixels (and min_side) change the short side that a scale stands for, and the windows of the views stay as
# large as if they had not: 113 pixels of the input instead of 224 for 100 x 5000 at 560.
@example((100, 5000), 560, 1)
@example((50, 60), 560, 1)
@given(
    st.tuples(st.integers(30, 900), st.integers(30, 900)),
    st.sampled_from([None, 100, 224, 300, 560]),
    st.sampled_from([1, 16, 32, 33, 256]),
)
def test_views_are_224_input_pixels_despite_limits_and_rounding(image_hw, side, step):
    spec = InputSpec(size=side, round_to=step)
    planner = box_rows.planner_of(spec, {})
    boxes = planner.rows(ROOT, [b"a.jpg"], sizes_of([image_hw])).boxes.boxes_px[1:10]
    input_hw = input_sizes(sizes_of([image_hw]), spec)[0][0, 0].tolist()
    wanted = [[min(224, side) for side in input_hw]] * 9
    sides = (boxes[:, [3, 2]] - boxes[:, [1, 0]]) * np.divide(input_hw, image_hw)
    # Without rounding, the long side keeps the aspect ratio to within half a pixel.
    assert np.abs(sides - wanted).max() <= (0.51 if step == 1 else 1e-3)
