"""Who does the work of an extraction: this process, or actors on a Ray cluster."""

import math
from dataclasses import dataclass

from sppfeat.config.values import check_choice, set_fields, whole_number
from sppfeat.errors import ConfigError

__all__ = ["ENGINES", "MERGES", "RayOptions"]

ENGINES = ("local", "ray")
MERGES = ("virtual", "copy")


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """How Ray does the work; nothing here changes a descriptor.

    Attributes:
        address: of a running cluster, as ``ray.init`` takes it; None: what ``RAY_ADDRESS`` says, and without that a
            Ray of this machine, for this run.
        actors: how many processes, each with a network of its own; None: as many as the cluster has devices for.
        gpus_per_actor: 0 to 1, so that several may share a device; None: 1 where there are GPUs.
        cpus_per_actor: cores; None: as many as there are for each.
        merge: what the output is in the end: ``virtual``: it leads to the descriptors, which stay in the files of the
            parts; ``copy``: it has them itself.
    """

    address: str | None = None
    actors: int | None = None
    gpus_per_actor: float | None = None
    cpus_per_actor: int | None = None
    merge: str = "virtual"

    def __post_init__(self) -> None:
        check_choice("merge", self.merge, MERGES)
        if self.address is not None and (not self.address.strip() or self.address.startswith("ray://")):
            raise ConfigError(
                f"ray-address is {self.address!r}; allowed: HOST:PORT, auto or local; for ray:// run the command on a "
                "machine of the cluster, which has to see the files anyway"
            )
        if self.actors is not None:
            set_fields(self, actors=whole_number("actors", self.actors, 1))
        if self.cpus_per_actor is not None:
            set_fields(self, cpus_per_actor=whole_number("cpus-per-actor", self.cpus_per_actor, 1))
        gpus = self.gpus_per_actor
        if gpus is not None and not (math.isfinite(gpus) and 0 <= gpus <= 1):
            raise ConfigError(
                f"gpus-per-actor is {gpus}; allowed: 0 to 1, such as 0.5 for two actors on a device"
            )
