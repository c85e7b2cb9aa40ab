"""Time for the descriptors of many boxes of one image: one run of the network compared with one run per box."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from sppfeat.bench.samples import draw_boxes, synthetic_photo
from sppfeat.bench.timing import Conditions, Timing, counted_passes, describe_conditions, interleave, timed
from sppfeat.config.specs import InputSpec
from sppfeat.decoding.images import read_image
from sppfeat.errors import ImageError
from sppfeat.extractor import Extractor
from sppfeat.networks.devices import BATCH_PIXELS, choose_device

__all__ = ["BoxContenders", "Crossover", "RegionsBench", "Rung", "bench_regions", "find_crossover", "ladder"]

_CROP_SIDE = 224  # side of the warped crops of R-CNN, in pixels
_PHOTO_HW = (375, 500)  # the usual size of a photograph in PASCAL VOC, in pixels
_SHORTEST_SIDE = 16  # shortest side of a box, in pixels of the image


class Rung(TypedDict):
    """Timings for one number of boxes.

    Attributes:
        boxes: number of boxes.
        spp: one run of the image.
        rcnn: one run per box.
        speedup: time of one run per box divided by the time of one run.
        extrapolated_from: number of boxes that ``rcnn`` was scaled from; None if it was measured.
    """

    boxes: int
    spp: Timing
    rcnn: Timing
    speedup: float
    extrapolated_from: int | None


class Crossover(TypedDict):
    """The number of boxes from which one run of the image is faster than one run per box.

    Attributes:
        boxes: smallest measured number from which one run is always faster.
        above: largest measured number with which one run is not faster; None without one.
        is_extrapolated: true if the time of one run per box was scaled at ``boxes``.
    """

    boxes: int
    above: int | None
    is_extrapolated: bool


class RegionsBench(Conditions):
    """The result of ``sppfeat bench regions``.

    Attributes:
        image: path of the image; None for a synthetic photograph.
        image_hw: height and width of the image, in pixels.
        input_hw: height and width of the network input for one run, in pixels.
        crop_hw: height and width of the warped crops, in pixels.
        crop_batch: number of crops in a batch.
        repetitions: number of measurements of each way.
        ladder: timings for increasing numbers of boxes.
        crossover: number of boxes from which one run is faster; None if it never is.
    """

    image: str | None
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    crop_hw: tuple[int, int]
    crop_batch: int
    repetitions: int
    ladder: list[Rung]
    crossover: Crossover | None


class BoxContenders:
    """The two ways from the decoded pixels of an image to descriptors of boxes: one run, or one run per box.

    The image is 8-bit RGB at its full size. ``boxes_px`` are ``(K, 4)`` int64 ``x0, y0, x1, y1`` in its pixels,
    half-open, inside the image and not empty. ``size`` is the short side of the network input for the one run.
    """

    def __init__(
        self, image: Image.Image, boxes_px: npt.NDArray[np.int64], *, size: int | str, **network: Any
    ) -> None:
        self._image, self._boxes_px = image, boxes_px
        self.extractor = Extractor(size=size, **network)
        config = self.extractor.config
        self.device = choose_device(network["device"], config.precision)
        self.crop_side = max(_CROP_SIDE, config.input.min_side)
        self.crop_batch = max(1, BATCH_PIXELS[self.device.type] // self.crop_side**2)
        self._crop_extractor = Extractor(size=self.crop_side, **network)
        self._resample = Image.Resampling[config.backbone.interpolation.upper()]

    def spp(self, n: int) -> npt.NDArray[np.float32]:
        """Descriptors ``(n, D)`` of the first ``n`` boxes from one run of the resized image."""
        descriptors: npt.NDArray[np.float32] = self.extractor(self._image, self._boxes_px[:n])
        return descriptors

    def rcnn(self, n: int) -> npt.NDArray[np.float32]:
        """Descriptors ``(n, D)`` of the first ``n`` boxes from runs of the cropped and warped boxes."""
        boxes, step = self._boxes_px[:n], self.crop_batch
        batches = (boxes[start : start + step] for start in range(0, n, step))
        return np.concatenate([self._crop_extractor([*map(self._warp, batch.tolist())]) for batch in batches])

    def _warp(self, box: Sequence[int]) -> Image.Image:
        left, top, right, bottom = box
        hw = (self.crop_side, self.crop_side)
        return self._image.crop((left, top, right, bottom)).resize(hw, self._resample)


def bench_regions(
    image: str | None,
    *,
    size: int | str,
    n_boxes: int,
    n_crops: int,
    draw_seed: int,
    repetitions: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **network: Any,
) -> RegionsBench:
    """Measures both ways for increasing numbers of boxes.

    Args:
        image: path of an image; None for a synthetic photograph.
        n_crops: largest number of boxes to crop, warp and run separately; the time for more is scaled from these.
        **network: network, pyramid, precision and device, as for :class:`sppfeat.Extractor`; ``device`` and
            ``weights`` are required.
    """
    photo = _open_photo(image, draw_seed)
    image_hw = (photo.height, photo.width)
    boxes_px = draw_boxes(n_boxes, image_hw, shortest=_SHORTEST_SIDE, seed=draw_seed)
    contenders = BoxContenders(photo, boxes_px, size=size, **network)
    extractor = contenders.extractor
    height, width, _ = extractor.network_input(photo).pixels.shape
    rungs = _climb(contenders, n_boxes, n_crops, repetitions, on_progress)
    return {
        **describe_conditions(
            extractor.config, contenders.device, weights=network["weights"], dimension=extractor.dimension
        ),
        "image": image,
        "image_hw": image_hw,
        "input_hw": (height, width),
        "crop_hw": (contenders.crop_side, contenders.crop_side),
        "crop_batch": contenders.crop_batch,
        "repetitions": repetitions,
        "ladder": rungs,
        "crossover": find_crossover(rungs),
    }


def ladder(n: int) -> list[int]:
    """The numbers 1, 2, 5, 10, 20, 50, ... up to ``n``, and ``n``."""
    counts = (step * 10**power for power in itertools.count() for step in (1, 2, 5))
    return [*itertools.takewhile(lambda count: count < n, counts), n]


def find_crossover(rungs: Sequence[Rung]) -> Crossover | None:
    """Finds the number of boxes from which one run is faster; None if it is slower with the largest number."""
    lost = [i for i, rung in enumerate(rungs) if rung["speedup"] <= 1]
    first = lost[-1] + 1 if lost else 0
    if first == len(rungs):
        return None
    return {
        "boxes": rungs[first]["boxes"],
        "above": rungs[first - 1]["boxes"] if first else None,
        "is_extrapolated": rungs[first]["extrapolated_from"] is not None,
    }


def _climb(
    contenders: BoxContenders,
    n_boxes: int,
    n_crops: int,
    repetitions: int,
    on_progress: Callable[[int, int], None],
) -> list[Rung]:
    """Measures both ways for up to ``n_crops`` boxes; for more, scales the time of one run per box."""
    n_crops = min(n_crops, n_boxes)
    if n_crops < n_boxes:  # scale the time of full batches, if possible
        n_crops = n_crops - n_crops % contenders.crop_batch or n_crops
    counts = sorted({*ladder(n_boxes), n_crops})
    n_measured = sum(n <= n_crops for n in counts)
    on_pass = counted_passes((len(counts) + n_measured) * (1 + repetitions), on_progress)
    rungs: list[Rung] = []
    for n in counts:
        is_measured = n <= n_crops
        ways = [contenders.spp, contenders.rcnn] if is_measured else [contenders.spp]
        passes = [timed(way.__name__, partial(map, way, [n]), device=contenders.device) for way in ways]
        found = interleave(passes, repetitions=repetitions, on_pass=on_pass)
        spp = found["spp"]
        rcnn = found["rcnn"] if is_measured else _scaled(rungs[n_measured - 1]["rcnn"], n / n_crops)
        rungs.append(
            {
                "boxes": n,
                "spp": spp,
                "rcnn": rcnn,
                "speedup": rcnn["seconds"] / spp["seconds"],
                "extrapolated_from": None if is_measured else n_crops,
            }
        )
    return rungs


def _scaled(timing: Timing, factor: float) -> Timing:
    """The timing of ``factor`` times the work."""
    return {
        "seconds": timing["seconds"] * factor,
        "fastest": timing["fastest"] * factor,
        "slowest": timing["slowest"] * factor,
        "repetitions": timing["repetitions"],
    }


def _open_photo(image: str | None, seed: int) -> Image.Image:
    if image is None:
        return synthetic_photo(*_PHOTO_HW, np.random.default_rng(seed))
    try:
        return read_image(image, exif=InputSpec.exif)
    except ImageError as error:
        raise ImageError(f"{image!r}: {error}") from error
