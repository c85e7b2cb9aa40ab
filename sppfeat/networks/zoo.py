"""Which torchvision models are backbones, and which of their layers is the default.

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
    layer: str  # torchvision's name of the node; "-2" stands for the last but one of a sequence
    supports_boxes: bool = True


# The last feature map of the convolutional body, before any pooling that the pyramid replaces.
_FAMILIES = (
    _Family("alexnet", "features.-2"),  # the last ReLU, before the last max pooling
    _Family("convnext", "features"),
    _Family("densenet", "relu"),  # features ends with a normalisation; the network applies ReLU to it
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
    _Family("swin", "permute", supports_boxes=False),  # channels first again, after the final normalisation
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


def model_names() -> list[str]:
    """Names of the installed torchvision classification models that can be backbones, sorted."""
    import torchvision

    installed = torchvision.models.list_models(module=torchvision.models)
    return choose_names(installed)


def choose_names(installed: Iterable[str]) -> list[str]:
    """Those names of models that can be backbones, and that of the bundled one, sorted."""
    prefixes = tuple(family.prefix for family in _FAMILIES)
    return sorted([COMPACT_NAME, *(name for name in installed if name.startswith(prefixes))])


def check_name(name: str) -> None:
    """Refuse a name that is no backbone.

    Raises:
        ConfigError: with the reason, or with the names that are close to it.
    """
    if reason := refusal(name):
        raise ConfigError(f"{name!r} cannot be a backbone: {reason}")
    names = model_names()
    if name not in names:
        shown = close_matches(name, names)
        close = f"; close to it: {', '.join(shown)}" if shown else ""
        raise ConfigError(f"unknown backbone {name!r}{close}; 'sppfeat backbones' lists all {len(names)}")


def refusal(name: str) -> str:
    """Why a torchvision model cannot be a backbone; empty where nothing speaks against it."""
    return next((reason for prefix, reason in _REFUSED if name.startswith(prefix)), "")


def close_matches(word: str, candidates: Sequence[str]) -> list[str]:
    """Up to five of the candidates that look like ``word``, the most alike first.

    Example:
        >>> close_matches("resnet5O", ["vgg16", "resnet50", "resnet18"])
        ['resnet50', 'resnet18']
    """
    folded = {candidate.lower(): candidate for candidate in candidates}
    return [folded[match] for match in difflib.get_close_matches(word.lower(), folded, n=5, cutoff=0.6)]


def supports_boxes(name: str) -> bool:
    """Whether boxes can be projected onto the default layer's map; if not, whole images only.

    Raises:
        ConfigError: if the name is no backbone.
    """
    return _family_of(name).supports_boxes


def default_layer(name: str, model: "nn.Module | None" = None) -> str:
    """Torchvision's node name of the layer that is pooled when none is asked for.

    Args:
        name: torchvision's name of the model.
        model: the model, where it is already built; saves building one without memory.

    Raises:
        ConfigError: if the name is no backbone.
    """
    layer = _family_of(name).layer
    if not layer.endswith(".-2"):
        return layer
    sequence = layer.removesuffix(".-2")
    length = len(list((model or _build_without_memory(name)).get_submodule(sequence).children()))
    return f"{sequence}.{length - 2}"


def constructor_arguments(name: str) -> dict[str, Any]:
    """Arguments with which a model without weights is the one that the named weights are for.

    Both inceptions convert the input to the range of their original weights; their default
    initialisation takes minutes and warns; their auxiliary heads are in the weights' files, and unused here.

    Raises:
        ConfigError: if the name is no backbone.
    """
    if _family_of(name).prefix in ("googlenet", "inception_v3"):
        return {"transform_input": True, "init_weights": False, "aux_logits": True}
    return {}


def build_model(name: str) -> "nn.Module":
    """Build the whole model with torchvision's random initial values, in training mode as torchvision does.

    Raises:
        ConfigError: if the name is no backbone.
    """
    check_name(name)
    if name == COMPACT_NAME:
        from sppfeat.networks.compact import CompactNetwork

        return CompactNetwork()
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None, **constructor_arguments(name))
    return model


def zoo_summary(name: str, *, input_hw: tuple[int, int] = (224, 224)) -> "LayerGeometry":
    """Channels, map size, stride and offset of a model's default layer, without memory for its weights.

    Takes about half a second. Where boxes are not supported, the entry's geometry is None.

    Args:
        name: torchvision's name of the model.
        input_hw: height and width of the input, in pixels.

    Raises:
        ConfigError: if the name is no backbone.

    Example:
        >>> zoo_summary("squeezenet1_1").geometry
        FeatureGeometry(stride=16.0, offset=15.0)
    """
    from sppfeat.networks.receptive_field import layer_geometries

    model = _build_without_memory(name)
    layer = default_layer(name, model)
    return layer_geometries(model, layers=[layer], input_hw=input_hw)[layer]


def describe_backbone(name: str, levels: Sequence[int]) -> BackboneEntry:
    """What there is to know of a model without its weights.

    Raises:
        ConfigError: no such model, or one without a feature map; bad levels.
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
    """Every node of a model that has a feature map: channels, size for 224 x 224 pixels, stride and offset.

    Raises:
        ConfigError: no such model, or one without a feature map.
    """
    from sppfeat.networks.receptive_field import layer_geometries

    return layer_geometries(build_model(name).eval())


def _family_of(name: str) -> _Family:
    check_name(name)
    return next(family for family in _FAMILIES if name.startswith(family.prefix))


def _build_without_memory(name: str) -> "nn.Module":
    import torch
    from torch.overrides import TorchFunctionMode

    initialisers = {"normal_", "uniform_", "trunc_normal_", "fill_", "zero_"}

    class _MetaParameters(TorchFunctionMode):
        # torch.device("meta") as a context would also catch regnet's arithmetic on small tensors, which needs
        # values; modules allocate their parameters with torch.empty.
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is torch.empty:
                return func(*args, **{**kwargs, "device": "meta"})
            target = args[0] if args else kwargs.get("tensor")
            if isinstance(target, torch.Tensor) and target.is_meta and func.__name__ in initialisers:
                return target
            return func(*args, **kwargs)

    with _MetaParameters():
        return build_model(name).to("meta")
