"""Which of several processes this is, as whoever started them says in the environment."""

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from sppfeat.config.distribution import ShardChoice
from sppfeat.errors import ConfigError

__all__ = ["Rank", "parse_shard", "rank_of_environment"]

_NUMBER = re.compile(r"[0-9]{1,9}")


class Rank(NamedTuple):
    """One of several processes that share a work.

    Attributes:
        shard: what it is to do.
        local_index: its number among those on its machine, from 0; which device it takes.
        n_local: how many these are; they share the cores.
    """

    shard: ShardChoice
    local_index: int = 0
    n_local: int = 1


def parse_shard(text: str) -> Rank:
    """The shard that a text such as ``3/16`` means, or the one that the environment says for ``auto``.

    Raises:
        ConfigError: it means none.
    """
    if text == "auto":
        return rank_of_environment(os.environ)
    index, slash, count = text.partition("/")
    if not (slash and _NUMBER.fullmatch(index) and _NUMBER.fullmatch(count)):
        raise ConfigError(f"{text!r} is no part of a whole; allowed: I/N, such as 3/16, or auto")
    return Rank(ShardChoice(int(index), int(count)))


def rank_of_environment(environment: Mapping[str, str]) -> Rank:
    """The process that the environment says this is: one of torchrun's, or a task of srun's.

    Raises:
        ConfigError: nobody says so, or numbers that cannot be.
    """
    known = _Numbers(environment)
    if known.has("RANK", "WORLD_SIZE"):  # torchrun
        return Rank(
            ShardChoice(known["RANK"] + 1, known["WORLD_SIZE"]),
            known.get("LOCAL_RANK", 0),
            known.get("LOCAL_WORLD_SIZE", 1),
        )
    if known.has("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):  # srun; a batch script itself has the first alone
        local_index = known.get("SLURM_LOCALID", 0)
        n_local = max(_tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "")), local_index + 1)
        return Rank(
            ShardChoice(known["SLURM_PROCID"] + 1, known["SLURM_STEP_NUM_TASKS"]), local_index, n_local
        )
    # Of an array the environment does not tell the whole: where some tasks are run again, it counts only these.
    hint = "$SLURM_ARRAY_TASK_ID/N" if known.has("SLURM_ARRAY_TASK_ID") else "I/N"
    raise ConfigError(
        "--shard auto: neither torchrun (RANK, WORLD_SIZE) nor srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS) is in the "
        f"environment; allowed: --shard {hint}"
    )


class _Numbers:
    """Whole numbers of the environment."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def has(self, *names: str) -> bool:
        """Whether all of them are set."""
        return all(self._environment.get(name) for name in names)

    def __getitem__(self, name: str) -> int:
        text = self._environment[name]
        if not _NUMBER.fullmatch(text):
            raise ConfigError(f"--shard auto: {name} is {text!r}; allowed: a whole number")
        return int(text)

    def get(self, name: str, default: int) -> int:
        """Return a number, or what stands for it where it is not set."""
        return self[name] if self.has(name) else default


def _tasks_per_node(text: str) -> int:
    """Return the most tasks of a node of a text such as ``4(x3),2``; 1 where it is not understood."""
    numbers = [int(part.partition("(")[0]) for part in text.split(",") if _NUMBER.match(part)]
    return max(numbers, default=1)
