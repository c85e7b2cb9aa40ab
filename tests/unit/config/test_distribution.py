"""Shards from texts and from the environment of torchrun and srun."""

import re

import pytest

from sppfeat.config.distribution import Rank, ShardChoice, parse_shard
from sppfeat.errors import ConfigError

SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}
SRUN |= {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "16"}
ARRAY |= {"SLURM_ARRAY_TASK_MAX": "16"}
ONE_TASK = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({"RANK": "0", "WORLD_SIZE": "1"}, Rank(ShardChoice(1, 1))),
        (
            {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
            Rank(ShardChoice(4, 8), 1, 2),
        ),
        (SRUN, Rank(ShardChoice(6, 8), 1, 4)),
        ({**SRUN, "RANK": "1", "WORLD_SIZE": "2"}, Rank(ShardChoice(2, 2))),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "what"}, Rank(ShardChoice(6, 8), 1, 2)),
    ],
)
def test_the_rank_comes_from_torchrun_or_srun(environment, rank):
    assert parse_shard("auto", environment)[:3] == rank[:3]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (SRUN, ""),
        ({"RANK": "3", "WORLD_SIZE": "8"}, ""),
        (ONE_TASK, "SLURM_STEP_NUM_TASKS is 1, so this process runs all images (shard 1/1)"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "WORLD_SIZE is 1, so this process runs all images"),
        ({**ARRAY, **ONE_TASK}, "every task has shard 1/1"),
        ({**ARRAY, **ONE_TASK}, "--shard $SLURM_ARRAY_TASK_ID/16"),
        ({**ARRAY, **SRUN}, "counts the 8 processes of this task of the job array, not the tasks"),
        ({**ARRAY, "RANK": "0", "WORLD_SIZE": "1"}, "--shard $SLURM_ARRAY_TASK_ID/16"),
        (
            {**ARRAY, **ONE_TASK, "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "15"},
            "--shard $((SLURM_ARRAY_TASK_ID + 1))/16",
        ),
        # Some tasks that are run again do not tell how many there were.
        (
            {**ARRAY, **ONE_TASK, "SLURM_ARRAY_TASK_MIN": "7", "SLURM_ARRAY_TASK_COUNT": "2"},
            "--shard $SLURM_ARRAY_TASK_ID/N, for --array=1-N",
        ),
        ({**ARRAY, **ONE_TASK, "SLURM_ARRAY_TASK_COUNT": "4"}, "--shard $SLURM_ARRAY_TASK_ID/N"),
        ({"SLURM_ARRAY_TASK_ID": "3", **ONE_TASK}, "--shard $SLURM_ARRAY_TASK_ID/N"),
    ],
)
def test_a_rank_that_others_may_share_has_a_note(environment, said):
    note = parse_shard("auto", environment).note
    assert said in note if said else not note


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "neither torchrun"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "neither torchrun"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "start the command with srun"),
        ({**ARRAY, "SLURM_PROCID": "0"}, r"allowed: --shard \$SLURM_ARRAY_TASK_ID/16$"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'; allowed: a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "shard 3/2; allowed: 1/2 to 2/2"),
    ],
)
def test_an_environment_without_a_valid_rank_is_refused(environment, said):
    with pytest.raises(ConfigError, match=said):
        parse_shard("auto", environment)


@pytest.mark.parametrize("index", ["0", "17"])
def test_an_array_task_that_is_not_a_shard_gets_a_hint(index):
    mended = "count from 1; use --array=1-16, or --array=0-15 with --shard $((SLURM_ARRAY_TASK_ID + 1))/16"
    with pytest.raises(ConfigError, match=re.escape(mended)):
        parse_shard(f"{index}/16", {"SLURM_ARRAY_TASK_ID": index})


def test_numbers_take_precedence_over_the_environment(monkeypatch):
    assert parse_shard("3/16") == Rank(ShardChoice(3, 16))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert parse_shard("auto") == Rank(ShardChoice(2, 2))


@pytest.mark.parametrize(
    "text", ["", "3", "3/", "/3", "0/3", "4/3", "-1/3", "1/3/5", "a/b", "1.5/3", "1 / 3", "AUTO"]
)
def test_malformed_shards_are_refused(text):
    with pytest.raises(ConfigError, match="allowed: "):
        parse_shard(text)
