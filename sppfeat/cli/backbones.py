"""``sppfeat backbones``: the list of networks, the layers of one, and downloads of weights."""

import dataclasses
import fnmatch
from typing import TYPE_CHECKING, Any

import click

from sppfeat.cli.bars import Bar, download_bar
from sppfeat.cli.options import json_option, option
from sppfeat.cli.output import (
    human_bytes,
    joined_numbers,
    print_json,
    print_json_or_text,
    print_result,
    say,
    table,
)
from sppfeat.cli.values import LEVELS, complete_backbones
from sppfeat.config.specs import DEFAULT_LEVELS
from sppfeat.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from sppfeat.networks.named_weights import WeightEntry, WeightFile
    from sppfeat.networks.zoo import BackboneEntry

__all__ = ["backbones"]

_HEADER = ["backbone", "channels", "stride", "dimension", "MB", "default layer", "weights"]


@click.command(short_help="List the networks, or the layers of one; download weights.")
@click.argument("name", required=False, shell_complete=complete_backbones)
@option(
    "--levels",
    type=LEVELS,
    metavar="N,N,...",
    default=joined_numbers(DEFAULT_LEVELS),
    help="The pyramid, for the dimension.",
)
@option("--download", is_flag=True, help="Fetch the weights of NAME instead, for use without network.")
@option(
    "--weights",
    default="DEFAULT",
    metavar="NAME",
    help="With --download: which; DEFAULT is the first in the list.",
)
@option(
    "--weights-dir",
    type=click.Path(readable=False),
    metavar="FOLDER",
    help="With --download: where to put the files. [default: torch's hub cache]",
)
@json_option
def backbones(
    name: str | None,
    levels: tuple[int, ...],
    download: bool,
    weights: str,
    weights_dir: str | None,
    as_json: bool,
) -> None:
    """List the networks, or the layers of one; download weights.

    NAME is a network, whose layers are listed with channels, stride and offset (cell i is centred at input
    pixel offset + stride * i), or a pattern such as 'resnet*'. Without it all networks are listed: default
    layer, its channels and stride (input pixels per cell; none: whole images only, no boxes), dimension of a
    descriptor, weights, and the download size of the first of them. All of it is computed from the networks
    themselves, which takes about half a second each.

    With --download the weights of NAME, or of all networks that match the pattern, are put into torch's hub
    cache, or into the folder --weights-dir, unless they are there, and their checksums are verified. Exit
    code 1 if any of them fails; the others are there then.
    """
    if download:
        if not name:
            raise click.UsageError("--download needs NAME: a network, or a pattern such as 'resnet*'.")
        _download(_names_of(name), weights, weights_dir, as_json)
    elif name is None or _is_pattern(name):
        _all(_names_of(name or "*"), levels, as_json)
    else:
        _one(name, levels, as_json)


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _names_of(name: str) -> list[str]:
    """Names of the networks that match a name or a pattern.

    Raises:
        ConfigError: no network matches.
    """
    from sppfeat.networks import zoo

    if not _is_pattern(name):
        zoo.check_name(name)
        return [name]
    names = [known for known in zoo.model_names() if fnmatch.fnmatch(known, name)]
    if not names:
        raise ConfigError(f"no backbone matches {name!r}; 'sppfeat backbones' lists all")
    return names


def _download(names: list[str], weights: str, weights_dir: str | None, as_json: bool) -> None:
    """Downloads the weights of each network; a failure does not stop the others.

    Raises:
        WeightsError: a download failed.
    """
    from sppfeat.networks.named_weights import fetch_entry, find_entry

    fetched: list[dict[str, Any]] = []
    failed: list[str] = []
    for name in names:
        try:
            entry = find_entry(name, weights)
            with download_bar() as on_download:
                file = fetch_entry(entry, folder=weights_dir, on_download=on_download)
        except WeightsError as error:
            if len(names) == 1:
                raise
            failed.append(name)
            say(f"{name}: {error}")
            continue
        fetched.append(_fetched(entry, file))
        if not as_json:
            print_result(_fetched_text(entry, file))
    if as_json:
        print_json(fetched)
    if failed:
        raise WeightsError(f"{len(failed)} of {len(names)} downloads failed: {', '.join(failed)}")


def _fetched(entry: "WeightEntry", file: "WeightFile") -> dict[str, Any]:
    return {
        "name": entry.model,
        "weights": entry.name,
        "path": str(file.path.absolute()),
        "sha256": file.sha256,
        "bytes": file.n_bytes,
        "downloaded": file.was_downloaded,
    }


def _fetched_text(entry: "WeightEntry", file: "WeightFile") -> str:
    came = "downloaded" if file.was_downloaded else "already there, checksum verified"
    return f"{entry.model} {entry.name}: {file.path.absolute()} ({human_bytes(file.n_bytes)}, {came})"


def _all(names: list[str], levels: tuple[int, ...], as_json: bool) -> None:
    from sppfeat.networks.zoo import describe_backbone

    entries = []
    with Bar("looking into the networks", len(names), unit="net", shown=True) as bar:
        for i, known in enumerate(names):
            entries.append(describe_backbone(known, levels))
            bar.move_to(i + 1)
    print_json_or_text(
        [dataclasses.asdict(entry) for entry in entries],
        lambda: table(_HEADER, [_row(entry) for entry in entries], right={1, 2, 3, 4}),
        as_json=as_json,
    )


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
    from sppfeat.networks.zoo import describe_backbone, describe_layers

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
