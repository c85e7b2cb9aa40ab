"""Speed of our pooling: boxes compared with torchvision's operators, whole maps compared with torch's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align, roi_pool

from sppfeat.bench.conditions import Machine, describe_machine, synchronizer
from sppfeat.bench.samples import draw_boxes
from sppfeat.bench.settings import PoolingSettings
from sppfeat.bench.timing import Timing, counted_passes, interleave, timed
from sppfeat.errors import DeviceMemoryError
from sppfeat.networks.devices import choose_device, device_name
from sppfeat.pyramid import pool_regions, spatial_pyramid_pool

__all__ = [
    "MapTimings",
    "PoolingResult",
    "RegionTimings",
    "bench_pooling",
    "map_contenders",
    "region_contenders",
    "same_values",
]

Contender: TypeAlias = Callable[[Tensor], Tensor]

_PRECISION = "fp32"
_MOST_VALUES = 64 << 20  # maximum number of values to pool in one call: 256 MB of descriptors
_COMPARED = 100  # number of boxes whose descriptors are compared
_N_MAPS = (1, 8)
_SAMPLES = 2  # sampling ratio of roi_align, as in torchvision's detectors


@dataclass(frozen=True, kw_only=True)
class RegionTimings:
    """The timings for one number of boxes of one map.

    Attributes:
        boxes: number of boxes.
        calls: number of calls that each contender needed for these boxes.
        contenders: timings by name; None for a contender that exceeded the budget.
    """

    boxes: int
    calls: int
    contenders: Mapping[str, Timing | None]


@dataclass(frozen=True, kw_only=True)
class MapTimings:
    """The timings for one batch size of whole maps.

    Attributes:
        maps: number of maps in the batch.
        contenders: timings by name; None for a contender that exceeded the budget.
    """

    maps: int
    contenders: Mapping[str, Timing | None]


@dataclass(frozen=True, kw_only=True)
class PoolingResult:
    """The result of measuring pooling.

    Attributes:
        machine: the machine.
        map_hw, channels: height and width of the map in cells, and its number of channels.
        levels: levels of the pyramid, bins per side.
        mode: pooling within a bin, ``max`` or ``avg``.
        dimension: number of values of a descriptor.
        budget_seconds: seconds after which a contender was stopped.
        repetitions: maximum number of measurements of a contender; no measurement begins after the budget is used up.
        regions: timings for increasing numbers of boxes.
        same_values: for each contender, share of its values that equal those of ``adaptive_loop``, 0 to 1.
        whole: timings for whole maps.
    """

    machine: Machine
    map_hw: tuple[int, int]
    channels: int
    levels: tuple[int, ...]
    mode: str
    dimension: int
    budget_seconds: float
    repetitions: int
    regions: tuple[RegionTimings, ...]
    same_values: Mapping[str, float]
    whole: tuple[MapTimings, ...]


def region_contenders(feature_map: Tensor, levels: Sequence[int], mode: str) -> dict[str, Contender]:
    """The functions that pool boxes, by name; each maps ``(K, 5)`` int64 regions to ``(K, D)`` descriptors.

    A region is the index of a map, then x0, y0, x1, y1 in cells, half-open. Each function holds the map in the memory
    layout that suits it: ours channels-last, like a network's output; the others contiguous, to which they would
    convert it anyway. ``roi_pool`` takes only maxima and is missing for ``avg``. ``write_once`` pools nothing; it shows
    the time for writing the result, which no contender can beat.

    Args:
        feature_map: ``(N, C, H, W)`` float32.
        levels, mode: see :func:`sppfeat.pyramid.pool_regions`.
    """
    plain = feature_map.contiguous()
    length = feature_map.shape[1] * sum(n * n for n in levels)
    contenders: dict[str, Contender] = {
        "pool_regions": partial(_pool_regions, _channels_last(feature_map), levels, mode),
        "roi_pool": partial(_roi_pool, plain, levels),
        "roi_align": partial(_roi_align, plain, levels),
        "adaptive_loop": partial(_adaptive_loop, plain, levels, mode),
        "write_once": partial(_write_once, feature_map, length),
    }
    if mode != "max":
        del contenders["roi_pool"]
    return contenders


def map_contenders(levels: Sequence[int], mode: str) -> dict[str, Contender]:
    """The functions that pool whole maps, by name; each maps ``(N, C, H, W)`` to ``(N, D)`` descriptors.

    Args:
        levels, mode: see :func:`sppfeat.pyramid.spatial_pyramid_pool`.
    """

    def write_once(maps: Tensor) -> Tensor:
        return _write_once(maps, maps.shape[1] * sum(n * n for n in levels), maps)

    return {
        "spatial_pyramid_pool": lambda maps: spatial_pyramid_pool(maps, levels, mode=mode),
        "adaptive_cat": partial(_adaptive, levels=levels, mode=mode),
        "write_once": write_once,
    }


def same_values(contenders: Mapping[str, Contender], regions: Tensor) -> dict[str, float]:
    """Return, by name, the share of values that equal those of ``adaptive_loop``, within float32's accuracy.

    Args:
        contenders: see :func:`region_contenders`.
        regions: ``(K, 5)`` int64: index of the map, then x0, y0, x1, y1 in cells, half-open.
    """
    expected = contenders["adaptive_loop"](regions)

    def share(values: Tensor) -> float:
        return int(values.isclose(expected, rtol=1e-5, atol=1e-6).sum()) / expected.numel()

    return {name: share(pool(regions)) for name, pool in contenders.items() if name != "write_once"}


def bench_pooling(
    settings: PoolingSettings, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> PoolingResult:
    """Measures all contenders in turn.

    Args:
        settings: the map, the pyramid and the numbers of boxes.
        on_progress: called with the number of passes done and the total number of passes.

    Raises:
        ConfigError: this machine does not have the device.
        DeviceMemoryError: the device has too little memory.
    """
    device = choose_device(settings.device, _PRECISION)
    height, width = settings.map_hw
    drawn = torch.randn(
        max(_N_MAPS),
        settings.n_channels,
        height,
        width,
        generator=torch.Generator().manual_seed(settings.seed),
    )
    maps = drawn.relu_().to(device)  # many zeros, like the maps of a network
    boxes = torch.from_numpy(
        draw_boxes(max(settings.counts), settings.map_hw, shortest=1, seed=settings.seed)
    )
    regions = F.pad(boxes, (1, 0)).to(device)
    n_bins = sum(n * n for n in settings.levels)
    step = max(1, _MOST_VALUES // (settings.n_channels * n_bins))
    with torch.inference_mode():
        of_regions = region_contenders(maps[:1], settings.levels, settings.mode)
        of_maps = map_contenders(settings.levels, settings.mode)
        n_contenders = len(settings.counts) * len(of_regions) + len(_N_MAPS) * len(of_maps)
        measure = _Measure(
            settings, device, counted_passes(n_contenders * (1 + settings.repetitions), on_progress)
        )
        return PoolingResult(
            machine=describe_machine(device, _PRECISION),
            map_hw=settings.map_hw,
            channels=settings.n_channels,
            levels=settings.levels,
            mode=settings.mode,
            dimension=settings.n_channels * n_bins,
            budget_seconds=settings.budget_seconds,
            repetitions=settings.repetitions,
            same_values=same_values(of_regions, regions[:_COMPARED]),
            regions=tuple(
                RegionTimings(
                    boxes=n,
                    calls=-(-n // step),
                    contenders=measure(
                        {
                            name: partial(_in_pieces, contender, regions[:n], step)
                            for name, contender in of_regions.items()
                        }
                    ),
                )
                for n in settings.counts
            ),
            whole=tuple(
                MapTimings(
                    maps=n,
                    contenders=measure(
                        {
                            name: partial(_in_pieces, contender, _laid_out(name, maps[:n]), n)
                            for name, contender in of_maps.items()
                        }
                    ),
                )
                for n in _N_MAPS
            ),
        )


class _Measure:
    """Measures contenders in turn."""

    def __init__(self, settings: PoolingSettings, device: torch.device, on_pass: Callable[[], None]) -> None:
        self._settings = settings
        self._device = device
        self._synchronize = synchronizer(device)
        self._on_pass = on_pass

    def __call__(self, contenders: Mapping[str, Callable[[], Iterator[Tensor]]]) -> dict[str, Timing | None]:
        budget = self._settings.budget_seconds
        passes = [
            timed(name, contender, synchronize=self._synchronize, budget=budget)
            for name, contender in contenders.items()
        ]
        try:
            timings = interleave(
                passes, repetitions=self._settings.repetitions, budget=budget, on_pass=self._on_pass
            )
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(f"not enough memory on {device_name(self._device)}") from error
        return {name: timings.get(name) for name in contenders}


def _in_pieces(contender: Contender, whole: Tensor, step: int) -> Iterator[Tensor]:
    for piece in torch.split(whole, step):
        yield contender(piece)


def _laid_out(name: str, maps: Tensor) -> Tensor:
    return _channels_last(maps) if name == "spatial_pyramid_pool" else maps


def _channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _pool_regions(feature_map: Tensor, levels: Sequence[int], mode: str, regions: Tensor) -> Tensor:
    return pool_regions(feature_map, regions, levels, mode=mode)


def _roi_pool(feature_map: Tensor, levels: Sequence[int], regions: Tensor) -> Tensor:
    corners = regions.to(feature_map.dtype)
    corners[:, 3:] -= 1  # roi_pool's right and lower edges are inclusive
    return torch.cat([roi_pool(feature_map, corners, n).flatten(1) for n in levels], 1)


def _roi_align(feature_map: Tensor, levels: Sequence[int], regions: Tensor) -> Tensor:
    edges = regions.to(feature_map.dtype)
    pooled = [
        roi_align(feature_map, edges, n, sampling_ratio=_SAMPLES, aligned=True).flatten(1) for n in levels
    ]
    return torch.cat(pooled, 1)


def _adaptive_loop(feature_map: Tensor, levels: Sequence[int], mode: str, regions: Tensor) -> Tensor:
    crops = (feature_map[i : i + 1, :, y0:y1, x0:x1] for i, x0, y0, x1, y1 in regions.tolist())
    return torch.cat([_adaptive(crop, levels, mode) for crop in crops])


def _adaptive(maps: Tensor, levels: Sequence[int], mode: str) -> Tensor:
    pool: Callable[[Tensor, int], Tensor] = F.adaptive_max_pool2d if mode == "max" else F.adaptive_avg_pool2d
    return torch.cat([pool(maps, n).flatten(1) for n in levels], 1)


def _write_once(like: Tensor, length: int, rows: Tensor) -> Tensor:
    return like.new_empty(len(rows), length).fill_(1.0)
