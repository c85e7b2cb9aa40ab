"""Options for distributing a run: over processes and a device, over shards, or over the actors of a Ray cluster."""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sppfeat.config.values import DEFAULT_MAX_DECODE_PIXELS, set_numbers
from sppfeat.errors import ConfigError

__all__ = ["Rank", "RayOptions", "RunOptions", "Shard", "ShardChoice", "parse_device", "parse_shard"]

_NUMBER = re.compile(r"[0-9]{1,9}")
_TASKS_OF_NODES = re.compile(r"(?:^|,)([0-9]{1,9})")  # in a text such as 4(x3),2


def parse_device(device: str) -> str:
    """Return ``device`` unchanged if it is ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", device):
        raise ConfigError(f"device is {device!r}; allowed: auto, cpu, cuda, cuda:N, mps")
    return device


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options for the work of one process; none of them changes a descriptor.

    Attributes:
        batch_size: images per batch, or None to choose by pixels and device.
        workers: decoding processes, 0 to decode in this process, or None to choose.
        local_rank: index of this process among the ``n_local`` processes that share the work and the cores of this
            machine, from 0; with ``auto`` the process takes the device with that index.
    """

    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    max_decode_pixels: int = DEFAULT_MAX_DECODE_PIXELS
    compile: bool = False
    local_rank: int = 0
    n_local: int = 1

    def __post_init__(self) -> None:
        parse_device(self.device)
        set_numbers(self, batch_size=(1, None, ", or auto"), workers=(0, None, ", or auto"))
        set_numbers(self, max_decode_pixels=(1,))


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Options for the work of a Ray cluster; none of them changes a descriptor.

    Attributes:
        ray_address: address of a running cluster, as ``ray.init`` takes it; None for the value of ``RAY_ADDRESS``, or
            else a local cluster that is started for this run.
        actors, gpus_per_actor, cpus_per_actor: None to choose by the devices and cores of the cluster.
        copy: copy the descriptors into the output, which otherwise refers to the part files.
    """

    ray_address: str | None = None
    actors: int | None = None
    gpus_per_actor: float | None = None
    cpus_per_actor: int | None = None
    copy: bool = False

    def __post_init__(self) -> None:
        address = self.ray_address
        if address is not None and (not address.strip() or address.startswith("ray://")):
            raise ConfigError(
                f"ray-address is {address!r}; allowed: HOST:PORT, auto or local. Instead of ray://, run the command on "
                "a machine of the cluster, which must see the files"
            )
        set_numbers(self, actors=(1,), cpus_per_actor=(1,))
        gpus = self.gpus_per_actor
        if gpus is not None and not (math.isfinite(gpus) and 0 <= gpus <= 1):
            raise ConfigError(
                f"gpus-per-actor is {gpus}; allowed: 0 to 1, such as 0.5 for two actors on a device"
            )


@dataclass(frozen=True)
class ShardChoice:
    """The number of a shard, from 1, and the number of shards."""

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise ConfigError(
                f"shard {self.index}/{self.count}; allowed: 1/{self.count} to {self.count}/{self.count}"
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def name(self) -> str:
        """The shard as part of a file name; names sort by index."""
        width = max(5, len(str(self.count)))
        return f"{self.index:0{width}d}-of-{self.count:0{width}d}"


@dataclass(frozen=True)
class Shard:
    """The images and rows of the whole plan that one file holds.

    Attributes:
        index: number of the shard, from 1, when the plan was cut.
        count: number of shards when the plan was cut.
        first_image: its first image in the whole plan.
        stop_image: end of its images (exclusive).
        first_row: its first row in the whole plan.
        stop_row: end of its rows (exclusive).
        n_images: number of images of the whole plan.
        n_rows: number of rows of the whole plan.
        plan: digest of all images, labels and rows of the whole plan.
    """

    index: int
    count: int
    first_image: int
    stop_image: int
    first_row: int
    stop_row: int
    n_images: int
    n_rows: int
    plan: str

    def __post_init__(self) -> None:
        numbers = dataclasses.astuple(self)[:-1]
        if not all(type(number) is int and number >= 0 for number in numbers) or not (
            isinstance(self.plan, str)
            and 1 <= self.index <= self.count
            and self.first_image <= self.stop_image <= self.n_images
            and self.first_row <= self.stop_row <= self.n_rows
        ):
            raise ConfigError(f"not the record of a shard: {dataclasses.asdict(self)}")

    def __str__(self) -> str:
        return f"shard {self.index}/{self.count}, images {self.first_image} to {self.stop_image} of {self.n_images}"

    def to_json(self) -> str:
        """Return the shard as JSON text, for the attribute ``shard`` of a feature file."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Shard":
        """Return the shard that :meth:`to_json` wrote."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"not the record of a shard: {error}") from error


class Rank(NamedTuple):
    """One process among several that share a run; ``local_index`` counts those on its machine, from 0."""

    shard: ShardChoice
    local_index: int = 0
    n_local: int = 1
    note: str = ""  # for the user, if other processes may do the same work


def parse_shard(text: str, environment: Mapping[str, str] = os.environ) -> Rank:
    """Parse a shard such as ``3/16``; ``auto`` takes the rank that torchrun or srun gave this process."""
    if text != "auto":
        index, slash, count = text.partition("/")
        if not (slash and _NUMBER.fullmatch(index) and _NUMBER.fullmatch(count)):
            raise ConfigError(f"shard is {text!r}; allowed: I/N, such as 3/16, or auto")
        if not 1 <= int(index) <= int(count) and environment.get("SLURM_ARRAY_TASK_ID") == index:
            raise ConfigError(
                f"shard is {text}, but shards count from 1; use --array=1-{count}, or --array=0-{int(count) - 1} with "
                f"--shard $((SLURM_ARRAY_TASK_ID + 1))/{count}"
            )
        return Rank(ShardChoice(int(index), int(count)))

    def is_set(*names: str) -> bool:
        return all(environment.get(name) for name in names)

    def number(name: str, default: int = 0) -> int:
        text = environment.get(name) or str(default)
        if not _NUMBER.fullmatch(text):
            raise ConfigError(f"--shard auto: {name} is {text!r}; allowed: a whole number")
        return int(text)

    if is_set("RANK", "WORLD_SIZE"):  # torchrun
        shard = ShardChoice(number("RANK") + 1, number("WORLD_SIZE"))
        local = number("LOCAL_RANK"), number("LOCAL_WORLD_SIZE", 1)
        return Rank(shard, *local, _repetition_note(shard, "WORLD_SIZE", environment))
    if is_set("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):  # srun; outside, a batch script has only the first
        local_index = number("SLURM_LOCALID")
        tasks = _TASKS_OF_NODES.findall(environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
        shard = ShardChoice(number("SLURM_PROCID") + 1, number("SLURM_STEP_NUM_TASKS"))
        note = _repetition_note(shard, "SLURM_STEP_NUM_TASKS", environment)
        return Rank(shard, local_index, max([local_index + 1, *map(int, tasks)]), note)
    allowed = f"--shard {_array_shard(environment) if is_set('SLURM_ARRAY_TASK_ID') else 'I/N'}"
    if number("SLURM_NTASKS") > 1:
        allowed += ", or start the command with srun, once per task"
    raise ConfigError(
        "--shard auto found neither torchrun (RANK, WORLD_SIZE) nor srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS); "
        f"allowed: {allowed}"
    )


def _repetition_note(shard: ShardChoice, counter: str, environment: Mapping[str, str]) -> str:
    """Warn that each task of a job array has ranks of its own, or that a process is the only one."""
    if environment.get("SLURM_ARRAY_TASK_ID"):
        tasks = f"the {shard.count} processes" if shard.count > 1 else "the one process"
        return (
            f"--shard auto counts {tasks} of this task of the job array, not the tasks: every task has shard {shard}; "
            f"to divide the images among the tasks, use --shard {_array_shard(environment)}"
        )
    if shard.count == 1:
        return f"--shard auto: {counter} is 1, so this process runs all images (shard 1/1)"
    return ""


def _array_shard(environment: Mapping[str, str]) -> str:
    """Return the shard of a task of a SLURM job array, as it is written in a batch script."""
    first, last, count = (environment.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("MIN", "MAX", "COUNT"))
    index, n = "$SLURM_ARRAY_TASK_ID", "N, for --array=1-N"
    if first == "0":
        index, n = "$((SLURM_ARRAY_TASK_ID + 1))", "N, for --array=0-(N-1)"
    # The number itself: if only some tasks are run again, SLURM's variables count only those.
    is_whole = first in ("0", "1") and _NUMBER.fullmatch(last) and _NUMBER.fullmatch(count)
    if is_whole and int(last) - int(first) + 1 == int(count):
        n = count
    return f"{index}/{n}"
