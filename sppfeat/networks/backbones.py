"""Backbones: torchvision models or the user's own networks, cut at the chosen layers."""

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from sppfeat.config.specs import BackboneSpec
from sppfeat.config.values import CHOICES, StrPath, check_choice
from sppfeat.errors import ConfigError, WeightsError
from sppfeat.files.downloads import OnDownload
from sppfeat.networks import zoo
from sppfeat.networks.layers import Head, cut_head, cut_network, fold_batch_norm, probe_maps
from sppfeat.networks.named_weights import IMAGENET_INPUT, WeightEntry, find_entry, read_entry
from sppfeat.networks.receptive_field import FeatureGeometry, receptive_field
from sppfeat.networks.weight_files import is_weights_file, read_weights_file
from sppfeat.networks.weights import file_sha256, load_parameters, state_sha256, trained_backbone

__all__ = ["Backbone", "load_backbone", "wrap_module"]

# torchvision's models whose classifier has two hidden Linear layers.
_WITH_HEADS = ("vgg*", "alexnet")
_WALK_SIDE = 224
_FOLDING_SIDE = 64


@dataclass(frozen=True)
class Backbone:
    """A network, cut at one or more layers, with its parameters."""

    spec: BackboneSpec  # name, weights and layers of the network, and the input that it expects
    network: nn.Module  # maps (N, 3, H, W) to a dict from layer name to feature map (N, C, H', W')
    channels: tuple[int, ...]  # number of channels of each layer's map
    min_side: int  # smallest side of an input, in pixels, that gives every layer at least one cell
    weights_path: str = ""  # path of the weight file; empty for named or random weights
    head: Head | None = None  # fully connected layers after the pooling of the only layer, or None
    weights_note: str = ""  # note for the user on the chosen parameters of the weights file

    def maps(self, network: nn.Module, batch: Tensor) -> list[Tensor]:
        """Computes the feature maps of ``(N, 3, H, W)`` normalized images, in the order of ``spec.layers``.

        ``network`` is :attr:`network`, or a compiled form of it, with dtype and device of the batch.
        """
        outputs = network(batch)
        return [outputs[layer] for layer in self.spec.layers]

    def geometry(self, layer: int) -> FeatureGeometry:
        """Stride and offset of the map of ``spec.layers[layer]``; ConfigError if the arithmetic does not apply."""
        side = max(self.min_side, _WALK_SIDE)
        try:
            return receptive_field(self.network, self.spec.layers[layer], input_hw=(side, side))
        except ConfigError as error:
            raise ConfigError(f"{self.spec.name}: boxes cannot be projected: {error}") from error


def load_backbone(
    name: str,
    *,
    weights: str = "DEFAULT",
    weights_dir: StrPath | None = None,
    layers: Sequence[str] = (),
    head: str | None = None,
    seed: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    fold: bool = True,
    on_download: OnDownload = lambda name, done, total: None,
) -> Backbone:
    """Loads a torchvision classification model with weights and cuts it at ``layers``.

    Args:
        weights: name of torchvision weights, path of a file, or ``none`` for random values.
        weights_dir: a folder to search for named weights before torch's hub cache.
        layers: node names; empty for the last feature map.
        head: ``fc6`` or ``fc7``, on the default layer only, or None.
        seed: seed of the random values with ``none``.
        mean, std: mean and standard deviation of the input, for values in 0..1, in RGB order; None for those of the
            weights, or of the architecture's default weights.
        fold: fold batch normalizations into convolutions where possible.

    Raises:
        ConfigError: the model, layer or head does not exist, or the layer has no feature map.
        WeightsError: weights cannot be found, fetched or read, or do not fit.
    """
    zoo.check_name(name)
    if head is not None:
        _check_head(name, head, layers)
    is_file = is_weights_file(weights)
    entry = None if weights == "none" or is_file else _named_weights(name, weights)
    sets = read_weights_file(Path(weights)) if is_file else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = zoo.build_model(name).eval()
    layers = tuple(layers) or (zoo.default_layer(name, model),)
    network = cut_network(model, layers, name)
    cut = None if head is None else cut_head(model, head)
    used_state, used_modules = _used_parts(network, cut)
    if entry is not None:
        kind, source = entry.name, f"{name} {entry.name}"
        sets, sha256 = read_entry(entry, folder=weights_dir, on_download=on_download)
    elif is_file:
        kind, source, sha256 = "file", f"{weights!r} as {name}", file_sha256(Path(weights))
    else:
        kind, source, sha256 = "none", "", state_sha256(used_state)
    note = ""
    if sets is not None:
        source += f" with {head}" if head else ""
        try:
            note = load_parameters(model, sets, needed=used_state, used_modules=used_modules, source=source)
        except WeightsError as error:
            made_for = trained_backbone(Path(weights)) if is_file else None
            if made_for in (None, name):
                raise
            raise WeightsError(
                f"{weights!r} was trained as {made_for}, not {name}; use --backbone {made_for}"
            ) from error
    transform = (find_entry(name) if entry is None else entry).transform
    spec = BackboneSpec(
        name=name,
        weights=kind,
        weights_sha256=sha256,
        layers=layers,
        mean=tuple(transform.mean if mean is None else mean),
        std=tuple(transform.std if std is None else std),
        interpolation=transform.interpolation,
        seed=seed if kind == "none" else None,
        head=head,
    )
    channels, min_side = probe_maps(network, layers, name)
    if fold:
        network = fold_batch_norm(network, layers, side=max(min_side, _FOLDING_SIDE))
    return Backbone(
        spec=spec,
        network=network,
        channels=channels,
        min_side=min_side,
        weights_path=os.path.abspath(weights) if is_file else "",
        head=cut,
        weights_note=note,
    )


def wrap_module(
    module: nn.Module,
    *,
    layers: Sequence[str],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """Copies the user's own network, in evaluation mode, and cuts it at ``layers``.

    Args:
        module: network that takes ``(N, 3, H, W)`` float32.
        layers: node names of its graph; names of submodules if it cannot be traced.
        mean, std: mean and standard deviation of the input, for values in 0..1, in RGB order; None for ImageNet's.

    Raises:
        ConfigError: no layer is given, a layer does not exist, or its output is not a feature map.
    """
    name = f"module:{type(module).__qualname__}"
    if not layers:
        raise ConfigError(f"{name}: no layer to pool; name a node or submodule: layer='...'")
    network = cut_network(copy.deepcopy(module).cpu().float().eval(), layers, name)
    spec = BackboneSpec(
        name=name,
        weights="module",
        weights_sha256=state_sha256(network.state_dict()),
        layers=tuple(layers),
        mean=tuple(IMAGENET_INPUT.mean if mean is None else mean),
        std=tuple(IMAGENET_INPUT.std if std is None else std),
        interpolation=IMAGENET_INPUT.interpolation,
    )
    channels, min_side = probe_maps(network, spec.layers, name)
    network = fold_batch_norm(network, spec.layers, side=max(min_side, _FOLDING_SIDE))
    return Backbone(spec, network, channels, min_side)


def _check_head(name: str, head: str, layers: Sequence[str]) -> None:
    """Refuses a head that a model lacks, or layers that do not feed it; the names decide, and no model is built."""
    check_choice("head", head, CHOICES["head"])
    if not any(fnmatchcase(name, pattern) for pattern in _WITH_HEADS):
        raise ConfigError(
            f"{name!r} has no {' or '.join(CHOICES['head'])}; use one of {', '.join(_WITH_HEADS)}"
        )
    default = zoo.default_layer(name)
    if layers and tuple(layers) != (default,):
        raise ConfigError(
            f"--head {head} of {name} takes layer {default!r}, not {', '.join(layers)}; leave --layer out"
        )


def _used_parts(network: nn.Module, head: Head | None) -> tuple[dict[str, Tensor], list[str]]:
    """Parameters of a network and its head, and names of their modules, under the whole model's names."""
    modules = [module for module, _ in network.named_modules() if module]
    if head is None:
        return network.state_dict(), modules
    modules += [f"classifier.{module}" for module, _ in head.network.named_children()]
    return {**network.state_dict(), **head.network.state_dict(prefix="classifier.")}, modules


def _named_weights(name: str, weights: str) -> WeightEntry:
    try:
        return find_entry(name, weights)
    except WeightsError as error:
        raise WeightsError(f"{error}, none, or a file") from error
