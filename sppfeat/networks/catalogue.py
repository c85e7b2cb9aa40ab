"""The catalogue of networks: their layers, channels, strides, dimensions and weights, and downloads of these."""

from collections.abc import Callable, Sequence
from typing import Any

from sppfeat.config.specs import parse_levels
from sppfeat.config.values import StrPath
from sppfeat.errors import WeightsError
from sppfeat.files.downloads import OnDownload
from sppfeat.networks import zoo
from sppfeat.networks.named_weights import fetch_entry, find_entry, list_entries
from sppfeat.networks.receptive_field import layer_geometries

__all__ = ["describe_backbones", "describe_layers", "fetch_weights"]


def describe_backbones(
    pattern: str, levels: Sequence[int], *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[dict[str, Any]]:
    """Describes the models that match a name or a pattern such as ``resnet*``, which takes half a second each.

    ``levels`` is the pyramid, for the dimension.

    Returns:
        Of each model its ``name``, default ``layer``, ``channels``, ``stride`` (pixels per cell, a ``(y, x)`` pair
            where the axes differ; None if boxes are not supported), ``dimension`` of a descriptor, ``weights`` (names,
            the first is ``DEFAULT``), and ``download_mb``, the size of the first one's file in units of 2**20 bytes.

    """
    names = zoo.match_names(pattern)
    entries: list[dict[str, Any]] = []
    n_bins = sum(n * n for n in parse_levels(levels))
    for i, name in enumerate(names):
        model, weights = zoo.build_without_memory(name), list_entries(name)
        layer = zoo.default_layer(name, model)
        found = layer_geometries(model, layers=[layer])[layer]
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


def describe_layers(name: str) -> dict[str, Any]:
    """Describes a model and every node that outputs a feature map.

    Returns:
        ``name``, ``default_layer``, ``weights`` (names, the first is ``DEFAULT``) and ``layers``: for each node its
            ``layer`` (name), ``channels``, ``stride`` and ``offset`` in input pixels (None if the arithmetic does not
            apply, for the ``reason``), and ``map_hw``, height and width in cells for 224 x 224 pixels.
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
    on_file: Callable[[dict[str, Any]], None] = lambda file: None,
) -> tuple[list[dict[str, Any]], dict[str, WeightsError]]:
    """Downloads the weights of all networks that match a pattern; a failure does not stop the others.

    Returns:
        The files, and the errors by the names of the networks that failed. Of each file ``name`` (of the network),
            ``weights``, ``path``, ``sha256``, ``bytes``, and ``downloaded``: False if it was already there.

    Raises:
        ConfigError: no network matches.
        WeightsError: the weights of the only network that matches cannot be had.
    """
    names = zoo.match_names(pattern)
    fetched: list[dict[str, Any]] = []
    failed: dict[str, WeightsError] = {}
    for name in names:
        try:
            entry = find_entry(name, weights)
            file = fetch_entry(entry, folder=folder, on_download=on_download)
        except WeightsError as error:
            if len(names) == 1:
                raise
            failed[name] = error
        else:
            fetched.append(
                {
                    "name": entry.model,
                    "weights": entry.name,
                    "path": str(file.path.absolute()),
                    "sha256": file.sha256,
                    "bytes": file.n_bytes,
                    "downloaded": file.was_downloaded,
                }
            )
            on_file(fetched[-1])
    return fetched, failed
