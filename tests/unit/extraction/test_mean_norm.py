"""The mean norm: estimated on a random sample of rows, exact on that sample, and reproducible."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from box_rows import plan_of, rows_of, sizes_of, whole_images
from feature_files import BLOCKS
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.config.specs import DescriptorSpec, InputSpec
from sppfeat.decoding import Decoded
from sppfeat.errors import ConfigError, ImageError
from sppfeat.extraction import mean_norm as module
from sppfeat.extraction.mean_norm import sample_plan
from sppfeat.extraction.pipeline import Rows
from sppfeat.extraction.rows import choose_scales
from sppfeat.store.schema import column_blocks

SPEC = InputSpec(scales=(32, 64), max_pixels=8192, min_side=8)
BOXES = st.lists(st.tuples(*[st.integers(-5, 60)] * 4), max_size=12)
SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60)) | st.sampled_from([(0, 0), (1, 2000)])
IMAGES = st.lists(st.tuples(SIZES, BOXES), max_size=8)


def planned(images):
    image_hw = [hw for hw, _ in images]
    rows = choose_scales(
        rows_of([boxes for _, boxes in images], image_hw), sizes_of(image_hw), SPEC.short_sides
    )
    unreadable = {i: "no image" for i, hw in enumerate(image_hw) if hw == (0, 0)}
    return dataclasses.replace(plan_of(rows, image_hw, SPEC), errors=unreadable)


def measured(sample, images):
    """The sizes are known."""


# --- the sample -----------------------------------------------------------------------------------


@given(IMAGES, st.integers(1, 5), st.integers(1, 6), st.integers(0, 3))
def test_a_sample_holds_a_limited_number_of_rows_of_the_plan(images, n_images, n_rows, seed):
    plan = planned(images)
    sample, images = sample_plan(plan, measured, n_images=n_images, n_rows=n_rows, seed=seed)
    usable = {}
    for image, (first, stop) in enumerate(plan.rows.tolist()):
        own = [row for row in range(first, stop) if plan.boxes.scale[row] >= 0]
        if own and plan.input_hw[image].all():
            usable[f"{image}.jpg".encode()] = own
    assert len(images) == min(n_images, len(usable))
    assert images.tolist() == sorted(set(images.tolist()))
    for image in images.tolist():
        own = np.arange(*plan.rows[image].tolist())
        drawn = own[sample.boxes.scale[own] >= 0]
        assert len(drawn) == min(n_rows, len(usable[plan.paths[image]]))
        assert set(drawn.tolist()) <= set(usable[plan.paths[image]])
        assert sample.boxes.scale[drawn].tolist() == plan.boxes.scale[drawn].tolist()
    others = np.setdiff1d(np.arange(plan.n_rows), plan.rows_of(images))
    assert (sample.boxes.scale[others] == -1).all()
    assert sample.scales_in_use(images).any(axis=1).all()

    again, same = sample_plan(plan, measured, n_images=n_images, n_rows=n_rows, seed=seed)
    assert same.tolist() == images.tolist()
    assert again.boxes.scale.tolist() == sample.boxes.scale.tolist()


def test_a_sample_of_whole_images():
    plan = whole_images(50)
    first, second, every = (
        sample_plan(plan, measured, n_images=n, seed=seed)[1].tolist()
        for n, seed in ((20, 0), (20, 1), (99, 1))
    )
    assert len(first) == len(set(first)) == 20
    assert second != first
    assert every == list(range(50))


# --- the factors ----------------------------------------------------------------------------------


class FakeDecoder:
    """Decodes into nothing; some images cannot be decoded."""

    def __init__(self, broken=()):
        self.broken = set(broken)
        self.seen = []

    def decode(self, tasks):
        for task in tasks:
            names = [place.path.rpartition(b"/")[2] for place in task.places]
            self.seen += names
            good = [i for i, name in zip(task.images, names, strict=True) if name not in self.broken]
            failures = {i: "broken" for i in task.images if i not in good}
            yield Decoded(task, good, np.zeros((len(good), *task.input_hw, 3), dtype=np.uint8), failures)


def of_row(sample, row):
    """A number that belongs to a row of the sample wherever that stands."""
    if sample.boxes is None:
        return 1.0 + int(sample.paths[row].split(b".")[0])
    return 1.0 + int(sample.boxes.source[row])


def descriptor(value):
    """Norm ``value`` in the first layer and ``5 value`` in the second, over two levels each."""
    parts = np.zeros(15)
    parts[0], parts[10], parts[14] = value, 3 * value, -4 * value
    return parts


def describe_for(drawn):
    def of(sample):
        def describe(images, pixels, scale):
            for image in images:
                rows = np.arange(*sample.rows[image].tolist())
                if sample.boxes is not None:
                    rows = rows[sample.boxes.scale[rows] == scale]
                for row in rows.tolist():  # piece by piece
                    drawn.append(of_row(sample, row))
                    yield Rows(
                        image, np.array([row]), descriptor(of_row(sample, row))[None].astype(np.float32)
                    )

        return describe

    return of


def estimate(plan, mean_norm, *, broken=(), describe=None, blocks=BLOCKS):
    drawn = []
    run = SimpleNamespace(
        config=SimpleNamespace(descriptor=DescriptorSpec(normalize=f"meannorm:{mean_norm}")),
        columns=blocks,
        decoder=FakeDecoder(broken),
        batch_pixels=50_000,
        projector=None,
        measure=measured,
        scratch=Path(),
        make_describer=lambda factors, spec: describe or describe_for(drawn),
    )
    with mock.patch.object(module, "make_batch_describer", lambda sample, of, projector: of(sample)):
        return module.estimate_factors(run, plan), drawn


@given(IMAGES, st.sampled_from([1.0, 20.0, 0.125]))
def test_the_scaled_sample_has_the_requested_mean_norm(images, mean_norm):
    images = [*images, ((40, 40), [(0, 0, 20, 20), (1, 1, 3, 3)])]
    factors, drawn = estimate(planned(images), mean_norm)
    assert len(factors) == 2
    for layer, factor in zip((slice(0, 10), slice(10, 15)), factors, strict=True):
        norms = [np.linalg.norm(descriptor(value)[layer] * factor) for value in drawn]
        assert math.fsum(norms) / len(norms) == pytest.approx(mean_norm, rel=1e-12)
    # All rows with a region of images that can be run, as there are less than 200 of each.
    plan = planned(images)
    usable = (plan.boxes.scale >= 0) & plan.input_hw.all(axis=(1, 2))[plan.row_images]
    assert sorted(drawn) == [1.0 + row for row in np.flatnonzero(usable).tolist()]


def test_factors_come_from_200_images_with_200_rows_each():
    assert len(estimate(planned([((40, 40), [(0, 0, 20, 20)] * 230)] * 210), 20.0)[1]) == 200 * 200


def test_whole_images_that_cannot_be_decoded_do_not_count():
    plan = whole_images(4)
    factors, _ = estimate(plan, 20.0, broken=[b"0.jpg", b"3.jpg"])
    assert factors == pytest.approx((20 / 2.5, 20 / 12.5))


def test_no_image_that_can_be_read():
    with pytest.raises(ImageError, match="from the sample of 2 images: broken"):
        estimate(whole_images(2), 20.0, broken=[b"0.jpg", b"1.jpg"])


@pytest.mark.parametrize(
    "plan",
    [
        planned([]),
        planned([((40, 40), [])]),
        planned([((40, 40), [(5, 5, 5, 5)])]),
        planned([((0, 0), [(0, 0, 5, 5)])]),
        whole_images(0),
    ],
)
def test_no_row_to_estimate_on(plan):
    with pytest.raises(ImageError, match="from the sample of 0 images: no image has a row"):
        estimate(plan, 20.0)


def test_a_layer_of_zeros():
    def only_one_layer(sample):
        def describe(images, pixels, scale):
            for image in images:
                values = np.ones((1, 15), dtype=np.float32)
                values[:, 10:] = 0
                yield Rows(image, np.array([image]), values)

        return describe

    with pytest.raises(ConfigError, match=r"layer layer4 is 0\.0"):
        estimate(whole_images(2), 20.0, describe=only_one_layer)


def test_a_head_is_one_layer():
    factors, drawn = estimate(whole_images(3), 20.0, blocks=column_blocks(("fc6",), (15,), (1,)))
    assert factors == pytest.approx([20 / (math.sqrt(26) * np.mean(drawn))])
