"""Verifies a feature file: its structure, its settings, and every value."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import row_ranges
from sppfeat.config.regions import RowFlag
from sppfeat.config.wording import counted, first_few, one_line
from sppfeat.errors import SppfeatError, StoreError
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import NATIVE_SCALE, NO_SCALE, Status
from sppfeat.store.virtual_features import VirtualFeatures

__all__ = ["VerifyReport", "verify_file"]

_Rows: TypeAlias = npt.NDArray[np.int64]  # indices
_BLOCK_NBYTES = 64 << 20
_SHOWN = 10

# Findings about rows: a sentence for one of them, and for several.
_ROW_TEXTS = {
    "unfailed": (
        "row of a failed image, or of a box without area, is not NaN",
        "rows of failed images, or of boxes without area, are not NaN",
    ),
    "zero": ("row is zero throughout", "rows are zero throughout"),
    "duplicate": ("row equals an earlier row", "rows equal an earlier row"),
    "nan": ("row of a done image holds NaN", "rows of done images hold NaN"),
    "infinite": ("row of a done image holds infinities", "rows of done images hold infinities"),
}


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """Findings about a feature file. A problem is an error in the file; a warning may stem from the images.

    Attributes:
        path: path of the file.
        images: number of images.
        done: number of images with descriptors.
        failed: number of images that failed.
        pending: number of images not yet extracted.
        rows: number of rows.
        nan_rows: number of rows of done images that hold NaN.
        infinite_rows: number of rows of done images that hold infinities.
        zero_rows: number of rows of done images that are all zeros.
        duplicate_rows: number of rows of done images that equal an earlier row; boxes on the same region do not count.
        problems: errors in the file, each with the first rows or images affected.
        warnings: findings that may stem from the images, each with the first rows or images affected.
    """

    path: str
    images: int
    done: int
    failed: int
    pending: int
    rows: int
    nan_rows: int
    infinite_rows: int
    zero_rows: int
    duplicate_rows: int
    problems: list[str]
    warnings: list[str]


def verify_file(
    file: FeatureFile, *, on_progress: Callable[[int, int], None] = lambda n_read, n_rows: None
) -> VerifyReport:
    """Check the structure and every value of a file, in bounded memory plus a few bytes per row.

    ``on_progress`` is called with the number of rows read so far, and of all rows.
    """
    status = file.status
    problems = list(_structure_problems(file, status))
    found = {name: np.empty(0, dtype=np.int64) for name in _ROW_TEXTS}
    if not problems:  # rows that cannot be assigned to images are not read
        found = _scan_rows(file, on_progress)
    non_finite = ("nan", "infinite")
    keeps = not problems and file.config.descriptor.nonfinite == "keep"
    problems += _row_findings(found, ("unfailed", *(() if keeps else non_finite)))
    counts = np.bincount(status, minlength=3).tolist()
    return VerifyReport(
        path=str(file.path),
        images=file.n_images,
        done=counts[Status.DONE],
        failed=counts[Status.FAILED],
        pending=counts[Status.PENDING],
        rows=file.n_rows,
        nan_rows=len(found["nan"]),
        infinite_rows=len(found["infinite"]),
        zero_rows=len(found["zero"]),
        duplicate_rows=len(found["duplicate"]),
        problems=problems,
        warnings=_row_findings(found, ("zero", "duplicate", *(non_finite if keeps else ()))),
    )


def _structure_problems(file: FeatureFile, status: npt.NDArray[np.uint8]) -> Iterator[str]:
    """Yield contradictions among the columns of images, rows, names, labels and settings."""
    counts = np.diff(file.image_rows, axis=1).reshape(-1)
    if not np.array_equal(file.image_index, np.repeat(np.arange(file.n_images), counts)):
        yield "/image_index and /images/rows contradict each other"
    yield from _describe("image", status > max(Status), "an unknown status")
    labels = file.labels
    is_bad = (labels < -1) | (labels >= max(1, len(file.classes)))
    yield from _describe("image", is_bad, "a label outside the classes")
    paths = file.path_table
    if len(set(paths)) != file.n_images:
        yield "/images/path lists an image twice"
    is_bad = np.array([not path or path.startswith(b"/") or b"\0" in path for path in paths], dtype=bool)
    yield from _describe("image", is_bad, "a path outside the root")
    yield from _describe("image", (file.image_hw < 0).any(axis=1), "a size below 0")
    if len(set(file.classes)) != len(file.classes):
        yield "/classes lists a class twice"
    if file.has_boxes:
        yield from _box_problems(file)
    if file.sources is not None:
        yield from _source_problems(file, file.sources)
    for check in (_shard_problems, _setting_problems):
        try:
            yield from check(file)
        except SppfeatError as error:
            yield str(error)


def _box_problems(file: FeatureFile) -> Iterator[str]:
    """Yield contradictions among the ``/row_*`` columns."""
    if not np.array_equal(file.box_row[file.row_source], np.arange(file.n_rows)):
        yield "/row_source and /box_row contradict each other"
    known_flags = RowFlag.CLIPPED | RowFlag.DEGENERATE | RowFlag.SUB_CELL
    yield from _describe("row", file.row_flag > int(known_flags), "an unknown flag")
    region = file.row_region.astype(np.int64)
    is_bad = (region[..., :2] < 0).any(axis=(1, 2)) | (region[..., :2] >= region[..., 2:]).any(axis=(1, 2))
    yield from _describe("row", file.has_descriptor() & is_bad, "a descriptor, but no region")


def _shard_problems(file: FeatureFile) -> Iterator[str]:
    shard = file.shard
    if shard is not None:
        expected = (shard.stop_image - shard.first_image, shard.stop_row - shard.first_row)
        if (file.n_images, file.n_rows) != expected:
            yield (
                f"the attribute 'shard' says {expected[0]} images and {expected[1]} rows, but the file has "
                f"{file.n_images} and {file.n_rows}"
            )


def _setting_problems(file: FeatureFile) -> Iterator[str]:
    """Yield contradictions between the settings and the columns."""
    config, reduction, columns = file.config, file.reduction, file.extracted_columns
    expected, also = config.fingerprint, ""
    if reduction is not None:
        expected, also = reduction.fingerprint_of(expected), " and the reduction"
    if expected != file.attribute("fingerprint"):
        yield f"the attribute 'fingerprint' does not match the attribute 'config'{also}"
    n_bins = 1 if config.backbone.head else config.descriptor.n_bins
    if n_bins * sum({b.layer: b.channels for b in columns}.values()) != columns[-1].stop:
        yield "the attribute 'config' and /columns contradict each other"
    if (config.regions is not None) != file.has_boxes:
        yield "the attribute 'config' and /row_* contradict each other: only one has boxes"
    if reduction is not None and file.columns != reduction.columns:
        yield "the attribute 'reduction' and /columns contradict each other"
    if reduction is None and config.descriptor.dtype != file.dtype.name:
        yield f"the attribute 'config' says {config.descriptor.dtype}, but /features is {file.dtype}"
    n_layers = len({block.layer for block in columns})
    if len(file.norm_factors or range(n_layers)) != n_layers:
        yield "the attribute 'norm_factors' does not have one factor per layer"
    if file.has_boxes:
        sides = [side or NATIVE_SCALE for side in config.input.short_sides]
        is_unknown = ~np.isin(file.row_scale, [*sides, NO_SCALE])
        yield from _describe("row", is_unknown, "a scale that is not in the attribute 'config'")
        n_layers = file.row_region.shape[1]
        if n_layers != len(config.backbone.layers):
            n_expected = len(config.backbone.layers)
            yield f"/row_region has {counted(n_layers, 'layer')}, but the attribute 'config' has {n_expected}"


def _source_problems(file: FeatureFile, sources: VirtualFeatures) -> Iterator[str]:
    """Yield differences between the sources of a merged file and the files that were merged."""
    status = file.status
    for i, source in enumerate(sources.files):
        path = sources.path_of(i)
        try:
            with FeatureFile(path) as part:
                now, created = part.status, part.attribute("created")
        except StoreError as error:
            yield str(error)
            continue
        if os.fsencode(created) != source.created:
            was = one_line(os.fsdecode(source.created))
            yield f"the source {path!r} was replaced since the merge: created {one_line(created)}, not {was}"
        merged = status[source.first_image : source.stop_image]
        if len(now) != len(merged):
            yield f"the source {path!r} has {counted(len(now), 'image')}, but {len(merged)} were merged"
        elif (now != merged).any():
            n = int((now != merged).sum())
            has = "has" if n == 1 else "have"
            yield f"{counted(n, 'image')} of the source {path!r} {has} changed status since the merge"


def _scan_rows(file: FeatureFile, on_progress: Callable[[int, int], None]) -> dict[str, _Rows]:
    """Read all descriptors; return the rows of each kind of finding."""
    n_rows = file.n_rows
    has_one = file.has_descriptor()
    has_none = (file.status[file.image_index] != Status.PENDING) & ~has_one
    flags = {name: np.zeros(n_rows, dtype=bool) for name in ("nan", "infinite", "zero", "unfailed")}
    hashes = np.zeros(n_rows, dtype=np.int64)
    for part in row_ranges(n_rows, row_nbytes=file.dimension * file.dtype.itemsize, nbytes=_BLOCK_NBYTES):
        block = np.asarray(file.features[part])
        nan = np.isnan(block)
        flags["nan"][part] = nan.any(axis=1)
        flags["infinite"][part] = np.isinf(block).any(axis=1)
        flags["zero"][part] = ~block.any(axis=1)
        flags["unfailed"][part] = ~nan.all(axis=1)
        hashes[part] = [hash(row.tobytes()) for row in block]
        file.drop_pages()
        on_progress(part.stop, n_rows)
    found = {
        name: np.flatnonzero(flag & (has_none if name == "unfailed" else has_one))
        for name, flag in flags.items()
    }
    return {**found, "duplicate": _duplicates(file, np.flatnonzero(has_one & ~flags["nan"]), hashes)}


def _duplicates(file: FeatureFile, rows: _Rows, hashes: npt.NDArray[np.int64]) -> _Rows:
    """Return the rows that equal an earlier row, value by value, among the candidates with equal ``hashes``."""
    order = rows[np.argsort(hashes[rows], kind="stable")]
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    before, after = order[same], order[same + 1]
    if file.has_boxes:  # boxes on the same region have equal rows by design
        regions = file.row_region
        cells = regions.reshape(len(regions), 4 * regions.shape[1])
        keys = np.column_stack((file.image_index, file.row_scale, file.row_mirrored, cells))
        differs = (keys[before] != keys[after]).any(axis=1)
        before, after = before[differs], after[differs]
    equal = [
        b for a, b in zip(before, after, strict=True) if np.array_equal(file.features[a], file.features[b])
    ]
    return np.sort(np.array(equal, dtype=np.int64))


def _row_findings(found: dict[str, _Rows], names: Iterable[str]) -> list[str]:
    return [f"{counted(len(found[n]), *_ROW_TEXTS[n])}: {_first(found[n])}" for n in names if len(found[n])]


def _describe(noun: str, is_bad: npt.ArrayLike, text: str) -> Iterator[str]:
    """Yield a sentence that names the first bad images or rows, if there are any."""
    bad = np.flatnonzero(is_bad)
    if len(bad):
        which = "images " if noun == "image" else ""
        yield f"{counted(len(bad), f'{noun} has', f'{noun}s have')} {text}: {which}{_first(bad)}"


def _first(numbers: npt.NDArray[np.int64]) -> str:
    return first_few(map(str, numbers.tolist()), _SHOWN)
