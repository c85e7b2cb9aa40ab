"""Inspection of feature files: a summary of the content (``info``), and checks for damage (``verify``)."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.file_info import BoxInfo, FileInfo, ReductionInfo
from sppfeat.config.values import StrPath
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.reader import FeatureFile
from sppfeat.store.reduction import Reduction
from sppfeat.store.schema import NO_SCALE, Status
from sppfeat.store.verify import VerifyReport, verify_file

if TYPE_CHECKING:
    from sppfeat.extraction.recompute import RowComparison
    from sppfeat.files.downloads import OnDownload

__all__ = ["Verification", "describe", "describe_reduction", "info", "verify"]


def info(path: StrPath) -> FileInfo:
    """Summarizes a feature file, even one that is being written: ``sppfeat info --json``.

    Raises:
        StoreError: the file is missing, not a feature file, or damaged.
    """
    with FeatureFile(path) as file:
        return describe(file)


def describe(file: FeatureTable) -> FileInfo:
    """Summarizes an open file; see :func:`info`."""
    status, sources = file.status, file.sources
    counts = {state.name.lower(): int((status == state).sum()) for state in Status}
    return {
        "path": str(file.path),
        "schema_version": file.schema_version,
        "sppfeat_version": file.attribute("sppfeat_version"),
        "created": file.attribute("created"),
        "bytes": file.nbytes,
        "rows": file.n_rows,
        "dimension": file.dimension,
        "dtype": str(file.dtype),
        "images": {
            "total": len(status),
            "done": counts["done"],
            "failed": counts["failed"],
            "pending": counts["pending"],
        },
        "complete": counts["done"] + counts["failed"] == len(status),
        "shard": None if (shard := file.shard) is None else dataclasses.asdict(shard),
        "sources": None
        if sources is None
        else [
            {"path": path, "first_row": source.first_row, "rows": source.n_rows, "bytes": source.nbytes}
            for path, source in zip(sources.paths, sources.files, strict=True)
        ],
        "boxes": _boxes(file) if file.has_boxes else None,
        "root": file.root,
        "classes": _count_classes(file.classes, file.labels),
        "columns": [block._asdict() for block in file.columns],
        "fingerprint": file.attribute("fingerprint"),
        "weights_path": file.attribute("weights_path"),
        "config": file.config.to_dict(),
        "reduction": None if file.reduction is None else describe_reduction(file.reduction),
        "failures": [{"path": file.path_of(i), "error": text} for i, text in file.errors.items()],
    }


@dataclass(frozen=True, kw_only=True)
class Verification(VerifyReport):
    """Findings about a feature file and its recomputed rows.

    Attributes:
        recomputed: comparison of recomputed rows with the file; None if no row was recomputed.
        ok: True if neither the file nor the recomputed rows have a problem.
    """

    recomputed: "RowComparison | None"
    ok: bool


def verify(
    path: StrPath,
    *,
    recompute: int = 0,
    seed: int = 0,
    root: str | None = None,
    weights: str | None = None,
    weights_dir: StrPath | None = None,
    device: str = "auto",
    on_progress: Callable[[int, int], None] = lambda n_read, n_rows: None,
    on_download: "OnDownload" = lambda name, done, total: None,
) -> Verification:
    """Checks a feature file: structure, NaN, infinities, zero and duplicate rows, status counts: ``sppfeat verify``.

    Image files that have changed since the extraction give a warning.

    Args:
        recompute: number of random rows to recompute from their images and compare, if the file has no problem.
        seed: seed of the choice of rows.
        root: folder that now holds the images; None: as recorded.
        weights: weights file or name; None: as recorded.
        weights_dir: folder to search for named weights before torch's hub cache.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        on_progress: called with the number of rows read so far, and of all rows.
        on_download: called during a download of weights with file name, bytes done, and bytes in total.

    Raises:
        StoreError: the file cannot be opened, or its weights are missing or have changed.
        ConfigError: the device does not exist.
    """
    from sppfeat.extraction.changes import changed_note, recorded_file_changes

    with FeatureFile(path) as file:
        report = verify_file(file, on_progress=on_progress)
        if not report.problems:
            changes = recorded_file_changes(file, root)
            changed = np.flatnonzero(changes.changed & (file.status != Status.PENDING))
            runs_by = "'sppfeat extract --update-changed'"
            report.warnings.extend(
                changed_note(file.path_table, file.image_versions, changes, changed, runs_by=runs_by)
            )
        compared = None
        if recompute and not report.problems:
            from sppfeat.extraction.recompute import recompute_rows  # loads torch

            compared = recompute_rows(
                file,
                recompute,
                seed=seed,
                root=root,
                weights=weights,
                weights_dir=weights_dir,
                device=device,
                on_download=on_download,
            )
    ok = not report.problems and not (compared and compared.problems)
    return Verification(**vars(report), recomputed=compared, ok=ok)


def describe_reduction(reduction: Reduction) -> ReductionInfo:
    """Summarizes a reduction; see :func:`info`."""
    record, spec = reduction.record, reduction.spec
    return {
        "method": spec.method,
        "components": spec.components,
        "whiten": spec.whiten,
        "normalize": spec.normalize,
        "seed": spec.seed,
        "fitted_rows": record.fitted_rows,
        "fit_rows": list(spec.fit_rows),
        "explained_variance": record.explained_variance,
        "fingerprint": reduction.fingerprint,
        "source": {
            "fingerprint": record.source_fingerprint,
            "dimension": reduction.source_dimension,
            "selected": record.selection.width,
            "columns": [block._asdict() for block in record.source_columns],
        },
    }


def _boxes(file: FeatureTable) -> BoxInfo:
    sides, n_rows = np.unique(file.row_scale, return_counts=True)
    counts = file.count_boxes()
    return {
        "source": file.attribute("boxes_path") or file.config.to_dict()["boxes"],
        "rows": counts["rows"],
        "with_descriptor": counts["with_descriptor"],
        "of_failed_or_pending": counts["of_failed_or_pending"],
        "clipped": counts["clipped"],
        "degenerate": counts["degenerate"],
        "sub_cell": counts["sub_cell"],
        "images_without_boxes": int((file.image_rows[:, 0] == file.image_rows[:, 1]).sum()),
        "classes": _count_classes(file.row_classes, file.row_label),
        "scales": {
            str(side): n for side, n in zip(sides.tolist(), n_rows.tolist(), strict=True) if side != NO_SCALE
        },
        "columns": list(file.row_extra),
    }


def _count_classes(names: Sequence[str], labels: npt.NDArray[np.int64]) -> dict[str, int]:
    """Counts the rows of each class; time and memory do not depend on the size of the label values."""
    known = labels[(labels >= 0) & (labels < len(names))]
    counts: dict[str, int] = {}
    for name, n in zip(names, np.bincount(known, minlength=len(names)).tolist(), strict=True):
        counts[name] = counts.get(name, 0) + n
    return counts
