"""``sppfeat merge``: makes one feature file from the shards of an extraction."""

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
from sppfeat.cli.options import flag
from sppfeat.cli.output import print_json, say
from sppfeat.config.wording import counted, human_bytes

if TYPE_CHECKING:
    from sppfeat.store.merge import MergeSummary

__all__ = ["merge"]

_PHASE_LABELS = {"check": "checking shards", "join": "joining shards", "copy": "copying rows"}


@command(short_help="Make one feature file of all shards of an extraction.")
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("shards", nargs=-1, required=True)
@flag("--copy", "Copy the descriptors: the merged file then needs the shards no more.")
@options.overwrite
@options.json
@options.quiet
def merge(output: Path, shards: tuple[str, ...], as_json: bool, quiet: bool, **values: Any) -> None:
    """Make one feature file of the files that 'sppfeat extract --shard' wrote: OUTPUT of all SHARDS, in any order.

    It has every image and row of the extraction, in the order of one that was not cut. Its descriptors stay where they
    are: /features is a virtual HDF5 dataset, which other programs read as any other, as long as the shards stay as they
    are. Shards in OUTPUT's folder, below it or beside it can be moved together with it. --copy writes a file of its
    own, the very one that a single run would have written; OUTPUT can then be a URL, too.

    SHARDS are files, or @LIST for a text file that names one a line, or - for such a list on standard input.

    What does not belong together is refused: shards that are missing, overlap, are incomplete or being written, or have
    other settings, inputs or weights.
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
    """Names of the shards; lists are replaced by the names in them."""
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
            f"{size}; the descriptors stay in the shards, {human_bytes(found.source_bytes)}: keep these as they are"
        )
    else:
        lines.append(f"{size}; it needs the shards no more")
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes), f"{found.seconds:.1f} s"])
