"""The shard files of one extraction, checked to be complete and to hold each image exactly once."""

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig, config_differences
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted, first_few
from sppfeat.errors import StoreError
from sppfeat.files.locks import is_being_written
from sppfeat.files.places import FileVersion
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status
from sppfeat.store.virtual_features import SourceFile

__all__ = ["ShardFile", "has_box_file", "read_shard_files"]

_SHOWN = 5
_SAME_FACTOR = 1e-6  # relative; machines that round differently estimate the factors on the same images


class ShardFile(NamedTuple):
    """The file of one shard of a plan.

    Attributes:
        path: the path that the user gave.
        shard: range of its images and rows in the plan.
        root: folder that its image paths are relative to.
        version: size and modification time of the file when it was read.
        source: the record of the file for ``/sources``, with its absolute path.
        n_boxes: number of boxes in the box file, or of views in this shard; 0 if rows are whole images.
        done, failed, pending: number of images by status.
    """

    path: Path
    shard: Shard
    root: str
    version: FileVersion
    source: SourceFile
    n_boxes: int
    done: int
    failed: int
    pending: int

    def check_unchanged(self) -> None:
        """Raise StoreError if the file was written or replaced since it was read."""
        try:
            now = FileVersion.of(self.path)
        except OSError as error:
            raise StoreError(f"cannot read {str(self.path)!r} any more: {error.strerror}") from error
        if not now.is_file_of(self.version):
            raise StoreError(f"{str(self.path)!r} was changed while it was merged; merge again")


def read_shard_files(
    paths: Sequence[StrPath], *, on_progress: Callable[[int], None] = lambda n: None
) -> list[ShardFile]:
    """Read the files of all shards of one plan, in any order, and check that they hold each of its images exactly once.

    Returns:
        The files in the order of their rows, without files that have no images; a single one if none has images.
    """
    found: list[ShardFile] = []
    with FeatureFile(paths[0]) as first:
        for path in paths:
            with FeatureFile(path) as file:
                found.append(_read_shard(file))
                _check_same_extraction(first, file)
            on_progress(len(found))
    found.sort(key=lambda part: (part.shard.first_image, part.shard.stop_image))
    _check_tiling(found)
    _check_complete(found)
    # A shard without images has no position in the order.
    return [part for part in found if part.shard.first_image < part.shard.stop_image] or found[:1]


def _read_shard(file: FeatureFile) -> ShardFile:
    where = repr(str(file.path))
    if file.is_reduced:
        raise StoreError(
            f"{where} has reduced descriptors; allowed: as extracted. Merge, and then 'sppfeat reduce'"
        )
    if file.sources is not None:
        raise StoreError(f"{where} was made by 'sppfeat merge', its rows lie in other files; allowed: these")
    shard = file.shard
    if shard is None:
        raise StoreError(
            f"{where} is no shard: it has all images of its extraction; allowed: what 'sppfeat extract --shard' writes"
        )
    if is_being_written(file.path):
        raise StoreError(f"{where} ({shard}) is being written by another process; merge when it is complete")
    status = np.bincount(file.status, minlength=3).tolist()
    if (file.n_images, file.n_rows) != (
        shard.stop_image - shard.first_image,
        shard.stop_row - shard.first_row,
    ):
        raise StoreError(
            f"{where} has {counted(file.n_images, 'image')} and {counted(file.n_rows, 'row')}, and is recorded as "
            f"{shard}, rows {shard.first_row} to {shard.stop_row}"
        )
    version = FileVersion.of(file.stat())
    return ShardFile(
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
            offset=file.stored_features.offset or 0,
            created=os.fsencode(file.attribute("created")),
        ),
        n_boxes=file.shape("box_row")[0] if file.has_boxes else 0,
        done=status[Status.DONE],
        failed=status[Status.FAILED],
        pending=file.n_images - status[Status.DONE] - status[Status.FAILED],
    )


def _check_same_extraction(first: FeatureFile, other: FeatureFile) -> None:
    """Refuse two files that differ in settings or inputs; everything else follows from these."""
    names = repr(str(first.path)), repr(str(other.path))
    factors = first.norm_factors or (), other.norm_factors or ()
    plans = {file.shard.plan for file in (first, other) if file.shard is not None}
    hint = "; the inputs were not the same when they were cut: --overwrite makes one anew" * (len(plans) > 1)
    differences = config_differences(first.config.to_dict(), other.config.to_dict(), names=names) or [
        f"{what}: {names[0]} has {ours}, {names[1]} {theirs}"
        for (what, ours), (_, theirs) in zip(_shared_facts(first), _shared_facts(other), strict=True)
        if ours != theirs
    ]
    if not differences and (
        len(factors[0]) != len(factors[1]) or not np.allclose(*factors, rtol=_SAME_FACTOR, atol=0)
    ):
        said = [
            f"{len(of_file)}: {first_few(map(str, of_file), _SHOWN)}" if of_file else "none"
            for of_file in factors
        ]
        differences = [
            f"factors of the mean norm: {names[0]} has {said[0]}, {names[1]} {said[1]}; 'sppfeat extract "
            "--normalize-from' gives all shards those of one"
        ]
    if differences:
        raise StoreError(
            f"{names[0]} and {names[1]} are not of one extraction: {'; '.join(differences)}{hint}"
        )


def _shared_facts(file: FeatureFile) -> list[tuple[str, object]]:
    """Return the names and values of facts, besides the settings, that all shards of an extraction share."""
    shard = file.shard
    return [
        ("images of all shards", shard and shard.n_images),
        ("rows of all shards", shard and shard.n_rows),
        ("plan (inputs and labels)", shard and shard.plan[:12]),
        ("names for images (images/id)", file.image_id_table is not None),
    ]


def has_box_file(config: ExtractConfig) -> bool:
    """Return True if rows are boxes of a box file, not views; boxes of a file keep their indices in every shard."""
    return config.regions is not None and config.regions.boxes == "file"


def _check_tiling(parts: Sequence[ShardFile]) -> None:
    """Refuse sorted shards that overlap, or leave images out."""
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
        raise StoreError(
            f"images {first_few(gaps, _SHOWN)} of {n_images} are in none of the files{_name_missing(parts)}"
        )


def _name_missing(parts: Iterable[ShardFile]) -> str:
    """Name the missing shards, for a message; empty if the files are not of one number of shards."""
    counts = {part.shard.count for part in parts}
    if len(counts) != 1:
        return ""
    (count,) = counts
    there = {part.shard.index for part in parts}
    missing = (f"{i}/{count}" for i in range(1, count + 1) if i not in there)
    shown = first_few(itertools.islice(missing, _SHOWN + 1), _SHOWN)
    return f": shards {shown} are missing" if shown else ""


def _check_complete(parts: Iterable[ShardFile]) -> None:
    left = [
        f"{str(part.path)!r} ({part.pending} of {counted(part.done + part.failed + part.pending, 'image')} pending)"
        for part in parts
        if part.pending
    ]
    if left:
        raise StoreError(
            f"{counted(len(left), 'shard is', 'shards are')} incomplete: {first_few(left, _SHOWN)}; the "
            "command that began a shard, given again, continues it"
        )
