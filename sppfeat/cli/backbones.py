"""``sppfeat backbones``."""

import dataclasses
import fnmatch
from typing import TYPE_CHECKING, Any

import click

from sppfeat.cli.options import LEVELS, json_option, option
from sppfeat.cli.output import print_json, print_result, table
from sppfeat.cli.progress import Bar
from sppfeat.config import DEFAULT_LEVELS
from sppfeat.errors import ConfigError

if TYPE_CHECKING:
    from sppfeat.catalogue import BackboneEntry

__all__ = ["backbones"]

_HEADER = ["backbone", "channels", "stride", "dimension", "MB", "default layer", "weights"]


@click.command(short_help="List the networks, or the layers of one.")
@click.argument("name", required=False)
@option(
    "--levels",
    type=LEVELS,
    metavar="N,N,...",
    default=",".join(map(str, DEFAULT_LEVELS)),
    help="The pyramid, for the dimension.",
)
@json_option
def backbones(name: str | None, levels: tuple[int, ...], as_json: bool) -> None:
    """List the networks, or the layers of one.

    NAME is a network, whose layers are listed with channels, stride and offset (cell i is centred at input
    pixel offset + stride * i), or a pattern such as 'resnet*'. Without it all networks are listed: default
    layer, its channels and stride (input pixels per cell; none: whole images only, no boxes), dimension of a
    descriptor, weights, and the download size of the first of them. All of it is computed from the networks
    themselves, which takes about half a second each.
    """
    from sppfeat import zoo

    if name is not None and not any(character in name for character in "*?["):
        _one(name, levels, as_json)
        return
    names = [known for known in zoo.model_names() if fnmatch.fnmatch(known, name or "*")]
    if not names:
        raise ConfigError(f"no backbone matches {name!r}; 'sppfeat backbones' lists all")
    _all(names, levels, as_json)


def _all(names: list[str], levels: tuple[int, ...], as_json: bool) -> None:
    from sppfeat.catalogue import describe_backbone

    entries = []
    with Bar("looking into the networks", len(names), unit="net", shown=True) as bar:
        for i, known in enumerate(names):
            entries.append(describe_backbone(known, levels))
            bar.move_to(i + 1)
    if as_json:
        print_json([dataclasses.asdict(entry) for entry in entries])
    else:
        print_result(table(_HEADER, [_row(entry) for entry in entries], right={1, 2, 3, 4}))


def _row(entry: "BackboneEntry") -> list[str]:
    return [
        entry.name,
        str(entry.channels),
        _pixels(entry.stride),
        str(entry.dimension),
        f"{entry.download_mb:.1f}",
        entry.layer,
        ", ".join(entry.weights),
    ]


def _one(name: str, levels: tuple[int, ...], as_json: bool) -> None:
    from sppfeat.catalogue import describe_backbone, describe_layers

    entry = describe_backbone(name, levels)
    layers: list[dict[str, Any]] = [
        {
            "layer": layer,
            "channels": found.channels,
            "stride": found.geometry.stride if found.geometry else None,
            "offset": found.geometry.offset if found.geometry else None,
            "map_hw": list(found.map_hw),
            "reason": found.reason,
        }
        for layer, found in describe_layers(name).items()
    ]
    if as_json:
        print_json({"name": name, "default_layer": entry.layer, "weights": entry.weights, "layers": layers})
        return
    print_result(f"{name}: default layer {entry.layer}, weights {', '.join(entry.weights)}\n")
    rows = [
        [
            layer["layer"],
            str(layer["channels"]),
            _pixels(layer["stride"]),
            _pixels(layer["offset"]),
            "{} x {}".format(*layer["map_hw"]),
        ]
        for layer in layers
    ]
    print_result(table(["layer", "channels", "stride", "offset", "map for 224 x 224"], rows, right={1, 2, 3}))


def _pixels(value: float | tuple[float, float] | None) -> str:
    if value is None:
        return "none"
    return " x ".join(f"{v:g}" for v in (value if isinstance(value, tuple) else (value,)))
