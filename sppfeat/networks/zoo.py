"""The models that can be backbones: names, default layers, descriptions, and downloads of weights.

Nothing here imports torch until a model is built or the installed models are listed.
"""

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from sppfeat.config.specs import COMPACT_NAME, parse_levels
from sppfeat.config.values import StrPath
from sppfeat.errors import ConfigError, WeightsError
from sppfeat.files.downloads import OnDownload

if TYPE_CHECKING:
    from torch import nn

    from sppfeat.networks.named_weights import FetchedWeights

__all__ = [
    "BackboneEntry",
    "BackboneLayers",
    "LayerEntry",
    "build_model",
    "build_without_memory",
    "check_name",
    "choose_names",
    "default_layer",
    "describe_backbones",
    "describe_layers",
    "fetch_weights",
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
    "vit": "torchvision's vision transformers accept one fixed input size",
    "maxvit": "it accepts one fixed input size",
}
_ALTERNATIVES = "Alternatives: convnext_tiny, efficientnet_v2_s; for whole images, swin_t"


def model_names() -> list[str]:
    """Names of the installed torchvision models that can be backbones, and of the bundled one, sorted."""
    import torchvision

    installed = torchvision.models.list_models(module=torchvision.models)
    return choose_names(installed)


def choose_names(installed: Iterable[str]) -> list[str]:
    """Filters names for models that can be backbones and adds the bundled one; sorted."""
    return sorted([COMPACT_NAME, *(name for name in installed if name.startswith(tuple(_DEFAULT_LAYERS)))])


def match_names(pattern: str) -> list[str]:
    """Names of the backbones that match a name or a pattern such as ``resnet*``; ConfigError without a match."""
    if not any(character in pattern for character in "*?["):
        check_name(pattern)
        return [pattern]
    names = fnmatch.filter(model_names(), pattern)
    if not names:
        raise ConfigError(f"no backbone matches {pattern!r}; 'sppfeat backbones' lists all")
    return names


def check_name(name: str) -> None:
    """Raises ConfigError for the name of an unknown or unsupported network; the message has similar names."""
    for prefix, reason in _REFUSED.items():
        if name.startswith(prefix):
            raise ConfigError(f"{name!r} is not supported: {reason}. {_ALTERNATIVES}")
    names = model_names()
    if name not in names:
        folded = {known.lower(): known for known in names}
        shown = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=5)]
        close = f"; did you mean {', '.join(shown)}?" if shown else ";"
        raise ConfigError(f"unknown backbone {name!r}{close} 'sppfeat backbones' lists all {len(names)}")


def default_layer(name: str, model: "nn.Module | None" = None) -> str:
    """The node name of a model's default layer; builds it without memory if needed."""
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
        # Their original weights expect another input range; their default initialization takes minutes and warns; their
        # weights files hold auxiliary heads, unused here.
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


class BackboneEntry(TypedDict):
    """One line of the list of backbones.

    Attributes:
        name: name of the network.
        layer: default layer, the last feature map before the classifier.
        channels: channels of the default layer.
        stride: input pixels per cell, ``[y, x]`` where the axes differ; None for networks without support for boxes.
        dimension: length of a descriptor with these levels.
        weights: names of its weights; the first is ``DEFAULT``.
        download_mb: size of the default weights in MB (2^20 bytes).
    """

    name: str
    layer: str
    channels: int
    stride: float | tuple[float, float] | None
    dimension: int
    weights: list[str]
    download_mb: float


class LayerEntry(TypedDict):
    """A layer of a backbone that outputs a feature map.

    Attributes:
        layer: name of the layer, for ``--layer``.
        channels: channels of its map.
        stride: input pixels per cell, ``[y, x]`` where the axes differ; None if unknown.
        offset: pixel index of the center of cell 0, ``[y, x]`` where the axes differ; None if unknown.
        map_hw: height and width of the map in cells, for an input of 224 x 224 pixels.
        reason: why stride and offset are unknown; empty if they are known.
    """

    layer: str
    channels: int
    stride: float | tuple[float, float] | None
    offset: float | tuple[float, float] | None
    map_hw: list[int]
    reason: str


class BackboneLayers(TypedDict):
    """A backbone with its layers.

    Attributes:
        name: name of the network.
        default_layer: layer that is pooled unless ``--layer`` names others.
        weights: names of its weights; the first is ``DEFAULT``.
        layers: every layer that outputs a feature map, in the order of the network.
    """

    name: str
    default_layer: str
    weights: list[str]
    layers: list[LayerEntry]


def describe_backbones(
    pattern: str, levels: Sequence[int], *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[BackboneEntry]:
    """Describes the models that match a name or a pattern such as ``resnet*``, which takes half a second each.

    ``levels`` is the pyramid, for the dimension.
    """
    from sppfeat.networks.named_weights import list_entries
    from sppfeat.networks.receptive_field import layer_geometries

    names = match_names(pattern)
    entries: list[BackboneEntry] = []
    n_bins = sum(n * n for n in parse_levels(levels))
    for i, name in enumerate(names):
        model, weights = build_without_memory(name), list_entries(name)
        layer = default_layer(name, model)
        found = layer_geometries(model, [layer])[layer]
        entries.append(
            {
                "name": name,
                "layer": layer,
                "channels": found.channels,
                "stride": found.geometry.stride if found.geometry else None,
                "dimension": found.channels * n_bins,
                "weights": [entry.name for entry in weights],
                "download_mb": round(weights[0].size_mb, 1),
            }
        )
        on_progress(i + 1, len(names))
    return entries


def describe_layers(name: str) -> BackboneLayers:
    """Describes a model and every node that outputs a feature map."""
    from sppfeat.networks.layers import node_names
    from sppfeat.networks.named_weights import list_entries
    from sppfeat.networks.receptive_field import layer_geometries

    model = build_model(name).eval()
    return {
        "name": name,
        "default_layer": default_layer(name, model),
        "weights": [entry.name for entry in list_entries(name)],
        "layers": [
            {
                "layer": layer,
                "channels": found.channels,
                "stride": found.geometry.stride if found.geometry else None,
                "offset": found.geometry.offset if found.geometry else None,
                "map_hw": list(found.map_hw),
                "reason": found.reason,
            }
            for layer, found in layer_geometries(model, node_names(model)).items()
        ],
    }


def fetch_weights(
    pattern: str,
    weights: str,
    *,
    folder: StrPath | None = None,
    on_download: OnDownload = lambda name, done, total: None,
    on_file: "Callable[[FetchedWeights], None]" = lambda file: None,
) -> "tuple[list[FetchedWeights], dict[str, WeightsError]]":
    """Downloads the weights of all networks that match a pattern; a failure does not stop the rest.

    Returns:
        The files, and the errors by the names of the networks that failed.

    Raises:
        ConfigError: no network matches.
        WeightsError: the weights of the only matching network cannot be fetched.
    """
    from sppfeat.networks.named_weights import fetch_entry, find_entry

    names = match_names(pattern)
    fetched: list[FetchedWeights] = []
    failed: dict[str, WeightsError] = {}
    for name in names:
        try:
            file = fetch_entry(find_entry(name, weights), folder=folder, on_download=on_download)
        except WeightsError as error:
            if len(names) == 1:
                raise
            failed[name] = error
        else:
            fetched.append(file)
            on_file(file)
    return fetched, failed
