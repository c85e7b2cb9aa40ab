"""The plan holds every image once, in little memory, and is cut into shards; batches of one size, largest first."""

import dataclasses
import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from box_rows import rows_of
from feature_files import listing_of
from feature_files import plan_of as plan_of_files
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from places import SUPPORT

from sppfeat.config.distribution import Shard
from sppfeat.config.specs import InputSpec
from sppfeat.decoding.sizing import network_input_hw
from sppfeat.errors import ConfigError, ImageError
from sppfeat.extraction.pipeline import schedule
from sppfeat.extraction.plan import Plan, ShardChoice, cut_plan, cut_rows, cut_shard, input_sizes, make_plan
from sppfeat.files.paths import PathTable

IMAGE_SIZES = hnp.arrays(np.int32, st.tuples(st.integers(0, 40), st.just(2)), elements=st.integers(0, 3000))
FEW_SIZES = hnp.arrays(np.int32, st.tuples(st.integers(0, 60), st.just(2)), elements=st.integers(0, 3))
SPECS = st.builds(
    InputSpec,
    size=st.none() | st.integers(1, 300),
    scales=st.just(()) | st.lists(st.integers(1, 300), min_size=1, max_size=3, unique=True).map(tuple),
    max_pixels=st.integers(1, 100_000),
    min_side=st.integers(1, 64),
    round_to=st.just(1) | st.integers(1, 100),
)


def numbered_images(n, classes=()):
    paths = PathTable(f"{i}.jpg" for i in range(n))
    labels = np.full(n, -1, dtype=np.int64)
    return listing_of(root=b"/r", paths=paths, labels=labels, classes=classes)


# --- sizes ----------------------------------------------------------------------------------------


@given(IMAGE_SIZES, SPECS)
def test_network_input_sizes_equal_those_of_single_images(image_hw, spec):
    input_hw, reasons = input_sizes(image_hw, spec)
    assert input_hw.dtype == np.int32
    limits = {"max_pixels": spec.max_pixels, "min_side": spec.min_side, "round_to": spec.round_to}
    for i, hw in enumerate(image_hw.tolist()):
        expected, reason = [(0, 0)] * len(spec.short_sides), None
        if all(hw):
            try:
                expected = [network_input_hw(hw, short_side=side, **limits) for side in spec.short_sides]
            except ImageError as error:
                reason = str(error)
        assert [tuple(found) for found in input_hw[i].tolist()] == expected
        assert reasons.get(i) == reason


def test_sizes_beyond_16_bits():
    image_hw = np.array([[2_000_000_000, 1_000_000_000]], dtype=np.int32)
    assert input_sizes(image_hw, InputSpec(size=100))[0].tolist() == [[[200, 100]]]


# --- the plan -------------------------------------------------------------------------------------


def test_each_image_has_a_row_and_errors_are_kept():
    # 1 x 20000 has a size, but no network input: it fails without being unmeasured.
    image_hw = np.array([[480, 640], [0, 0], [1, 20_000], [640, 480], [0, 0]], dtype=np.int32)
    plan = make_plan(
        numbered_images(5), image_hw, {1: "no such file"}, InputSpec(min_side=32, max_pixels=10_000)
    )
    assert plan.rows.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]
    assert plan.is_unmeasured.tolist() == [False] * 4 + [True]
    assert plan.n_shapes == 2
    assert plan.errors[1] == "no such file"
    assert "too elongated" in plan.errors[2]
    assert set(plan.errors) == {1, 2}
    assert (plan.input_hw == 0).all(axis=(1, 2)).tolist() == [False, True, True, False, True]


def test_the_digest_covers_images_labels_and_rows():
    names = [b"a/\xff.jpg", b"b.jpg"]
    listing = listing_of(b"/data", PathTable(names), np.array([1, -1]), (b"x", b"y"))
    text = b"".join(name + b"\0" for name in (*names, b"", b"x", b"y"))
    numbers = np.array([1, -1, 1, 1], dtype="<i8").tobytes()
    for image_hw in (np.zeros((2, 2), dtype=np.int32), np.full((2, 2), 9, dtype=np.int32)):
        plan = make_plan(listing, image_hw, {}, InputSpec())
        assert plan.digest == hashlib.sha256(text + numbers).hexdigest()


_MEASURE = """
import os, sys
import numpy as np
from pathlib import Path
from feature_files import BLOCKS, config
from sppfeat.config.specs import InputSpec
from sppfeat.store.layout import create_file
from sppfeat.extraction.plan import make_plan
from sppfeat.inputs import list_images

class Entry:
    def __init__(self, i):
        self.name = b"an_image_of_a_class_%08d.jpeg" % i
    def is_dir(self):
        return False

class Folder:
    def __enter__(self):
        return map(Entry, range(n))
    def __exit__(self, *error):
        pass

def peak():
    listing = list_images(["."])
    plan = make_plan(listing, np.zeros((n, 2), dtype=np.int32), {}, InputSpec())
    create_file(Path(f"{n}.h5"), plan, config(), BLOCKS)
    plan.digest
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

os.scandir = lambda path: Folder()
n = 30_000  # fills the memory that does not depend on the number of images
before = peak()
n = 90_000
print((peak() - before) / 60_000)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is measured as Linux tells it")
def test_listing_planning_and_layout_take_at_most_200_bytes_per_image(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path])}
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE], env=env, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert 50 < float(run.stdout) <= 200


# --- the schedule ---------------------------------------------------------------------------------


@given(FEW_SIZES, st.data(), st.none() | st.integers(1, 9), st.integers(1, 50))
def test_batches_of_one_size_are_full_and_the_largest_come_first(input_hw, data, batch_size, batch_pixels):
    wanted = data.draw(
        st.lists(st.integers(0, max(0, len(input_hw) - 1)), unique=True, max_size=len(input_hw))
    )
    images = np.array(wanted, dtype=np.int64)
    batches = list(schedule(input_hw[:, None], images, batch_size=batch_size, batch_pixels=batch_pixels))
    pixels = [batch.input_hw[0] * batch.input_hw[1] for batch in batches]
    assert pixels == sorted(pixels, reverse=True)
    limits = [batch_size or max(1, batch_pixels // n) for n in pixels]
    for batch, limit in zip(batches, limits, strict=True):
        assert all(batch.is_last)
        assert 1 <= len(batch.images) <= limit
    for (before, limit), after in zip(zip(batches, limits, strict=True), batches[1:], strict=False):
        if before.input_hw == after.input_hw:
            assert len(before.images) == limit  # only the last batch of a size is not full
            assert before.images[-1] < after.images[0]
    shapes = [batch.input_hw for batch in batches]
    assert len(list(itertools.groupby(shapes))) == len(set(shapes))


def test_largest_first_then_in_the_order_of_the_plan():
    input_hw = np.array([[2, 3], [4, 4], [3, 2], [2, 3], [0, 0], [70_000, 70_000]], dtype=np.int32)
    batches = schedule(input_hw[:, None], np.arange(6), batch_size=8, batch_pixels=1)
    assert [(batch.images, batch.input_hw) for batch in batches] == [
        ([5], (70_000, 70_000)),
        ([1], (4, 4)),
        ([2], (3, 2)),
        ([0, 3], (2, 3)),
    ]


# --- several scales -------------------------------------------------------------------------------

SEVERAL_SCALES = st.integers(1, 4).flatmap(
    lambda s: hnp.arrays(
        np.int32, st.tuples(st.integers(0, 40), st.just(s), st.just(2)), elements=st.integers(0, 2)
    )
)


@given(SEVERAL_SCALES, st.data(), st.none() | st.integers(1, 9), st.integers(1, 50))
def test_each_image_comes_once_at_each_requested_scale(input_hw, data, batch_size, batch_pixels):
    n, n_scales = input_hw.shape[:2]
    wanted = data.draw(st.lists(st.integers(0, max(0, n - 1)), unique=True, max_size=n))
    uses = data.draw(st.none() | hnp.arrays(np.bool_, (n, n_scales)))
    images = np.array(wanted, dtype=np.int64)
    settings = {"batch_size": batch_size, "batch_pixels": batch_pixels}
    batches = list(schedule(input_hw, images, **settings, uses=None if uses is None else uses[images]))

    done = [(image, batch.scale) for batch in batches for image in batch.images]
    expected = [
        (image, scale)
        for image in wanted
        if input_hw[image].all()
        for scale in range(n_scales)
        if uses is None or uses[image, scale]
    ]
    assert len(set(done)) == len(done)
    assert sorted(done) == sorted(expected)

    to_come, under_way = dict.fromkeys(image for image, _ in done), set()
    for image, _ in done:
        to_come[image] = (to_come[image] or 0) + 1
    for batch in batches:
        assert len(batch.images)
        assert len(batch.is_last) == len(batch.images)
        assert batch.images == sorted(batch.images)
        largest = 1
        for image, is_last in zip(batch.images, batch.is_last, strict=True):
            assert tuple(input_hw[image, batch.scale].tolist()) == batch.input_hw
            largest = int(input_hw[image].prod(axis=1).max())
            to_come[image] -= 1
            assert is_last == (to_come[image] == 0)
            under_way.add(image)
        # The images between their first and their last scale never exceed a batch.
        assert len(under_way) <= (batch_size or max(1, batch_pixels // largest))
        under_way -= {image for image in under_way if to_come[image] == 0}
    assert not under_way

    reverse = images[::-1]
    again = schedule(input_hw, reverse, **settings, uses=None if uses is None else uses[reverse])
    assert [(b.images, b.input_hw, b.scale, b.is_last) for b in again] == [
        (b.images, b.input_hw, b.scale, b.is_last) for b in batches
    ]


ROWS_OF_IMAGES = st.lists(st.lists(st.integers(-1, 2), max_size=6), max_size=8)


@given(ROWS_OF_IMAGES)
def test_an_image_is_used_at_the_scales_of_its_rows(scales):
    n = len(scales)
    rows = rows_of([[(0, 0, 1, 1)] * len(own) for own in scales], [(9, 9)] * n)
    flat = np.array([scale for own in scales for scale in own], dtype=np.int16)
    rows = rows._replace(boxes=dataclasses.replace(rows.boxes, scale=flat))
    image_hw = np.full((n, 2), 9, dtype=np.int32)
    plan = make_plan(numbered_images(n), image_hw, {}, InputSpec(scales=(10, 20, 30)), rows)
    assert plan.n_rows == len(flat)
    some = np.arange(n)[::2]
    assert plan.scales_in_use(some).tolist() == [[scale in own for scale in range(3)] for own in scales[::2]]
    assert plan.rows_of(some).tolist() == [
        row for image in some.tolist() for row in range(*plan.rows[image].tolist())
    ]


SIZES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=30)


def plan_of(sizes) -> Plan:
    return plan_of_files([f"{i}.jpg" for i in range(len(sizes))], sizes=sizes)


@given(SIZES, st.data(), st.booleans())
def test_shards_cover_the_plan_once_and_none_is_empty(sizes, data, by_pixels):
    count = data.draw(st.integers(1, len(sizes)))
    bounds = cut_plan(plan_of(sizes), count, by_pixels=by_pixels)
    assert bounds[0] == 0
    assert bounds[-1] == len(sizes)
    assert len(bounds) == count + 1
    assert (np.diff(bounds) > 0).all()


@given(st.integers(1, 8), st.integers(0, 5))
def test_shards_are_balanced_by_pixels(count, seed):
    rng = np.random.default_rng(seed)
    sizes = np.stack((rng.integers(100, 200, 400), rng.integers(100, 900, 400)), axis=1)
    plan = plan_of(sizes)
    pixels = plan.input_hw[:, 0].prod(axis=1)
    bounds = cut_plan(plan, count, by_pixels=True)
    own = np.add.reduceat(pixels, bounds[:-1])
    assert abs(own - pixels.sum() / count).max() <= 2 * pixels.max()
    by_number = np.diff(cut_plan(plan, count, by_pixels=False))
    assert by_number.max() - by_number.min() <= 1


@given(SIZES, st.integers(1, 10))
def test_shards_of_a_number_of_rows(sizes, n_rows):
    bounds = cut_rows(plan_of(sizes), n_rows)
    counts = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, len(sizes))
    assert (counts[:-1] == n_rows).all()
    assert 0 < counts[-1] <= n_rows


def test_a_shard_records_its_range_of_the_plan():
    plan = plan_of([(100, 100 + i) for i in range(10)])
    bounds = cut_plan(plan, 3, by_pixels=False)
    parts = [cut_shard(plan, ShardChoice(i, 3), bounds, has_views=False) for i in (1, 2, 3)]
    assert [path for part, *_ in parts for path in part.paths] == list(plan.paths)
    assert (
        np.concatenate([part.rows + shard.first_row for part, shard, _ in parts]).tolist()
        == plan.rows.tolist()
    )
    for part, shard, _ in parts:
        assert shard == Shard.from_json(shard.to_json())
        assert (shard.stop_image - shard.first_image, shard.stop_row - shard.first_row) == (
            part.n_images,
            part.n_rows,
        )
        assert (shard.n_images, shard.plan) == (10, plan.digest)
    assert (
        plan.digest != cut_shard(plan, ShardChoice(1, 2), np.array([0, 9, 10]), has_views=False).plan.digest
    )
    assert plan.digest == plan_of([(9, 9)] * 10).digest  # sizes may become known later


def test_more_shards_than_images_are_refused():
    with pytest.raises(ConfigError, match="4 shards of 3 images; allowed: 1 to 3"):
        cut_plan(plan_of([(9, 9)] * 3), 4, by_pixels=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"index": 1}',
        "9",
        '{"a": 1}',
        "[" * 9000,
        Shard(1, 1, 0, 2, 0, 2, 2, 2, "x").to_json().replace("2", "-2", 1),
    ],
)
def test_invalid_records_of_shards_are_refused(text):
    with pytest.raises(ConfigError, match="not the record of a shard"):
        Shard.from_json(text)


def test_names_of_shards_sort_as_they_are_numbered():
    names = [ShardChoice(i, 123456).name for i in (1, 9, 10, 123456)]
    assert names == sorted(names)
    assert ShardChoice(3, 16).name == "00003-of-00016"
