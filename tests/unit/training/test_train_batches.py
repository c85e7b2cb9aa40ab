import os
import signal
from collections import Counter
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from conftest import write_image
from feature_files import listing_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sppfeat.decoding import DecodeSettings, InlineDecoder
from sppfeat.decoding.images import decode_image
from sppfeat.decoding.sizing import network_input_hw
from sppfeat.errors import DecoderError
from sppfeat.files.paths import PathTable
from sppfeat.training import batches as loading
from sppfeat.training.batches import epoch_batches, load_batches, whole_image_batches
from sppfeat.training.examples import Examples, read_examples
from sppfeat.training.settings import DataSettings

SIDES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=40)
MAX_PIXELS = 4_000_000


def examples_of(image_hw) -> Examples:
    """Images of these sizes; every fifth one is left out."""
    n = len(image_hw)
    images = np.array([i for i in range(n) if i % 5 != 4], dtype=np.int64)
    labels = np.full(n, -1)
    listing = listing_of(b"/top", PathTable(f"{i}.png" for i in range(n)), labels, ())
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
def test_crops_are_squares_of_the_epochs_size_in_full_batches(hw, batch_size, epoch):
    examples, data = examples_of(hw), DataSettings(sizes=(32, 48, 40))
    settings = {"batch_size": batch_size, "min_side": 8}
    batches = epoch_batches(examples, data, epoch=epoch, seed=3, **settings)
    side = (32, 48, 40, 32)[epoch]
    assert {batch.input_hw for batch in batches} == {(side, side)}
    assert {len(batch.images) for batch in batches} == {min(batch_size, len(examples))}
    used = [i for batch in batches for i in batch.images]
    assert len(set(used)) == len(used) >= len(examples) - batch_size + 1
    assert set(used) <= set(examples.images.tolist())


def test_the_order_depends_on_seed_and_epoch():
    examples = examples_of([(40 + i % 3, 60) for i in range(60)])
    for views in ("crop", "full"):
        data = DataSettings(sizes=(32,), views=views)

        def order(*, epoch: int, seed: int, data=data) -> tuple:
            batches = epoch_batches(examples, data, epoch=epoch, batch_size=8, seed=seed, min_side=8)
            return tuple(i for batch in batches for i in batch.images)

        assert order(epoch=2, seed=1) == order(epoch=2, seed=1)
        assert len({order(epoch=e, seed=s) for e in range(3) for s in range(3)}) == 9


def test_validation_images_are_whole_and_rounded_only_with_full_views():
    examples = examples_of([(40, 61)] * 3)
    for views, expected in (("crop", (32, 49)), ("full", (32, 64))):
        data = DataSettings(views=views)
        (batch,) = whole_image_batches(examples, data, size=32, batch_size=9, min_side=8)
        assert batch.input_hw == expected
        assert batch.images == [0, 1, 2]


SIZES = [(40, 60), (60, 40), (48, 48), (1, 90), (90, 1)]
PLAIN = {"flip": False, "color": 0.0}


@pytest.fixture
def examples(tmp_path):
    for i in range(10):
        write_image(tmp_path / f"{i}.png", *SIZES[i % 5], seed=i)
    decoder = InlineDecoder(DecodeSettings("apply", "bilinear"))
    return read_examples([str(tmp_path)], decoder, labels="none")[0]


def start(examples, *, seed=(1, 2, 0), n_workers=0, first=0, **data):
    settings = DataSettings(sizes=(32,), **data)
    batches = epoch_batches(examples, settings, epoch=0, batch_size=3, seed=1, min_side=8)
    loaded = load_batches(
        batches, examples, settings, resample="bilinear", seed=seed, n_workers=n_workers, first=first
    )
    return batches, loaded


def load(examples, **how):
    batches, loaded = start(examples, **how)
    return batches, list(loaded)


def same(a, b) -> bool:
    return all(
        torch.equal(x.images, y.images) and torch.equal(x.pixels, y.pixels) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("views", ["crop", "full"])
def test_pixels_do_not_depend_on_workers_or_the_first_batch(examples, views):
    before = torch.get_rng_state()
    planned, whole = load(examples, views=views)
    assert [batch.images.tolist() for batch in whole] == [batch.images for batch in planned]
    assert [tuple(batch.pixels.shape[2:]) for batch in whole] == [batch.input_hw for batch in planned]
    assert {batch.pixels.dtype for batch in whole} == {torch.uint8}
    assert same(load(examples, views=views, n_workers=2)[1], whole)
    assert same(load(examples, views=views, first=2)[1], whole[2:])
    assert not load(examples, views=views, first=len(planned))[1]
    assert not same(load(examples, views=views, seed=(1, 2, 1))[1], whole)
    assert torch.equal(torch.get_rng_state(), before)


def test_whole_images_without_augmentation_equal_those_of_extract(examples):
    for planned, batch in zip(*load(examples, views="full", **PLAIN), strict=True):
        for image, pixels in zip(batch.images.tolist(), batch.pixels, strict=True):
            expected = decode_image(
                examples.path(image),
                exif="apply",
                image_hw=tuple(examples.image_hw[image].tolist()),
                input_hw=planned.input_hw,
                resample="bilinear",
            )
            np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)


def test_a_full_crop_is_the_resized_image(tmp_path):
    Image.fromarray(np.full((40, 40, 3), (10, 120, 240), dtype=np.uint8)).save(tmp_path / "a.png")
    decoder = InlineDecoder(DecodeSettings("apply", "bilinear"))
    examples, _ = read_examples([str(tmp_path)], decoder, labels="none")
    _, (batch,) = load(examples, **PLAIN)
    assert batch.pixels.shape == (1, 3, 32, 32)
    assert (batch.pixels == torch.tensor([10, 120, 240], dtype=torch.uint8).view(1, 3, 1, 1)).all()


def test_missing_and_broken_images_are_named_and_others_kept(examples):
    gone, broken = examples.name(0), examples.name(5)
    os.unlink(gone)
    with open(broken, "r+b") as file:
        file.truncate(100)
    for views in ("crop", "full"):
        planned, batches = load(examples, views=views)
        failures = {image: reason for batch in batches for image, reason in batch.failures.items()}
        tried = {i for batch in planned for i in batch.images}
        assert set(failures) == {0, 5} & tried
        assert all(reason.startswith((repr(gone), repr(broken))) for reason in failures.values())
        for plan, batch in zip(planned, batches, strict=True):
            assert batch.images.tolist() == [i for i in plan.images if i not in failures]
            assert len(batch.pixels) == len(batch.images)


@pytest.mark.slow
def test_a_dead_worker_is_reported_once_between_batches(examples, monkeypatch):
    monkeypatch.setattr(loading, "read_image", lambda path, **settings: os.kill(os.getpid(), signal.SIGSEGV))
    handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(DecoderError, match=r"a process that reads images died \((signal 11|exit status 1)\)"):
        load(examples, n_workers=1)
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_a_bug_keeps_its_traceback(examples, monkeypatch):
    def fail(path, **settings):
        raise RuntimeError("a defect")

    monkeypatch.setattr(loading, "read_image", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        load(examples, n_workers=1)


@pytest.mark.slow
def test_all_worker_processes_end(examples):
    load(examples, n_workers=1)
    before = active_children()
    loaded = start(examples, n_workers=1)[1]
    next(loaded)
    assert len([process for process in active_children() if process not in before]) == 1
    loaded.close()
    assert not [process for process in active_children() if process not in before]
