"""Speed of our pooling: boxes compared with torchvision's operators, whole maps compared with torch's."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias, TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align, roi_pool

from sppfeat.bench.samples import draw_boxes
from sppfeat.bench.timing import Machine, Timing, counted_passes, describe_machine, interleave, timed
from sppfeat.networks.devices import choose_device, device_memory
from sppfeat.pyramid import pool_regions, spatial_pyramid_pool

__all__ = [
    "MapCell",
    "PoolingBench",
    "RegionCell",
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


class RegionCell(TypedDict):
    """Timings for one number of boxes.

    Attributes:
        boxes: number of boxes.
        calls: number of calls that they are divided into to limit memory.
        contenders: timing of each contender; None if it exceeded the time limit.
    """

    boxes: int
    calls: int
    contenders: dict[str, Timing | None]


class MapCell(TypedDict):
    """Timings for one number of whole maps.

    Attributes:
        maps: number of maps.
        contenders: timing of each contender; None if it exceeded the time limit.
    """

    maps: int
    contenders: dict[str, Timing | None]


class PoolingBench(TypedDict):
    """The result of ``sppfeat bench pooling``.

    Attributes:
        machine: the machine.
        map_hw: height and width of the feature map, in cells.
        channels: channels of the feature map.
        levels: pyramid levels; n stands for n x n bins.
        mode: pooling operator within each bin.
        dimension: length of a descriptor.
        budget_seconds: time limit of a contender for each number of boxes.
        repetitions: number of measurements of each contender.
        regions: timings for boxes.
        same_values: share of each contender's values that equal those of ``adaptive_loop``, 0 to 1.
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
    regions: list[RegionCell]
    same_values: dict[str, float]
    whole: list[MapCell]


def region_contenders(feature_map: Tensor, levels: Sequence[int], mode: str) -> dict[str, Contender]:
    """The functions that pool boxes, by name; each maps ``(K, 5)`` int64 regions to ``(K, D)`` descriptors.

    A region is the index of a map, then x0, y0, x1, y1 in cells, half-open. Each function holds the map in the memory
    layout that suits it: ours channels-last, like a network's output; the others contiguous, to which they would
    convert it anyway. ``roi_pool`` computes only maxima and is missing for ``avg``. ``write_once`` pools nothing: its
    time for writing the result is a lower bound for all contenders.
    """
    plain, channels_last = feature_map.contiguous(), _channels_last(feature_map)

    def pool_max(regions: Tensor) -> Tensor:
        corners = regions.to(plain.dtype)
        corners[:, 3:] -= 1  # roi_pool's right and lower edges are inclusive
        return torch.cat([roi_pool(plain, corners, n).flatten(1) for n in levels], 1)

    def align(regions: Tensor) -> Tensor:
        edges = regions.to(plain.dtype)
        pooled = (roi_align(plain, edges, n, sampling_ratio=_SAMPLES, aligned=True) for n in levels)
        return torch.cat([bins.flatten(1) for bins in pooled], 1)

    def adaptive_loop(regions: Tensor) -> Tensor:
        crops = (plain[i : i + 1, :, y0:y1, x0:x1] for i, x0, y0, x1, y1 in regions.tolist())
        return torch.cat([_adaptive(crop, levels, mode) for crop in crops])

    contenders: dict[str, Contender] = {
        "pool_regions": lambda regions: pool_regions(channels_last, regions, levels, mode=mode),
        "roi_pool": pool_max,
        "roi_align": align,
        "adaptive_loop": adaptive_loop,
        "write_once": lambda regions: _write_once(plain, levels, len(regions)),
    }
    if mode != "max":
        del contenders["roi_pool"]
    return contenders


def map_contenders(levels: Sequence[int], mode: str) -> dict[str, Contender]:
    """The functions that pool whole maps, by name; each maps ``(N, C, H, W)`` to ``(N, D)`` descriptors."""
    return {
        "spatial_pyramid_pool": lambda maps: spatial_pyramid_pool(maps, levels, mode=mode),
        "adaptive_cat": lambda maps: _adaptive(maps, levels, mode),
        "write_once": lambda maps: _write_once(maps, levels, len(maps)),
    }


def same_values(contenders: Mapping[str, Contender], regions: Tensor) -> dict[str, float]:
    """The share of values that equal those of ``adaptive_loop``, within float32's accuracy, by name.

    ``regions`` is ``(K, 5)`` int64: index of the map, then x0, y0, x1, y1 in cells, half-open.
    """
    expected = contenders["adaptive_loop"](regions)
    return {
        name: float(pool(regions).isclose(expected, rtol=1e-5, atol=1e-6).float().mean())
        for name, pool in contenders.items()
        if name != "write_once"
    }


def bench_pooling(
    *,
    counts: Sequence[int],
    map_hw: tuple[int, int],
    n_channels: int,
    levels: tuple[int, ...],
    pool: str,
    device: str,
    budget_seconds: float,
    draw_seed: int,
    repetitions: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PoolingBench:
    """Measures all contenders in turn.

    The timing of a contender that takes longer than ``budget_seconds`` is None. ``map_hw`` is in cells; ``draw_seed``
    seeds the map and the boxes.
    """
    chosen = choose_device(device, _PRECISION)
    with torch.inference_mode(), device_memory(chosen):
        generator = torch.Generator().manual_seed(draw_seed)
        drawn = torch.randn(max(_N_MAPS), n_channels, *map_hw, generator=generator)
        maps = drawn.relu_().to(chosen)  # many zeros, like the maps of a network
        boxes = torch.from_numpy(draw_boxes(max(counts), map_hw, shortest=1, seed=draw_seed))
        regions = F.pad(boxes, (1, 0)).to(chosen)
        dimension = n_channels * sum(n * n for n in levels)
        step = max(1, _MOST_VALUES // dimension)
        box_poolers, map_poolers = region_contenders(maps[:1], levels, pool), map_contenders(levels, pool)
        n_contenders = len(counts) * len(box_poolers) + len(_N_MAPS) * len(map_poolers)
        on_pass = counted_passes(n_contenders * (1 + repetitions), on_progress)

        def measure(
            contenders: Mapping[str, Contender], whole: Tensor, step: int
        ) -> dict[str, Timing | None]:
            passes = []
            for name, contender in contenders.items():
                laid_out = _channels_last(whole) if name == "spatial_pyramid_pool" else whole
                run = partial(map, contender, torch.split(laid_out, step))
                passes.append(timed(name, run, device=chosen, budget=budget_seconds))
            timings = interleave(passes, repetitions=repetitions, budget=budget_seconds, on_pass=on_pass)
            return {name: timings.get(name) for name in contenders}

        return {
            "machine": describe_machine(chosen, _PRECISION),
            "map_hw": map_hw,
            "channels": n_channels,
            "levels": levels,
            "mode": pool,
            "dimension": dimension,
            "budget_seconds": budget_seconds,
            "repetitions": repetitions,
            "regions": [
                {"boxes": n, "calls": -(-n // step), "contenders": measure(box_poolers, regions[:n], step)}
                for n in counts
            ],
            "same_values": same_values(box_poolers, regions[:_COMPARED]),
            "whole": [{"maps": n, "contenders": measure(map_poolers, maps[:n], n)} for n in _N_MAPS],
        }


def _channels_last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def _adaptive(maps: Tensor, levels: Sequence[int], mode: str) -> Tensor:
    pool: Callable[[Tensor, int], Tensor] = F.adaptive_max_pool2d if mode == "max" else F.adaptive_avg_pool2d
    return torch.cat([pool(maps, n).flatten(1) for n in levels], 1)


def _write_once(maps: Tensor, levels: Sequence[int], n_rows: int) -> Tensor:
    return maps.new_empty(n_rows, maps.shape[1] * sum(n * n for n in levels)).fill_(1.0)
