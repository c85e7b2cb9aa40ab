"""The model zoo: torchvision models that can be backbones, with default layers, channels, strides and weights.

Nothing here imports torch until a model is built or the installed models are listed.
"""

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    "default_layer",
    "describe_backbones",
    "describe_layers",
    "match_names",
    "model_names",
    "zoo_summary",
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
    return sorted([COMPACT_NAME, *(name for name in installed if name.startswith(tuple(_DEFAULT_LAYERS)))])


def match_names(pattern: str) -> list[str]:
    """Names of the backbones that match a name, or a pattern such as ``resnet*``.

    Raises:
        ConfigError: no backbone matches.
    """
    if not any(character in pattern for character in "*?["):
        check_name(pattern)
        return [pattern]
    names = fnmatch.filter(model_names(), pattern)
    if not names:
        raise ConfigError(f"no backbone matches {pattern!r}; 'sppfeat backbones' lists all")
    return names


def check_name(name: str) -> None:
    """Refuses a name that no backbone has.

    Raises:
        ConfigError: no backbone has this name; the message gives the reason, or similar names.
    """
    for prefix, reason in _REFUSED.items():
        if name.startswith(prefix):
            raise ConfigError(f"{name!r} cannot be a backbone: {reason}")
    names = model_names()
    if name not in names:
        shown = close_matches(name, names)
        close = f"; close to it: {', '.join(shown)}" if shown else ""
        raise ConfigError(f"unknown backbone {name!r}{close}; 'sppfeat backbones' lists all {len(names)}")


def close_matches(word: str, candidates: Sequence[str]) -> list[str]:
    """Up to five of the candidates that resemble ``word``, the most similar first.

    Example:
        >>> close_matches("resnet5O", ["vgg16", "resnet50", "resnet18"])
        ['resnet50', 'resnet18']
    """
    folded = {candidate.lower(): candidate for candidate in candidates}
    return [folded[match] for match in difflib.get_close_matches(word.lower(), folded, n=5, cutoff=0.6)]


def default_layer(name: str, model: "nn.Module | None" = None) -> str:
    """The node name of a model's default layer.

    Args:
        name: torchvision's name of the model.
        model: the model, if it is already built; None to build one without memory for its weights.

    Raises:
        ConfigError: no backbone has this name.
    """
    check_name(name)
    layer = next(layer for prefix, layer in _DEFAULT_LAYERS.items() if name.startswith(prefix))
    if not layer.endswith(".-2"):
        return layer
    sequence = layer.removesuffix(".-2")
    length = len(list((model or _build_without_memory(name)).get_submodule(sequence).children()))
    return f"{sequence}.{length - 2}"


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

    arguments = {}
    if name in ("googlenet", "inception_v3"):
        # Convert the input to the range of their original weights, as with named weights; skip their default
        # initialization, which takes minutes and warns; have the auxiliary heads, unused here, of the weight files.
        arguments = {"transform_input": True, "init_weights": False, "aux_logits": True}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
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


def describe_backbones(
    pattern: str, levels: Sequence[int], *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[BackboneEntry]:
    """Describes models without their weights, which takes about half a second each.

    Args:
        pattern: a name, or a pattern such as ``resnet*``.
        levels: the pyramid, for the dimension.
        on_progress: called with the number of models done and the total.

    Raises:
        ConfigError: no backbone matches, or the levels are invalid.
    """
    from sppfeat.networks.named_weights import list_entries

    names, entries = match_names(pattern), []
    n_bins = sum(n * n for n in parse_levels(levels))
    for i, name in enumerate(names):
        found, weights = zoo_summary(name), list_entries(name)
        entries.append(
            BackboneEntry(
                name=name,
                layer=default_layer(name),
                channels=found.channels,
                stride=found.geometry.stride if found.geometry else None,
                dimension=found.channels * n_bins,
                weights=[entry.name for entry in weights],
                download_mb=round(weights[0].size_mb, 1),
            )
        )
        on_progress(i + 1, len(names))
    return entries


def describe_layers(name: str) -> dict[str, Any]:
    """Describes a model and every node that outputs a feature map.

    Returns:
        ``name``, ``default_layer``, ``weights`` (names, the first is ``DEFAULT``) and ``layers``: for each node its
            ``layer`` (name), ``channels``, ``stride`` and ``offset`` in input pixels (None if the arithmetic does not
            apply, for the ``reason``), and ``map_hw``, height and width in cells for 224 x 224 pixels.

    Raises:
        ConfigError: no backbone has this name.
    """
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
            for layer, found in layer_geometries(model).items()
        ],
    }


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
