"""``sppfeat merge``: joins the shards of an extraction into one feature file."""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sppfeat
from sppfeat.cli import options
from sppfeat.cli.bars import Bar
from sppfeat.cli.command import command
from sppfeat.cli.option_types import OUTPUT_FILE
from sppfeat.cli.options import flag
from sppfeat.cli.output import print_json, say
from sppfeat.config.wording import counted, human_bytes

if TYPE_CHECKING:
    from sppfeat.store.merge import MergeSummary

__all__ = ["merge"]

_PHASE_LABELS = {"check": "checking shards", "join": "joining shards", "copy": "copying rows"}


@command()
@click.argument("output", type=OUTPUT_FILE)
@click.argument("shards", nargs=-1, required=True)
@flag("--copy", "Copy the descriptors, so that the shards are no longer needed.")
@options.overwrite
@options.json
@options.quiet
def merge(output: Path, shards: tuple[str, ...], as_json: bool, quiet: bool, **values: Any) -> None:
    """Join the shards of a distributed extraction into one file.

    OUTPUT holds every image and row of the SHARDS of 'sppfeat extract --shard', in the order of a single run. SHARDS
    are files in any order, @LIST (a text file with one name per line) or - (such a list on standard input).

    The descriptors stay in the shards: /features is a virtual HDF5 dataset, which other programs read like any other.
    Keep the shards unchanged. Shards in or near the folder of OUTPUT can be moved together with it. With --copy, OUTPUT
    is the very file that a single run writes; it may be a URL.

    Shards are refused if they overlap, are missing, incomplete or in use, or differ in settings, inputs or weights.
    """
    with Bar("merging", 0, unit="", shown=not quiet) as bar:
        found = sppfeat.merge(
            output,
            list(_named(shards)),
            on_progress=lambda phase, done, total: bar.move_to(done, total, label=_PHASE_LABELS[phase]),
            **values,
        )
    if as_json:
        print_json({**dataclasses.asdict(found), "seconds": round(found.seconds, 3)})
    else:
        say(_text(found))


def _named(shards: Iterable[str]) -> Iterable[str]:
    """Names of the shards, with lists expanded."""
    from sppfeat.inputs.read import is_list, read_list

    for shard in shards:
        if is_list(shard):
            yield from map(os.fsdecode, read_list(shard))
        else:
            yield shard


def _text(found: "MergeSummary") -> str:
    size, rows = human_bytes(found.bytes), f"{counted(found.rows, 'row')} x {found.dimension}"
    images = f"{counted(found.images, 'image')}: {found.done} done, {found.failed} failed"
    lines = [f"{found.output}: {rows} of {counted(found.shards, 'shard')}; {images}"]
    if found.is_virtual:
        lines.append(
            f"{size}; the descriptors stay in the shards ({human_bytes(found.source_bytes)}): keep the shards"
        )
    else:
        lines.append(f"{size}; the shards are no longer needed")
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes), f"{found.seconds:.1f} s"])
