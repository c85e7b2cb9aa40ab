"""Time for the descriptors of many boxes of one image: one run of the network, compared with one run per box."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sppfeat.bench.conditions import DescriptorConditions, describe_conditions, synchronizer
from sppfeat.bench.samples import draw_boxes, synthetic_photo
from sppfeat.bench.settings import RegionsSettings, Subject
from sppfeat.bench.timing import Timing, counted_passes, interleave, timed
from sppfeat.config.regions import RegionSpec
from sppfeat.config.specs import InputSpec
from sppfeat.decoding.images import read_image, resize_image
from sppfeat.decoding.sizing import network_input_hw
from sppfeat.errors import ImageError
from sppfeat.extraction.describe import Describer, RegionRequest
from sppfeat.extraction.regions import Projector
from sppfeat.extraction.setup import configure, descriptor_columns, load_chosen_backbone
from sppfeat.files.downloads import OnDownload
from sppfeat.networks.devices import BATCH_PIXELS, choose_device

__all__ = ["BoxContenders", "Crossover", "RegionsResult", "Rung", "bench_regions", "find_crossover", "ladder"]

_CROP_SIDE = 224  # side of the warped crops of R-CNN, in pixels
_PHOTO_HW = (375, 500)  # the usual size of a photograph in PASCAL VOC, in pixels
_SHORTEST_SIDE = 16  # shortest side of a box, in pixels of the image
_STEPS = (1, 2, 5)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """The timings of both ways for one number of boxes.

    Attributes:
        boxes: number of boxes.
        spp: time for one run of the image, from whose maps all boxes are pooled.
        rcnn: time for one run per box, which is cropped and warped.
        speedup: median of ``rcnn`` divided by median of ``spp``.
        extrapolated_from: number of boxes that ``rcnn`` was measured with and scaled from; None if it was measured with
            all boxes.
    """

    boxes: int
    spp: Timing
    rcnn: Timing
    speedup: float
    extrapolated_from: int | None = None


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """The number of boxes above which one run of the image is faster than one run per box.

    Attributes:
        boxes: smallest measured number of boxes from which one run is always faster.
        above: largest measured number of boxes with which one run is not faster; None if it always is.
        is_extrapolated: True if the time for one run per box was scaled at ``boxes``, not measured.
    """

    boxes: int
    above: int | None
    is_extrapolated: bool


@dataclass(frozen=True, kw_only=True)
class RegionsResult(DescriptorConditions):
    """The result of measuring boxes.

    Attributes:
        image: path of the image, or None for a synthetic photograph.
        image_hw, input_hw: height and width of image and network input, in pixels.
        crop_hw: height and width of a warped box, in pixels.
        crop_batch: number of crops per run of the network.
        repetitions: number of measurements of each way.
        ladder: timings for increasing numbers of boxes.
        crossover: number of boxes from which one run is faster; None if it is slower with the largest number.
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
    """The two ways from the decoded pixels of an image to descriptors of boxes: one run, or one run per box.

    Args:
        image: the image, 8-bit RGB at its full size.
        boxes_px: ``(K, 4)`` int64 ``x0, y0, x1, y1`` in pixels of the image, half-open; none empty, all inside.
        subject: network, pyramid, precision and device.
        size: short side of the network input for the one run, in pixels; None for the image's own.
        on_download: called during a download with the name of a weights file, the bytes done, and the total (None if
            unknown).

    Raises:
        ConfigError: settings that do not go together, or a network onto whose maps boxes cannot be projected.
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
        self.backbone = load_chosen_backbone(subject.backbone, on_download=on_download)
        inputs = InputSpec(size=size)
        self.config = configure(self.backbone, inputs, subject.descriptor, precision=subject.precision)
        self.dimension = descriptor_columns(self.config, self.backbone)[-1].stop
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

        # The first write to new memory would take longer than the work to be measured, so both ways reuse this array.
        self._result = np.full((len(boxes_px), self.dimension), np.nan, dtype=np.float32)

    def spp(self, n: int) -> npt.NDArray[np.float32]:
        """Descriptors ``(n, D)`` of the first ``n`` boxes from one run of the resized image.

        The array is overwritten by the next call.
        """
        result = self._result[:n]
        pixels = self._resized(self._image, self.input_hw)[None]
        boxes_px = torch.from_numpy(self._boxes_px[:n].astype(np.float64))
        request = RegionRequest(boxes_px, torch.zeros(n, dtype=torch.bool), self.image_hw)
        for described in self._describer.describe_regions(pixels, [request], self._projector):
            result[described.boxes] = described.descriptors
        return result

    def rcnn(self, n: int) -> npt.NDArray[np.float32]:
        """Descriptors ``(n, D)`` of the first ``n`` boxes from runs of the cropped and warped boxes.

        The array is overwritten by the next call.
        """
        result = self._result[:n]
        for start in range(0, n, self.crop_batch):
            boxes = self._boxes_px[start : min(start + self.crop_batch, n)].tolist()
            crops = [self._resized(self._image.crop(tuple(box)), self.crop_hw) for box in boxes]
            result[start : start + len(crops)] = self._describer.describe_images(np.stack(crops))
        return result

    def _resized(self, image: Image.Image, input_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
        return resize_image(image, input_hw=input_hw, resample=self.backbone.spec.interpolation)


def bench_regions(
    subject: Subject,
    settings: RegionsSettings,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_download: OnDownload = lambda name, done, total: None,
) -> RegionsResult:
    """Measures both ways for increasing numbers of boxes.

    Args:
        subject: network, pyramid, precision and device.
        settings: the image, the numbers of boxes and of repetitions.
        on_progress: called with the number of passes done and the total number of passes.
        on_download: called during a download with the name of a weights file, the bytes done, and the total (None if
            unknown).

    Raises:
        SppfeatError: settings, weights or an image cannot be used.
    """
    image = _photo(settings)
    boxes_px = draw_boxes(
        settings.n_boxes, (image.height, image.width), shortest=_SHORTEST_SIDE, seed=settings.seed
    )
    contenders = BoxContenders(image, boxes_px, subject=subject, size=settings.size, on_download=on_download)
    rungs = _climb(contenders, settings, on_progress)
    return RegionsResult(
        **describe_conditions(contenders.backbone, contenders.config, contenders.device),
        image=settings.image,
        image_hw=contenders.image_hw,
        input_hw=contenders.input_hw,
        crop_hw=contenders.crop_hw,
        crop_batch=contenders.crop_batch,
        repetitions=settings.repetitions,
        ladder=tuple(rungs),
        crossover=find_crossover(rungs),
    )


def ladder(n: int) -> list[int]:
    """The numbers 1, 2, 5, 10, 20, 50, ... up to ``n``, and ``n``.

    Example:
        >>> ladder(30)
        [1, 2, 5, 10, 20, 30]
    """
    counts = [step * 10**power for power in range(len(str(n))) for step in _STEPS]
    return [*(count for count in counts if count < n), n]


def find_crossover(rungs: Sequence[Rung]) -> Crossover | None:
    """Finds the number of boxes from which one run is faster; None if it is slower with the largest number."""
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
    contenders: BoxContenders, settings: RegionsSettings, on_progress: Callable[[int, int], None]
) -> list[Rung]:
    """Measures both ways up to ``settings.n_crops`` boxes; for more, measures one run and scales the other way."""
    n_crops = min(settings.n_crops, settings.n_boxes)
    if n_crops < settings.n_boxes:  # scale the time of full batches, if possible
        n_crops = n_crops - n_crops % contenders.crop_batch or n_crops
    counts = sorted({*ladder(settings.n_boxes), n_crops})
    n_measured = sum(n <= n_crops for n in counts)
    wait = synchronizer(contenders.device)
    on_pass = counted_passes((len(counts) + n_measured) * (1 + settings.repetitions), on_progress)

    def measure(n: int, *ways: str) -> list[Timing]:
        passes = [timed(way, partial(_once, getattr(contenders, way), n), synchronize=wait) for way in ways]
        return list(interleave(passes, repetitions=settings.repetitions, on_pass=on_pass).values())

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


def _photo(settings: RegionsSettings) -> Image.Image:
    if settings.image is None:
        return synthetic_photo(*_PHOTO_HW, np.random.default_rng(settings.seed))
    try:
        return read_image(settings.image, exif=InputSpec.exif)
    except ImageError as error:
        raise ImageError(f"{settings.image!r}: {error}") from error
