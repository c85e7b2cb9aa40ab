"""Descriptors of many boxes of an image: from one run of the network, beside one run per box."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sppfeat.bench.boxes import draw_boxes
from sppfeat.bench.conditions import synchronizer
from sppfeat.bench.descriptors import OfDescriptors, of_descriptors
from sppfeat.bench.samples import synthetic_photo
from sppfeat.bench.settings import RegionsWork, Subject
from sppfeat.bench.timing import Timing, counted_passes, interleave, timed
from sppfeat.config.regions import RegionSpec
from sppfeat.config.specs import InputSpec
from sppfeat.decoding.images import read_image, resize_image
from sppfeat.decoding.sizing import network_input_hw
from sppfeat.errors import ImageError
from sppfeat.extraction.describe import Describer, RegionRequest
from sppfeat.extraction.regions import Projector
from sppfeat.extraction.setup import configure, descriptor_blocks, load_choice
from sppfeat.files.downloads import OnDownload
from sppfeat.networks.devices import BATCH_PIXELS, choose_device

__all__ = ["BoxContenders", "Crossover", "RegionsResult", "Rung", "bench_regions", "find_crossover", "ladder"]

_CROP_SIDE = 224  # what R-CNN's crops are warped to; pixels
_PHOTO_HW = (375, 500)  # the usual size of a photograph of PASCAL VOC
_SHORTEST_SIDE = 16  # of a box, in pixels of the image
_STEPS = (1, 2, 5)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """Both ways with so many boxes.

    Attributes:
        boxes: how many.
        spp: one run of the image, boxes projected and pooled.
        rcnn: each box cropped, warped and run.
        speedup: ``rcnn`` by ``spp``, of the medians.
        extrapolated_from: number of boxes that ``rcnn`` was measured with, where it was not measured with all of
            them but scaled in proportion.
    """

    boxes: int
    spp: Timing
    rcnn: Timing
    speedup: float
    extrapolated_from: int | None = None


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """From how many boxes on one run of the image is faster.

    Attributes:
        boxes: the fewest boxes of the ladder from which on it is, for all larger numbers, too.
        above: the most boxes for which it is not; None where it always is.
        is_extrapolated: the time of a run per box was not measured with so many boxes.
    """

    boxes: int
    above: int | None
    is_extrapolated: bool


@dataclass(frozen=True, kw_only=True)
class RegionsResult(OfDescriptors):
    """What was measured.

    Attributes:
        image: the file, or None for a synthetic photograph.
        image_hw, input_hw: height and width of image and network input, in pixels.
        crop_hw: what boxes are warped to, in pixels.
        crop_batch: crops that are run at once.
        repetitions: measurements of each.
        ladder: both ways for growing numbers of boxes.
        crossover: None where one run of the image never won.
    """

    image: str | None
    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    crop_hw: tuple[int, int]
    crop_batch: int
    repetitions: int
    ladder: tuple[Rung, ...]
    crossover: Crossover | None


class BoxContenders:
    """Both ways from the decoded pixels of an image to descriptors of boxes.

    Args:
        image: 8-bit RGB, at its full size.
        boxes_px: ``(K, 4)`` int64, pixels of the image, xyxy, half-open, none empty, all inside.
        subject: network, pyramid, precision and device.
        size: short side of the network input for all boxes; None for the image's own.
        on_download: called with the name of a weights file, bytes done and total (None if unknown), while it comes.

    Raises:
        ConfigError: settings that do not go, or a network onto whose maps boxes cannot be projected.
        ImageError: the image has no valid network-input size.
    """

    def __init__(
        self,
        image: Image.Image,
        boxes_px: npt.NDArray[np.int64],
        *,
        subject: Subject,
        size: int | None,
        on_download: OnDownload = lambda name, done, total: None,
    ) -> None:
        self.device = choose_device(subject.device, subject.precision)
        self.backbone = load_choice(subject.backbone, on_download=on_download)
        inputs = InputSpec(size=size)
        self.config = configure(self.backbone, inputs, subject.descriptor, precision=subject.precision)
        self.dimension = descriptor_blocks(self.config, self.backbone)[-1].stop
        geometries = tuple(self.backbone.geometry(i) for i in range(len(self.backbone.spec.layers)))
        self._projector = Projector(geometries, RegionSpec.projection, RegionSpec.margin)
        self._image = image
        self._boxes_px = boxes_px
        self.image_hw = (image.height, image.width)
        self.input_hw = network_input_hw(
            self.image_hw,
            short_side=size,
            max_pixels=inputs.max_pixels,
            min_side=self.backbone.min_side,
        )
        side = max(_CROP_SIDE, self.backbone.min_side)
        self.crop_hw = (side, side)
        self.crop_batch = max(1, BATCH_PIXELS[self.device.type] // (side * side))
        self._describer = Describer(
            self.backbone,
            self.config.descriptor,
            flip=False,
            precision=subject.precision,
            device=self.device,
        )

        # Memory that is written to for the first time costs more than what is measured here; both ways have this one.
        self._result = np.full((len(boxes_px), self.dimension), np.nan, dtype=np.float32)

    def spp(self, n: int) -> npt.NDArray[np.float32]:
        """Descriptors of the first ``n`` boxes, ``(n, D)``: the image is resized and run once; until the next call."""
        result = self._result[:n]
        pixels = self._resized(self._image, self.input_hw)[None]
        boxes_px = torch.from_numpy(self._boxes_px[:n].astype(np.float64))
        request = RegionRequest(boxes_px, torch.zeros(n, dtype=torch.bool), self.image_hw)
        for described in self._describer.regions(pixels, [request], self._projector):
            result[described.boxes] = described.descriptors
        return result

    def rcnn(self, n: int) -> npt.NDArray[np.float32]:
        """Descriptors of the first ``n`` boxes, ``(n, D)``: each is cropped, warped and run; until the next call."""
        result = self._result[:n]
        for start in range(0, n, self.crop_batch):
            boxes = self._boxes_px[start : min(start + self.crop_batch, n)].tolist()
            crops = [self._resized(self._image.crop(tuple(box)), self.crop_hw) for box in boxes]
            result[start : start + len(crops)] = self._describer.images(np.stack(crops))
        return result

    def _resized(self, image: Image.Image, input_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
        return resize_image(image, input_hw=input_hw, resample=self.backbone.spec.interpolation)


def bench_regions(
    subject: Subject,
    work: RegionsWork,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> RegionsResult:
    """Measure both ways.

    Args:
        subject: with what.
        work: how much.
        on_progress: called with the number of passes that are done, and of all.
        on_download: called with the name of a weights file, bytes done and total (None if unknown), while it comes.

    Raises:
        SppfeatError: settings, weights or an image that do not go.
    """
    image = _photo(work)
    boxes_px = draw_boxes(work.n_boxes, (image.height, image.width), shortest=_SHORTEST_SIDE, seed=work.seed)
    contenders = BoxContenders(image, boxes_px, subject=subject, size=work.size, on_download=on_download)
    rungs = _climb(contenders, work, on_progress)
    return RegionsResult(
        **of_descriptors(contenders.backbone, contenders.config, contenders.device),
        image=work.image,
        image_hw=contenders.image_hw,
        input_hw=contenders.input_hw,
        crop_hw=contenders.crop_hw,
        crop_batch=contenders.crop_batch,
        repetitions=work.repetitions,
        ladder=tuple(rungs),
        crossover=find_crossover(rungs),
    )


def ladder(n: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to a number, and that number.

    Example:
        >>> ladder(30)
        [1, 2, 5, 10, 20, 30]
    """
    counts = [step * 10**power for power in range(len(str(n))) for step in _STEPS]
    return [*(count for count in counts if count < n), n]


def find_crossover(rungs: Sequence[Rung]) -> Crossover | None:
    """From how many boxes on one run of the image is faster; None where it is not with the most boxes."""
    first = len(rungs)
    while first > 0 and rungs[first - 1].speedup > 1:
        first -= 1
    if first == len(rungs):
        return None
    return Crossover(
        boxes=rungs[first].boxes,
        above=rungs[first - 1].boxes if first else None,
        is_extrapolated=rungs[first].extrapolated_from is not None,
    )


def _climb(
    contenders: BoxContenders, work: RegionsWork, on_progress: Callable[[int, int], None]
) -> list[Rung]:
    """Measure both ways up to the most crops; from there on one run of the image only, the other way is scaled."""
    n_crops = min(work.n_crops, work.n_boxes)
    if n_crops < work.n_boxes:  # what is scaled is of full batches, if it can be
        n_crops = n_crops - n_crops % contenders.crop_batch or n_crops
    counts = sorted({*ladder(work.n_boxes), n_crops})
    n_measured = sum(n <= n_crops for n in counts)
    wait = synchronizer(contenders.device)
    on_pass = counted_passes((len(counts) + n_measured) * (1 + work.repetitions), on_progress)

    def measure(n: int, *ways: str) -> list[Timing]:
        passes = [timed(way, partial(_once, getattr(contenders, way), n), synchronize=wait) for way in ways]
        return list(interleave(passes, repetitions=work.repetitions, on_pass=on_pass).values())

    rungs: list[Rung] = []
    for n in counts[:n_measured]:
        spp, rcnn = measure(n, "spp", "rcnn")
        rungs.append(Rung(boxes=n, spp=spp, rcnn=rcnn, speedup=rcnn.seconds / spp.seconds))
    crops = rungs[-1].rcnn
    for n in counts[n_measured:]:
        (spp,) = measure(n, "spp")
        rcnn = crops.times(n / n_crops)
        speedup = rcnn.seconds / spp.seconds
        rungs.append(Rung(boxes=n, spp=spp, rcnn=rcnn, speedup=speedup, extrapolated_from=n_crops))
    return rungs


def _once(way: Callable[[int], object], n: int) -> Iterator[object]:
    yield way(n)


def _photo(work: RegionsWork) -> Image.Image:
    if work.image is None:
        return synthetic_photo(*_PHOTO_HW, np.random.default_rng(work.seed))
    try:
        return read_image(work.image, exif=InputSpec.exif)
    except ImageError as error:
        raise ImageError(f"{work.image!r}: {error}") from error
