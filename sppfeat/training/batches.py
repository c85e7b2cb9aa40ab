"""Batches of pixels to train on: planned per epoch; decoded, cropped, mirrored and recolored in worker processes.

The batches of an epoch depend only on the seed and the number of the epoch.
"""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import active_children
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from sppfeat.config.values import DEFAULT_MAX_DECODE_PIXELS
from sppfeat.decoding import Batch
from sppfeat.decoding.images import read_image, resize_image
from sppfeat.decoding.worker import describe_exit
from sppfeat.errors import DecoderError, ImageError
from sppfeat.extraction.pipeline import schedule
from sppfeat.extraction.plan import input_sizes
from sppfeat.training.examples import Examples, full_input
from sppfeat.training.settings import DataSettings

__all__ = ["PixelBatch", "epoch_batches", "load_batches", "whole_image_batches"]

_RATIO = (3 / 4, 4 / 3)  # range of aspect ratios of random crops, as is usual for ImageNet
_BATCHES_AHEAD = 4  # per worker


class PixelBatch(NamedTuple):
    """The pixels of some images.

    Attributes:
        images: ``(n,)`` int64 indices in the listing.
        labels: ``(n,)`` int64 classes.
        pixels: ``(n, 3, H, W)`` uint8 RGB.
        failures: reasons why other images of the batch could not be read, by index.
    """

    images: Tensor
    labels: Tensor
    pixels: Tensor
    failures: dict[int, str]


def epoch_batches(
    examples: Examples, data: DataSettings, *, epoch: int, batch_size: int, seed: int, min_side: int
) -> list[Batch]:
    """Makes the batches of an epoch, numbered from 0, in random order.

    With ``crop``, all batches are full, and each epoch leaves out the remaining images. With ``full``, the images of a
    batch have equal shapes, and each epoch has all images.
    """
    generator = np.random.default_rng([seed, 1, epoch])
    order = generator.permutation(examples.images)
    # Each epoch has a single size, and the sizes take turns: He et al., TPAMI 2015, section 2.3.
    size = data.sizes[epoch % len(data.sizes)]
    if data.views == "crop":
        n_full = max(1, len(order) // batch_size)
        parts = [order[i * batch_size : (i + 1) * batch_size] for i in range(n_full)]
        return [Batch(part.tolist(), (), (), (size, size)) for part in parts]
    shuffled = dataclasses.replace(examples, images=order)
    batches = whole_image_batches(shuffled, data, size=size, batch_size=batch_size, min_side=min_side)
    return [batches[i] for i in generator.permutation(len(batches))]


def whole_image_batches(
    examples: Examples, data: DataSettings, *, size: int, batch_size: int, min_side: int
) -> list[Batch]:
    """Makes batches of whole images with a short side of ``size`` pixels; each has one shape, the largest first.

    Images that are too elongated for the network, with its smallest side of ``min_side`` pixels, are left out.
    """
    images = examples.images
    input_hw, _ = input_sizes(examples.image_hw[images], full_input(data, size=size, min_side=min_side))
    batches = schedule(input_hw, np.arange(len(images)), batch_size=batch_size, batch_pixels=0)
    return [batch._replace(images=images[batch.images].tolist()) for batch in batches]


def load_batches(
    batches: Sequence[Batch],
    examples: Examples,
    data: DataSettings,
    *,
    resample: str,
    seed: Sequence[int],
    n_workers: int,
    first: int = 0,
    pin_memory: bool = False,
) -> Iterator[PixelBatch]:
    """Yields the pixels of batches in order, starting at ``first``; DecoderError if a worker process dies.

    The pixels of an image depend on ``seed`` and its position in the batches, not on the worker that reads it.
    ``pin_memory`` puts them into page-locked memory, for asynchronous copies to a GPU.
    """
    loader = DataLoader(
        _Batches(batches, examples, data, resample, tuple(seed)),
        batch_size=None,
        sampler=range(first, len(batches)),
        num_workers=n_workers,
        prefetch_factor=_BATCHES_AHEAD if n_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # a separate one, because dropout draws from torch's default generator
        worker_init_fn=_ignore_signals,
    )
    others = active_children()
    with _child_handler_kept():
        loaded = iter(loader)
    workers = [process for process in active_children() if process not in others]
    try:
        yield from loaded
    except RuntimeError as error:
        dead = [process.exitcode for process in workers if process.exitcode is not None]
        if not dead:
            raise
        raise DecoderError(
            f"a process that reads images died ({describe_exit(dead[0])}): either an image crashed its decoder "
            "('sppfeat extract' on the same images names it), or memory or shared memory is short (fewer --workers "
            "need less)"
        ) from error


def _ignore_signals(worker: int) -> None:  # noqa: ARG001
    """Ignores Ctrl-C and a closing terminal in a worker, because the main process handles them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _child_handler_kept() -> Iterator[None]:
    """Undoes torch's signal handler, which raises an error at any point in the code when a worker dies."""
    if threading.current_thread() is not threading.main_thread():  # torch installs it only in the main thread
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if before is not None:
        signal.signal(signal.SIGCHLD, before)


@dataclass(frozen=True)
class _Batches(Dataset[PixelBatch]):
    batches: Sequence[Batch]
    examples: Examples
    data: DataSettings
    resample: str
    seed: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: int) -> PixelBatch:
        batch = self.batches[place]
        input_hw = batch.input_hw
        pixels, read, failures = [], [], {}
        with torch.random.fork_rng(devices=[]):
            seed = np.random.SeedSequence([*self.seed, place]).generate_state(1, np.uint64)
            torch.manual_seed(int(seed[0] >> np.uint64(1)))
            augment = _augmentation(self.data, input_hw, self.resample)
            for image in batch.images:
                try:
                    pixels.append(augment(self._read(image, input_hw)))
                    read.append(image)
                except ImageError as error:
                    failures[image] = f"{self.examples.name(image)!r}: {error}"
        stacked = torch.stack(pixels) if pixels else torch.empty((0, 3, *input_hw), dtype=torch.uint8)
        images = torch.tensor(read, dtype=torch.int64)
        return PixelBatch(images, torch.from_numpy(self.examples.labels)[images], stacked, failures)

    def _read(self, image: int, input_hw: tuple[int, int]) -> Image.Image:
        """Reads an image; with ``full``, resizes it to the network input."""
        path = self.examples.path(image)
        picture = read_image(path, exif="apply", max_pixels=DEFAULT_MAX_DECODE_PIXELS)
        if self.data.views == "crop":
            return picture
        return Image.fromarray(resize_image(picture, input_hw=input_hw, resample=self.resample))


def _augmentation(data: DataSettings, input_hw: tuple[int, int], resample: str) -> v2.Compose:
    """Random changes of a picture, and its conversion to pixels ``(3, H, W)`` uint8."""
    steps: list[torch.nn.Module] = []
    if data.views == "crop":
        area = (data.min_crop, 1.0)
        filter_ = InterpolationMode(resample)
        steps.append(v2.RandomResizedCrop(input_hw, scale=area, ratio=_RATIO, interpolation=filter_))
    if data.flip:
        steps.append(v2.RandomHorizontalFlip())
    if data.color:
        steps.append(v2.ColorJitter(data.color, data.color, data.color))
    return v2.Compose([*steps, v2.PILToTensor()])
