"""Verifies a feature file: its structure, its settings, and every value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import row_ranges
from sppfeat.config.regions import RowFlag
from sppfeat.config.wording import counted, first_few
from sppfeat.errors import SppfeatError, StoreError
from sppfeat.store.merge_sources import SourceFiles
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import NATIVE_SCALE, NO_SCALE, Status

__all__ = ["VerifyReport", "verify_file"]

_BLOCK_NBYTES = 64 << 20
_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """Findings about a feature file. A problem is an error in the file; a warning may stem from the images.

    Attributes:
        images, done, failed, pending: number of images: total, and by status.
        rows: number of rows.
        nan_rows, infinite_rows: number of rows of done images that hold NaN, or infinities.
        zero_rows: number of rows of done images that are all zeros.
        duplicate_rows: number of rows of done images that equal an earlier row; boxes on the same region do not count.
        problems, warnings: sentences, each with the first rows or images affected.
    """

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


def verify_file(file: FeatureFile, *, on_progress: Callable[[int], None] = lambda rows: None) -> VerifyReport:
    """Check the structure and every value of a file, in bounded memory plus a few bytes per row.

    Args:
        file: an open file, whose basic structure was checked on opening.
        on_progress: called with the number of rows read so far.

    Returns:
        The findings.
    """
    status = file.status
    of_row = file.image_index
    problems = _check_structure(file, status, of_row)
    if problems:  # rows that cannot be assigned to images are not read
        found = {
            name: np.empty(0, dtype=np.int64) for name in ("nan", "infinite", "zero", "duplicate", "unfailed")
        }
    else:
        found = _scan_rows(file, status[of_row], on_progress)
    wrong = {
        "unfailed": (
            "row of a failed image, or of a box without area, is not NaN",
            "rows of failed images, or of boxes without area, are not NaN",
        )
    }
    odd = {
        "zero": ("row is zero throughout", "rows are zero throughout"),
        "duplicate": ("row equals an earlier row", "rows equal an earlier row"),
    }
    nonfinite = {
        "nan": ("row of a done image holds NaN", "rows of done images hold NaN"),
        "infinite": ("row of a done image holds infinities", "rows of done images hold infinities"),
    }
    keeps = not problems and file.config.descriptor.nonfinite == "keep"
    (odd if keeps else wrong).update(nonfinite)
    problems += _describe(found, wrong)
    warnings = _describe(found, odd)
    counts = np.bincount(status, minlength=3).tolist()
    return VerifyReport(
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
        warnings=warnings,
    )


def _check_structure(
    file: FeatureFile, status: npt.NDArray[np.uint8], of_row: npt.NDArray[np.int64]
) -> list[str]:
    """Describe contradictions among the columns of images, names, labels and settings."""
    problems = []
    counts = np.diff(file.image_rows, axis=1).reshape(-1)
    if not np.array_equal(of_row, np.repeat(np.arange(file.n_images), counts)):
        problems.append("/image_index and /images/rows contradict each other")
    bad_status = np.flatnonzero(status > max(Status))
    if len(bad_status):
        problems.append(
            f"{counted(len(bad_status), 'image has', 'images have')} an unknown status: images {_first(bad_status)}"
        )
    labels = file.labels
    bad_labels = np.flatnonzero((labels < -1) | (labels >= max(1, len(file.classes))))
    if len(bad_labels):
        problems.append(
            f"{counted(len(bad_labels), 'image has', 'images have')} a label that no class has: images "
            f"{_first(bad_labels)}"
        )
    if len(set(file.path_table)) != file.n_images:
        problems.append("/images/path names an image twice")
    bad_paths = [i for i, p in enumerate(file.path_table) if not p or p.startswith(b"/") or b"\0" in p]
    if bad_paths:
        problems.append(
            f"{counted(len(bad_paths), 'image has', 'images have')} a path that is none below the root: images "
            f"{_first(np.array(bad_paths))}"
        )
    no_size = np.flatnonzero((file.image_hw < 0).any(axis=1))
    if len(no_size):
        problems.append(
            f"{counted(len(no_size), 'image has', 'images have')} a size below 0: images {_first(no_size)}"
        )
    if len(set(file.classes)) != len(file.classes):
        problems.append("/classes names a class twice")
    if file.has_boxes:
        problems += _check_boxes(file)
    problems += _check_shard(file)
    try:
        reduction, expected = file.reduction, file.config.fingerprint
        if (expected if reduction is None else reduction.fingerprint_of(expected)) != file.attribute(
            "fingerprint"
        ):
            also = "" if reduction is None else " and the reduction"
            problems.append(f"the attribute 'fingerprint' is not that of the attribute 'config'{also}")
        n_bins = 1 if file.config.backbone.head else file.config.descriptor.n_bins
        columns = file.extracted_columns
        if n_bins * sum({b.layer: b.channels for b in columns}.values()) != columns[-1].stop:
            problems.append("the attribute 'config' and /columns contradict each other")
        if (file.config.regions is not None) != file.has_boxes:
            problems.append("the attribute 'config' and /row_* contradict each other: only one has boxes")
        if reduction is not None and file.columns != reduction.columns:
            problems.append("the attribute 'reduction' and /columns contradict each other")
        if reduction is None and file.config.descriptor.dtype != file.dtype.name:
            problems.append(
                f"the attribute 'config' says {file.config.descriptor.dtype}, /features is {file.dtype}"
            )
        n_layers = len({block.layer for block in columns})
        if len(file.norm_factors or range(n_layers)) != n_layers:
            problems.append("the attribute 'norm_factors' does not have one factor per layer")
        if file.has_boxes:
            problems += _check_scales(file)
    except SppfeatError as error:
        problems.append(str(error))
    return problems


def _check_boxes(file: FeatureFile) -> list[str]:
    """Describe contradictions among the ``/row_*`` columns."""
    problems = []
    box_row, source, flag = file.box_row, file.row_source, file.row_flag
    if not np.array_equal(box_row[source], np.arange(file.n_rows)):
        problems.append("/row_source and /box_row contradict each other")
    unknown = np.flatnonzero(flag > RowFlag.CLIPPED | RowFlag.DEGENERATE | RowFlag.SUB_CELL)
    if len(unknown):
        problems.append(f"{counted(len(unknown), 'row has', 'rows have')} an unknown flag: {_first(unknown)}")
    region = file.row_region.astype(np.int64)
    is_bad = (region[..., :2] < 0).any(axis=(1, 2)) | (region[..., :2] >= region[..., 2:]).any(axis=(1, 2))
    bad = np.flatnonzero(file.has_descriptor() & is_bad)
    if len(bad):
        problems.append(
            f"{counted(len(bad), 'row has', 'rows have')} a descriptor, but of no region: {_first(bad)}"
        )
    return problems


def _check_scales(file: FeatureFile) -> list[str]:
    """Describe contradictions between ``/row_scale``, ``/row_region`` and the settings."""
    problems = []
    sides = [side or NATIVE_SCALE for side in file.config.input.short_sides]
    unknown = np.flatnonzero(~np.isin(file.row_scale, [*sides, NO_SCALE]))
    if len(unknown):
        problems.append(
            f"{counted(len(unknown), 'row has', 'rows have')} a scale that the attribute 'config' has not: "
            f"{_first(unknown)}"
        )
    n_layers = file.row_region.shape[1]
    if n_layers != len(file.config.backbone.layers):
        problems.append(
            f"/row_region has {counted(n_layers, 'layer')}, the attribute 'config' {len(file.config.backbone.layers)}"
        )
    return problems


def _check_shard(file: FeatureFile) -> list[str]:
    """Describe errors in the record of a shard, or in the sources of a merged file."""
    problems = [] if file.sources is None else _check_sources(file, file.sources)
    try:
        shard = file.shard
    except StoreError as error:
        return [*problems, str(error)]
    if shard is not None:
        expected = (shard.stop_image - shard.first_image, shard.stop_row - shard.first_row)
        if (file.n_images, file.n_rows) != expected:
            problems.append(
                f"the attribute 'shard' says {expected[0]} images and {expected[1]} rows, the file has {file.n_images} "
                f"and {file.n_rows}"
            )
    return problems


def _check_sources(file: FeatureFile, sources: SourceFiles) -> list[str]:
    """Describe how the sources of a merged file differ from the files that were merged."""
    problems = []
    status = file.status
    for i, source in enumerate(sources):
        path = sources.path_of(i)
        try:
            with FeatureFile(path) as part:
                now = part.status
            if source.n_rows:
                sources.map(i)
        except StoreError as error:
            problems.append(str(error))
            continue
        merged = status[source.first_image : source.stop_image]
        if len(now) != len(merged):
            problems.append(
                f"the source {path!r} has {counted(len(now), 'image')}, of which {len(merged)} were merged"
            )
        elif (now != merged).any():
            n_others = int((now != merged).sum())
            problems.append(
                f"{counted(n_others, 'image')} of the source {path!r} {'has' if n_others == 1 else 'have'} another "
                "status than when they were merged"
            )
    return problems


def _scan_rows(
    file: FeatureFile, row_status: npt.NDArray[np.uint8], on_progress: Callable[[int], None]
) -> dict[str, npt.NDArray[np.int64]]:
    n_rows = file.n_rows
    dimension = file.dimension if n_rows else 0  # a file without rows may claim any dimension
    weights = np.random.default_rng(0).integers(1, 2**63, dimension, dtype=np.uint64) | np.uint64(1)
    has_one = file.has_descriptor()
    has_none = (row_status != Status.PENDING) & ~has_one
    flags = {name: np.zeros(n_rows, dtype=bool) for name in ("nan", "infinite", "zero", "unfailed")}
    hashes = np.zeros(n_rows, dtype=np.uint64)
    row_nbytes = dimension * file.features.itemsize
    for part in row_ranges(n_rows, row_nbytes=row_nbytes, nbytes=_BLOCK_NBYTES):
        block = np.asarray(file.features[part])
        nan = np.isnan(block)
        flags["nan"][part] = nan.any(axis=1)
        flags["infinite"][part] = np.isinf(block).any(axis=1)
        flags["zero"][part] = ~block.any(axis=1)
        flags["unfailed"][part] = ~nan.all(axis=1)
        hashes[part] = _row_hashes(block, weights)
        file.drop_pages()
        on_progress(part.stop)
    found = {name: np.flatnonzero(flag & has_one) for name, flag in flags.items() if name != "unfailed"}
    found["unfailed"] = np.flatnonzero(flags["unfailed"] & has_none)
    found["duplicate"] = _duplicates(file, np.flatnonzero(has_one & ~flags["nan"]), hashes)
    return found


def _row_hashes(block: npt.NDArray[Any], weights: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return a hash of each row: its bits summed with random odd weights, modulo 2**64."""
    bits = np.ascontiguousarray(block).view(f"u{block.dtype.itemsize}")
    result = np.empty(len(bits), dtype=np.uint64)
    for i, row in enumerate(bits):
        result[i] = (row.astype(np.uint64) * weights).sum(dtype=np.uint64)
    return result


def _duplicates(
    file: FeatureFile, rows: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Return the rows that equal an earlier row, value by value; ``hashes`` finds the candidates."""
    order = rows[np.argsort(hashes[rows], kind="stable")]
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    before, after = order[same], order[same + 1]
    if file.has_boxes:  # boxes on the same region have equal rows by design
        regions = file.row_region
        cells = regions.reshape(len(regions), 4 * regions.shape[1])
        keys = np.column_stack((file.image_index, file.row_scale, file.row_mirrored, cells))
        differs = (keys[before] != keys[after]).any(axis=1)
        before, after = before[differs], after[differs]
    pairs = zip(before.tolist(), after.tolist(), strict=True)
    return np.array(
        sorted(
            later for earlier, later in pairs if np.array_equal(file.features[earlier], file.features[later])
        ),
        dtype=np.int64,
    )


def _describe(found: dict[str, npt.NDArray[np.int64]], texts: dict[str, tuple[str, str]]) -> list[str]:
    """Describe the findings; ``texts`` holds a singular and a plural for each kind."""
    return [
        f"{counted(len(found[name]), *text)}: {_first(found[name])}"
        for name, text in texts.items()
        if len(found[name])
    ]


def _first(numbers: npt.NDArray[np.int64]) -> str:
    return first_few(map(str, numbers.tolist()), _SHOWN)
