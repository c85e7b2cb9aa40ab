import os
import signal
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from conftest import write_image
from PIL import Image

from sppfeat.decoding import DecodeSettings, InlineDecoder
from sppfeat.decoding.images import decode_image
from sppfeat.errors import DecoderError
from sppfeat.training import batches as loading
from sppfeat.training.batches import epoch_batches, load_batches
from sppfeat.training.examples import read_examples
from sppfeat.training.settings import DataSettings

SIZES = [(40, 60), (60, 40), (48, 48), (1, 90), (90, 1)]
PLAIN = {"flip": False, "color": 0.0}


@pytest.fixture
def examples(tmp_path):
    for i in range(10):
        write_image(tmp_path / f"{i}.png", *SIZES[i % 5], seed=i)
    decoder = InlineDecoder(DecodeSettings("apply", "bilinear"))
    return read_examples([str(tmp_path)], decoder, labels="none")[0]


def load(examples, *, seed=(1, 2, 0), n_workers=0, first=0, **data):
    settings = DataSettings(sizes=(32,), **data)
    batches = epoch_batches(examples, settings, epoch=0, batch_size=3, seed=1, min_side=8)
    loaded = load_batches(
        batches, examples, settings, resample="bilinear", seed=seed, n_workers=n_workers, first=first
    )
    return batches, list(loaded)


def same(a, b) -> bool:
    return all(
        torch.equal(x.images, y.images) and torch.equal(x.pixels, y.pixels) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("views", ["crop", "full"])
def test_pixels_are_the_same_whoever_decodes_them_and_wherever_it_begins(examples, views):
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


def test_whole_images_without_augmentation_are_what_extract_sees(examples):
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


def test_a_crop_of_everything_is_the_image_resized(tmp_path):
    Image.fromarray(np.full((40, 40, 3), (10, 120, 240), dtype=np.uint8)).save(tmp_path / "a.png")
    decoder = InlineDecoder(DecodeSettings("apply", "bilinear"))
    examples, _ = read_examples([str(tmp_path)], decoder, labels="none")
    _, (batch,) = load(examples, **PLAIN)
    assert batch.pixels.shape == (1, 3, 32, 32)
    assert (batch.pixels == torch.tensor([10, 120, 240], dtype=torch.uint8).view(1, 3, 1, 1)).all()


def test_images_that_are_gone_or_broken_are_named_and_the_others_kept(examples):
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
def test_a_worker_that_dies_is_told_of_once_and_between_batches(examples, monkeypatch):
    monkeypatch.setattr(loading, "read_image", lambda path, **settings: os.kill(os.getpid(), signal.SIGSEGV))
    handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(DecoderError, match=r"a process that reads images died \((signal 11|exit status 1)\)"):
        load(examples, n_workers=1)
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_a_defect_of_the_program_keeps_its_traceback(examples, monkeypatch):
    def fail(path, **settings):
        raise RuntimeError("a defect")

    monkeypatch.setattr(loading, "read_image", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        load(examples, n_workers=1)


@pytest.mark.slow
def test_no_process_is_left_behind(examples):
    load(examples, n_workers=1)
    before = active_children()
    settings = DataSettings(sizes=(32,))
    batches = epoch_batches(examples, settings, epoch=0, batch_size=3, seed=1, min_side=8)
    loaded = load_batches(batches, examples, settings, resample="bilinear", seed=(1,), n_workers=1)
    next(loaded)
    assert len([process for process in active_children() if process not in before]) == 1
    loaded.close()
    assert not [process for process in active_children() if process not in before]
