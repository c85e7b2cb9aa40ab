"""The model zoo: torchvision models that can be backbones, with default layers, channels, strides and weights.

Nothing here imports torch until a model is built or the installed models are listed.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sppfeat.config.specs import COMPACT_NAME, parse_levels
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from sppfeat.networks.receptive_field import LayerGeometry

__all__ = [
    "BackboneEntry",
    "build_model",
    "check_name",
    "choose_names",
    "close_matches",
    "constructor_arguments",
    "default_layer",
    "describe_backbone",
    "describe_layers",
    "model_names",
    "refusal",
    "supports_boxes",
    "zoo_summary",
]


class _Family(NamedTuple):
    prefix: str  # of the model's name
    layer: str  # torchvision's name of the node; "-2" stands for the second to last of a sequence
    supports_boxes: bool = True


# The last feature map of the convolutional body, before any pooling that the pyramid replaces.
_FAMILIES = (
    _Family("alexnet", "features.-2"),  # the last ReLU, before the last max pooling
    _Family("convnext", "features"),
    _Family("densenet", "relu"),  # the network applies ReLU to the normalization that ends features
    _Family("efficientnet", "features"),
    _Family("googlenet", "inception5b"),
    _Family("inception_v3", "Mixed_7c"),
    _Family("mnasnet", "layers"),
    _Family("mobilenet", "features"),
    _Family("regnet", "trunk_output"),
    _Family("resnet", "layer4"),
    _Family("resnext", "layer4"),
    _Family("shufflenet", "conv5"),
    _Family(COMPACT_NAME, "features"),  # our own
    _Family("squeezenet", "features"),
    _Family("swin", "permute", supports_boxes=False),  # after the final normalization, channels first again
    _Family("vgg", "features.-2"),  # the last ReLU, before the last max pooling
    _Family("wide_resnet", "layer4"),
)

_REFUSED = (
    ("vit", "it cuts images of one fixed size into tokens and has no feature map"),
    ("maxvit", "it takes images of one fixed size only"),
)


@dataclass(frozen=True, kw_only=True)
class BackboneEntry:
    """A model of the zoo, described without its weights.

    Attributes:
        name: torchvision's name.
        layer: the default layer.
        channels: number of channels of its map.
        stride: input pixels per cell, a ``(y, x)`` pair where the axes differ; None if receptive-field arithmetic
            does not apply.
        dimension: length of a descriptor for the given levels.
        weights: names of the weights; the first is ``DEFAULT``.
        download_mb: size of the default weights' file, in units of 2**20 bytes.
    """

    name: str
    layer: str
    channels: int
    stride: float | tuple[float, float] | None
    dimension: int
    weights: list[str]
    download_mb: float


def model_names() -> list[str]:
    """Names of the installed torchvision models that can be backbones, and of the bundled one, sorted."""
    import torchvision

    installed = torchvision.models.list_models(module=torchvision.models)
    return choose_names(installed)


def choose_names(installed: Iterable[str]) -> list[str]:
    """Filters names for models that can be backbones and adds the bundled one; sorted."""
    prefixes = tuple(family.prefix for family in _FAMILIES)
    return sorted([COMPACT_NAME, *(name for name in installed if name.startswith(prefixes))])


def check_name(name: str) -> None:
    """Refuses a name that no backbone has.

    Raises:
        ConfigError: no backbone has this name; the message gives the reason, or similar names.
    """
    if reason := refusal(name):
        raise ConfigError(f"{name!r} cannot be a backbone: {reason}")
    names = model_names()
    if name not in names:
        shown = close_matches(name, names)
        close = f"; close to it: {', '.join(shown)}" if shown else ""
        raise ConfigError(f"unknown backbone {name!r}{close}; 'sppfeat backbones' lists all {len(names)}")


def refusal(name: str) -> str:
    """The reason why a torchvision model cannot be a backbone; empty if there is none."""
    return next((reason for prefix, reason in _REFUSED if name.startswith(prefix)), "")


def close_matches(word: str, candidates: Sequence[str]) -> list[str]:
    """Up to five of the candidates that resemble ``word``, the most similar first.

    Example:
        >>> close_matches("resnet5O", ["vgg16", "resnet50", "resnet18"])
        ['resnet50', 'resnet18']
    """
    folded = {candidate.lower(): candidate for candidate in candidates}
    return [folded[match] for match in difflib.get_close_matches(word.lower(), folded, n=5, cutoff=0.6)]


def supports_boxes(name: str) -> bool:
    """True if boxes can be projected to the default layer's map; False if only whole images can be pooled.

    Raises:
        ConfigError: no backbone has this name.
    """
    return _family_of(name).supports_boxes


def default_layer(name: str, model: "nn.Module | None" = None) -> str:
    """The node name of a model's default layer.

    Args:
        name: torchvision's name of the model.
        model: the model, if it is already built; None to build one without memory for its weights.

    Raises:
        ConfigError: no backbone has this name.
    """
    layer = _family_of(name).layer
    if not layer.endswith(".-2"):
        return layer
    sequence = layer.removesuffix(".-2")
    length = len(list((model or _build_without_memory(name)).get_submodule(sequence).children()))
    return f"{sequence}.{length - 2}"


def constructor_arguments(name: str) -> dict[str, Any]:
    """Constructor arguments with which a model, built without weights, fits the named weights.

    Only the two inceptions need any. They convert the input to the range of their original weights; their default
    initialization, which takes minutes and warns, is skipped; and their auxiliary heads, unused here, are in the
    weight files.

    Raises:
        ConfigError: no backbone has this name.
    """
    if _family_of(name).prefix in ("googlenet", "inception_v3"):
        return {"transform_input": True, "init_weights": False, "aux_logits": True}
    return {}


def build_model(name: str) -> "nn.Module":
    """Builds the whole model with torchvision's random initial values, in training mode as torchvision does.

    Raises:
        ConfigError: no backbone has this name.
    """
    check_name(name)
    if name == COMPACT_NAME:
        from sppfeat.networks.compact import CompactNetwork

        return CompactNetwork()
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None, **constructor_arguments(name))
    return model


def zoo_summary(name: str, *, input_hw: tuple[int, int] = (224, 224)) -> "LayerGeometry":
    """Channels, map size, stride and offset of a model's default layer, computed without memory for its weights.

    This takes about half a second. The geometry is None if boxes are not supported.

    Args:
        name: torchvision's name of the model.
        input_hw: height and width of the input, in pixels.

    Raises:
        ConfigError: no backbone has this name.

    Example:
        >>> zoo_summary("squeezenet1_1").geometry
        FeatureGeometry(stride=16.0, offset=15.0)
    """
    from sppfeat.networks.receptive_field import layer_geometries

    model = _build_without_memory(name)
    layer = default_layer(name, model)
    return layer_geometries(model, layers=[layer], input_hw=input_hw)[layer]


def describe_backbone(name: str, levels: Sequence[int]) -> BackboneEntry:
    """Describes a model without its weights.

    Args:
        name: torchvision's name of the model.
        levels: the pyramid, for the dimension.

    Raises:
        ConfigError: no backbone has this name, or the levels are invalid.
    """
    from sppfeat.networks.named_weights import entry_names, find_entry

    check_name(name)
    found = zoo_summary(name)
    return BackboneEntry(
        name=name,
        layer=default_layer(name),
        channels=found.channels,
        stride=found.geometry.stride if found.geometry else None,
        dimension=found.channels * sum(n * n for n in parse_levels(levels)),
        weights=entry_names(name),
        download_mb=round(find_entry(name).size_mb, 1),
    )


def describe_layers(name: str) -> "dict[str, LayerGeometry]":
    """Channels, map size at 224 x 224 pixels, stride and offset of every node of a model that outputs a feature map.

    Raises:
        ConfigError: no backbone has this name.
    """
    from sppfeat.networks.receptive_field import layer_geometries

    return layer_geometries(build_model(name).eval())


def _family_of(name: str) -> _Family:
    check_name(name)
    return next(family for family in _FAMILIES if name.startswith(family.prefix))


def _build_without_memory(name: str) -> "nn.Module":
    import torch
    from torch.overrides import TorchFunctionMode

    initializers = {"normal_", "uniform_", "trunc_normal_", "fill_", "zero_"}

    class _MetaParameters(TorchFunctionMode):
        # torch.device("meta") as a context would also affect regnet's arithmetic on small tensors, which needs
        # values; modules allocate their parameters with torch.empty.
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is torch.empty:
                return func(*args, **{**kwargs, "device": "meta"})
            target = args[0] if args else kwargs.get("tensor")
            if isinstance(target, torch.Tensor) and target.is_meta and func.__name__ in initializers:
                return target
            return func(*args, **kwargs)

    with _MetaParameters():
        return build_model(name).to("meta")
