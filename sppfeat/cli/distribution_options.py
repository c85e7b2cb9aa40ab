"""The options of ``--engine ray``."""

from typing import Any

import click

from sppfeat.cli.options import is_given, option, together
from sppfeat.cli.values import NumberRange
from sppfeat.config.distribution import ENGINES, MERGES, RayOptions
from sppfeat.errors import ConfigError

__all__ = ["ray_choice", "ray_options"]

_OPTIONS = ("ray_address", "actors", "gpus_per_actor", "cpus_per_actor", "merge")

ray_options = together(
    option(
        "--engine",
        type=click.Choice(ENGINES),
        default=ENGINES[0],
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
    option(
        "--merge",
        type=click.Choice(MERGES),
        default=RayOptions.merge,
        help="What the output of --engine ray is: virtual: it leads to the descriptors in the files of the actors, "
        "which stay; copy: it has them itself.",
    ),
)


def ray_choice(options: dict[str, Any]) -> RayOptions | None:
    """What the options ask of Ray; None for the local engine.

    Raises:
        ConfigError: they ask something of Ray, which is not to do it.
    """
    if options["engine"] == "ray":
        names = {name: options[name] for name in _OPTIONS if name != "ray_address"}
        return RayOptions(address=options["ray_address"], **names)
    given = [f"--{name.replace('_', '-')}" for name in _OPTIONS if is_given(name)]
    if given:
        raise ConfigError(f"{', '.join(given)}: of --engine ray, and the engine is {options['engine']}")
    return None
