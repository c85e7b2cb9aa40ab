"""Options of ``sppfeat extract`` that divide its work into shards, or among actors on a Ray cluster."""

import click

from sppfeat.cli.options import option, setting_option, together
from sppfeat.cli.values import NBYTES, SHARD, NumberRange
from sppfeat.config.distribution import RayOptions

__all__ = ["ray_options", "shard_options"]

shard_options = together(
    option(
        "--shard",
        type=SHARD,
        metavar="I/N",
        help="Do only the I-th of N parts of the work (1/N to N/N), into a file of its own for 'sppfeat merge': "
        "{shard} in the name of the output stands for its number. auto: as torchrun or srun says.",
    ),
    option(
        "--shared",
        is_flag=True,
        help="With --shard: into its rows of one output, which other processes of this machine fill at the same time.",
    ),
    option(
        "--shard-size",
        type=NBYTES,
        metavar="SIZE",
        help="Write all shards, one after the other, of at most so many bytes of descriptors each, such as 2GB; "
        "{shard} in the name of the output stands for their numbers.",
    ),
)

ray_options = together(
    option(
        "--engine",
        default="local",
        help="Who does the work: this process, or actors on a Ray cluster.",
    ),
    option(
        "--ray-address",
        metavar="ADDRESS",
        help="Of a running cluster: HOST:PORT, or auto for the one of this machine. [default: RAY_ADDRESS; without "
        "that a Ray on this machine, for this run]",
    ),
    option(
        "--actors",
        type=click.IntRange(1),
        metavar="N",
        help="Processes with a network each. [default: one for each GPU of the cluster, else for up to 8 cores]",
    ),
    option(
        "--gpus-per-actor",
        type=NumberRange(0, 1),
        metavar="FRACTION",
        help="0.5: two actors share a GPU. [default: 1 if the cluster has any]",
    ),
    option(
        "--cpus-per-actor",
        type=click.IntRange(1),
        metavar="N",
        help="Cores of each actor, for its network and for decoding. [default: up to 8, as there are]",
    ),
    setting_option(
        RayOptions,
        "merge",
        "What the output of --engine ray is: virtual: it leads to the descriptors in the files of the actors, "
        "which stay; copy: it has them itself.",
    ),
)
