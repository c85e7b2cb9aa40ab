"""What the zoo offers: weights, sizes, layers, channels and strides, for ``sppfeat backbones``."""

from collections.abc import Sequence
from dataclasses import dataclass

from sppfeat.config.specs import parse_levels
from sppfeat.networks import zoo
from sppfeat.networks.named_weights import entry_names, find_entry
from sppfeat.networks.receptive_field import LayerGeometry, layer_geometries

__all__ = ["BackboneEntry", "describe_backbone", "describe_layers"]


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """One model of the zoo.

    Attributes:
        name: torchvision's.
        layer: the default layer.
        channels: of its map.
        stride: input pixels per cell; None where receptive-field arithmetic does not apply.
        dimension: length of a descriptor for the given levels.
        weights: names; the first is what ``DEFAULT`` means.
        download_mb: size of the default weights' file.
    """

    name: str
    layer: str
    channels: int
    stride: float | tuple[float, float] | None
    dimension: int
    weights: list[str]
    download_mb: float


def describe_backbone(name: str, levels: Sequence[int]) -> BackboneEntry:
    """What there is to know of a model without its weights.

    Raises:
        ConfigError: no such model, or one without a feature map; bad levels.
    """
    zoo.check_name(name)
    found = zoo.zoo_summary(name)
    return BackboneEntry(
        name=name,
        layer=zoo.default_layer(name),
        channels=found.channels,
        stride=found.geometry.stride if found.geometry else None,
        dimension=found.channels * sum(n * n for n in parse_levels(levels)),
        weights=entry_names(name),
        download_mb=round(find_entry(name).size_mb, 1),
    )


def describe_layers(name: str) -> dict[str, LayerGeometry]:
    """Every node of a model that has a feature map: channels, size for 224 x 224 pixels, stride and offset.

    Raises:
        ConfigError: no such model, or one without a feature map.
    """
    return layer_geometries(zoo.build_model(name).eval())
