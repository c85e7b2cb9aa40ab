"""The catalogue of networks: their layers, channels, strides, dimensions and weights, and downloads of these."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sppfeat.config.specs import parse_levels
from sppfeat.config.values import StrPath
from sppfeat.errors import WeightsError
from sppfeat.files.downloads import OnDownload
from sppfeat.networks import zoo
from sppfeat.networks.named_weights import WeightEntry, WeightFile, fetch_entry, find_entry, list_entries
from sppfeat.networks.receptive_field import LayerGeometry, layer_geometries

__all__ = ["BackboneEntry", "describe_backbones", "describe_layers", "fetch_weights", "zoo_summary"]


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


def zoo_summary(name: str, *, input_hw: tuple[int, int] = (224, 224)) -> LayerGeometry:
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
    model = zoo.build_without_memory(name)
    layer = zoo.default_layer(name, model)
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
    names, entries = zoo.match_names(pattern), []
    n_bins = sum(n * n for n in parse_levels(levels))
    for i, name in enumerate(names):
        found, weights = zoo_summary(name), list_entries(name)
        entries.append(
            BackboneEntry(
                name=name,
                layer=zoo.default_layer(name),
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
    model = zoo.build_model(name).eval()
    return {
        "name": name,
        "default_layer": zoo.default_layer(name, model),
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


def fetch_weights(
    pattern: str,
    weights: str,
    *,
    folder: StrPath | None = None,
    on_download: OnDownload = lambda name, done, total: None,
    on_file: Callable[[WeightEntry, WeightFile], None] = lambda entry, file: None,
    on_failure: Callable[[str, WeightsError], None] = lambda name, error: None,
) -> tuple[list[tuple[WeightEntry, WeightFile]], list[str]]:
    """Downloads the weights of all networks that match a pattern; a failure does not stop the others.

    Args:
        pattern: name of a network, or a pattern such as ``resnet*``.
        weights: name of the weights; ``DEFAULT`` for the first of each network.
        folder, on_download: as for :func:`fetch_entry`.
        on_file: called with each entry and its file.
        on_failure: called with the name of each network whose weights cannot be had, and the error.

    Returns:
        The entries with their files, and the names of the networks that failed.

    Raises:
        ConfigError: no network matches.
        WeightsError: the weights of the only network that matches cannot be had.
    """
    names = zoo.match_names(pattern)
    fetched: list[tuple[WeightEntry, WeightFile]] = []
    failed: list[str] = []
    for name in names:
        try:
            entry = find_entry(name, weights)
            file = fetch_entry(entry, folder=folder, on_download=on_download)
        except WeightsError as error:
            if len(names) == 1:
                raise
            failed.append(name)
            on_failure(name, error)
        else:
            fetched.append((entry, file))
            on_file(entry, file)
    return fetched, failed
