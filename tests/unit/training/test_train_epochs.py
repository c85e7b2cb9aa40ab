from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.decoding.sizing import network_input_hw
from sppfeat.files.paths import PathTable
from sppfeat.inputs import Listing
from sppfeat.training.batches import epoch_batches, whole_image_batches
from sppfeat.training.examples import Examples
from sppfeat.training.settings import DataSettings

SIDES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=40)
MAX_PIXELS = 4_000_000


def examples_of(image_hw) -> Examples:
    """Images of these sizes; every fifth one is not among those that are used."""
    n = len(image_hw)
    images = np.array([i for i in range(n) if i % 5 != 4], dtype=np.int64)
    labels = np.full(n, -1)
    listing = Listing.of_files(b"/top", PathTable(f"{i}.png" for i in range(n)), labels, ())
    return Examples(listing, np.array(image_hw, dtype=np.int32), images, labels, ())


@given(hw=SIDES, batch_size=st.integers(1, 7), round_to=st.sampled_from([1, 16, 32]), epoch=st.integers(0, 3))
def test_full_views_have_every_image_once_in_batches_of_equal_shapes(hw, batch_size, round_to, epoch):
    examples, data = examples_of(hw), DataSettings(sizes=(32, 48), views="full", round_to=round_to)
    settings = {"batch_size": batch_size, "min_side": 8}
    batches = epoch_batches(examples, data, epoch=epoch, seed=3, **settings)
    assert sorted(i for batch in batches for i in batch.images) == examples.images.tolist()
    size = (32, 48)[epoch % 2]
    for batch in batches:
        assert 1 <= len(batch.images) <= batch_size
        shapes = {
            network_input_hw(hw[i], short_side=size, max_pixels=MAX_PIXELS, min_side=8, round_to=round_to)
            for i in batch.images
        }
        assert shapes == {batch.input_hw}
    counts = Counter(batch.input_hw for batch in batches)
    sizes = Counter(batch.input_hw for batch in batches for _ in batch.images)
    assert counts == {shape: -(-n // batch_size) for shape, n in sizes.items()}


@given(hw=SIDES, batch_size=st.integers(1, 50), epoch=st.integers(0, 3))
def test_crops_come_in_full_batches_of_squares_of_the_size_of_the_epoch(hw, batch_size, epoch):
    examples, data = examples_of(hw), DataSettings(sizes=(32, 48, 40))
    settings = {"batch_size": batch_size, "min_side": 8}
    batches = epoch_batches(examples, data, epoch=epoch, seed=3, **settings)
    side = (32, 48, 40, 32)[epoch]
    assert {batch.input_hw for batch in batches} == {(side, side)}
    assert {len(batch.images) for batch in batches} == {min(batch_size, len(examples))}
    used = [i for batch in batches for i in batch.images]
    assert len(set(used)) == len(used) >= len(examples) - batch_size + 1
    assert set(used) <= set(examples.images.tolist())


def test_the_order_is_of_seed_and_epoch():
    examples = examples_of([(40 + i % 3, 60) for i in range(60)])
    for views in ("crop", "full"):
        data = DataSettings(sizes=(32,), views=views)

        def order(*, epoch: int, seed: int, data=data) -> tuple:
            batches = epoch_batches(examples, data, epoch=epoch, batch_size=8, seed=seed, min_side=8)
            return tuple(i for batch in batches for i in batch.images)

        assert order(epoch=2, seed=1) == order(epoch=2, seed=1)
        assert len({order(epoch=e, seed=s) for e in range(3) for s in range(3)}) == 9


def test_images_are_validated_on_whole_and_unrounded_unless_they_are_trained_on_rounded():
    examples = examples_of([(40, 61)] * 3)
    for views, expected in (("crop", (32, 49)), ("full", (32, 64))):
        data = DataSettings(views=views)
        (batch,) = whole_image_batches(examples, data, size=32, batch_size=9, min_side=8)
        assert batch.input_hw == expected
        assert batch.images == [0, 1, 2]
