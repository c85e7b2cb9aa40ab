"""Settings of the measurements and their defaults; importing them does not load torch."""

from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from sppfeat.config.distribution import RunOptions
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.request import BackboneChoice, DescriptorChoice
from sppfeat.config.specs import DEFAULT_BOX_SIZE, DEFAULT_SIZE

__all__ = [
    "BOXES_COUNT",
    "BUDGET_SECONDS",
    "CROPS_COUNT",
    "MAP_CHANNELS",
    "MAP_HW",
    "POOLING_COUNTS",
    "POOLING_LEVELS",
    "POOLING_REPETITIONS",
    "REGIONS_SIZE",
    "REPETITIONS",
    "SAMPLE_IMAGES",
    "SAMPLE_SIZE",
    "Amount",
    "PoolingSettings",
    "RegionsSettings",
    "RunsSettings",
    "Subject",
]

_T = TypeVar("_T")


class Amount(NamedTuple, Generic[_T]):
    """Defaults of a setting: one for a full measurement, one for a quick trial.

    Attributes:
        full: large enough for results worth reporting.
        quick: just enough to see that everything works.
    """

    full: _T
    quick: _T

    def choose(self, given: _T | None, *, quick: bool) -> _T:
        """Chooses the given value, or one of the defaults if it is None."""
        if given is not None:
            return given
        return self.quick if quick else self.full


REPETITIONS = Amount(3, 2)
# The paper's headline: 2000 boxes of an image at a single scale, TPAMI 2015, section 4.3.
BOXES_COUNT = Amount(2000, 20)
CROPS_COUNT = Amount(200, 5)
REGIONS_SIZE = Amount(DEFAULT_BOX_SIZE, DEFAULT_SIZE)
# The pyramid of the paper's detector, section 4.1, on conv5 of an image of 600 x 800 pixels.
POOLING_COUNTS = Amount((1, 10, 100, 300, 2000, 20000), (1, 10, 50))
POOLING_LEVELS = (6, 3, 2, 1)
MAP_HW = Amount((38, 50), (10, 13))
MAP_CHANNELS = Amount(512, 32)
POOLING_REPETITIONS = Amount(5, 2)
BUDGET_SECONDS = 10.0
SAMPLE_IMAGES = Amount(256, 8)
SAMPLE_SIZE = Amount(DEFAULT_SIZE, DEFAULT_SIZE // 2)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The network, the pyramid and the device of a measurement.

    Attributes:
        backbone, descriptor, precision, device: see :class:`sppfeat.config.request.ExtractRequest`.
    """

    backbone: BackboneChoice = field(default_factory=BackboneChoice)
    descriptor: DescriptorChoice = field(default_factory=DescriptorChoice)
    precision: str = ExtractConfig.precision
    device: str = RunOptions.device


@dataclass(frozen=True, kw_only=True)
class RegionsSettings:
    """Settings of the measurement of boxes.

    Attributes:
        image: a file, or None for a synthetic photograph.
        size: short side of the network input for the one run, in pixels; None for the image's own.
        n_boxes: largest number of boxes.
        n_crops: largest number of boxes to crop, warp and run separately; the time for more is scaled from these.
        seed: seed of the boxes and of the synthetic photograph.
        repetitions: number of measurements of each way.
    """

    image: str | None = None
    size: int | None = REGIONS_SIZE.full
    n_boxes: int = BOXES_COUNT.full
    n_crops: int = CROPS_COUNT.full
    seed: int = 0
    repetitions: int = REPETITIONS.full


@dataclass(frozen=True, kw_only=True)
class PoolingSettings:
    """Settings of the measurement of pooling.

    Attributes:
        counts: numbers of boxes.
        map_hw: height and width of the feature map, in cells.
        n_channels: number of channels of the map.
        levels, mode: see :func:`sppfeat.pyramid.pool_regions`.
        device: device to pool on.
        budget_seconds: seconds after which a contender is stopped, for each number of boxes.
        seed: seed of map and boxes.
        repetitions: number of measurements of each contender.
    """

    counts: tuple[int, ...] = POOLING_COUNTS.full
    map_hw: tuple[int, int] = MAP_HW.full
    n_channels: int = MAP_CHANNELS.full
    levels: tuple[int, ...] = POOLING_LEVELS
    mode: str = DescriptorChoice.pool
    device: str = RunOptions.device
    budget_seconds: float = BUDGET_SECONDS
    seed: int = 0
    repetitions: int = POOLING_REPETITIONS.full


@dataclass(frozen=True, kw_only=True)
class RunsSettings:
    """Settings of the measurement of a run.

    Attributes:
        inputs: inputs of an extraction; empty for synthetic photographs.
        n_images: maximum number of images, chosen evenly from the inputs.
        size: short side of the network input, in pixels; None for the images' own.
        batch_size, workers: see :class:`sppfeat.config.distribution.RunOptions`.
        seed: seed of the synthetic photographs.
        repetitions: number of measurements of each contender.
    """

    inputs: tuple[str, ...] = ()
    n_images: int = SAMPLE_IMAGES.full
    size: int | None = SAMPLE_SIZE.full
    batch_size: int | None = RunOptions.batch_size
    workers: int | None = RunOptions.workers
    seed: int = 0
    repetitions: int = REPETITIONS.full
