"""Fully connected heads: the layers of a classifier up to fc6 or fc7, applied to pooled regions.

fc6 multiplies pool5, flattened to one vector, by a weight matrix and applies ReLU; fc7 follows it (Girshick, Donahue,
Darrell, Malik: *Rich feature hierarchies*, CVPR 2014, section 3.2). Adaptive max pooling of a region replaces the
last max pooling, with as many bins as the first fully connected layer takes (Girshick: *Fast R-CNN*, ICCV 2015,
section 2.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sppfeat.config.values import CHOICES, check_choice
from sppfeat.errors import ConfigError
from sppfeat.networks import zoo

__all__ = ["Head", "check_head", "cut_head"]

# torchvision's models whose classifier has two hidden Linear layers.
_WITH_HEADS = ("vgg*", "alexnet")


@dataclass(frozen=True)
class Head:
    """The fully connected layers of a classifier up to fc6 or fc7, ReLU included.

    Attributes:
        name: ``fc6`` or ``fc7``.
        level: the only pyramid level that it takes: ``level x level`` bins, max-pooled.
        channels: length of its output.
        network: maps ``(K, C * level * level)``, ordered by channel, then bin row, then bin column, to ``(K,
            channels)``.
    """

    name: str
    level: int
    channels: int
    network: nn.Module


def check_head(name: str, head: str, layers: Sequence[str]) -> None:
    """Refuses a head that a model lacks, or layers that do not feed it; goes by the names alone and builds no model."""
    check_choice("head", head, CHOICES["head"])
    if not any(fnmatchcase(name, pattern) for pattern in _WITH_HEADS):
        raise ConfigError(
            f"{name!r} has no {' or '.join(CHOICES['head'])}; the models that have them: {', '.join(_WITH_HEADS)}"
        )
    default = zoo.default_layer(name)
    if layers and tuple(layers) != (default,):
        raise ConfigError(
            f"layers are {', '.join(layers)}; --head {head} takes the layer that {name} feeds it, {default!r}: "
            f"leave the layers out"
        )


def cut_head(model: Any, head: str) -> Head:
    """Cuts the classifier of a vgg or alexnet after the ReLU of fc6 or fc7; the layers share its parameters."""
    activations = [i for i, layer in enumerate(model.classifier) if isinstance(layer, nn.ReLU)]
    # A slice keeps the names of its layers and drops the later layers.
    layers = model.classifier[: activations[CHOICES["head"].index(head)] + 1].eval()
    channels = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)][-1]
    return Head(head, model.avgpool.output_size[0], channels, layers)
