"""The model zoo: the torchvision models that can be backbones, and their default layers.

Nothing here imports torch until a model is built or the installed models are listed.
"""

import difflib
import fnmatch
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sppfeat.config.specs import COMPACT_NAME
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "build_model",
    "build_without_memory",
    "check_name",
    "choose_names",
    "default_layer",
    "match_names",
    "model_names",
]

# The default layer of each family, by the prefix of its models' names: the last feature map of the convolutional body,
# before any pooling that the pyramid replaces. "-2" stands for the second to last of a sequence.
_DEFAULT_LAYERS = {
    "alexnet": "features.-2",  # the last ReLU, before the last max pooling
    "convnext": "features",
    "densenet": "relu",  # the network applies ReLU to the normalization that ends features
    "efficientnet": "features",
    "googlenet": "inception5b",
    "inception_v3": "Mixed_7c",
    "mnasnet": "layers",
    "mobilenet": "features",
    "regnet": "trunk_output",
    "resnet": "layer4",
    "resnext": "layer4",
    "shufflenet": "conv5",
    COMPACT_NAME: "features",  # our own
    "squeezenet": "features",
    "swin": "permute",  # after the final normalization, channels first again; boxes cannot be projected to it
    "vgg": "features.-2",  # the last ReLU, before the last max pooling
    "wide_resnet": "layer4",
}

_REFUSED = {
    "vit": "it cuts images of one fixed size into tokens and has no feature map",
    "maxvit": "it takes images of one fixed size only",
}


def model_names() -> list[str]:
    """Names of the installed torchvision models that can be backbones, and of the bundled one, sorted."""
    import torchvision

    installed = torchvision.models.list_models(module=torchvision.models)
    return choose_names(installed)


def choose_names(installed: Iterable[str]) -> list[str]:
    """Filters names for models that can be backbones and adds the bundled one; sorted."""
    return sorted([COMPACT_NAME, *(name for name in installed if name.startswith(tuple(_DEFAULT_LAYERS)))])


def match_names(pattern: str) -> list[str]:
    """Names of the backbones that match a name, or a pattern such as ``resnet*``; ConfigError if none does."""
    if not any(character in pattern for character in "*?["):
        check_name(pattern)
        return [pattern]
    names = fnmatch.filter(model_names(), pattern)
    if not names:
        raise ConfigError(f"no backbone matches {pattern!r}; 'sppfeat backbones' lists all")
    return names


def check_name(name: str) -> None:
    """Raises ConfigError for a name that no backbone has; the message gives the reason, or similar names."""
    for prefix, reason in _REFUSED.items():
        if name.startswith(prefix):
            raise ConfigError(f"{name!r} cannot be a backbone: {reason}")
    names = model_names()
    if name not in names:
        folded = {known.lower(): known for known in names}
        shown = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=5)]
        close = f"; close to it: {', '.join(shown)}" if shown else ""
        raise ConfigError(f"unknown backbone {name!r}{close}; 'sppfeat backbones' lists all {len(names)}")


def default_layer(name: str, model: "nn.Module | None" = None) -> str:
    """The node name of a model's default layer; builds the model without memory if it is needed and not given."""
    check_name(name)
    layer = next(layer for prefix, layer in _DEFAULT_LAYERS.items() if name.startswith(prefix))
    if not layer.endswith(".-2"):
        return layer
    sequence = layer.removesuffix(".-2")
    length = len(list((model or build_without_memory(name)).get_submodule(sequence).children()))
    return f"{sequence}.{length - 2}"


def build_model(name: str) -> "nn.Module":
    """Builds the whole model with torchvision's random initial values, in training mode as torchvision does."""
    check_name(name)
    if name == COMPACT_NAME:
        from sppfeat.networks.compact import CompactNetwork

        return CompactNetwork()
    import torchvision

    arguments = {}
    if name in ("googlenet", "inception_v3"):
        # Convert the input to the range of their original weights, as with named weights; skip their default
        # initialization, which takes minutes and warns; have the auxiliary heads, unused here, of the weight files.
        arguments = {"transform_input": True, "init_weights": False, "aux_logits": True}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    return model


def build_without_memory(name: str) -> "nn.Module":
    """Builds a model on torch's ``meta`` device: shapes without values."""
    import torch
    from torch.overrides import TorchFunctionMode

    class _MetaParameters(TorchFunctionMode):
        # torch.device("meta") as a context would also affect regnet's arithmetic on small tensors, which needs
        # values; modules allocate their parameters with torch.empty.
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func is torch.empty:
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    with _MetaParameters():
        return build_model(name).to("meta")
