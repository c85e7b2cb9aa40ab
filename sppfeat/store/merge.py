"""Merges the files of all shards into one file, which copies their descriptors or refers to them.

First checks that the files are complete, come from one extraction, and hold each of its images exactly once.
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import config_differences
from sppfeat.config.machine import row_ranges
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted, first_few
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.columns import ClassNumbers
from sppfeat.files.outputs import OutputLock, check_feature_path, check_new_file, is_being_written
from sppfeat.files.places import FileVersion
from sppfeat.files.remote import url_of
from sppfeat.files.remote.output import local_output
from sppfeat.store.layout import Entries, FileLayout, create_layout
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status
from sppfeat.store.virtual_features import SourceFile, recorded_path

__all__ = ["MergeSummary", "merge_shards"]

_COPIED_NBYTES = 16 << 20  # of descriptors, copied at a time
_SHOWN = 5
_SAME_FACTOR = 1e-6  # relative; machines that round differently estimate the factors on the same images
_OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class MergeSummary:
    """Summary of a merge.

    Attributes:
        output: the merged file, or its URL.
        shards: number of merged files that hold images.
        is_virtual: True if the descriptors stay in the shards' files; False if they were copied.
        images: number of images.
        done: number of images with descriptors.
        failed: number of images that failed.
        rows: number of rows.
        dimension: length of a descriptor.
        bytes: size of the merged file.
        source_bytes: total size of the shards' files.
        seconds: duration of the merge.
        notes: remarks for the user.
    """

    output: str
    shards: int
    is_virtual: bool
    images: int
    done: int
    failed: int
    rows: int
    dimension: int
    bytes: int
    source_bytes: int
    seconds: float
    notes: list[str]


class _ShardFile(NamedTuple):
    """The file of one shard of a plan."""

    path: Path  # as the user gave it
    shard: Shard
    root: str  # folder that its image paths are relative to
    version: FileVersion  # of the file when it was read
    source: SourceFile  # its record for /sources, with its absolute path
    n_boxes: int  # in the box file, or views in this shard; 0 if rows are whole images
    status: list[int]  # number of pending, done and failed images

    @property
    def pending(self) -> int:
        """Number of images without a result, including any with an unknown status."""
        return sum(self.status) - self.status[Status.DONE] - self.status[Status.FAILED]

    def check_unchanged(self) -> None:
        """Raise StoreError if the file was written or replaced since it was read."""
        try:
            now = FileVersion.of(self.path)
        except OSError as error:
            raise StoreError(f"cannot read {str(self.path)!r} again: {error.strerror}") from error
        if not now.is_file_of(self.version):
            raise StoreError(f"{str(self.path)!r} changed during the merge; merge again")


def merge_shards(
    output: StrPath,
    shards: Sequence[StrPath],
    *,
    copy: bool = False,
    overwrite: bool = False,
    on_progress: _OnProgress = lambda phase, done, total: None,
) -> MergeSummary:
    """Merge the files of all shards of an extraction into the file that a single run would have written.

    The same as ``sppfeat.merge``. The rows get the order of the whole extraction, whatever the order of ``shards``.
    Memory holds one block of a shard, plus eight bytes for each box of a box file.

    Args:
        output: the file to write; it takes its name when it is complete. With ``copy``, also a URL of an object store.
        shards: paths of complete files, in any order and of any sizes, that together hold each image once.
        copy: True to copy the descriptors; False to make ``/features`` a virtual dataset that refers to them.
        overwrite: True to replace an existing output.
        on_progress: called with the step (``check``, ``join`` or ``copy``), the amount done, and the total: files, or
            rows for ``copy``.

    Raises:
        ConfigError: ``shards`` is empty, or contains the output; or the output is a URL and ``copy`` is False.
        SourceError: the object store cannot be reached, or refuses.
        StoreError: a file is incomplete, or cannot be read or written; or the files do not hold each image of one
            extraction exactly once.
    """
    check_feature_path(output)
    if not shards:
        raise ConfigError("no shards to merge; name one or more")
    url = url_of(output)
    if url is not None and not copy:
        raise ConfigError(f"a merged file at {url} cannot refer to local files; add --copy")
    with local_output(output, overwrite=overwrite, continues=False) as local:
        summary = _merge(local.path, shards, copy=copy, overwrite=overwrite, on_progress=on_progress)
        local.publish()
    return summary if url is None else dataclasses.replace(summary, output=url)


def _merge(
    output: Path, shards: Sequence[StrPath], *, copy: bool, overwrite: bool, on_progress: _OnProgress
) -> MergeSummary:
    started = time.monotonic()
    check_new_file(output, inputs=shards, overwrite=overwrite)
    with OutputLock(output):
        # Check again under the lock: another process may have just written the output.
        check_new_file(output, inputs=shards, overwrite=overwrite)
        parts = _read_shard_files(shards, lambda n: on_progress("check", n, len(shards)))
        whole = parts[0].shard
        is_virtual = not copy and whole.n_rows > 0  # a virtual dataset needs at least one row
        real = os.path.realpath(output)
        sources = [
            part.source._replace(path=recorded_path(os.fsdecode(part.source.path), real))
            for part in parts
            if is_virtual
        ]
        with FeatureFile(parts[0].path) as first:
            layout = _layout(first, parts, sources)
            entries = _entries(first, parts, layout, lambda n: on_progress("join", n, len(parts)))
            if not is_virtual:
                copied = _descriptors(parts, lambda n: on_progress("copy", n, whole.n_rows))
                entries = itertools.chain(entries, copied)
            with create_layout(output, layout, entries):
                for part in parts:
                    part.check_unchanged()
    return MergeSummary(
        output=str(output),
        shards=len(parts),
        is_virtual=is_virtual,
        images=whole.n_images,
        done=sum(part.status[Status.DONE] for part in parts),
        failed=sum(part.status[Status.FAILED] for part in parts),
        rows=whole.n_rows,
        dimension=layout.sizes["D"],
        bytes=os.stat(output).st_size,
        source_bytes=sum(part.version.nbytes for part in parts),
        seconds=time.monotonic() - started,
        notes=_root_notes(parts),
    )


def _root_notes(parts: Sequence[_ShardFile]) -> list[str]:
    roots = list(dict.fromkeys(part.root for part in parts))
    note = (
        f"the shards read their images from {len(roots)} folders: {first_few(map(repr, roots), 3)}; the merged file "
        f"records {roots[0]!r}, from {str(parts[0].path)!r}"
    )
    return [note] if len(roots) > 1 else []


def _layout(first: FeatureFile, parts: Sequence[_ShardFile], sources: Sequence[SourceFile]) -> FileLayout:
    """Return the layout of the merged file: that of a shard, with the images, rows and views of all of them."""
    layout = FileLayout.like(first, sources=bool(sources))
    whole = parts[0].shard
    sizes = {**layout.sizes, "N": whole.n_images, "R": whole.n_rows, "S": len(sources)}
    if first.has_boxes and not _has_box_file(first):
        sizes["X"] = sum(part.n_boxes for part in parts)
    return dataclasses.replace(layout, sizes=sizes, sources=sources)


def _entries(
    first: FeatureFile, parts: Sequence[_ShardFile], layout: FileLayout, on_part: Callable[[int], None]
) -> Iterator[Entries]:
    """Yield the content of the merged file, except the descriptors.

    Columns with an entry per image, row or view join those of all shards, renumbered. Boxes of a box file have the same
    numbers in every shard. Everything else is equal, except that versions may number classes in another order.
    """
    joined = {name for name, (dims, _) in layout.columns.items() if dims[0] in ("N", "R", "X")}
    box_row = None
    if _has_box_file(first):
        joined.remove("box_row")
        box_row = np.full(layout.sizes["X"], -1, dtype=np.int64)
    for name in layout.columns:
        if name not in joined and name != "box_row" and not name.startswith("sources/"):
            yield name, ..., first.read(name)
    known, n_views = ClassNumbers(first.row_classes), 0
    for n, part in enumerate(parts, 1):
        first_view = n_views if box_row is None else 0
        starts = {"N": part.shard.first_image, "R": part.shard.first_row, "X": first_view}
        shifts = {"image_index": "N", "images/rows": "R", "row_source": "X", "box_row": "R"}
        with FeatureFile(part.path) as source:
            number = known.renumbering(source.row_classes)
            for name in sorted(joined):
                start, shift = starts[str(layout.columns[name][0][0])], shifts.get(name)
                for entries, values in source.read_parts(name):
                    own = number[values] if name == "row_label" else values
                    where = slice(start + entries.start, start + entries.stop)
                    yield name, where, own if shift is None else own + starts[shift]
            if box_row is not None:
                _join_box_rows(box_row, source, part)
        n_views += part.n_boxes
        on_part(n)
    if box_row is not None:
        yield "box_row", ..., box_row
    for name in SourceFile._fields if layout.sources else ():
        yield f"sources/{name}", ..., [getattr(source, name) for source in layout.sources]


def _join_box_rows(box_row: npt.NDArray[np.int64], source: FeatureFile, part: _ShardFile) -> None:
    """Fill in the rows of one shard's boxes, numbered in the merged file."""
    for boxes, rows in source.read_parts("box_row"):
        own = np.flatnonzero(rows >= 0) + boxes.start
        if (box_row[own] >= 0).any():
            raise StoreError(f"{str(part.path)!r} repeats boxes of another shard; allowed: each box once")
        box_row[own] = rows[own - boxes.start] + part.shard.first_row


def _descriptors(parts: Sequence[_ShardFile], on_rows: Callable[[int], None]) -> Iterator[Entries]:
    for part in parts:
        first_row = part.shard.first_row
        with FeatureFile(part.path) as file:
            row_nbytes = file.dimension * file.dtype.itemsize
            for rows in row_ranges(file.n_rows, row_nbytes=row_nbytes, nbytes=_COPIED_NBYTES):
                yield "features", slice(first_row + rows.start, first_row + rows.stop), file.features[rows]
                file.drop_pages()
                on_rows(first_row + rows.stop)


def _read_shard_files(paths: Sequence[StrPath], on_progress: Callable[[int], None]) -> list[_ShardFile]:
    """Read and check the files of all shards of one plan, in any order.

    Returns:
        The files in the order of their rows, without files that have no images; a single one if none has images.
    """
    found: list[_ShardFile] = []
    with FeatureFile(paths[0]) as first:
        for path in paths:
            with FeatureFile(path) as file:
                found.append(_read_shard(file))
                _check_same_extraction((first, found[0].shard), (file, found[-1].shard))
            on_progress(len(found))
    found.sort(key=lambda part: (part.shard.first_image, part.shard.stop_image))
    _check_tiling(found)
    left = [
        f"{str(part.path)!r} ({part.pending} of {counted(sum(part.status), 'image')} pending)"
        for part in found
        if part.pending
    ]
    if left:
        raise StoreError(
            f"{counted(len(left), 'shard is', 'shards are')} incomplete: {first_few(left, _SHOWN)}; repeat "
            "the command of a shard to continue it"
        )
    # A shard without images has no position in the order.
    return [part for part in found if part.shard.first_image < part.shard.stop_image] or found[:1]


def _read_shard(file: FeatureFile) -> _ShardFile:
    where = repr(str(file.path))
    if file.is_reduced:
        raise StoreError(
            f"{where} has reduced descriptors; merge the shards as extracted, then run 'sppfeat reduce'"
        )
    if file.sources is not None:
        raise StoreError(f"{where} was made by 'sppfeat merge'; merge the files that hold its rows instead")
    shard = file.shard
    if shard is None:
        raise StoreError(f"{where} holds a whole extraction; allowed: shards from 'sppfeat extract --shard'")
    if is_being_written(file.path):
        raise StoreError(f"another process is writing {where} ({shard}); merge when it is complete")
    expected = shard.stop_image - shard.first_image, shard.stop_row - shard.first_row
    if (file.n_images, file.n_rows) != expected:
        raise StoreError(
            f"{where} has {counted(file.n_images, 'image')} and {counted(file.n_rows, 'row')}, but its attribute "
            f"'shard' says {shard}, rows {shard.first_row} to {shard.stop_row}"
        )
    version = FileVersion.of(file.stat())
    return _ShardFile(
        path=file.path,
        shard=shard,
        root=file.root,
        version=version,
        source=SourceFile(
            path=os.fsencode(os.path.realpath(file.path)),
            first_image=shard.first_image,
            stop_image=shard.stop_image,
            first_row=shard.first_row,
            stop_row=shard.stop_row,
            nbytes=version.nbytes,
            mtime_ns=version.mtime_ns,
            offset=file.place("features")[0],
            created=os.fsencode(file.attribute("created")),
        ),
        n_boxes=file.shape("box_row")[0] if file.has_boxes else 0,
        status=np.bincount(file.status, minlength=3).tolist(),
    )


def _check_same_extraction(*shards: tuple[FeatureFile, Shard]) -> None:
    """Refuse two files that differ in settings or inputs, which determine everything else."""
    (first, first_shard), (other, other_shard) = shards
    names = repr(str(first.path)), repr(str(other.path))
    factors = first.norm_factors or (), other.norm_factors or ()
    facts = [
        {
            "images of all shards": shard.n_images,
            "rows of all shards": shard.n_rows,
            "plan (inputs and labels)": shard.plan[:12],
            "names for images (images/id)": file.has("images/id"),
        }
        for file, shard in shards
    ]
    differences = config_differences(first.config.to_dict(), other.config.to_dict(), names=names) or [
        f"{what}: {names[0]} has {value}, {names[1]} has {facts[1][what]}"
        for what, value in facts[0].items()
        if value != facts[1][what]
    ]
    if not differences and (
        len(factors[0]) != len(factors[1]) or not np.allclose(*factors, rtol=_SAME_FACTOR, atol=0)
    ):
        shown = [f"{len(own)}: {first_few(map(str, own), _SHOWN)}" if own else "none" for own in factors]
        differences = [
            f"meannorm factors: {names[0]} has {shown[0]}, {names[1]} has {shown[1]}; extract every shard with "
            "--normalize-from one file"
        ]
    if differences and first_shard.plan != other_shard.plan:
        differences[-1] += "; the inputs changed between the shards: extract one again with --overwrite"
    if differences:
        raise StoreError(
            f"{names[0]} and {names[1]} come from different extractions: {'; '.join(differences)}"
        )


def _has_box_file(file: FeatureFile) -> bool:
    """Return True if rows are boxes of a box file, not views; boxes of a file keep their indices in every shard."""
    regions = file.config.regions
    return file.has_boxes and regions is not None and regions.boxes == "file"


def _check_tiling(parts: Sequence[_ShardFile]) -> None:
    """Refuse sorted shards that overlap or miss images."""
    n_images, gaps, at, before = parts[0].shard.n_images, [], 0, parts[0]
    for part in parts:
        shard = part.shard
        if shard.first_image < at and shard.first_image < shard.stop_image:
            raise StoreError(
                f"{str(before.path)!r} and {str(part.path)!r} both have images {shard.first_image} to "
                f"{min(at, shard.stop_image)}: they are {before.shard} and {shard}; allowed: each image once"
            )
        if shard.first_image > at:
            gaps.append(f"{at} to {shard.first_image}")
        if shard.stop_image > at:
            at, before = shard.stop_image, part
    if at < n_images:
        gaps.append(f"{at} to {n_images}")
    if gaps:
        raise StoreError(f"images {first_few(gaps, _SHOWN)} of {n_images} are missing{_name_missing(parts)}")


def _name_missing(parts: Iterable[_ShardFile]) -> str:
    """Name the missing shards, for a message; empty if the files disagree on the number of shards."""
    counts = {part.shard.count for part in parts}
    if len(counts) != 1:
        return ""
    (count,) = counts
    known = {part.shard.index for part in parts}
    missing = (f"{i}/{count}" for i in range(1, count + 1) if i not in known)
    shown = first_few(missing, _SHOWN)
    return f": no shards {shown}" if shown else ""
