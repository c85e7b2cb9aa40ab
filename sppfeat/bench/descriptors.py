"""Which descriptors a measurement is of, and where it was taken."""

from dataclasses import dataclass
from typing import Any

import torch

from sppfeat.bench.conditions import Machine, describe_machine
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.extraction.setup import descriptor_blocks
from sppfeat.networks.backbones import Backbone

__all__ = ["OfDescriptors", "of_descriptors"]


@dataclass(frozen=True, kw_only=True)
class OfDescriptors:
    """What all measurements of descriptors say first.

    Attributes:
        machine: where.
        backbone, weights, layers, levels, pool, dimension: of the descriptors.
    """

    machine: Machine
    backbone: str
    weights: str
    layers: tuple[str, ...]
    levels: tuple[int, ...]
    pool: str
    dimension: int


def of_descriptors(backbone: Backbone, config: ExtractConfig, device: torch.device) -> dict[str, Any]:
    """The fields of :class:`OfDescriptors`, by name."""
    spec, descriptor = config.backbone, config.descriptor
    return {
        "machine": describe_machine(device, config.precision),
        "backbone": spec.name,
        "weights": backbone.weights_path or spec.weights,
        "layers": spec.layers,
        "levels": descriptor.levels,
        "pool": descriptor.pool,
        "dimension": descriptor_blocks(config, backbone)[-1].stop,
    }
