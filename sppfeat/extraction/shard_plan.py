"""Cuts a plan into shards: contiguous ranges of images, for separate files or for ranges of a shared file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard, ShardChoice
from sppfeat.config.wording import counted
from sppfeat.errors import ConfigError
from sppfeat.extraction.plan import Plan

__all__ = ["PLACEHOLDER", "ShardPlan", "cut_plan", "cut_rows", "cut_shard", "shard_path", "shard_record"]

PLACEHOLDER = "{shard}"
"""The placeholder for the number of a shard in the name of its file."""


class ShardPlan(NamedTuple):
    """The plan of one shard.

    Attributes:
        plan: the images and rows of the shard, numbered from 0.
        shard: the position of the shard in the whole plan, as its file records it.
        whole_plan: the plan that was cut.
    """

    plan: Plan
    shard: Shard
    whole_plan: Plan


def shard_path(output: Path, choice: ShardChoice | None) -> Path:
    """Return the output path of a shard, with its number in place of ``{shard}``, which no other output may have."""
    if choice is None and PLACEHOLDER in str(output):
        raise ConfigError(f"the output {str(output)!r} has {PLACEHOLDER} in its name: it goes with shards")
    return output if choice is None else Path(str(output).replace(PLACEHOLDER, choice.name))


def cut_plan(plan: Plan, count: int, *, by_pixels: bool) -> npt.NDArray[np.int64]:
    """Cut a plan into ``count`` contiguous shards of about equal work, none of them empty.

    Args:
        plan: the whole plan.
        count: number of shards.
        by_pixels: True to balance network-input pixels at the scales in use, which requires the size of every image;
            False to balance the number of images with rows, which does not change as sizes become known.

    Returns:
        ``(count + 1,)`` int64, ``bounds``: shard ``i`` holds images ``bounds[i]`` to ``bounds[i + 1]``.
    """
    if not 1 <= count <= plan.n_images:
        raise ConfigError(
            f"{counted(count, 'shard')} of {counted(plan.n_images, 'image')}; allowed: 1 to {plan.n_images}"
        )
    work = (plan.rows[:, 0] < plan.rows[:, 1]).astype(np.float64)
    if by_pixels:
        uses = plan.scales_in_use(np.arange(plan.n_images))
        work = (plan.input_hw.prod(axis=2, dtype=np.int64) * uses).sum(axis=1).astype(np.float64)
    done = np.cumsum(work)
    done /= done[-1] or 1.0
    bounds = np.searchsorted(done, np.arange(1, count) / count - 1e-12) + 1
    # Give each shard at least one image, from either end.
    every = np.arange(count + 1)
    bounds = np.maximum.accumulate(np.concatenate(([0], bounds, [plan.n_images])) - every) + every
    return np.minimum(bounds, plan.n_images - every[::-1]).astype(np.int64)


def cut_rows(plan: Plan, n_rows: int) -> npt.NDArray[np.int64]:
    """Return the bounds, as in :func:`cut_plan`, of shards of at most ``n_rows`` rows, or of one larger image."""
    ends = plan.rows[:, 1]
    bounds = [0]
    while bounds[-1] < plan.n_images:
        first = bounds[-1]
        stop = int(np.searchsorted(ends, plan.rows[first, 0] + max(1, n_rows), side="right"))
        bounds.append(max(first + 1, stop))
    return np.array(bounds, dtype=np.int64)


def shard_record(plan: Plan, choice: ShardChoice, bounds: npt.NDArray[np.int64]) -> Shard:
    """Return the record of a shard, as its file keeps it, given the bounds of all."""
    first, stop = bounds[choice.index - 1 : choice.index + 1].tolist()
    rows = plan.row_range(first, stop)
    return Shard(choice.index, choice.count, first, stop, *rows, plan.n_images, plan.n_rows, plan.digest)


def cut_shard(
    plan: Plan, choice: ShardChoice, bounds: npt.NDArray[np.int64], *, has_views: bool
) -> ShardPlan:
    """Cut one shard from a plan, given the bounds of all; views, unlike boxes of a file, are renumbered from 0."""
    shard = shard_record(plan, choice, bounds)
    part = plan.of_shard(shard.first_image, shard.stop_image, has_views=has_views)
    return ShardPlan(part, shard, plan)
