"""``sppfeat backbones``: lists networks and layers, and downloads weights."""

from typing import TYPE_CHECKING, Any

import click

from sppfeat.cli import options
from sppfeat.cli.bars import Bar, download_bar
from sppfeat.cli.command import command
from sppfeat.cli.option_types import ANY_PATH, LEVELS
from sppfeat.cli.options import complete_backbones, flag, option
from sppfeat.cli.output import joined_numbers, print_json, print_json_or_text, print_result, say, table
from sppfeat.config.specs import DEFAULT_LEVELS
from sppfeat.config.wording import human_bytes
from sppfeat.errors import WeightsError

if TYPE_CHECKING:
    from sppfeat.networks.named_weights import FetchedWeights

__all__ = ["backbones"]

_HEADER = ["backbone", "MB", "ImageNet top-1 %", "weights"]
_FULL_HEADER = ["backbone", "channels", "stride", "dimension", "MB", "default layer", "weights"]
_LAYER_HEADER = ["layer", "channels", "stride", "offset", "map for 224 x 224"]


@command(
    examples=(
        "sppfeat backbones",
        "sppfeat backbones 'resnet*'",
        "sppfeat backbones resnet50",
        "sppfeat backbones resnet50 --download",
    ),
)
@click.argument("name", required=False, shell_complete=complete_backbones)
@option(
    "--levels",
    type=LEVELS,
    metavar="N,N,...",
    default=joined_numbers(DEFAULT_LEVELS),
    help="Pyramid levels, for the dimension.",
)
@flag("--download", "Download the weights of NAME for offline use.")
@option(
    "--weights", default="DEFAULT", metavar="NAME", help="Weights to download; DEFAULT is the first listed."
)
@option(
    "--weights-dir",
    type=ANY_PATH,
    metavar="FOLDER",
    help="Folder for downloaded weights. [default: torch's hub cache]",
)
@options.json
def backbones(
    name: str | None, levels: tuple[int, ...], download: bool, as_json: bool, **source: Any
) -> None:
    """List the networks or the layers of one; download weights.

    Without NAME, all networks are listed with their weights, and size and ImageNet accuracy of the first weights.

    For a pattern such as 'resnet*', the list adds default layer, channels, stride (input pixels per cell; none: no
    boxes) and dimension of a descriptor. This takes half a second per network; --json without NAME does it for all.

    For one network, its layers are listed. Cell i of a map is centered at input pixel offset + stride * i.

    With --download, the weights of NAME or of all networks that match are fetched and their checksums verified. If a
    download fails, the others go on and the exit code is 1.
    """
    if download:
        if not name:
            raise click.UsageError("--download needs NAME: a network or a pattern such as 'resnet*'.")
        _download(name, as_json=as_json, **source)
    elif name is None and not as_json:
        _list_networks()
    elif name is None or any(character in name for character in "*?["):
        _describe_networks(name or "*", levels, as_json)
    else:
        _list_layers(name, as_json)


def _download(name: str, *, weights: str, weights_dir: str | None, as_json: bool) -> None:
    from sppfeat.networks.zoo import fetch_weights

    def on_file(file: "FetchedWeights") -> None:
        how = "downloaded" if file["downloaded"] else "already there, checksum verified"
        if not as_json:
            size = human_bytes(file["bytes"])
            print_result(f"{file['name']} {file['weights']}: {file['path']} ({size}, {how})")

    with download_bar() as on_download:
        fetched, failed = fetch_weights(
            name, weights, folder=weights_dir, on_download=on_download, on_file=on_file
        )
    for network, error in failed.items():
        say(f"{network}: {error}")
    if as_json:
        print_json(fetched)
    if failed:
        n_all = len(failed) + len(fetched)
        raise WeightsError(f"{len(failed)} of {n_all} downloads failed: {', '.join(failed)}")


def _list_networks() -> None:
    from sppfeat.networks.named_weights import list_entries
    from sppfeat.networks.zoo import model_names

    rows = [
        [
            name,
            f"{entries[0].size_mb:.1f}",
            "" if entries[0].top1 is None else f"{entries[0].top1:.1f}",
            ", ".join(entry.name for entry in entries),
        ]
        for name in model_names()
        for entries in [list_entries(name)]
    ]
    print_result(table(_HEADER, rows, right={1, 2}))


def _describe_networks(pattern: str, levels: tuple[int, ...], as_json: bool) -> None:
    from sppfeat.networks.zoo import describe_backbones

    with Bar("computing channels and strides", 0, unit="network", shown=True) as bar:
        entries = describe_backbones(pattern, levels, on_progress=bar.move_to)
    rows = [
        [
            entry["name"],
            str(entry["channels"]),
            _pixels(entry["stride"]),
            str(entry["dimension"]),
            f"{entry['download_mb']:.1f}",
            entry["layer"],
            ", ".join(entry["weights"]),
        ]
        for entry in entries
    ]
    print_json_or_text(entries, table(_FULL_HEADER, rows, right={1, 2, 3, 4}), as_json=as_json)


def _list_layers(name: str, as_json: bool) -> None:
    from sppfeat.networks.zoo import describe_layers

    found = describe_layers(name)
    rows = [
        [
            layer["layer"],
            str(layer["channels"]),
            _pixels(layer["stride"]),
            _pixels(layer["offset"]),
            "{} x {}".format(*layer["map_hw"]),
        ]
        for layer in found["layers"]
    ]
    heading = f"{name}: default layer {found['default_layer']}, weights {', '.join(found['weights'])}"
    layers = table(_LAYER_HEADER, rows, right={1, 2, 3})
    print_json_or_text(found, f"{heading}\n\n{layers}", as_json=as_json)


def _pixels(value: float | tuple[float, float] | None) -> str:
    if value is None:
        return "none"
    return " x ".join(f"{v:g}" for v in (value if isinstance(value, tuple) else (value,)))
