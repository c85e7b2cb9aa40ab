"""Plans cut into shards."""

import numpy as np
import pytest
from feature_files import plan_of as plan_of_files
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.config.distribution import Shard
from sppfeat.errors import ConfigError
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.shard_plan import ShardChoice, cut_plan, cut_rows, cut_shard

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
def test_shards_of_so_many_rows(sizes, n_rows):
    bounds = cut_rows(plan_of(sizes), n_rows)
    counts = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, len(sizes))
    assert (counts[:-1] == n_rows).all()
    assert 0 < counts[-1] <= n_rows


def test_a_shard_records_what_it_is_of():
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
    assert plan.digest != plan.of_shard(0, 9, has_views=False).digest
    assert plan.digest == plan_of([(9, 9)] * 10).digest  # sizes may be learnt later


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
def test_what_is_no_record_of_a_shard(text):
    with pytest.raises(ConfigError, match="not the record of a shard"):
        Shard.from_json(text)


def test_names_of_shards_sort_as_they_are_numbered():
    names = [ShardChoice(i, 123456).name for i in (1, 9, 10, 123456)]
    assert names == sorted(names)
    assert ShardChoice(3, 16).name == "00003-of-00016"
